"""ProxyDHCP and TFTP on a real network: beside dnsmasq, with clients that others wrote."""

import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootd.errors import Exit
from tests.netns.room import Process, Room, until

ROUTER, SERVER, CLIENT = "10.9.0.1", "10.9.0.2", "10.9.0.50"
MAC = "52:54:00:00:00:77"
SCRIPT = f"http://{SERVER}:7467/boot/boot.ipxe?mac={MAC}"
SETTINGS = f"""
[server]
interface = "eth0"
address = "{SERVER}"
[tftp]
max_sessions_per_client = 4
"""
SIZES = {"empty": 0, "one": 1, "block": 512, "blocks": 512 * 9, "mtu": 1468 * 20, "large": 3_000_017}


def content(name: str, size: int) -> bytes:
    """Every 32 bytes carry their number, so that a swapped or repeated block shows."""
    return b"".join(b"%-8s%23d\n" % (name.encode(), number) for number in range(size // 32 + 1))[:size]


class Plane:
    """The room and what runs in it."""

    def __init__(self, room: Room, boot_dir: Path, daemon: Process) -> None:
        self.room, self.boot_dir, self.daemon = room, boot_dir, daemon
        self._transaction = 0

    def client(self, command: str, **call: Any) -> list[dict[str, Any]]:
        """What the scapy client got; it has the MAC address of the client's interface."""
        self._transaction += 1
        call = {"mac": MAC, "xid": self._transaction, "seconds": 5.0, **call}
        printed = self.room.run(
            "client", [sys.executable, "-m", "tests.netns.pxe_client", command, json.dumps(call)], 30
        )
        answers: list[dict[str, Any]] = [json.loads(line) for line in printed.splitlines()]
        assert all(answer["xid"] == self._transaction for answer in answers)
        return answers

    def event(self, kind: str, detail: str) -> dict[str, Any]:
        """The next event of this kind whose detail matches."""
        found = self.daemon.wait_for(rf'\{{"kind": "{kind}"[^\n]*{detail}[^\n]*\}}\n')
        event: dict[str, Any] = json.loads(found.group(0))
        return event

    def still_answers(self) -> None:
        answers = self.client("request", arch=7, ciaddr=CLIENT, server=SERVER, source_port=4011)
        assert [answer["file"] for answer in answers] == ["ipxe.efi"]
        assert self.fetch_with_curl("one") == content("one", 1)

    def fetch_with_curl(self, name: str) -> bytes:
        target = self.boot_dir.parent / "fetched"
        target.unlink(missing_ok=True)
        self.room.run("client", ["curl", "-sS", "-m", "20", "-o", str(target), f"tftp://{SERVER}/{name}"], 30)
        return target.read_bytes() if target.exists() else b""  # curl makes no file of an empty one


def start(room: Room, boot_dir: Path, settings: str = SETTINGS) -> Process:
    return room.start("server", [sys.executable, "-m", "tests.netns.boot_plane", str(boot_dir), settings])


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    base = tmp_path_factory.mktemp("boot-plane")
    boot_dir = base / "boot"
    boot_dir.mkdir()
    for name, size in SIZES.items():
        (boot_dir / name).write_bytes(content(name, size))
    for name in ("lpxelinux.0", "ldlinux.c32", "ipxe.efi"):
        (boot_dir / name).write_bytes(content(name, 20_000))
    with Room("dhcp", "server", "client") as room:
        room.address("dhcp", f"{ROUTER}/24")
        room.address("server", f"{SERVER}/24")
        room.mac("client", MAC)
        room.address("client", f"{CLIENT}/24")
        dnsmasq = room.start("dhcp", [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-"),
            *("--interface=eth0", "--bind-interfaces", "--dhcp-range=10.9.0.100,10.9.0.199,1h", "--no-ping"),
            *("--dhcp-authoritative", "--user=root", "--pid-file=", f"--dhcp-leasefile={base / 'leases'}"),
        ])  # fmt: skip
        dnsmasq.wait_for(r"DHCP, (sockets bound|IP range)")
        daemon = start(room, boot_dir)
        daemon.wait_for(r"ready\n", 20)
        yield Plane(room, boot_dir, daemon)
        assert daemon.running(), daemon.output[-2000:]
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.output


@pytest.mark.parametrize(
    ("arch", "user_class", "file"),
    [
        (0, "", "lpxelinux.0"),
        (0, "iPXE", "lpxelinux.0"),
        (7, "", "ipxe.efi"),
        (9, "", "ipxe.efi"),
        (7, "iPXE", SCRIPT),
    ],
)
def test_both_servers_offer_and_neither_disturbs_the_other(
    plane: Plane, arch: int, user_class: str, file: str
) -> None:
    answers = plane.client("discover", arch=arch, user_class=user_class, answers=2)
    by_server = {answer["server_id"]: answer for answer in answers}
    assert sorted(by_server) == [ROUTER, SERVER]
    address, proxy = by_server[ROUTER], by_server[SERVER]
    assert re.fullmatch(r"10\.9\.0\.1\d\d", address["yiaddr"])
    assert address["file"] == ""
    assert proxy["yiaddr"] == "0.0.0.0"
    assert proxy["siaddr"] == SERVER
    assert proxy["file"] == file
    assert proxy["vendor"] == "PXEClient"
    assert proxy["source"] == [SERVER, 67]
    assert proxy["target"] == ["255.255.255.255", 68]
    assert proxy["length"] >= 300
    assert plane.event("offer", re.escape(file))["mac"] == MAC


@pytest.mark.parametrize("source_port", [68, 4011])
@pytest.mark.parametrize(("arch", "file"), [(0, "lpxelinux.0"), (7, "ipxe.efi")])
def test_port_4011_answers_to_the_source_port(plane: Plane, arch: int, file: str, source_port: int) -> None:
    (answer,) = plane.client("request", arch=arch, ciaddr=CLIENT, server=SERVER, source_port=source_port)
    assert answer["type"] == 5
    assert answer["source"] == [SERVER, 4011]
    assert answer["target"] == [CLIENT, source_port]
    assert (answer["file"], answer["yiaddr"]) == (file, "0.0.0.0")
    assert plane.event("boot-file", file)["address"] == CLIENT


def test_who_is_not_served_hears_only_the_address_server(plane: Plane) -> None:
    for call in (
        {"arch": 7, "vendor": "MSFT 5.0"},
        {"arch": 11},
        {"arch": 19, "vendor": "HTTPClient:Arch:00019:UNDI:003001"},
        {"arch": 7, "mac": "52:54:00:00:00:66"},
    ):
        answers = plane.client("discover", answers=2, **{"seconds": 0.8, **call})
        assert [answer["server_id"] for answer in answers] == [ROUTER], call
    plane.event("ignored", "UEFI ARM 64")
    plane.event("ignored", "HTTP ARM 64")
    assert plane.event("ignored", "kept out by an operator")["mac"] == "52:54:00:00:00:66"


PXE_OPTIONS = ("-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000", "-x", "0x5e:010201",
               "-x", "0x61:00000102030405060708090a0b0c0d0e0f")  # fmt: skip


def test_udhcpc_gets_its_lease_beside_us(plane: Plane, tmp_path: Path) -> None:
    """busybox udhcpc as a system's client: bootd does not answer it, dnsmasq's lease comes through at once."""
    lease = tmp_path / "lease"
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\n[ "$1" = bound ] && echo "$ip $serverid $siaddr $boot_file" > {lease}\nexit 0\n')
    script.chmod(0o755)
    before = plane.daemon.output.count('"kind": "offer"')
    udhcpc = ["busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "3", "-T", "1", "-s", str(script)]
    plane.room.run("client", udhcpc, 30)
    assert re.match(r"10\.9\.0\.1\d\d 10\.9\.0\.1 ", lease.read_text())
    assert plane.daemon.output.count('"kind": "offer"') == before
    # The same client dressed up as a PXE ROM: bootd makes an offer, and the lease is still dnsmasq's.
    lease.unlink()
    plane.room.run("client", [*udhcpc, *PXE_OPTIONS], 30, check=False)
    plane.event("offer", "lpxelinux.0")


def curl(plane: Plane, name: str, target: Path) -> list[str]:
    return ["curl", "-sS", "-m", "30", "-o", str(target), f"tftp://{SERVER}/{name}"]


def curl_large_blocks(plane: Plane, name: str, target: Path) -> list[str]:
    return ["curl", "-sS", "-m", "30", "--tftp-blksize", "8192", "-o", str(target), f"tftp://{SERVER}/{name}"]


def curl_plain(plane: Plane, name: str, target: Path) -> list[str]:
    return ["curl", "-sS", "-m", "30", "--tftp-no-options", "-o", str(target), f"tftp://{SERVER}/{name}"]


def atftp(plane: Plane, name: str, target: Path) -> list[str]:
    options = ["--option", "blksize 1432", "--option", "tsize", "--option", "timeout 2"]
    return ["atftp", *options, "-g", "-r", name, "-l", str(target), SERVER]


def atftp_window(plane: Plane, name: str, target: Path) -> list[str]:
    options = ["--option", "blksize 1468", "--option", "windowsize 16"]
    return ["atftp", *options, "-g", "-r", name, "-l", str(target), SERVER]


def tftp_hpa(plane: Plane, name: str, target: Path) -> list[str]:
    return ["tftp", "-m", "binary", SERVER, "-c", "get", name, str(target)]


def busybox(plane: Plane, name: str, target: Path) -> list[str]:
    return ["busybox", "tftp", "-g", "-b", "1400", "-r", name, "-l", str(target), SERVER]


def tftpy(plane: Plane, name: str, target: Path) -> list[str]:
    arguments = f"{SERVER!r}, 69, {{'blksize': 1024, 'tsize': 0}}"
    code = f"import tftpy; tftpy.TftpClient({arguments}).download({name!r}, {str(target)!r})"
    return [sys.executable, "-W", "ignore", "-c", code]


CLIENTS = [curl, curl_large_blocks, curl_plain, atftp, atftp_window, tftp_hpa, busybox, tftpy]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_foreign_tftp_clients_get_every_byte(
    plane: Plane, client: Callable[[Plane, str, Path], list[str]], tmp_path: Path
) -> None:
    for name, size in SIZES.items():
        if size == 0 and client in (curl, curl_large_blocks):
            continue  # curl calls the tsize of an empty file illegal
        target = tmp_path / name
        plane.room.run("client", client(plane, name, target), 40)
        got = target.read_bytes() if target.exists() else b""
        assert hashlib.sha256(got).hexdigest() == hashlib.sha256(content(name, size)).hexdigest(), name
        assert plane.event("fetched", rf"{name}, {size} bytes")["mac"] == MAC


def test_configuration_comes_by_mac_after_the_names_that_pxelinux_tries_first(plane: Plane) -> None:
    for name in (
        "pxelinux.cfg/03000200-0400-0500-0006-000700080009",
        "pxelinux.cfg/0A090032",
        "pxelinux.cfg/default",
    ):
        printed = plane.room.run("client", ["tftp", "-m", "binary", SERVER, "-c", "get", name, "/dev/null"])
        assert "Error code 1" in printed, name
    text = plane.fetch_with_curl(f"/pxelinux.cfg/01-{MAC.replace(':', '-')}").decode()
    assert f"bootd.node={MAC}" in text
    assert f"LINUX http://{SERVER}:7468/stage1/vmlinuz" in text
    assert plane.event("config", "PXELINUX configuration, label kamethod")["mac"] == MAC
    assert plane.fetch_with_curl("autoexec.ipxe").startswith(b"#!ipxe")


def test_netascii(plane: Plane, tmp_path: Path) -> None:
    """The client turns CR LF into its own line ends again."""
    target = tmp_path / "text"
    plane.room.run("client", ["tftp", "-m", "netascii", SERVER, "-c", "get", "blocks", str(target)])
    assert target.read_bytes() == content("blocks", SIZES["blocks"])


def test_writing_and_leaving_the_tree_are_refused(plane: Plane, tmp_path: Path) -> None:
    (plane.boot_dir.parent / "secret").write_bytes(b"secret")
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    printed = plane.room.run("client", ["tftp", "-m", "binary", SERVER, "-c", "put", str(mine), "mine"])
    assert "Error code 2" in printed
    assert not (plane.boot_dir / "mine").exists()
    for path in ("../secret", "/../secret", "..\\secret", "one/../../secret"):
        printed = plane.room.run(
            "client", ["tftp", "-m", "binary", SERVER, "-c", "get", path, str(tmp_path / "got")]
        )
        assert "Error code 1" in printed, path
    plane.event("not-found", "secret: leads out of the boot folder")


def test_pulled_cable_in_the_middle_of_a_transfer(plane: Plane, tmp_path: Path) -> None:
    target = tmp_path / "large"
    plane.room.limit("client", 10)
    fetch = plane.room.start("client", ["curl", "-sS", "-m", "40", "-o", str(target), f"tftp://{SERVER}/large"])
    until(
        lambda: not fetch.running() or (target.exists() and target.stat().st_size >= 200_000),
        10,
        "a part of it is there",
    )
    assert fetch.running(), fetch.output
    plane.room.link("client", False)
    assert target.stat().st_size < SIZES["large"]
    time.sleep(0.8)  # as long as a cable is out
    plane.room.link("client", True)
    assert fetch.wait(40) == 0, fetch.output
    assert target.read_bytes() == content("large", SIZES["large"])
    plane.room.limit("client", 10_000)


JUNK = [
    *(b"", b"\0", b"\x01" * 240, b"\x01\x01\x06\0" + bytes(400), os.urandom(64), os.urandom(1400)),
    *(
        b"\0\x01",
        b"\0\x01a\0octet",
        b"\0\x03\0\x01" + b"d" * 512,
        b"\0\x04\0\0",
        b"\0\x05\0\x08\0",
        b"\0\x09x\0y\0",
    ),
]
SEND = "import socket,sys,json; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
[s.sendto(bytes.fromhex(j), (sys.argv[1], p)) for j in json.loads(sys.argv[2]) for p in (67, 4011, 69)]"


def test_malformed_packets_on_every_port_change_nothing(plane: Plane) -> None:
    junk = [data.hex() for data in JUNK] * 5
    plane.room.run("client", [sys.executable, "-c", SEND, SERVER, json.dumps(junk)])
    plane.still_answers()
    for what in ("malformed DHCP message", "malformed TFTP packet"):
        assert 1 <= plane.daemon.output.count(what) <= 2  # one line a minute, not one per packet
    assert plane.daemon.running()


OPEN = """
import socket, sys
sockets = []
for _ in range(7):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1.0)
    s.sendto(b"\\0\\1large\\0octet\\0", (sys.argv[1], 69)); sockets.append(s)
answered = 0
for s in sockets:
    try:
        data, source = s.recvfrom(2048)
    except TimeoutError:
        continue
    answered += data[:4] == b"\\0\\3\\0\\1"
    s.sendto(b"\\0\\5\\0\\0enough\\0", source)
print(answered)
"""


def test_one_client_cannot_take_every_transfer(plane: Plane) -> None:
    assert plane.room.run("client", [sys.executable, "-c", OPEN, SERVER]).strip() == "4"
    plane.still_answers()


def test_port_in_use_is_named_with_what_to_do(plane: Plane) -> None:
    second = start(plane.room, plane.boot_dir)
    assert second.wait(20) == Exit.BUSY
    assert re.search(r"UDP port 67 on eth0 is in use.*ss -ulpn", second.output)
    other = "10.9.0.3"
    plane.room.address("server", f"{other}/24")
    taken = plane.room.start("server", [sys.executable, "-c", f"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("{other}", 69)); print("taken", flush=True)
sys.stdin.read()
"""])  # fmt: skip
    taken.wait_for("taken")
    text = SETTINGS.replace(SERVER, other).replace('"eth0"', '"lo"')
    third = start(plane.room, plane.boot_dir, text)
    assert third.wait(20) == Exit.BUSY
    assert re.search(rf"UDP port 69 \(TFTP\) on {other} is in use", third.output)
    taken.stop()
    missing = start(plane.room, plane.boot_dir, SETTINGS.replace('"eth0"', '"eth9"'))
    assert missing.wait(20) == Exit.CONFIG
    assert "there is no interface eth9" in missing.output
    plane.still_answers()


def test_room_needs_no_port_of_this_machine() -> None:
    """The room is closed: the test above would find our own daemons otherwise."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.bind(("127.0.0.1", 4011))
