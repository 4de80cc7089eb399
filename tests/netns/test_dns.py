"""The nodes' names as other people's resolvers see them, and questions passed on to dnsmasq."""

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.netns.daemon import Daemon
from tests.netns.dhcp_room import missing
from tests.netns.room import Process, Room, until

SERVER, UPSTREAM = "10.9.0.2", "10.9.0.1"
SETTINGS = f"""
[dns]
enabled = true
zone = "room.example"
prefix = "pc"
upstream = ["10.9.0.200", "{UPSTREAM}"]
timeout_seconds = 0.5
[[node]]
mac = "52:54:00:00:00:03"
name = "lab3"
address = "10.9.0.13"
[[node]]
mac = "52:54:00:00:00:04"
name = "lab4"
"""
PROGRAMS = ("dig", "host", "nslookup", "dnsmasq", "busybox")
pytestmark = pytest.mark.skipif(bool(missing(*PROGRAMS)), reason=f"no {missing(*PROGRAMS)}")
LONG = " ".join(f"{number:09d}" for number in range(20))  # 199 characters: a TXT string of its own


class Names:
    def __init__(self, room: Room, daemon: Daemon, upstream: Process) -> None:
        self.room, self.daemon, self.upstream = room, daemon, upstream

    def dig(self, *words: str) -> str:
        return self.room.run("client", ["dig", f"@{SERVER}", "+tries=1", "+time=4", *words])

    def short(self, *words: str) -> list[str]:
        return self.dig("+short", *words).split()


@pytest.fixture(scope="module")
def names() -> Generator[Names]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with Room("server", "client", "upstream") as room, contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name, address in (("server", SERVER), ("client", "10.9.0.50"), ("upstream", UPSTREAM)):
            room.address(name, f"{address}/24")
        resolver = folder / "resolv.conf"
        resolver.write_text(f"nameserver {SERVER}\nsearch room.example\n")
        upstream = room.start("upstream", [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--log-facility=-", "--log-queries"),
            *("--no-resolv", "--no-hosts", "--user=root", "--pid-file=", "--address=/www.example.org/192.0.2.80"),
            *(f"--txt-record=long.example.org,{number}-{LONG}" for number in range(12)),
        ])  # fmt: skip
        upstream.wait_for("started")
        daemon = Daemon(room, folder, SETTINGS)
        daemon.start()
        yield Names(room, daemon, upstream)


def test_dig_finds_names_aliases_and_addresses(names: Names) -> None:
    assert names.short("LAB3.Room.example") == ["10.9.0.13"]
    assert names.short("pc3.room.example") == ["lab3.room.example.", "10.9.0.13"]
    assert names.short("-x", "10.9.0.13") == ["lab3.room.example."]
    assert names.short("bootd.room.example", "+tcp") == [SERVER]
    assert names.short("room.example", "NS") == ["bootd.room.example."]
    assert "status: NXDOMAIN" in names.dig("lab9.room.example")
    no_data = names.dig("lab4.room.example")
    assert "status: NOERROR" in no_data
    assert "room.example.\t\t15\tIN\tSOA\tbootd.room.example." in no_data
    assert '"RFC8482" ""' in names.dig("lab3.room.example", "ANY", "+notcp")
    assert "status: REFUSED" in names.dig("-c", "CH", "version.bind", "TXT")
    assert "status: BADVERS" in names.dig("lab3.room.example", "+edns=1", "+noednsnegotiation")


def test_host_nslookup_and_busybox(names: Names) -> None:
    found = names.room.run("client", ["host", "lab3.room.example", SERVER])
    assert "lab3.room.example has address 10.9.0.13" in found
    found = names.room.run("client", ["nslookup", "pc3.room.example", SERVER])
    assert "canonical name = lab3.room.example." in found
    found = names.room.run("client", ["busybox", "nslookup", "lab3.room.example", SERVER])
    assert "Address: 10.9.0.13" in found
    found = names.room.run("client", ["busybox", "nslookup", "10.9.0.13", SERVER])
    assert "name = lab3.room.example" in found


