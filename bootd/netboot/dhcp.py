"""DHCP messages as values: bytes in, `Message` out, and back (RFC 951, 2131, 2132, 3396, 4578).

Sans-IO. `parse` raises `PeerProtocolError` and nothing else. `build` keeps to what firmware in the field can
read: message type first, boot file last, no option overload, at least 300 bytes.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property, lru_cache

from bootd.wire.errors import LocalProtocolError, PeerProtocolError

SERVER_PORT = 67
CLIENT_PORT = 68
PXE_PORT = 4011  # ProxyDHCP and boot server discovery, PXE 2.1 section 2.2.3

_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_COOKIE = b"\x63\x82\x53\x63"  # RFC 2131 section 3
_SMALLEST = 300  # RFC 951's BOOTP message: ROMs drop shorter ones
_LARGEST = 4096  # nothing that a client sends is near it
MAX_FILE = 127  # bytes of a boot file name: `file` holds 128 with its NUL
_MAX_SERVER_NAME = 63
_BROADCAST = 0x8000
_ETHERNET = 1
_INFINIBAND = 32
_GUID = 8  # bytes


class Operation(IntEnum):
    REQUEST = 1
    REPLY = 2


class MessageType(IntEnum):
    """Option 53, RFC 2132 section 9.6."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    """The options that bootd reads or writes."""

    PAD = 0
    VENDOR = 43
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_IDENTIFIER = 54
    VENDOR_CLASS = 60
    SERVER_NAME = 66
    BOOT_FILE = 67
    USER_CLASS = 77  # RFC 3004
    RELAY_AGENT = 82  # RFC 3046: goes back to the relay as it came
    ARCHITECTURE = 93  # RFC 4578 section 2.1
    NETWORK_INTERFACE = 94
    MACHINE = 97  # UUID, RFC 4578 section 2.3
    IPXE = 175
    PXELINUX_MAGIC = 208  # RFC 5071
    PXELINUX_CONFIG = 209
    PXELINUX_PREFIX = 210
    PXELINUX_REBOOT = 211
    END = 255


_PLACES: dict[int, int] = {Option.MESSAGE_TYPE: 0, Option.BOOT_FILE: 2, Option.RELAY_AGENT: 3}  # the rest: 1


@dataclass(frozen=True)
class Message:
    """One DHCP or BOOTP message. Addresses are dotted quads, "0.0.0.0" for none.

    ``hardware`` is the client's hardware address (``hlen`` bytes); ``options`` maps codes to values, the parts of
    a split option joined (RFC 3396), in the order of first appearance.
    """

    operation: Operation
    transaction: int
    hardware_type: int
    hardware: bytes
    seconds: int = 0
    broadcast: bool = False
    client: str = "0.0.0.0"  # ciaddr
    your: str = "0.0.0.0"  # yiaddr
    server: str = "0.0.0.0"  # siaddr
    relay: str = "0.0.0.0"  # giaddr
    server_name: bytes = b""
    file: bytes = b""
    options: Mapping[int, bytes] = field(default_factory=dict)

    @cached_property
    def message_type(self) -> MessageType | None:
        """None for plain BOOTP or a type that we do not know."""
        value = self.options.get(Option.MESSAGE_TYPE, b"")
        if len(value) != 1 or value[0] not in MessageType._value2member_map_:
            return None
        return MessageType(value[0])

    @cached_property
    def mac(self) -> str:
        """Lower case with colons; "" when the hardware is neither Ethernet nor InfiniBand with a port GUID.

        Of a GUID (8 bytes) the alias that its port has as an Ethernet card: without the two bytes in the middle.
        """
        if self.hardware_type == _INFINIBAND and len(self.hardware) == _GUID:
            return (self.hardware[:3] + self.hardware[5:]).hex(":")
        if self.hardware_type != _ETHERNET or len(self.hardware) != 6:
            return ""
        return self.hardware.hex(":")

    @property
    def vendor_class(self) -> str:
        return self.options.get(Option.VENDOR_CLASS, b"").rstrip(b"\0").decode("ascii", "replace")

    @property
    def architectures(self) -> tuple[int, ...]:
        """Option 93: one or more 16-bit codes, the client's choice first. A ragged value gives ()."""
        value = self.options.get(Option.ARCHITECTURE, b"")
        if not value or len(value) % 2:
            return ()
        return struct.unpack(f"!{len(value) // 2}H", value)

    @property
    def user_classes(self) -> tuple[bytes, ...]:
        """Option 77, counted as RFC 3004 wants it or raw as iPXE and others send it."""
        value = self.options.get(Option.USER_CLASS, b"")
        counted: list[bytes] = []
        position = 0
        while position < len(value):
            length = value[position]
            if not length or position + 1 + length > len(value):
                return (value,)
            counted.append(value[position + 1 : position + 1 + length])
            position += 1 + length
        return tuple(counted)

    @property
    def from_ipxe(self) -> bool:
        """iPXE says so in its user class, or by its encapsulated options."""
        return b"iPXE" in self.user_classes or Option.IPXE in self.options

    @property
    def vendor_options(self) -> dict[int, bytes]:
        """Option 43 taken apart; {} when it is malformed, since clients send all kinds of things."""
        return encapsulated(self.options.get(Option.VENDOR, b""))


