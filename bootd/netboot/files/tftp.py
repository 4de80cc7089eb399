"""TFTP, read-only server side, sans-IO (RFC 1350, 2347, 2348, 2349, 7440; ``rollover`` as tftp-hpa and FreeBSD
have it).

`parse_request` reads what comes to the well-known port; a `Transfer` judges what follows on the connection of one
transfer and says what to send. Time is an argument, in seconds of any monotonic clock. Block numbers are counted
from 1 without end here; only their lowest 16 bits travel, so a file may be larger than 65535 blocks.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

from bootd.wire.errors import PeerProtocolError

DEFAULT_BLOCK = 512
SMALLEST_BLOCK = 8  # RFC 2348
LARGEST_BLOCK = 65464
HEADERS = 32  # IPv4 without options, UDP and TFTP headers: what a block leaves free in one MTU
HEADERS_IPV6 = 52
LARGEST_WINDOW = 64
LARGEST_REQUEST = 1024
FIRST_TIMEOUT = 0.25  # seconds: nothing is known of the client yet
SMALLEST_TIMEOUT = 0.1
SAMPLE_EVERY = 16  # blocks between two measurements of the round trip where each is a window
SMALLEST_PROBE = 0.01  # seconds until the last block of a window goes out again
LARGEST_TIMEOUT = 4.0
ATTEMPTS = 10  # sends of one window without an answer; with the back-off, about 25 s
LAST_ATTEMPTS = 5  # of the last window: firmware may be off already with all it wanted


class Opcode(IntEnum):
    READ = 1
    WRITE = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OPTIONS = 6


class ErrorCode(IntEnum):
    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS = 2
    ILLEGAL = 4
    OPTIONS = 8


@dataclass(frozen=True)
class Request:
    """RRQ or WRQ. ``options`` in lower case, in the client's order."""

    opcode: Opcode
    path: str
    mode: str
    options: Mapping[str, str] = field(default_factory=dict)


def parse_request(data: bytes) -> Request:
    """What came to the well-known port; `PeerProtocolError` for anything but a request."""
    if len(data) > LARGEST_REQUEST:
        raise PeerProtocolError(f"TFTP request of {len(data)} bytes")
    if len(data) < 4:
        raise PeerProtocolError(f"TFTP packet of only {len(data)} bytes")
    opcode = int.from_bytes(data[:2], "big")
    if opcode not in (Opcode.READ, Opcode.WRITE):
        raise PeerProtocolError(f"TFTP packet with opcode {opcode} instead of a request")
    if data[-1]:
        raise PeerProtocolError("TFTP request does not end with a NUL")
    words = data[2:-1].split(b"\0")
    # Some ROMs pad the packet with NULs: an empty option name ends the request.
    try:
        path, mode, *rest = (word.decode("ascii") for word in words)
    except ValueError:
        raise PeerProtocolError("TFTP request without a mode, or not ASCII") from None
    if not path or mode.lower() not in ("octet", "netascii"):
        raise PeerProtocolError(f"TFTP request in mode {mode[:20]!r}")
    options: dict[str, str] = {}
    for name, value in zip(rest[::2], rest[1::2], strict=False):
        if not name:
            break
        options.setdefault(name.lower(), value)
    return Request(Opcode(opcode), path, mode.lower(), options)


def error_packet(code: ErrorCode, text: str) -> bytes:
    return struct.pack("!HH", Opcode.ERROR, code) + text.encode("ascii", "replace")[:200] + b"\0"


def netascii(content: bytes) -> bytes:
    """RFC 764 line ends: LF becomes CR LF, a bare CR becomes CR NUL."""
    return content.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


@dataclass(frozen=True)
class Terms:
    """What was agreed for a transfer. ``options`` is what the OACK confirms; empty without an OACK.

    ``ceiling``: no retransmission waits longer, in seconds. ``rollover``: the number after block 65535, 0 or 1.
    """

    block: int
    window: int
    ceiling: float
    options: Mapping[str, str]
    rollover: int = 0


@dataclass(frozen=True)
class Cap:
    """The most that a client is given, whatever it asks for."""

    block: int = LARGEST_BLOCK
    window: int = LARGEST_WINDOW


def negotiate(request: Request, size: int, mtu: int, cap: Cap = Cap(), headers: int = HEADERS) -> Terms:
    """Terms for a file of ``size`` bytes over a path of ``mtu`` bytes, ``headers`` of them taken in every packet.
    Unknown or odd options are left out, as RFC 2347 wants it."""
    rollover = 0
    agreed: dict[str, str] = {}
    block, window, ceiling = DEFAULT_BLOCK, 1, LARGEST_TIMEOUT
    for name, text in request.options.items():
        value = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
        if name == "blksize" and value >= SMALLEST_BLOCK:
            block = min(value, LARGEST_BLOCK, max(cap.block, SMALLEST_BLOCK), max(mtu - headers, SMALLEST_BLOCK))
            agreed[name] = str(block)
        elif name == "tsize" and value >= 0:
            agreed[name] = str(size)
        elif name == "timeout" and 1 <= value <= 255:
            # RFC 2349: the client's idea of a retransmission interval. It bounds ours; losses are mended sooner.
            ceiling = min(float(value), LARGEST_TIMEOUT)
            agreed[name] = text
        elif name == "windowsize" and value >= 1:
            window = min(value, LARGEST_WINDOW, max(cap.window, 1))
            agreed[name] = str(window)
        elif name == "rollover" and value in (0, 1):
            rollover = value
            agreed[name] = text
    return Terms(block, window, ceiling, agreed, rollover)


