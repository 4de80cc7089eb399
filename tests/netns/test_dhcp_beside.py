"""Proxy mode beside the DHCP servers that others wrote, one after the other: nobody is disturbed."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.netns.dhcp_room import DHCLIENT_PXE, dhclient, udhcpc
from tests.netns.foreign_servers import start_dhcpd, start_dnsmasq, start_kea
from tests.netns.room import Process, Room

ROUTER, SERVER, CLIENT = "10.9.0.1", "10.9.0.2", "10.9.0.60"
MAC = "52:54:00:00:00:77"
SETTINGS = f'[server]\ninterface = "eth0"\naddress = "{SERVER}"\n'
LISTEN = """
import socket
link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
link.bind(("eth0", 0x0800))
print("listens", flush=True)
while True:
    packet = link.recv(4096)
    data = packet[(packet[0] & 15) * 4 + 8:]
    if packet[9] == 17 and len(data) > 240 and data[236:240] == bytes((99, 130, 83, 99)):
        kind = data[240:].split(bytes((53, 1)), 1)[1][0]
        print("seen", data[0], kind, socket.inet_ntoa(data[16:20]), flush=True)
"""


def dnsmasq(room: Room, folder: Path) -> Process:
    return start_dnsmasq(room, folder, "/dev/null")


def udhcpd(room: Room, folder: Path) -> Process:
    leases, settings = folder / "udhcpd.leases", folder / "udhcpd.conf"
    leases.touch()
    settings.write_text(
        f"start 10.9.0.100\nend 10.9.0.199\ninterface eth0\nlease_file {leases}\npidfile {folder / 'pid'}\n"
        f"option subnet 255.255.255.0\noption router {ROUTER}\noption lease 3600\n"
    )
    process = room.start("dhcp", ["busybox", "udhcpd", "-f", "-I", ROUTER, str(settings)])
    process.wait_for("started")
    return process


def kea(room: Room, folder: Path) -> Process:
    return start_kea(room, folder, {})


def dhcpd(room: Room, folder: Path) -> Process:
    return start_dhcpd(room, folder, "default-lease-time 3600;\n", ROUTER)


@pytest.fixture
def room() -> Iterator[Room]:
    with Room("dhcp", "server", "client") as made:
        made.address("dhcp", f"{ROUTER}/24")
        made.address("server", f"{SERVER}/24")
        made.mac("client", MAC)
        yield made


@pytest.mark.parametrize("start", [dnsmasq, udhcpd, kea, dhcpd], ids=lambda start: start.__name__)
def test_proxy_beside(room: Room, tmp_path: Path, start: Callable[[Room, Path], Process]) -> None:
    boot = tmp_path / "boot"
    boot.mkdir()
    for name in ("lpxelinux.0", "ldlinux.c32"):
        (boot / name).write_bytes(name.encode())
    address_server = start(room, tmp_path)
    ours = room.start("server", [sys.executable, "-m", "tests.netns.boot_plane", str(boot), SETTINGS])
    ours.wait_for(r"ready\n", 20)
    listener = room.start("client", [sys.executable, "-I", "-S", "-c", LISTEN])
    listener.wait_for("listens", 20)

    # A ROM's DISCOVER: two offers, one with an address, the other one with the boot file. It takes the address of
    # the one and asks the other on 4011. (udhcpc with a ROM's options would take the first offer that comes, also
    # one without an address; no ROM does.)
    room.address("client", f"{CLIENT}/24")
    call = {"mac": MAC, "xid": 7, "arch": 0, "seconds": 4.0, "patience": 0.6, "ciaddr": CLIENT, "server": SERVER}
    words = [sys.executable, "-m", "tests.netns.pxe_client", "rom", json.dumps(call)]
    answers = room.run("client", words, 30)
    *offers, taken, confirmed = map(json.loads, answers.splitlines())
    by_server = {offer["server_id"]: offer for offer in offers}
    assert sorted(by_server) == [ROUTER, SERVER]
    address = by_server[ROUTER]["yiaddr"]
    assert address.startswith("10.9.0.1")
    assert (by_server[SERVER]["yiaddr"], by_server[SERVER]["file"]) == ("0.0.0.0", "lpxelinux.0")
    assert (taken["type"], taken["server_id"], taken["yiaddr"]) == (5, ROUTER, address)
    assert (confirmed["type"], confirmed["server_id"]) == (5, SERVER)
    assert (confirmed["file"], confirmed["yiaddr"]) == ("lpxelinux.0", "0.0.0.0")

    # The systems' clients, which are none of our business: one address for one machine, renewed and released.
    first = udhcpc(room, "client", tmp_path)
    bound = first.event("bound")
    assert bound["server"] == ROUTER
    first.process.signal(signal.SIGUSR1)
    assert first.event("renew")["ip"] == bound["ip"]
    first.process.signal(signal.SIGUSR2)
    first.event("deconfig")
    first.process.stop()
    system = dhclient(room, "client", tmp_path, config="")
    assert system.event("BOUND")["server"] == ROUTER
    system.process.wait_for("bound to")
    system.process.stop()
    pretender = dhclient(room, "client", tmp_path, config=DHCLIENT_PXE)
    assert pretender.event("REBOOT")["server"] == ROUTER

    seen = [line.split() for line in listener.output.splitlines() if line.startswith("seen 2")]
    assert {kind for _, _, kind, _ in seen} == {"2", "5"}  # offers and acknowledgements, not one NAK
    given = {address for _, _, _, address in seen} - {"0.0.0.0"}
    assert given
    assert all(address.startswith("10.9.0.1") for address in given)
    assert address_server.running()
    assert ours.running()
    assert "Traceback" not in ours.output