def parse(data: bytes) -> Message:
    """The message in one datagram; `PeerProtocolError` for everything that is none."""
    if len(data) > _LARGEST:
        raise PeerProtocolError(f"DHCP message of {len(data)} bytes")
    if len(data) < _HEADER.size + len(_COOKIE):
        raise PeerProtocolError(f"DHCP message of only {len(data)} bytes")
    (operation, hardware_type, hardware_length, _hops, transaction, seconds, flags, client, your, server, relay) = (
        _HEADER.unpack_from(data)[:11]
    )
    hardware, server_name, file = _HEADER.unpack_from(data)[11:]
    if operation not in (Operation.REQUEST, Operation.REPLY):
        raise PeerProtocolError(f"BOOTP operation {operation}")
    if hardware_length > len(hardware):
        raise PeerProtocolError(f"hardware address of {hardware_length} bytes")
    start = _HEADER.size + len(_COOKIE)
    if data[_HEADER.size : start] != _COOKIE:
        raise PeerProtocolError("no DHCP magic cookie")
    options = _parse_options(data[start:], "options")
    # RFC 2131 section 4.1: option 52 says that `file` (1) and `sname` (2) hold options too, in this order.
    overload = options.get(Option.OVERLOAD, b"\0")
    if len(overload) != 1 or overload[0] > 3:
        raise PeerProtocolError("option 52 (overload) is malformed")
    if overload[0] & 1:
        _extend(options, _parse_options(file, "file"))
        file = b""
    if overload[0] & 2:
        _extend(options, _parse_options(server_name, "sname"))
        server_name = b""
    return Message(
        Operation(operation),
        transaction,
        hardware_type,
        hardware[:hardware_length],
        seconds,
        bool(flags & _BROADCAST),
        _dotted(client),
        _dotted(your),
        _dotted(server),
        _dotted(relay),
        server_name.split(b"\0", 1)[0],
        file.split(b"\0", 1)[0],
        options,
    )


def build(message: Message) -> bytes:
    """The datagram for ``message``. `LocalProtocolError` when a field does not fit.

    Option 53 comes first and 67 last, whatever the order in ``message.options``: some ROMs read only what they
    expect first, and EDK2 writes a NUL over the byte after option 67. Behind a relay 82 follows 67, as RFC 3046
    section 2.2 wants it: the relay takes it away (section 2.1), and for the client 67 is the last one again.
    """
    if len(message.file) > MAX_FILE or len(message.server_name) > _MAX_SERVER_NAME or len(message.hardware) > 16:
        raise LocalProtocolError("a BOOTP field is too long")
    if Option.OVERLOAD in message.options:
        raise LocalProtocolError("option overload is not for PXE clients")
    header = _HEADER.pack(
        message.operation,
        message.hardware_type,
        len(message.hardware),
        0,
        message.transaction,
        message.seconds,
        _BROADCAST if message.broadcast else 0,
        *(packed(address) for address in (message.client, message.your, message.server, message.relay)),
        message.hardware,
        message.server_name,
        message.file,
    )
    order = sorted(message.options, key=lambda code: _PLACES.get(code, 1))
    body = b"".join(_build_option(code, message.options[code]) for code in order)
    return (header + _COOKIE + body + b"\xff").ljust(_SMALLEST, b"\0")


def encapsulated(value: bytes) -> dict[int, bytes]:
    """Options inside an option (43, 175) taken apart; {} when they are malformed."""
    try:
        return _parse_options(value, "encapsulated options")
    except PeerProtocolError:
        return {}


def vendor_options(options: Mapping[int, bytes]) -> bytes:
    """The value of option 43, ended by 255 as PXE 2.1 wants it."""
    return b"".join(_build_option(code, value) for code, value in options.items()) + b"\xff"


@lru_cache(maxsize=8192)
def packed(address: str) -> bytes:
    """Four bytes of a dotted quad; `LocalProtocolError` for anything else."""
    parts = address.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        raise LocalProtocolError(f"{address!r} is not an IPv4 address")
    return bytes(int(part) for part in parts)


def _dotted(address: bytes) -> str:
    return ".".join(str(byte) for byte in address)


def _parse_options(data: bytes, where: str) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        code = data[position]
        position += 1
        if code == Option.PAD:
            continue
        if code == Option.END:
            break
        if position >= len(data):
            raise PeerProtocolError(f"{where}: option {code} has no length")
        end = position + 1 + data[position]
        if end > len(data):
            raise PeerProtocolError(f"{where}: option {code} of {data[position]} bytes is cut off")
        options[code] = options.get(code, b"") + data[position + 1 : end]
        position = end
    return options


def _extend(options: dict[int, bytes], more: Mapping[int, bytes]) -> None:
    """RFC 3396 section 5: the parts of an option in all three fields are joined."""
    for code, value in more.items():
        options[code] = options.get(code, b"") + value


def _build_option(code: int, value: bytes) -> bytes:
    """One option; more than 255 bytes are split into several of the same code (RFC 3396 section 6)."""
    if not 0 < code < 255:
        raise LocalProtocolError(f"option code {code}")
    pieces = [value[start : start + 255] for start in range(0, len(value), 255)] or [b""]
    return b"".join(bytes((code, len(piece))) + piece for piece in pieces)
