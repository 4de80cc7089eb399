"""BOOTP/DHCP codec (RFC 951, 2131, 2132, 3396, 4578). Bytes in, frozen values out, and back."""

import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from bootd.wire.errors import PeerProtocolError

MAGIC = b"\x63\x82\x53\x63"
HEADER = struct.Struct("!4B I 2H 4s 4s 4s 4s 16s 64s 128s")
MINIMUM = 300  # some ROMs drop anything shorter (RFC 1542, 2.1)
BROADCAST = 0x8000

# Message types (RFC 2132, 9.6)
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)

# Option codes
VENDOR, REQUESTED, OVERLOAD, TYPE, SERVER_ID = 43, 50, 52, 53, 54
CLASS, CLIENT_ID, TFTP_NAME, BOOT_FILE = 60, 61, 66, 67
USER_CLASS, ARCHITECTURE, INTERFACE, MACHINE_ID, IPXE = 77, 93, 94, 97, 175


@dataclass(frozen=True)
class Packet:
    """One DHCP message. Addresses are dotted; ``mac`` is lower case with colons, "" when it is not Ethernet's."""

    operation: int  # 1 request, 2 reply
    xid: int
    mac: str
    flags: int = 0
    seconds: int = 0
    ciaddr: str = "0.0.0.0"
    yiaddr: str = "0.0.0.0"
    siaddr: str = "0.0.0.0"
    giaddr: str = "0.0.0.0"
    server_name: str = ""
    file: str = ""
    options: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def message(self) -> int:
        """The message type, 0 for plain BOOTP."""
        value = self.options.get(TYPE, b"\0")
        return value[0] if len(value) == 1 else 0


def parse(data: bytes) -> Packet:
    """The message in a datagram; `PeerProtocolError` says what is wrong with it."""
    if len(data) < HEADER.size + len(MAGIC):
        raise PeerProtocolError(f"DHCP message of {len(data)} bytes, at least {HEADER.size + len(MAGIC)} needed")
    operation, hardware, length, _hops, xid, seconds, flags, *addresses, chaddr, sname, file = HEADER.unpack_from(
        data
    )
    if operation not in (1, 2):
        raise PeerProtocolError(f"BOOTP operation {operation} is neither request nor reply")
    if length > 16:
        raise PeerProtocolError(f"hardware address of {length} bytes, at most 16 allowed")
    if data[HEADER.size : HEADER.size + 4] != MAGIC:
        raise PeerProtocolError("no DHCP magic cookie (RFC 2131, 3)")
    options: dict[int, bytes] = {}
    _collect(data[HEADER.size + 4 :], options)
    overload = options.get(OVERLOAD, b"\0")[:1]
    if overload in (b"\1", b"\3"):  # RFC 2132, 9.3: file first, then sname
        _collect(file, options)
        file = b""
    if overload in (b"\2", b"\3"):
        _collect(sname, options)
        sname = b""
    ethernet = hardware == 1 and length == 6 and chaddr[:6] != bytes(6) and not chaddr[0] & 1
    ciaddr, yiaddr, siaddr, giaddr = (str(ipaddress.IPv4Address(value)) for value in addresses)
    return Packet(
        operation,
        xid,
        chaddr[:6].hex(":") if ethernet else "",
        flags,
        seconds,
        ciaddr,
        yiaddr,
        siaddr,
        giaddr,
        _text(sname),
        _text(file),
        options,
    )


def build(packet: Packet) -> bytes:
    """A datagram of at least 300 bytes: option 53 first, 67 last (firmware writes a NUL behind it)."""
    file, server_name = packet.file.encode(), packet.server_name.encode()
    if len(file) > 127 or len(server_name) > 63:
        raise ValueError(f"file name {packet.file!r} or server name does not fit the BOOTP field")
    header = HEADER.pack(
        packet.operation,
        1,
        6,
        0,
        packet.xid,
        packet.seconds,
        packet.flags,
        *(
            ipaddress.IPv4Address(value).packed
            for value in (packet.ciaddr, packet.yiaddr, packet.siaddr, packet.giaddr)
        ),
        bytes.fromhex(packet.mac.replace(":", "")),
        server_name,
        file,
    )
    order = sorted(packet.options, key=lambda code: (code != TYPE, code == BOOT_FILE, code))
    body = b"".join(_option(code, packet.options[code]) for code in order)
    return (header + MAGIC + body + b"\xff").ljust(MINIMUM, b"\0")


def suboptions(value: bytes) -> dict[int, bytes]:
    """Encapsulated options (43), which end at 255 or at the end; malformed rest is dropped."""
    found: dict[int, bytes] = {}
    try:
        _collect(value, found)
    except PeerProtocolError:
        return found
    return found


def user_classes(value: bytes) -> tuple[bytes, ...]:
    """Option 77: counted strings (RFC 3004), or one raw string as iPXE and others send it."""
    classes, rest = [], value
    while rest:
        length = rest[0]
        if length == 0 or length >= len(rest):
            return (value,)
        classes.append(rest[1 : 1 + length])
        rest = rest[1 + length :]
    return tuple(classes)


def _option(code: int, value: bytes) -> bytes:
    # RFC 3396: longer than 255 bytes is split into several of the same code.
    parts = [value[at : at + 255] for at in range(0, len(value), 255)] or [b""]
    return b"".join(bytes((code, len(part))) + part for part in parts)


def _collect(data: bytes, options: dict[int, bytes]) -> None:
    at = 0
    while at < len(data):
        code = data[at]
        if code == 255:
            return
        if code == 0:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            raise PeerProtocolError(f"option {code} runs past the end of the message")
        length = data[at + 1]
        options[code] = options.get(code, b"") + data[at + 2 : at + 2 + length]
        at += 2 + length


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("ascii", "replace")