class State(Enum):
    AGREEING = "agreeing"  # OACK sent, waiting for ACK 0
    SENDING = "sending"
    DONE = "done"


class Result(Enum):
    COMPLETE = "complete"
    UNCONFIRMED = "complete, last block not acknowledged"  # the client was off as soon as it had everything
    PROBED = "size probe"  # the client only wanted to know the size
    ABORTED = "aborted by the client"
    SILENT = "the client went silent"


class SendOptions(NamedTuple):
    """Send ``packet``, the OACK."""

    packet: bytes


class SendBlocks(NamedTuple):
    """Send ``blocks`` blocks from number ``first`` (1-based): each is `data_header` and ``block`` bytes at
    ``(number - 1) * block`` of the file, fewer or none for the last one."""

    first: int
    blocks: int


Action = SendOptions | SendBlocks
_HEADER = struct.Struct("!HH")
_pack = _HEADER.pack
HEADER_BYTES = _HEADER.size  # of DATA, before the block


def wire_number(number: int, rollover: int) -> int:
    """The 16 bits that travel for block ``number``: after 65535 comes 0, or 1 where that was agreed."""
    return number & 0xFFFF if rollover == 0 or number <= 0xFFFF else (number - 1) % 0xFFFF + 1


def data_header(number: int, rollover: int = 0) -> bytes:
    return _pack(Opcode.DATA, wire_number(number, rollover))


