"""The offer matrix. Requests are built and replies are read by scapy: another codec than ours judges ours."""

import socket
import struct
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from bootd.netboot import dhcp, offer
from bootd.netboot.dhcp import MessageType
from bootd.netboot.loaders import ARCHITECTURES
from bootd.netboot.offer import Ignore, Interface, NodePolicy, Offer

MAC = "52:54:00:12:34:56"
SERVER = "10.9.0.2"
CLIENT = "10.9.0.77"
UUID = b"\0" + bytes(range(16))
BUILT = frozenset({"lpxelinux.0", "ldlinux.c32", "ipxe.efi", "snponly.efi"})
INTERFACE = Interface("eth0", SERVER, 7467, artefacts=BUILT)
SCRIPT = f"http://{SERVER}:7467/boot/boot.ipxe?mac={MAC}"
NOWHERE = ("0.0.0.0", 68)


def request(
    kind: str = "discover",
    arch: int | None = 0,
    *,
    vendor: str | None = None,
    extra: tuple[Any, ...] = (),
    mac: str = MAC,
    ciaddr: str = "0.0.0.0",
    giaddr: str = "0.0.0.0",
    flags: int = 0x8000,
) -> bytes:
    """A client's datagram, made by scapy."""
    options: list[Any] = [("message-type", kind)]
    if vendor is None:
        vendor = f"PXEClient:Arch:{arch or 0:05d}:UNDI:002001"
    if vendor:
        options.append(("vendor_class_id", vendor.encode()))
    if arch is not None:
        options.append((93, struct.pack("!H", arch)))
    options += [(94, b"\x01\x02\x01"), (97, UUID), *extra, "end"]
    hardware = bytes.fromhex(mac.replace(":", ""))
    bootp = BOOTP(op=1, htype=1, hlen=6, xid=0xDEADBEEF, flags=flags, ciaddr=ciaddr, giaddr=giaddr, chaddr=hardware)
    return bytes(bootp / DHCP(options=options))


def decide(data: bytes, port: int = 67, source: tuple[str, int] = NOWHERE, policy: str = "") -> Offer | Ignore:
    return offer.decide(dhcp.parse(data), NodePolicy(policy), INTERFACE, port, source)


def read(reply: bytes) -> tuple[Any, list[tuple[int, bytes]]]:
    """(BOOTP header by scapy, options as (code, value) in the order on the wire, read by hand)."""
    header = BOOTP(reply)
    raw, options = reply[240:], []
    while raw and raw[0] != 255:
        if raw[0] == 0:
            raw = raw[1:]
            continue
        options.append((raw[0], raw[2 : 2 + raw[1]]))
        raw = raw[2 + raw[1] :]
    return header, options


IPXE = ((77, b"iPXE"),)
COUNTED_IPXE = ((77, b"\x04iPXE"),)
OPTION_175 = ((175, b"\x01\x01\x01\xff"),)

MATRIX = [
    # what, architecture, more options, file
    ("BIOS ROM", 0, (), "lpxelinux.0"),
    ("BIOS, iPXE as option ROM", 0, IPXE, "lpxelinux.0"),
    ("UEFI x64", 7, (), "ipxe.efi"),
    ("UEFI x64 that says EBC", 9, (), "ipxe.efi"),
    ("iPXE on UEFI", 7, IPXE, SCRIPT),
    ("iPXE on UEFI, counted user class", 7, COUNTED_IPXE, SCRIPT),
    ("iPXE on UEFI, only option 175", 9, OPTION_175, SCRIPT),
    ("UEFI x64 with another user class", 7, ((77, b"accounting"),), "ipxe.efi"),
]