def test_a_node_that_joins_has_its_address_at_once(names: Names) -> None:
    """Its boot token comes with its configuration, and its address with its first word from stage2."""
    client, mac = ["curl", "-sS", "-f", "-m", "5"], "52:54:00:00:00:04"
    names.daemon.command("label", "set", "kamethod", "--node", mac)
    words = names.room.run("client", [*client, f"http://{SERVER}:7467/boot/stage1/words?mac={mac}"])
    token = words.partition("bootd.token=")[2].split()[0]
    join = {"type": "join", "node": mac, "uuid": "", "arch": "x86_64", "firmware": "bios", "address": "10.9.0.50",
            "session": "", "method": "ka", "memory": 1, "disks": []}  # fmt: skip
    names.room.run(
        "client",
        [*client, "-H", f"Authorization: Bearer {token}", "-d", json.dumps(join),
         f"http://{SERVER}:7467/node/v1/join"],
    )  # fmt: skip
    wanted = ["lab4.room.example.", "10.9.0.50"]
    until(lambda: names.short("pc4.room.example") == wanted, 5, "its name leads to it")
    assert names.short("-x", "10.9.0.50") == ["lab4.room.example."]


def test_other_names_are_passed_on(names: Names) -> None:
    """The first upstream is not there: the second one is asked when its time is up."""
    answer = names.dig("wWw.eXample.org")
    assert "status: NOERROR" in answer
    assert "wWw.eXample.org.\t" in answer
    assert "192.0.2.80" in answer
    assert names.short("www.example.org", "+tcp") == ["192.0.2.80"]
    names.upstream.wait_for(r"query\[A\] www\.example\.org", 5)
    answer = names.dig("long.example.org", "TXT", "+notcp", "+bufsize=512", "+ignore")
    assert "flags: qr tc" in answer or "flags: qr aa tc" in answer
    assert names.dig("long.example.org", "TXT", "+bufsize=512", "+short").count("000000019") == 12


def test_plain_names_and_responses_go_nowhere(names: Names) -> None:
    assert "status: NXDOMAIN" in names.dig("printer")
    script = f"""
import socket, struct
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.settimeout(2)
query = b"\\x00\\x01\\x01\\x00\\x00\\x01" + bytes(6) + b"\\x04lab3\\x04room\\x07example\\x00\\x00\\x01\\x00\\x01"
for data in (query[:2] + b"\\x81" + query[3:], query[:9], b"", b"\\xff" * 1400):
    own.sendto(data, ("{SERVER}", 53))
own.sendto(b"\\x12\\x34" + query[2:], ("{SERVER}", 53))
print(own.recv(2000)[:2].hex())
"""
    assert names.room.run("client", [sys.executable, "-c", script]).split() == ["1234"]


def test_a_flood_is_not_multiplied_and_tcp_still_answers(names: Names) -> None:
    """What a /24 is told about one name is bounded; a real client there is sent to TCP and gets its answer."""
    script = f"""
import socket, time
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
query = b"\\x00\\x01\\x01\\x00\\x00\\x01" + bytes(6) + b"\\x04lab3\\x04room\\x07example\\x00\\x00\\x01\\x00\\x01"
whole = cut = 0
for number in range(1500):
    own.sendto(query, ("{SERVER}", 53))
    own.settimeout(0.001)
    try:
        while True:
            answer = own.recv(2000)
            if answer[2] & 2:
                cut += 1
            else:
                whole += 1
    except TimeoutError:
        pass
print(whole, cut)
"""
    begun = time.monotonic()
    whole, cut = map(int, names.room.run("client", [sys.executable, "-c", script]).split())
    seconds = time.monotonic() - begun
    assert 50 <= whole <= 100 + 50 * (seconds + 2)
    assert 0 < cut <= 750
    assert names.short("lab3.room.example") == ["10.9.0.13"]  # dig comes back over TCP when it has to


def test_a_tcp_client_that_says_nothing_hinders_nobody(names: Names) -> None:
    script = f"""
import socket
kept = [socket.create_connection(("{SERVER}", 53), 2) for _ in range(70)]
kept[0].sendall(b"\\x00")
print(kept[69].recv(1) == b"")
"""
    assert names.room.run("client", [sys.executable, "-c", script]).split() == ["True"]
    assert names.short("bootd.room.example", "+tcp") == [SERVER]