class Transfer:
    """One file on its way to one client.

    ``start`` first; then ``receive`` for each datagram and ``tick`` when `deadline` has passed. Each returns what
    to send, possibly nothing. `result` is None until the transfer is over, and `detail` has the client's own words.
    ``step`` before ``receive`` is the short way for what nearly every datagram of a client without windows is.
    """

    def __init__(self, size: int, terms: Terms) -> None:
        self.terms = terms
        self.size = size
        self._window = terms.window
        self.blocks = size // terms.block + 1  # the last one is short, perhaps empty: that ends the file
        self.state = State.AGREEING if terms.options else State.SENDING
        self.result: Result | None = None
        self.detail = ""
        self.retransmissions = 0
        self._sent = 0  # highest block of the window under way
        self._under_way = 0  # blocks in it
        self._attempts = 0
        self._sent_at = 0.0
        self._wait = 0.0  # seconds from then on
        self._resent = False  # Karn: no round-trip time from a window that was sent twice
        self._is_stale = True  # the time-out has not been measured, or not since something was sent twice
        self._probe_due = False  # the deadline is that of the last block alone
        self._expected: bytes | None = None  # the one datagram that `step` understands
        # With `step` up to here: the last block ends the transfer, and a rollover to 1 counts differently.
        self._steps = 0 if terms.window > 1 else min(self.blocks, 1 << 16) if terms.rollover else self.blocks
        self._smoothed = 0.0
        self._variance = 0.0
        self._timeout = min(FIRST_TIMEOUT, terms.ceiling)

    @property
    def deadline(self) -> float:
        """When `tick` is due."""
        return self._sent_at + self._wait

    @property
    def current(self) -> SendBlocks:
        """What is under way, to be sent after a `step`."""
        return SendBlocks(self._acknowledged + 1, self._under_way)

    @property
    def _acknowledged(self) -> int:
        """The highest block that the client has confirmed."""
        return self._sent - self._under_way

    @property
    def last_under_way(self) -> bool:
        """Whether the file's last block has been sent: the client may have all it wanted."""
        return self.state is State.SENDING and self._sent == self.blocks

    def start(self, now: float) -> Action:
        return self._transmit(now, 0)

    def step(self, data: bytes, now: float) -> bool:
        """Whether ``data`` confirms the only block under way, sent once, and the next one is to be sent: the short
        way for nearly every datagram of a client without windows. When not, nothing has changed: `receive` judges.
        """
        if data != self._expected:
            return False
        if not self._sent % SAMPLE_EVERY:
            self._measure(now)
            self._wait = self._timeout
        self._sent = number = self._sent + 1
        self._expected = _pack(4, number & 0xFFFF) if number < self._steps else None
        self._sent_at = now
        return True

    def receive(self, data: bytes, now: float) -> Action | None:
        """A datagram of the client. Malformed ones raise `PeerProtocolError` and change nothing."""
        if self.state is State.DONE:
            return None
        if len(data) < 4:
            raise PeerProtocolError(f"TFTP packet of only {len(data)} bytes")
        opcode, value = _HEADER.unpack_from(data)
        if opcode == Opcode.ACK:
            return self._acknowledge(value, now)
        if opcode == Opcode.ERROR:
            self._client_error(value, data[4:].split(b"\0", 1)[0].decode("ascii", "replace")[:100])
            return None
        if opcode == Opcode.READ:
            return None  # the request again: our first answer is on its way, or the timer sends it again
        raise PeerProtocolError(f"TFTP packet with opcode {opcode} in a transfer")

    def tick(self, now: float) -> Action | None:
        """Send again what was not confirmed in time, with longer and longer waits, and give up in the end."""
        if self.state is State.DONE or now < self.deadline:
            return None
        if self._probe_due:
            # Whichever of the last blocks was lost, this one makes the client say so, long before a timeout may.
            self._probe_due, self._resent = False, True
            self._wait = max(now - self._sent_at, self._timeout)
            self.retransmissions += 1
            return SendBlocks(self._sent, 1)
        last = self.last_under_way
        if self._attempts >= (LAST_ATTEMPTS if last else ATTEMPTS):
            self._end(Result.UNCONFIRMED if last else Result.SILENT)
            return None
        self._timeout = min(self._timeout * 2, self.terms.ceiling)
        self.retransmissions += 1
        return self._transmit(now, self._acknowledged, again=True)

    def _transmit(self, now: float, acknowledged: int, again: bool = False) -> Action:
        """What follows block ``acknowledged``."""
        self._attempts = self._attempts + 1 if again else 1
        self._resent = again
        self._is_stale |= again
        self._sent_at = now
        self._probe_due = False
        self._wait = self._timeout
        self._expected = None
        if self.state is State.AGREEING:
            words = [word for pair in self.terms.options.items() for word in pair]
            return SendOptions(
                struct.pack("!H", Opcode.OPTIONS) + b"".join(word.encode("ascii") + b"\0" for word in words)
            )
        count = min(self._window, self.blocks - acknowledged)
        self._sent, self._under_way = acknowledged + count, count
        if self._sent < self._steps and not self._is_stale:
            self._expected = _pack(Opcode.ACK, self._sent & 0xFFFF)
        if count > 1 and not again and self._smoothed:
            probe = max(2 * self._smoothed + 4 * self._variance, SMALLEST_PROBE)
            self._probe_due = probe < self._timeout
            if self._probe_due:
                self._wait = probe
        return SendBlocks(acknowledged + 1, count)

    def _acknowledge(self, value: int, now: float) -> Action | None:
        if self.state is State.AGREEING:
            if value != 0:
                raise PeerProtocolError(f"ACK {value} for an OACK")
            self._measure(now)
            self.state = State.SENDING
            return self._transmit(now, 0)
        if self.terms.rollover == 0:
            number = self._acknowledged + ((value - self._acknowledged) & 0xFFFF)
        else:
            number = self._acknowledged + (value - wire_number(self._acknowledged, 1)) % 0xFFFF
        if number > self._sent:
            return None  # an old one, late
        if number == self._acknowledged:
            return self._repeated(now)
        # In a window an ACK short of its end names the last block before a gap: go on from there (RFC 7440).
        return self._advance(number, now)

    def _advance(self, number: int, now: float) -> Action | None:
        """Block ``number`` and all before it are confirmed."""
        self._measure(now)
        if number == self.blocks:
            self._end(Result.COMPLETE)
            return None
        return self._transmit(now, number)

    def _repeated(self, now: float) -> Action | None:
        """The same ACK again. Answering it with the same block would double every packet from here on (the
        "Sorcerer's Apprentice"); in a window it means that the very first block was lost, once per round trip."""
        if self.terms.window == 1 or self._sent == 0:
            return None
        if now - self._sent_at < max(self._smoothed, SMALLEST_TIMEOUT / 10) or self._attempts >= ATTEMPTS:
            return None
        self.retransmissions += 1
        return self._transmit(now, self._acknowledged, again=True)

    def _client_error(self, code: int, text: str) -> None:
        """EDK2 asks for the size, then aborts with code 8, or 0: not a failure, it comes back for the file."""
        self.detail = f"error {code} {text}".rstrip()
        probe = self._acknowledged == 0 and "tsize" in self.terms.options
        self._end(Result.PROBED if probe else Result.ABORTED)

    def _measure(self, now: float) -> None:
        """RFC 6298's estimator over windows; never below SMALLEST_TIMEOUT, so that a slow client is not flooded.

        A window that was sent twice tells nothing (Karn), and the next one is measured instead: else the time-out,
        doubled by a loss, would stay so for want of a measurement.
        """
        if self._resent:
            return
        self._is_stale = False
        sample = max(now - self._sent_at, 0.0)
        if self._smoothed:
            self._variance += (abs(self._smoothed - sample) - self._variance) / 4
            self._smoothed += (sample - self._smoothed) / 8
        else:
            self._smoothed, self._variance = sample, sample / 2
        wanted = max(self._smoothed + 4 * self._variance, SMALLEST_TIMEOUT)
        self._timeout = min(wanted, self.terms.ceiling)

    def _end(self, result: Result) -> None:
        self._expected = None
        self.state = State.DONE
        self.result = result