@pytest.mark.parametrize("port", [67, 4011])
@pytest.mark.parametrize(("what", "arch", "extra", "file"), MATRIX, ids=[row[0] for row in MATRIX])
def test_offer_matrix(what: str, arch: int, extra: tuple[Any, ...], file: str, port: int) -> None:
    if port == 67:
        decision = decide(request("discover", arch, extra=extra))
    else:
        decision = decide(request("request", arch, extra=extra, ciaddr=CLIENT), 4011, (CLIENT, 4011))
    assert isinstance(decision, Offer)
    assert decision.file == file
    header, options = read(decision.reply)
    values = dict(options)
    assert len(decision.reply) >= 300
    assert (header.op, header.xid, header.htype, header.hlen) == (2, 0xDEADBEEF, 1, 6)
    assert header.chaddr[:6] == bytes.fromhex(MAC.replace(":", ""))
    assert header.yiaddr == "0.0.0.0"  # a proxy gives no address
    assert header.siaddr == SERVER
    assert header.sname.rstrip(b"\0") == SERVER.encode()
    assert header.file.rstrip(b"\0") == file.encode()
    assert options[0] == (53, b"\x02" if port == 67 else b"\x05")
    assert options[-1] == (67, file.encode() + b"\0")
    assert values[54] == socket.inet_aton(SERVER)
    assert values[60] == b"PXEClient"
    assert values[66] == SERVER.encode()
    assert values[97] == UUID
    assert 52 not in values
    assert (43 in values) == (arch == 0)
    if arch == 0:
        assert values[43] == b"\x06\x01\x08" + b"\x0a\x04\x00PXE" + b"\xff"
    kinds: dict[str, Any] = dict(item for item in DHCP(decision.reply[240:]).options if isinstance(item, tuple))
    assert kinds["message-type"] == (2 if port == 67 else 5)
    assert kinds["server_id"] == SERVER


IGNORED = [
    # what, datagram, port, reason, whether an operator wants to know
    ("system's DISCOVER", request(vendor="", arch=None), 67, "not a network boot", False),
    ("Windows", request(vendor="MSFT 5.0", arch=None), 67, "not a network boot", False),
    ("Android", request(vendor="android-dhcp-13", arch=None), 67, "not a network boot", False),
    ("REQUEST for an address", request("request", 7), 67, "address server", False),
    ("REQUEST on renewal", request("request", 7, ciaddr=CLIENT), 67, "address server", False),
    ("DECLINE", request("decline", 7), 67, "address server", False),
    ("RELEASE", request("release", 7), 67, "address server", False),
    ("somebody's OFFER", request("offer", 7), 67, "address server", False),
    ("DISCOVER on 4011", request("discover", 7), 4011, "on port 4011", False),
    ("UEFI ia32", request(arch=6), 67, "missing in the boot folder", True),
    ("UEFI arm64", request(arch=11), 67, "missing in the boot folder", True),
    (
        "HTTP Boot arm64",
        request(arch=19, vendor="HTTPClient:Arch:00019:UNDI:003001"),
        67,
        "missing in the boot folder",
        True,
    ),
    ("HTTPClient without option 93", request(arch=None, vendor="HTTPClient"), 67, "HTTP Boot", True),
    ("unknown architecture", request(arch=999), 67, "unknown", True),
    ("Raspberry Pi", request(arch=0, mac="dc:a6:32:01:02:03"), 67, "Raspberry Pi", True),
    ("multicast as its address", request(arch=7, ciaddr="224.0.0.1"), 67, "return address", True),
    ("loopback as its relay", request(arch=7, giaddr="127.0.0.1"), 67, "return address", True),
]


@pytest.mark.parametrize(("what", "data", "port", "reason", "told"), IGNORED, ids=[str(row[0]) for row in IGNORED])
def test_ignored(what: str, data: bytes, port: int, reason: str, told: bool) -> None:
    decision = decide(data, port, (CLIENT, 68))
    assert isinstance(decision, Ignore)
    assert reason in decision.reason
    assert decision.network_boot is told


def test_reply_is_ignored() -> None:
    data = bytearray(request())
    data[0] = 2
    assert isinstance(decide(bytes(data)), Ignore)


def test_policy_can_silence_a_node() -> None:
    decision = decide(request(), policy="kept out by an operator")
    assert decision == Ignore("kept out by an operator", MAC, True)


