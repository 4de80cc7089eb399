"""Frames around the leases, against scapy's codecs: ARP probes, ICMP echo, what asks for rivals, advertisements."""

from random import Random
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6ND_RS
from scapy.layers.l2 import ARP

from bootd.netboot.addresses import arp, rival, router
from bootd.netboot.addresses.decision import Nak
from bootd.netboot.dhcp import Message, Operation
from bootd.netboot.refusal import refuse

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"


def test_probe_is_one_of_rfc_5227() -> None:
    read = ARP(arp.probe(bytes.fromhex(MAC.replace(":", "")), "10.9.0.100"))
    assert (read.op, read.hwsrc, read.psrc, read.pdst) == (1, MAC, "0.0.0.0", "10.9.0.100")
    assert (read.hwtype, read.ptype, read.hwlen, read.plen) == (1, 0x800, 6, 4)
    assert read.hwdst == "00:00:00:00:00:00"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (ARP(op=2, hwsrc=OTHER, psrc="10.9.0.100", hwdst=MAC, pdst="0.0.0.0"), arp.Claim("10.9.0.100", OTHER)),
        (ARP(op=1, hwsrc=OTHER, psrc="10.9.0.100", pdst="10.9.0.100"), arp.Claim("10.9.0.100", OTHER)),
        (ARP(op=1, hwsrc=OTHER, psrc="10.9.0.7", pdst="10.9.0.100"), arp.Claim("10.9.0.7", OTHER)),
        (ARP(op=1, hwsrc=OTHER, psrc="0.0.0.0", pdst="10.9.0.100"), arp.Claim("10.9.0.100", OTHER)),
        (ARP(op=2, hwsrc=OTHER, psrc="0.0.0.0", pdst="10.9.0.100"), None),
    ],
)
def test_who_claims_an_address(sent: ARP, expected: arp.Claim | None) -> None:
    assert arp.claim(bytes(sent) + bytes(18)) == expected  # with the padding of Ethernet


def test_echo_and_its_answer() -> None:
    read = ICMP(arp.echo(0x1234, 5))
    assert (read.type, read.id, read.seq) == (8, 0x1234, 5)
    assert read.chksum == ICMP(bytes(ICMP(type=8, id=0x1234, seq=5))).chksum
    answer = bytes(IP(src="10.8.0.100", dst="10.9.0.2") / ICMP(type=0, id=0x1234, seq=5))
    assert arp.echo_reply(answer, 0x1234) == "10.8.0.100"
    assert arp.echo_reply(answer, 0x1235) == ""
    assert arp.echo_reply(bytes(IP(src="10.8.0.100") / ICMP(type=8, id=0x1234)), 0x1234) == ""


def test_questions_for_a_rival() -> None:
    inform, discover = (
        IP(packet) for packet in rival.questions(99, bytes.fromhex(MAC.replace(":", "")), "10.9.0.2")
    )
    for packet, source, kind in ((inform, "10.9.0.2", 8), (discover, "0.0.0.0", 1)):
        assert (packet.src, packet.dst) == (source, "255.255.255.255")
        assert packet.chksum == IP(bytes(packet[IP].copy())).chksum
        fresh = packet.copy()
        del fresh.chksum
        assert IP(bytes(fresh)).chksum == packet.chksum
        assert (packet[UDP].sport, packet[UDP].dport, packet[BOOTP].xid) == (68, 67, 99)
        assert ("message-type", kind) in packet[DHCP].options
        assert packet[UDP].len == len(packet) - 20


def answer(kind: str, **fields: Any) -> bytes:
    reply = BOOTP(**{"op": 2, "xid": 99, "yiaddr": "10.9.0.100", **fields})
    options = DHCP(options=[("message-type", kind), ("server_id", "10.9.0.1"), "end"])
    return bytes(IP(src="10.9.0.1", dst="255.255.255.255") / UDP(sport=67, dport=68) / reply / options)


@pytest.mark.parametrize(
    ("packet", "server"),
    [
        (answer("offer"), "10.9.0.1"),
        (answer("ack", yiaddr="0.0.0.0"), "10.9.0.1"),
        (answer("offer", yiaddr="0.0.0.0"), ""),  # a proxy is no rival
        (answer("offer", xid=98), ""),
        (answer("nak"), ""),
        (answer("offer", op=1), ""),
        (answer("offer")[:40], ""),
        (b"", ""),
    ],
)
def test_who_is_a_rival(packet: bytes, server: str) -> None:
    assert rival.answering_server(packet, 99) == server


def test_advertisement_says_that_here_is_no_router() -> None:
    read = ICMPv6ND_RA(router.NO_ROUTER)
    assert (read.type, read.code, read.routerlifetime, read.M, read.O) == (134, 0, 0, 0, 0)
    assert len(router.NO_ROUTER) == 16  # no option: no prefix
    assert router.is_solicitation(bytes(ICMPv6ND_RS()))
    real = bytes(ICMPv6ND_RA(routerlifetime=1800))
    assert router.is_advertisement(real)
    assert router.lifetime(real) == 1800
    assert not router.is_solicitation(real)
    assert not router.is_advertisement(bytes(ICMPv6ND_RS()))


@pytest.mark.parametrize("relay", ["0.0.0.0", "10.8.0.1"])
def test_refusal(relay: str) -> None:
    """RFC 2131 section 4.3.2 and table 3: no address, a broadcast; by the relay's broadcast when there is one."""
    request = Message(
        Operation.REQUEST, 5, 1, bytes.fromhex(MAC.replace(":", "")), client="10.9.0.9", relay=relay,
        options={53: b"\3", 82: b"\1\2ab", 61: b"x"},
    )  # fmt: skip
    data, destination = refuse(request, Nak("not for you", "10.9.0.2"))
    read = BOOTP(data)
    options = {option[0]: option[1] for option in read[DHCP].options if isinstance(option, tuple)}
    assert options["message-type"] == 6
    assert options["server_id"] == "10.9.0.2"
    assert (read.ciaddr, read.yiaddr, read.siaddr, read.xid) == ("0.0.0.0", "0.0.0.0", "0.0.0.0", 5)
    assert "lease_time" not in options
    assert "client_id" not in options
    if relay == "0.0.0.0":
        assert (destination.address, destination.port) == ("255.255.255.255", 68)
        assert "relay_agent_information" not in options
    else:
        assert (destination.address, destination.port) == (relay, 67)
        assert int(read.flags) & 0x8000
        assert "relay_agent_information" in options


def test_no_bytes_escape_the_readers() -> None:
    random = Random(4)
    whole = [answer("offer"), bytes(ARP()), bytes(ICMPv6ND_RA()), bytes(IP() / ICMP(type=0, id=1))]
    for _ in range(3000):
        data = bytearray(random.choice(whole))
        for _ in range(random.randrange(6)):
            data[random.randrange(len(data))] = random.randrange(256)
        cut = bytes(data[: random.randrange(len(data) + 1)])
        arp.claim(cut)
        arp.echo_reply(cut, 1)
        rival.answering_server(cut, 99)
        if router.is_advertisement(cut):
            router.lifetime(cut)
