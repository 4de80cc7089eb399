"""bootd as the only DHCP server: clients that others wrote get, renew, keep and return addresses."""

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, Daemon
from tests.netns.dhcp_room import DHCLIENT_PXE, UDHCPC_PXE, dhclient, udhcpc
from tests.netns.room import Process, Room

MAC, OTHER_MAC, RESERVED_MAC, IGNORED_MAC = (f"52:54:00:00:00:{last}" for last in ("71", "72", "73", "74"))
POOL = {f"10.9.0.{last}" for last in range(100, 104)}
SETTINGS = f"""
[dhcp]
proxy = false
rogue_seconds = 0.2
probe_seconds = 0.1
[[dhcp.pool]]
subnet = "10.9.0.0/24"
range = "10.9.0.100-10.9.0.103"
gateway = "10.9.0.1"
dns = "{ADDRESS}"
domain = "room.example"
lease_seconds = 120
[[node]]
mac = "{RESERVED_MAC}"
name = "node3"
address = "10.9.0.50"
[[node]]
mac = "{IGNORED_MAC}"
name = "node4"
ignore = true
"""


@pytest.fixture
def room() -> Iterator[Room]:
    with Room("server", "client", "other") as made:
        made.address("server", f"{ADDRESS}/24")
        made.mac("client", MAC)
        made.mac("other", OTHER_MAC)
        yield made


def line(process: Process, event: str, words: str = "", seconds: float = 10.0) -> str:
    """The next line of the daemon's log about ``event`` with ``words`` in it."""
    return process.wait_for(rf'\{{(?=[^\n]*"event": "{event}[^"]*")[^\n]*{words}[^\n]*\n', seconds).group(0)


def discover_each(room: Room, *calls: dict[str, Any]) -> list[dict[str, Any] | None]:
    """What answers each of these DISCOVERs of a PXE ROM, made and read by scapy; None for no answer."""
    full = [{"mac": MAC, "xid": 77 + n, "seconds": 3.0, "arch": 0, "answers": 1, **c} for n, c in enumerate(calls)]
    words = [sys.executable, "-m", "tests.netns.pxe_client", "discover_all", json.dumps({"calls": full})]
    answers = {answer["xid"]: answer for answer in map(json.loads, room.run("client", words, 30).splitlines())}
    return [answers.get(call["xid"]) for call in full]


def discover(room: Room, mac: str = MAC, **call: Any) -> dict[str, Any]:
    """The answer to one of them."""
    (answer,) = discover_each(room, {"mac": mac, **call})
    assert answer is not None
    return answer


def serve(room: Room, folder: Path, settings: str = SETTINGS) -> tuple[Daemon, Process]:
    """The daemon, with the boot files that a BIOS client is sent to."""
    daemon = Daemon(room, folder, settings)
    for name in ("lpxelinux.0", "ldlinux.c32"):
        (daemon.boot / name).write_bytes(name.encode())
    return daemon, daemon.start()


def test_udhcpc_gets_renews_and_releases(room: Room, folder: Path) -> None:
    _, process = serve(room, folder)
    client = udhcpc(room, "client", folder, *UDHCPC_PXE)
    bound = client.event("bound")
    assert bound["ip"] in POOL
    assert bound["server"] == bound["siaddr"] == ADDRESS
    assert bound["file"] == "lpxelinux.0"
    assert (bound["lease"], bound["router"], bound["dns"]) == ("120", "10.9.0.1", ADDRESS)
    assert (bound["mask"], bound["domain"]) == ("24", "room.example")
    line(process, "lease", bound["ip"])
    client.process.signal(signal.SIGUSR1)
    assert client.event("renew")["ip"] == bound["ip"]
    client.process.signal(signal.SIGUSR2)
    client.event("deconfig")
    client.process.signal(signal.SIGUSR1)  # it starts anew, and is remembered
    assert client.event("bound")["ip"] == bound["ip"]
    client.process.stop()
    # The system's client on the same machine: another client id, the same address (quirk mac-is-the-key).
    system = dhclient(room, "client", folder, config=DHCLIENT_PXE)
    again = system.event("BOUND")
    assert (again["ip"], again["server"], again["file"]) == (bound["ip"], ADDRESS, "lpxelinux.0")
    system.process.wait_for("bound to")  # its lease file is written
    system.process.stop()
    reboot = dhclient(room, "client", folder, config=DHCLIENT_PXE)  # it has a lease file now: INIT-REBOOT
    assert reboot.event("REBOOT")["ip"] == bound["ip"]
    reboot.process.wait_for("bound to")
    reboot.process.stop()
    released = dhclient(room, "client", folder, "-r", config=DHCLIENT_PXE)
    released.event("RELEASE")
    # Released: the next machine may have it when it asks for it.
    other = udhcpc(room, "other", folder, "-r", bound["ip"])
    assert other.event("bound")["ip"] == bound["ip"]