def test_missing_architecture_and_machine_id() -> None:
    """Old BIOS ROMs send neither 93 nor 97; the vendor class names the architecture of others."""
    old = bytes(BOOTP(op=1, chaddr=bytes.fromhex("525400123456"), xid=7) / DHCP(
        options=[("message-type", "discover"), ("vendor_class_id", b"PXEClient"), "end"]
    ))  # fmt: skip
    decision = decide(old)
    assert isinstance(decision, Offer)
    assert decision.file == "lpxelinux.0"
    assert 97 not in dict(read(decision.reply)[1])
    named = decide(request(arch=None, vendor="PXEClient:Arch:00007:UNDI:003016"))
    assert isinstance(named, Offer)
    assert named.file == "ipxe.efi"


DESTINATIONS = [
    # request, port, source, where the reply goes (RFC 2131 section 4.1; PXE 2.1 section 2.2.3)
    (request(), 67, NOWHERE, ("255.255.255.255", 68)),
    (request(flags=0), 67, NOWHERE, ("255.255.255.255", 68)),
    (request(ciaddr=CLIENT, flags=0), 67, (CLIENT, 68), (CLIENT, 68)),
    (request(ciaddr=CLIENT, flags=0x8000), 67, (CLIENT, 68), (CLIENT, 68)),
    (request(giaddr="10.8.0.1"), 67, ("10.8.0.1", 67), ("10.8.0.1", 67)),
    (request("request", 7, ciaddr=CLIENT), 4011, (CLIENT, 4011), (CLIENT, 4011)),
    (request("request", 0, ciaddr=CLIENT), 4011, (CLIENT, 68), (CLIENT, 68)),
    (request("inform", 0, ciaddr=CLIENT), 4011, (CLIENT, 68), (CLIENT, 68)),
    (request("request", 0), 4011, NOWHERE, ("255.255.255.255", 68)),
]


@pytest.mark.parametrize(("data", "port", "source", "expected"), DESTINATIONS)
def test_where_the_reply_goes(data: bytes, port: int, source: tuple[str, int], expected: tuple[str, int]) -> None:
    decision = decide(data, port, source)
    assert isinstance(decision, Offer)
    assert (decision.destination.address, decision.destination.port) == expected


def test_broadcast_flag_and_relay_option_come_back() -> None:
    relayed = decide(request(giaddr="10.8.0.1", extra=((82, b"\x01\x04port"),)))
    assert isinstance(relayed, Offer)
    header, options = read(relayed.reply)
    assert dict(options)[82] == b"\x01\x04port"
    assert header.giaddr == "10.8.0.1"
    assert int(header.flags) & 0x8000
    quiet = decide(request(flags=0))
    assert isinstance(quiet, Offer)
    assert not int(read(quiet.reply)[0].flags)


def test_boot_server_discovery_on_67() -> None:
    """PXE 2.1 section 2.2.4: a broadcast REQUEST with sub-option 71 is for boot servers."""
    item = b"\x47\x04\x00\x00\x00\x00\xff"
    decision = decide(request("request", 0, ciaddr=CLIENT, extra=((43, item),)), 67, (CLIENT, 68))
    assert isinstance(decision, Offer)
    assert decision.kind is MessageType.ACK
    assert dict(read(decision.reply)[1])[43] == item
    before = decide(request("request", 0, extra=((43, item),)), 67)
    assert isinstance(before, Ignore)


def test_no_kind_of_request_is_ever_answered_with_a_nak_or_an_address() -> None:
    for arch in (*ARCHITECTURES, 500):
        for kind in ("discover", "offer", "request", "decline", "ack", "nak", "release", "inform"):
            for port in (67, 4011):
                decision = decide(request(kind, arch, ciaddr=CLIENT), port, (CLIENT, 68))
                if isinstance(decision, Offer):
                    assert decision.kind in (MessageType.OFFER, MessageType.ACK)
                    assert decision.reply[16:20] == bytes(4)
