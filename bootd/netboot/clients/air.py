"""What is between a client and its servers: datagrams as values, and how a client's attempt ends.

A client model is a generator: it yields each `Request` that the firmware would send, is sent what comes back
(a tuple of `Received`, in order of arrival), and returns an `Outcome`. No time passes; waits are told in notes.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from bootd.netboot import dhcp
from bootd.netboot.dhcp import Message, MessageType, Operation, Option

NOBODY = "0.0.0.0"
EVERYBODY = "255.255.255.255"
HARDWARE = bytes.fromhex("525400000101")
MACHINE = b"\0" + bytes(range(16))
TRANSACTION = 0x26F30339


@dataclass(frozen=True)
class Request:
    """``message`` goes from ``source_port`` of the client to ``address`` and ``port``; it listens on the former."""

    message: Message
    address: str = EVERYBODY
    port: int = dhcp.SERVER_PORT
    source_port: int = dhcp.CLIENT_PORT


@dataclass(frozen=True)
class Received:
    """A datagram as it arrived: parsed, its length, where from, and to which port and address."""

    message: Message
    length: int
    server: str  # source address in the IP header
    source_port: int
    port: int = dhcp.CLIENT_PORT
    target: str = EVERYBODY

    @property
    def file(self) -> str:
        """Option 67, else ``file`` of the header, as most firmware reads them; "" for none."""
        own = self.message.options.get(Option.BOOT_FILE, b"").rstrip(b"\0")
        return (own or self.message.file).decode("ascii", "replace")

    @property
    def server_identifier(self) -> str:
        """Option 54, "0.0.0.0" for none."""
        return dotted(self.message.options.get(Option.SERVER_IDENTIFIER, b""))

    @property
    def is_pxe(self) -> bool:
        return self.message.vendor_class.startswith("PXEClient")


class Ending(Enum):
    FETCHES = "fetches"  # the firmware asks for a boot file
    LOCAL = "boots the disk"  # the menu's first item says so
    WAITS = "waits for a key"
    FAILS = "fails"


@dataclass(frozen=True)
class Outcome:
    """How it ends. ``url`` is ``tftp://SERVER/FILE`` or the URL of the offer; ``reason`` of a failure.

    ``notes`` are what happened on the way, in order: offers dropped and why, waits, second requests.
    """

    ending: Ending
    url: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()


Attempt = Generator[Request, tuple[Received, ...], Outcome]
Exchange = Generator[Request, tuple[Received, ...], Received | None]


@dataclass(frozen=True)
class Firmware:
    """What a client says of itself. ``options`` are added to 53, 55, 93, 94, 97 and 60."""

    architecture: int | None
    vendor_class: str
    hardware: bytes = HARDWARE
    options: Mapping[int, bytes] = field(default_factory=dict)
    broadcast: bool = True

    def message(self, kind: MessageType, **fields: str) -> Message:
        """A request of this firmware; ``fields`` as those of `Message` (``client``)."""
        options: dict[int, bytes] = {
            Option.MESSAGE_TYPE: bytes((kind,)),
            55: bytes((1, 3, 6, 12, 15, 43, 54, 60, 66, 67)),
        }
        if self.architecture is not None:
            options[Option.ARCHITECTURE] = self.architecture.to_bytes(2, "big")
            options[Option.NETWORK_INTERFACE] = b"\x01\x03\x10"
            options[Option.MACHINE] = MACHINE
        if self.vendor_class:
            options[Option.VENDOR_CLASS] = self.vendor_class.encode("ascii")
        options |= self.options
        base = Message(Operation.REQUEST, TRANSACTION, 1, self.hardware, broadcast=self.broadcast, options=options)
        return replace(base, **fields)  # type: ignore[arg-type]

    def discover(self) -> Request:
        return Request(self.message(MessageType.DISCOVER))

    def take(self, offer: Received) -> Request:
        """The REQUEST that selects ``offer`` (RFC 2131 section 4.3.2, SELECTING)."""
        plain = self.message(MessageType.REQUEST)
        own = {50: dhcp.packed(offer.message.your)}
        if offer.server_identifier != NOBODY:
            own[Option.SERVER_IDENTIFIER] = dhcp.packed(offer.server_identifier)
        return Request(replace(plain, options={**plain.options, **own}))

    def ask(self, address: str, port: int, client: str, source_port: int, item: bytes = b"") -> Request:
        """A request for the boot file to ``address`` on ``port``; ``item`` is sub-option 71."""
        plain = self.message(MessageType.REQUEST, client=client)
        own: dict[int, bytes] = {Option.VENDOR: b"\x47" + bytes((len(item),)) + item + b"\xff"} if item else {}
        broadcast = address == EVERYBODY
        message = replace(plain, broadcast=broadcast, options={**plain.options, **own})
        return Request(message, address, port, source_port)


def dotted(address: bytes) -> str:
    """Four bytes as text; "0.0.0.0" for any other number of them."""
    return ".".join(str(byte) for byte in address) if len(address) == 4 else NOBODY


def first_byte(options: Mapping[int, bytes], code: int) -> int:
    """The first byte of a (sub-)option; 0 when it is not there or empty."""
    return next(iter(options.get(code, b"")), 0)


def acknowledged(answers: tuple[Received, ...], offer: Received) -> Received | None:
    """The ACK to `Firmware.take` among ``answers``: of the server that made the offer."""
    for answer in answers:
        kind = answer.message.message_type
        same = answer.server_identifier == offer.server_identifier
        if answer.message.your != NOBODY and same and kind is MessageType.ACK:
            return answer
    return None


def fetch(server: str, file: str, notes: list[str]) -> Outcome:
    """The end of an attempt that found ``file``: a URL as it is, else a TFTP read from ``server``."""
    if "://" in file:
        return Outcome(Ending.FETCHES, file, notes=tuple(notes))
    if server == NOBODY:
        return failure("it knows a file but no server", notes)
    return Outcome(Ending.FETCHES, f"tftp://{server}/{file.lstrip('/')}", notes=tuple(notes))


def failure(reason: str, notes: list[str]) -> Outcome:
    return Outcome(Ending.FAILS, reason=reason, notes=tuple(notes))
