"""ARP and ICMP echo as bytes: what a probe sends, and who uses an address according to what comes back.

Sans-IO. RFC 826, RFC 5227 (address conflict detection), RFC 792. What arrives and is not understood is None: on a
raw socket everything of the link passes by.
"""

import struct
from dataclasses import dataclass

from bootd.netboot import dhcp

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET, _IPV4 = 1, 0x0800
_REQUEST = 1
_ECHO = struct.Struct("!BBHHH")
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_NOBODY = "0.0.0.0"


@dataclass(frozen=True)
class Claim:
    """``mac`` (lower case, colons) uses ``address``, or is about to use it."""

    address: str
    mac: str


def probe(mac: bytes, address: str) -> bytes:
    """The body of an ARP probe: a request from nobody, so that no cache learns from it (RFC 5227 section 2.1.1)."""
    return _ARP.pack(_ETHERNET, _IPV4, 6, 4, _REQUEST, mac, bytes(4), bytes(6), dhcp.packed(address))


def claim(body: bytes) -> Claim | None:
    """Who says that an address is theirs: whoever sends ARP from it, or probes for it as we do (section 2.1.1)."""
    if len(body) < _ARP.size:
        return None
    hardware, protocol, hardware_length, protocol_length, operation, sender, source, _, target = _ARP.unpack_from(
        body
    )
    if (hardware, protocol, hardware_length, protocol_length) != (_ETHERNET, _IPV4, 6, 4):
        return None
    address = _dotted(source)
    if address == _NOBODY:
        address = _dotted(target) if operation == _REQUEST else _NOBODY
    return Claim(address, sender.hex(":")) if address != _NOBODY else None


def echo(identifier: int, sequence: int) -> bytes:
    """An ICMP echo request, without data."""
    plain = _ECHO.pack(_ECHO_REQUEST, 0, 0, identifier, sequence)
    return _ECHO.pack(_ECHO_REQUEST, 0, checksum(plain), identifier, sequence)


def echo_reply(packet: bytes, identifier: int) -> str:
    """The address that answered an `echo` of ours, from an IPv4 packet as a raw socket gives it; "" for others."""
    start = (packet[0] & 15) * 4 if packet else 0
    if start < 20 or len(packet) < start + _ECHO.size:
        return ""
    kind, code, _, answered, _ = _ECHO.unpack_from(packet, start)
    return _dotted(packet[12:16]) if (kind, code, answered) == (_ECHO_REPLY, 0, identifier) else ""


def checksum(data: bytes) -> int:
    """RFC 1071: the ones' complement of the ones' complement sum."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _dotted(address: bytes) -> str:
    return ".".join(str(byte) for byte in address)
