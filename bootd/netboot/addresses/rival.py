"""Is there another server that gives addresses? What is asked, as IPv4 packets, and who answers. Sans-IO."""

import struct

from bootd.netboot import dhcp
from bootd.netboot.addresses.arp import checksum
from bootd.netboot.addresses.lease import SERVER_IDENTIFIER
from bootd.netboot.dhcp import Message, MessageType, Operation
from bootd.wire.errors import PeerProtocolError

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_PROTOCOL = 17
_REQUEST_LIST = 55


def questions(transaction: int, mac: bytes, address: str) -> tuple[bytes, bytes]:
    """An INFORM from ``address`` and a DISCOVER from nobody, both of transaction number ``transaction``.

    In this order: dnsmasq answers nothing else while it pings the address that it is about to offer.
    """
    common = {_REQUEST_LIST: b"\x01\x03"}
    discover = Message(
        Operation.REQUEST,
        transaction,
        1,
        mac,
        broadcast=True,
        options={53: bytes((MessageType.DISCOVER,)), **common},
    )
    inform = Message(
        Operation.REQUEST,
        transaction,
        1,
        mac,
        client=address,
        options={53: bytes((MessageType.INFORM,)), **common},
    )
    return _packet(dhcp.build(inform), address), _packet(dhcp.build(discover), "0.0.0.0")


def answering_server(packet: bytes, transaction: int) -> str:
    """The server that answers ``transaction`` in this IPv4 packet as one that gives addresses; "" for others.

    A proxy's offer has no address in it, and is no rival.
    """
    start = (packet[0] & 15) * 4 if packet else 0
    if start < _IPV4.size or len(packet) < start + _UDP.size or packet[9] != _PROTOCOL:
        return ""
    _, port, length, _ = _UDP.unpack_from(packet, start)
    if port != dhcp.CLIENT_PORT:
        return ""
    try:
        answer = dhcp.parse(packet[start + _UDP.size : start + length])
    except PeerProtocolError:
        return ""
    server = answer.options.get(SERVER_IDENTIFIER, b"")
    if answer.operation is not Operation.REPLY or answer.transaction != transaction or len(server) != 4:
        return ""
    gives = answer.message_type is MessageType.OFFER and answer.your != "0.0.0.0"
    # An INFORM is answered by whoever has a configuration for the subnet; a proxy answers it on no port 67.
    informs = answer.message_type is MessageType.ACK
    return ".".join(str(byte) for byte in server) if gives or informs else ""


def _packet(body: bytes, source: str) -> bytes:
    """UDP without a checksum (RFC 768 allows it) in IPv4, to everybody's port 67."""
    length = _UDP.size + len(body)
    addresses = (dhcp.packed(source), b"\xff" * 4)
    head = _IPV4.pack(0x45, 0, _IPV4.size + length, 0, 0, 64, _PROTOCOL, 0, *addresses)
    checked = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return checked + _UDP.pack(dhcp.CLIENT_PORT, dhcp.SERVER_PORT, length, 0) + body
