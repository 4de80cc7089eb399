"""Clients on another subnet, behind real relays: ISC dhcrelay with option 82, and dnsmasq."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.daemon import ADDRESS, Daemon
from tests.netns.dhcp_room import UDHCPC_PXE, udhcpc
from tests.netns.room import Process, Room

UP, DOWN = "10.9.0.3", "10.8.0.1"  # the relay's addresses: towards the server, towards the clients
SETTINGS = f"""
[dhcp]
proxy = false
rogue_seconds = 0.2
probe_seconds = 0.2
[[dhcp.pool]]
subnet = "10.9.0.0/24"
[[dhcp.pool]]
subnet = "10.8.0.0/24"
range = "10.8.0.100-10.8.0.101"
gateway = "{DOWN}"
lease_seconds = 120
"""


@pytest.fixture
def room() -> Iterator[Room]:
    """server -- switch -- relay -- far: the client has no other way to the server."""
    with Room("server", "relay", "far") as made:
        made.address("server", f"{ADDRESS}/24")
        made.address("relay", f"{UP}/24")
        made.link("far", False)
        add = ["ip", "link", "add", "down0", "type", "veth", "peer", "name", "far0", "netns", made.namespace("far")]
        made.run("relay", add)
        made.run("relay", ["sh", "-c", f"ip address add {DOWN}/24 dev down0; ip link set down0 up"])
        made.kernel("relay", "net/ipv4/ip_forward", 1)
        made.run("far", ["ip", "link", "set", "far0", "up"])
        made.run("server", ["ip", "route", "add", "10.8.0.0/24", "via", UP])
        yield made


def start_dhcrelay(room: Room) -> Process:
    relay = room.start("relay", ["dhcrelay", "-4", "-d", "-a", "-iu", "eth0", "-id", "down0", ADDRESS])
    relay.wait_for("Sending on +Socket")
    return relay


def start_dnsmasq(room: Room) -> Process:
    relay = room.start("relay", [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-", "--log-dhcp"),
        *("--user=root", "--pid-file=", f"--dhcp-relay={DOWN},{ADDRESS}"),
    ])  # fmt: skip
    relay.wait_for("DHCP relay from")
    return relay


def serve(room: Room, folder: Path) -> Process:
    daemon = Daemon(room, folder, SETTINGS)
    for name in ("lpxelinux.0", "ldlinux.c32"):
        (daemon.boot / name).write_bytes(name.encode())
    return daemon.start()


def test_behind_dhcrelay(room: Room, folder: Path) -> None:
    process = serve(room, folder)
    relay = start_dhcrelay(room)
    client = udhcpc(room, "far", folder, *UDHCPC_PXE, interface="far0")
    bound = client.event("bound")
    assert bound["ip"] in ("10.8.0.100", "10.8.0.101")
    assert (bound["server"], bound["siaddr"], bound["file"]) == (ADDRESS, ADDRESS, "lpxelinux.0")
    assert (bound["router"], bound["mask"]) == (DOWN, "24")
    # dhcrelay drops answers whose option 82 is not as it went out, and says so.
    assert "Discarding" not in relay.output
    client.process.signal(signal.SIGUSR1)
    assert client.event("renew")["ip"] == bound["ip"]  # straight to the server, by routing
    client.process.signal(signal.SIGUSR2)
    client.event("deconfig")
    process.wait_for(f'detail": "{bound["ip"]} for 120 s')
    # Somebody else takes the address while it is free: found by ICMP, since ARP does not reach there.
    room.run("relay", ["ip", "address", "add", f"{bound['ip']}/24", "dev", "down0"])
    client.process.signal(signal.SIGUSR1)
    again = client.event("bound")
    assert {bound["ip"], again["ip"]} == {"10.8.0.100", "10.8.0.101"}
    process.wait_for(f"{bound['ip']} is used by somebody")


def test_behind_dnsmasq_as_a_relay(room: Room, folder: Path) -> None:
    serve(room, folder)
    start_dnsmasq(room)
    client = udhcpc(room, "far", folder, interface="far0")
    bound = client.event("bound")
    assert bound["ip"] in ("10.8.0.100", "10.8.0.101")
    assert bound["server"] == ADDRESS
    # The near subnet has no range: without a reservation a boot file, and the address from somebody else.
    call = {"mac": room.mac("relay"), "xid": 5, "arch": 0, "seconds": 3.0, "answers": 1}
    words = [sys.executable, "-m", "tests.netns.pxe_client", "discover", json.dumps(call)]
    offer = json.loads(room.run("relay", words))
    assert (offer["yiaddr"], offer["server_id"], offer["file"]) == ("0.0.0.0", ADDRESS, "lpxelinux.0")