def test_one_offer_has_address_and_boot_file(room: Room, folder: Path) -> None:
    _, process = serve(room, folder)
    offer, reserved, ignored, plain = discover_each(
        room, {}, {"mac": RESERVED_MAC}, {"mac": IGNORED_MAC, "seconds": 0.4}, {"vendor": "MSFT 5.0"}
    )
    assert offer
    assert offer["yiaddr"] in POOL
    assert (offer["server_id"], offer["siaddr"], offer["file"]) == (ADDRESS, ADDRESS, "lpxelinux.0")
    assert offer["source"] == [ADDRESS, 67]
    assert offer["target"] == ["255.255.255.255", 68]
    assert reserved
    assert (reserved["yiaddr"], reserved["file"]) == ("10.9.0.50", "lpxelinux.0")
    assert ignored is None  # no answer of any kind
    line(process, "ignored", IGNORED_MAC)
    assert plain
    assert (plain["yiaddr"], plain["file"], plain["siaddr"]) == (offer["yiaddr"], "", "0.0.0.0")  # no network boot


def test_leases_survive_kill(room: Room, folder: Path) -> None:
    """The daemon is killed without warning: its clients keep their addresses, and nobody else gets them."""
    daemon, process = serve(room, folder)
    client = udhcpc(room, "client", folder)
    address = client.event("bound")["ip"]
    process.signal(signal.SIGKILL)
    process.wait(5)
    process = daemon.start()
    assert '"live": 1' in line(process, "leases taken over", seconds=1)
    *others, nobody, nobody_either, again = discover_each(
        room,
        *({"mac": f"52:54:00:00:01:{last:02x}"} for last in range(3)),
        {"mac": "52:54:00:00:01:09", "seconds": 0.4},
        {"mac": "52:54:00:00:01:0a", "seconds": 0.4},
        {},
    )
    assert {other["yiaddr"] for other in others if other} == POOL - {address}
    assert nobody is nobody_either is None
    assert again
    assert again["yiaddr"] == address
    line(process, "exhausted", "4 of 4 are taken")
    listed = {lease["address"]: lease for lease in json.loads(daemon.command("leases", "--json"))}
    assert listed.keys() == POOL
    assert (listed[address]["client"], listed[address]["state"]) == (MAC, "bound")
    assert {lease["state"] for at, lease in listed.items() if at != address} == {"offered"}
    assert re.search(rf"{address} +{MAC} +bound +20\d\d-", daemon.command("leases"))
    assert process.output.count('"event": "exhausted"') == 1  # said once
    client.process.signal(signal.SIGUSR1)
    assert client.event("renew")["ip"] == address


def test_address_that_somebody_uses_is_left_alone(room: Room, folder: Path) -> None:
    _, process = serve(room, folder)
    squatted = discover(room)["yiaddr"]
    room.address("other", f"{squatted}/24")
    process.signal(signal.SIGKILL)
    process.wait(5)
    _, process = serve(room, folder)
    client = udhcpc(room, "client", folder)
    bound = client.event("bound")["ip"]
    assert bound in POOL - {squatted}
    assert OTHER_MAC in line(process, "conflict", squatted)
    client.process.stop()


def test_client_that_declines_gets_another_address(room: Room, folder: Path) -> None:
    """Without our probe the client's own one finds who uses the address: udhcpc -a sends DECLINE."""
    _, process = serve(room, folder, SETTINGS.replace("probe_seconds = 0.1", "probe_seconds = 0"))
    squatted = discover(room)["yiaddr"]
    room.address("other", f"{squatted}/24")
    client = udhcpc(room, "client", folder, "-a")
    bound = client.event("bound", 20)["ip"]
    assert bound in POOL - {squatted}
    line(process, "conflict", f"declined {squatted}")


def test_interface_changes_are_followed(room: Room, folder: Path) -> None:
    _, process = serve(room, folder)
    room.run("server", ["ip", "address", "flush", "dev", "eth0"])
    line(process, "interface has no address")
    assert discover_each(room, {"seconds": 0.3}) == [None]
    room.address("server", "10.9.0.7/24")
    line(process, "address has changed", "10.9.0.7")
    offer = discover(room)
    assert (offer["server_id"], offer["source"]) == ("10.9.0.7", ["10.9.0.7", 67])
    line(process, "files are served on another address", "10.9.0.7")  # TFTP and HTTP have moved as well
    room.address("client", "10.9.0.60/24")
    fetched = room.run("client", ["curl", "-sS", "-m", "5", f"tftp://{offer['siaddr']}/{offer['file']}"])
    assert fetched == "lpxelinux.0"
    room.run("server", ["ip", "link", "set", "eth0", "name", "away"])
    line(process, "interface is gone")
    room.run("server", ["sh", "-c", "ip link set away name eth0; ip link set eth0 up"])
    line(process, "interface is there")
    assert discover(room)["server_id"] == "10.9.0.7"
    assert process.running()


