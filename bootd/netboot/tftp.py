"""TFTP read session of the server, sans-IO (RFC 1350, 2347, 2348, 2349, 7440). Time in seconds is an argument.

`parse_request` judges the first datagram; `Transfer` is one read: datagrams and the clock in, datagrams out.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from bootd.wire.errors import LocalProtocolError, PeerProtocolError

RRQ, WRQ, DATA, ACK, ERROR, OACK = 1, 2, 3, 4, 5, 6
# Error codes (RFC 1350, 5; RFC 2347 for 8)
UNDEFINED, NOT_FOUND, ACCESS, FULL, ILLEGAL, UNKNOWN_ID, EXISTS, NO_USER, OPTION = range(9)
MAX_REQUEST = 1024
MAX_WINDOW = 64
FIRST_TIMEOUT = 0.1  # adaptive: doubled at every silence, up to LAST_TIMEOUT
LAST_TIMEOUT = 3.0
PATIENCE = 20.0  # seconds of silence after which a client is given up


@dataclass(frozen=True)
class Request:
    """A read request. ``options`` has lower-case names."""

    path: str
    mode: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Refusal:
    """What to answer instead of data."""

    code: int
    text: str

    def encode(self) -> bytes:
        return struct.pack("!HH", ERROR, self.code) + self.text.encode("ascii", "replace") + b"\0"


class State(Enum):
    OPTIONS = "options"  # OACK sent, its acknowledgement (block 0) awaited
    SENDING = "sending"
    DONE = "done"
    ABORTED = "aborted"  # the client ended it (error 8 after a size probe is usual), or fell silent


def parse_request(data: bytes) -> Request | Refusal:
    """The read request in a datagram, or its refusal; `PeerProtocolError` when it deserves no answer."""
    if len(data) < 4 or len(data) > MAX_REQUEST:
        raise PeerProtocolError(f"TFTP request of {len(data)} bytes")
    operation = struct.unpack_from("!H", data)[0]
    if operation == WRQ:
        return Refusal(ACCESS, "this server is read-only")
    if operation != RRQ:
        raise PeerProtocolError(f"TFTP operation {operation} is not a request")
    fields = data[2:].split(b"\0")
    if fields.pop() != b"" or len(fields) < 2 or len(fields) % 2:
        return Refusal(ILLEGAL, "malformed request")
    try:
        words = [field.decode("utf-8") for field in fields]
    except UnicodeDecodeError:
        return Refusal(ILLEGAL, "file name is not UTF-8")
    path, mode = words[0], words[1].lower()
    if mode not in ("octet", "netascii"):
        return Refusal(ILLEGAL, f"mode {mode[:20]} is not known")
    options = {words[at].lower(): words[at + 1] for at in range(2, len(words), 2)}
    return Request(path, mode, options)


class Transfer:
    """One read. ``read(offset, length)`` gives bytes of the file; the whole file is ``size`` bytes long.

    Call `start` once, `receive` for each datagram from the client and `tick` when ``deadline`` has passed; each
    returns the datagrams to send. ``state`` DONE or ABORTED ends it.
    """

    def __init__(self, request: Request, size: int, read: Callable[[int, int], bytes], mtu: int = 1500) -> None:
        self._read = read
        self.size = size
        self.block_size, self.window, self._fixed_timeout = 512, 1, 0.0
        self._answer = self._negotiate(request.options, mtu)
        self._acknowledged = 0  # whole blocks, not modulo 65536
        self._sent = 0
        self._timeout = self._fixed_timeout or FIRST_TIMEOUT
        self._heard = 0.0
        self.deadline = 0.0
        self.state = State.OPTIONS if self._answer else State.SENDING
        self.reason = ""

    @property
    def blocks(self) -> int:
        """Number of DATA blocks: the last is shorter than the block size, empty if it must be."""
        return self.size // self.block_size + 1

    @property
    def bytes_acknowledged(self) -> int:
        return min(self._acknowledged * self.block_size, self.size)

    def start(self, now: float) -> list[bytes]:
        if self.deadline:
            raise LocalProtocolError("a transfer starts once")
        self._heard = now
        return self._send(now)

    def receive(self, data: bytes, now: float) -> list[bytes]:
        if self.state in (State.DONE, State.ABORTED) or len(data) < 4:
            return []
        operation, number = struct.unpack_from("!HH", data)
        if operation == ERROR:
            text = data[4:].split(b"\0")[0].decode("ascii", "replace")[:80]
            self.state, self.reason = State.ABORTED, f"client error {number}: {text}"
            return []
        if operation != ACK:
            return []
        self._heard = now
        if self.state is State.OPTIONS:
            if number != 0:
                return []
            self.state = State.SENDING
            return self._send(now)
        # The acknowledged block is the one within the window whose low 16 bits fit (blocks wrap at 65536).
        advance = (number - self._acknowledged) & 0xFFFF
        if advance == 0 or advance > self._sent - self._acknowledged:
            return []  # a duplicate: answering it is the Sorcerer's Apprentice (RFC 1123, 4.2.3.1)
        self._acknowledged += advance
        self._timeout = self._fixed_timeout or max(FIRST_TIMEOUT, self._timeout / 2)
        if self._acknowledged >= self.blocks:
            self.state = State.DONE
            return []
        # An ACK inside the window (RFC 7440, 4) means that what follows it was lost: send on from there.
        return self._send(now)

    def tick(self, now: float) -> list[bytes]:
        """Send again what is not acknowledged; give the client up after PATIENCE seconds of silence."""
        if self.state in (State.DONE, State.ABORTED) or now < self.deadline:
            return []
        if now - self._heard > PATIENCE:
            last = self.state is State.SENDING and self._sent >= self.blocks
            # The acknowledgement of the last block may never come: loaders start what they fetched at once.
            self.state = State.DONE if last and self._sent - self._acknowledged <= self.window else State.ABORTED
            self.reason = "" if self.state is State.DONE else "client fell silent"
            return []
        if not self._fixed_timeout:
            self._timeout = min(self._timeout * 2, LAST_TIMEOUT)
        return self._send(now)

    def _send(self, now: float) -> list[bytes]:
        self.deadline = now + self._timeout
        if self.state is State.OPTIONS:
            return [self._answer]
        first = self._acknowledged + 1
        last = min(self._acknowledged + self.window, self.blocks)
        self._sent = last
        return [
            struct.pack("!HH", DATA, block & 0xFFFF) + self._read((block - 1) * self.block_size, self.block_size)
            for block in range(first, last + 1)
        ]

    def _negotiate(self, options: Mapping[str, str], mtu: int) -> bytes:
        accepted: list[tuple[str, int]] = []
        if (size := _number(options, "blksize", 8, 65464)) is not None:
            self.block_size = max(8, min(size, mtu - 32))  # IPv4 20, UDP 8, TFTP 4: no fragments
            accepted.append(("blksize", self.block_size))
        if _number(options, "tsize", 0, 1 << 62) is not None:
            accepted.append(("tsize", self.size))
        if (seconds := _number(options, "timeout", 1, 255)) is not None:
            self._fixed_timeout = float(seconds)
            accepted.append(("timeout", seconds))
        if (window := _number(options, "windowsize", 1, 65535)) is not None:
            self.window = min(window, MAX_WINDOW)
            accepted.append(("windowsize", self.window))
        if not accepted:
            return b""
        body = b"".join(f"{name}\0{value}\0".encode() for name, value in accepted)
        return struct.pack("!H", OACK) + body


def netascii(data: bytes) -> bytes:
    """A text as netascii (RFC 764): LF becomes CR LF, CR becomes CR NUL."""
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


def _number(options: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    # An option with a value that is out of range is left out of the OACK, as if it were not known (RFC 2347).
    value = options.get(name, "")
    if not value.isascii() or not value.isdigit() or len(value) > 19:
        return None
    number = int(value)
    return number if low <= number <= high else None