def test_two_interfaces_each_with_its_addresses(room: Room, folder: Path) -> None:
    """A second card in a second network: offers, files and URLs are those of the card that was asked."""
    add = ["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", room.namespace("other")]
    room.run("server", add)
    room.run("server", ["sh", "-c", "ip address add 10.7.0.2/24 dev eth1; ip link set eth1 up"])
    room.run("other", ["ip", "link", "set", "eth1", "up"])
    pool = '[[dhcp.pool]]\nsubnet = "10.7.0.0/24"\nrange = "10.7.0.100"\n'
    daemon = Daemon(room, folder, SETTINGS + pool)
    text = daemon.config.read_text().replace('interface = "eth0"', 'interface = ["eth0", "eth1"]')
    daemon.config.write_text(text)
    for name in ("lpxelinux.0", "ldlinux.c32"):
        (daemon.boot / name).write_bytes(name.encode())
    daemon.start()
    near = udhcpc(room, "client", folder, *UDHCPC_PXE).event("bound")
    far = udhcpc(room, "other", folder, *UDHCPC_PXE, interface="eth1").event("bound")
    assert near["ip"] in POOL
    assert (near["server"], near["siaddr"]) == (ADDRESS, ADDRESS)
    assert (far["ip"], far["server"], far["siaddr"]) == ("10.7.0.100", "10.7.0.2", "10.7.0.2")
    for name, bound in (("client", near), ("other", far)):
        fetched = room.run(name, ["curl", "-sS", "-m", "5", f"tftp://{bound['siaddr']}/{bound['file']}"])
        assert fetched == "lpxelinux.0"
        script = room.run(
            name, ["curl", "-sS", "-m", "5", f"http://{bound['siaddr']}:7467/boot/boot.ipxe?mac={MAC}"]
        )
        assert script.startswith("#!ipxe")


def test_second_server_on_the_link_is_refused(room: Room, folder: Path) -> None:
    room.address("other", "10.9.0.9/24")
    dnsmasq = room.start("other", [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-"),
        *("--interface=eth0", "--bind-interfaces", "--dhcp-range=10.9.0.200,10.9.0.210,1h", "--user=root"),
        *("--pid-file=", f"--dhcp-leasefile={folder / 'dnsmasq'}", "--dhcp-authoritative"),
    ])  # fmt: skip
    dnsmasq.wait_for(r"DHCP, (sockets bound|IP range)")
    daemon = Daemon(room, folder, SETTINGS)
    refused = daemon.start_unready()
    assert refused.wait(15) == Exit.BUSY
    assert "another DHCP server gives addresses here: 10.9.0.9 on eth0" in refused.output
    # It is busy with a ping of three seconds now, because of our DISCOVER.
    daemon = Daemon(room, folder, SETTINGS.replace("rogue_seconds = 0.2", 'rogue = "warn"\nrogue_seconds = 4'))
    process = daemon.start()
    line(process, "another DHCP server gives addresses here: 10.9.0.9 on eth0", seconds=1)
    discover_each(room, {"kind": "request", "requested": "10.9.0.205", "chosen": "10.9.0.9", "seconds": 0.5})
    line(process, "rival", "chose the server 10.9.0.9")


SOLICIT = """
import json, time
from scapy.config import conf
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import Ether
link = conf.L2socket(iface="eth0")
mac = open("/sys/class/net/eth0/address").read().strip()
ask = Ether(src=mac, dst="33:33:00:00:00:02") / IPv6(src="::", dst="ff02::2", hlim=255) / ICMPv6ND_RS()

def answer(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        link.send(ask)
        again = min(end, time.monotonic() + 0.6)
        while time.monotonic() < again:
            if not link.select([link], max(0.0, again - time.monotonic())):
                continue
            packet = link.recv()
            if packet is not None and ICMPv6ND_RA in packet and packet[Ether].src != mac:
                return packet
    return None

packet = answer(6)
read = packet[ICMPv6ND_RA]
prefix = ICMPv6NDOptPrefixInfo in packet
print(json.dumps([packet[IPv6].hlim, read.routerlifetime, [read.M, read.O], prefix, packet[IPv6].dst]), flush=True)
input()
real = IPv6(src="fe80::99", dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=1800)
link.send(Ether(src=mac, dst="33:33:00:00:00:01") / real)
print("silence" if answer(1.2) is None else "answered", flush=True)
"""


def test_solicitation_is_answered_with_no_router(room: Room, folder: Path) -> None:
    """Read by scapy, and by this kernel: an advertisement that makes no route and no address."""
    serve(room, folder)
    (folder / "solicit.py").write_text(SOLICIT)
    room.kernel("client", "net/ipv6/conf/eth0/accept_ra", 2)
    solicit = room.start("client", [sys.executable, "-W", "ignore", str(folder / "solicit.py")])
    assert json.loads(solicit.wait_for(r"\[.*\]\n", 15).group(0)) == [255, 0, [0, 0], False, "ff02::1"]
    assert room.run("client", ["ip", "-6", "route", "show", "default"]) == ""
    assert "global" not in room.run("client", ["ip", "-6", "address", "show", "dev", "eth0"])
    # A real router is there: it is its business now.
    solicit.send("\n")
    solicit.wait_for("silence\n")
