"""Frames of a link: what two neighbours of a chain say to each other. PROTOCOL.md has the tables.

Every frame is an 8-byte header (u8 type, u8 flags, u16 reserved, u32 payload length; big endian) and a payload.
The length is checked against the bound of its type before a byte of the payload is asked for. `Decoder` hands out
the buffer that the next bytes belong in, so a driver reads a chunk straight into the memory it is written from.
Whatever arrives, only `PeerProtocolError` leaves this module.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from bootd.wire.digest import DIGEST_SIZE
from bootd.wire.errors import LocalProtocolError, PeerProtocolError
from bootd.wire.manifest import MAX_CHUNK_SIZE, MAX_CHUNKS

PROTOCOL_VERSION = 1
MAGIC = b"bootd"
NONCE_SIZE = 32
PROOF_SIZE = 32
MAX_NAME = 64  # bytes of a session or member name
MAX_REASON = 512  # bytes
MAX_RANGES = 8192
MAX_EPOCH = (1 << 32) - 1

_HEADER = struct.Struct(">BBHI")
_CHALLENGE = struct.Struct(f">5sBH{NONCE_SIZE}s")
_HELLO = struct.Struct(f">HHI{NONCE_SIZE}s{PROOF_SIZE}sBB")
_RANGE = struct.Struct(">II")
_CHUNK = struct.Struct(f">IB3sI{DIGEST_SIZE}s")
HEADER_SIZE = _HEADER.size
CHUNK_HEADER_SIZE = _CHUNK.size


class FrameType(IntEnum):
    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    WANT = 4
    CHUNK = 5
    END = 6
    PING = 7
    REJECT = 8


class Encoding(Enum):
    """How the payload of a chunk carries its raw bytes."""

    RAW = 0
    ZSTD = 1  # one Zstandard frame, smaller than the raw bytes
    ZERO = 2  # no payload: every byte is zero


# Least and greatest payload length per type, for the largest chunk size.
_BOUNDS: dict[FrameType, tuple[int, int]] = {
    FrameType.CHALLENGE: (_CHALLENGE.size, _CHALLENGE.size),
    FrameType.HELLO: (_HELLO.size + 2, _HELLO.size + 2 * MAX_NAME),
    FrameType.WELCOME: (PROOF_SIZE, PROOF_SIZE),
    FrameType.WANT: (_RANGE.size, _RANGE.size * MAX_RANGES),
    FrameType.CHUNK: (CHUNK_HEADER_SIZE, CHUNK_HEADER_SIZE + MAX_CHUNK_SIZE),
    FrameType.END: (0, 0),
    FrameType.PING: (0, 0),
    FrameType.REJECT: (1, MAX_REASON),
}


@dataclass(frozen=True)
class Challenge:
    """First frame of the accepting side."""

    version: int
    nonce: bytes


@dataclass(frozen=True)
class Hello:
    """The dialling side says who it is and proves that it knows the join token."""

    version: int
    session: str
    epoch: int
    member: str
    nonce: bytes
    proof: bytes


@dataclass(frozen=True)
class Welcome:
    """The accepting side proves that it knows the join token too."""

    proof: bytes


@dataclass(frozen=True)
class ChunkRange:
    """Chunks ``first`` to ``first + count - 1``."""

    first: int
    count: int


@dataclass(frozen=True)
class Want:
    """The chunks the dialling side lacks: ascending ranges that do not overlap."""

    ranges: tuple[ChunkRange, ...]


@dataclass(frozen=True)
class ChunkHeader:
    """What precedes the payload of a chunk. Lengths in bytes; the digest covers the raw bytes."""

    index: int
    encoding: Encoding
    raw_length: int
    digest: bytes
    payload_length: int


@dataclass(frozen=True)
class Chunk:
    header: ChunkHeader
    payload: memoryview


@dataclass(frozen=True)
class End:
    """Every chunk of the last WANT has been sent."""


@dataclass(frozen=True)
class Ping:
    """I live but have nothing for you yet."""


@dataclass(frozen=True)
class Reject:
    """The link is over; ``reason`` is one sentence."""

    reason: str


Frame = Challenge | Hello | Welcome | Want | Chunk | End | Ping | Reject
Allocate = Callable[[ChunkHeader], memoryview]


def encode(frame: Challenge | Hello | Welcome | Want | End | Ping | Reject) -> bytes:
    """Header and payload. Chunks go out as `encode_chunk_header` and their payload, uncopied."""
    match frame:
        case Challenge():
            return _frame(FrameType.CHALLENGE, _CHALLENGE.pack(MAGIC, 0, frame.version, frame.nonce))
        case Hello():
            return _frame(FrameType.HELLO, _encode_hello(frame))
        case Welcome():
            return _frame(FrameType.WELCOME, frame.proof)
        case Want():
            _check_ranges(frame.ranges, LocalProtocolError)
            return _frame(FrameType.WANT, b"".join(_RANGE.pack(item.first, item.count) for item in frame.ranges))
        case End():
            return _frame(FrameType.END, b"")
        case Ping():
            return _frame(FrameType.PING, b"")
        case Reject():
            reason = frame.reason.encode("ascii", "replace")[:MAX_REASON]
            return _frame(FrameType.REJECT, bytes(byte if 32 <= byte < 127 else 63 for byte in reason) or b"?")


def encode_chunk_header(header: ChunkHeader) -> bytes:
    """Everything of a CHUNK frame before its payload (52 bytes)."""
    _check_chunk(header, MAX_CHUNK_SIZE, LocalProtocolError)
    return _HEADER.pack(FrameType.CHUNK, 0, 0, CHUNK_HEADER_SIZE + header.payload_length) + _CHUNK.pack(
        header.index, header.encoding.value, bytes(3), header.raw_length, header.digest
    )


class Decoder:
    """Bytes in, frames out, one at a time and without a copy of chunk payloads.

    A driver reads into `buffer` and calls `advance` with the count; or it has bytes already and calls `feed`.
    ``max_chunk`` is the chunk size of the session in bytes: no larger chunk is let in. ``allocate`` gives the
    memory for the payload of a chunk, after its header was checked; it may refuse by raising
    `PeerProtocolError`. After an error the decoder is spent: the error is raised again.
    """

    def __init__(self, *, max_chunk: int = MAX_CHUNK_SIZE, allocate: Allocate | None = None) -> None:
        self._max_chunk = max_chunk
        self._allocate = allocate or _allocate
        self._error: PeerProtocolError | None = None
        self._type: FrameType | None = None  # None: reading a header
        self._chunk: ChunkHeader | None = None
        self._length = 0  # payload length of the frame in hand
        self._header = memoryview(bytearray(HEADER_SIZE))
        self._target = self._header
        self._filled = 0

    @property
    def inside_frame(self) -> bool:
        """True when the stream must not end here."""
        return self._type is not None or self._filled > 0

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty."""
        if self._error:
            raise self._error
        return self._target[self._filled :]

    def advance(self, count: int) -> Frame | None:
        """The frame that ``count`` bytes, read into `buffer`, complete; None when it needs more."""
        if self._error:
            raise self._error
        if not 0 < count <= len(self._target) - self._filled:
            raise LocalProtocolError(f"advance by {count} bytes")
        self._filled += count
        if self._filled < len(self._target):
            return None
        try:
            return self._step()
        except PeerProtocolError as error:
            self._error = error
            raise

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Every frame that ``data`` completes."""
        frames: list[Frame] = []
        rest = memoryview(data)
        while rest:
            buffer = self.buffer()
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            frame = self.advance(count)
            if frame is not None:
                frames.append(frame)
            rest = rest[count:]
        return frames

    def _step(self) -> Frame | None:
        """The current target is full: finish the frame or point at what comes next."""
        if self._type is None:
            self._type, self._length = _parse_header(self._header, self._max_chunk)
            if self._type is FrameType.CHUNK:
                self._aim(memoryview(bytearray(CHUNK_HEADER_SIZE)))
                return None
            if self._length:
                self._aim(memoryview(bytearray(self._length)))
                return None
            return self._finish(_parse_payload(self._type, b""))
        if self._type is not FrameType.CHUNK:
            return self._finish(_parse_payload(self._type, bytes(self._target)))
        if self._chunk is None:
            self._chunk = _parse_chunk_header(self._target, self._length - CHUNK_HEADER_SIZE, self._max_chunk)
            target = self._allocate(self._chunk)
            if len(target) != self._chunk.payload_length:
                raise LocalProtocolError(f"{len(target)} bytes given for {self._chunk.payload_length}")
            self._aim(target)
            if len(target):
                return None
        return self._finish(Chunk(self._chunk, self._target))

    def _aim(self, target: memoryview) -> None:
        self._target = target
        self._filled = 0

    def _finish(self, frame: Frame) -> Frame:
        self._type = None
        self._chunk = None
        self._aim(self._header)
        return frame


def _allocate(header: ChunkHeader) -> memoryview:
    return memoryview(bytearray(header.payload_length))


def _frame(kind: FrameType, payload: bytes) -> bytes:
    least, greatest = _BOUNDS[kind]
    if not least <= len(payload) <= greatest:
        raise LocalProtocolError(f"{kind.name} payload of {len(payload)} bytes")
    return _HEADER.pack(kind, 0, 0, len(payload)) + payload


def _encode_hello(hello: Hello) -> bytes:
    session, member = hello.session.encode("ascii", "replace"), hello.member.encode("ascii", "replace")
    for name in (hello.session, hello.member):
        if not _is_name(name.encode("utf-8", "replace")):
            raise LocalProtocolError(f"{name!r} does not name a session or member")
    fixed = _HELLO.pack(hello.version, 0, hello.epoch, hello.nonce, hello.proof, len(session), len(member))
    return fixed + session + member


def _is_name(name: bytes) -> bool:
    return 0 < len(name) <= MAX_NAME and all(32 < byte < 127 for byte in name)


def _parse_header(data: memoryview, max_chunk: int) -> tuple[FrameType, int]:
    number, flags, reserved, length = _HEADER.unpack(data)
    try:
        kind = FrameType(number)
    except ValueError:
        raise PeerProtocolError(f"frame of unknown type {number}") from None
    if flags or reserved:
        raise PeerProtocolError(f"{kind.name} with flags {flags:#x}, reserved {reserved:#x}")
    least, greatest = _BOUNDS[kind]
    if kind is FrameType.CHUNK:
        greatest = CHUNK_HEADER_SIZE + max_chunk
    if not least <= length <= greatest:
        raise PeerProtocolError(f"{kind.name} with a payload of {length} bytes, {least} to {greatest} allowed")
    return kind, length


def _parse_payload(kind: FrameType, data: bytes) -> Frame:
    match kind:
        case FrameType.CHALLENGE:
            magic, reserved, version, nonce = _CHALLENGE.unpack(data)
            if magic != MAGIC or reserved:
                raise PeerProtocolError("CHALLENGE of another protocol")
            return Challenge(version, nonce)
        case FrameType.HELLO:
            return _parse_hello(data)
        case FrameType.WELCOME:
            return Welcome(data)
        case FrameType.WANT:
            return _parse_want(data)
        case FrameType.END:
            return End()
        case FrameType.PING:
            return Ping()
        case FrameType.REJECT:
            if not all(32 <= byte < 127 for byte in data):
                raise PeerProtocolError("REJECT with a reason that is not plain text")
            return Reject(data.decode("ascii"))
    raise PeerProtocolError(f"{kind.name} has no payload of this kind")


def _parse_hello(data: bytes) -> Hello:
    version, reserved, epoch, nonce, proof, session_length, member_length = _HELLO.unpack_from(data)
    if reserved:
        raise PeerProtocolError("HELLO with reserved bits")
    names = data[_HELLO.size :]
    if len(names) != session_length + member_length:
        raise PeerProtocolError("HELLO whose names do not fill it")
    session, member = names[:session_length], names[session_length:]
    if not _is_name(session) or not _is_name(member):
        raise PeerProtocolError("HELLO with a name that is not plain text")
    return Hello(version, session.decode("ascii"), epoch, member.decode("ascii"), nonce, proof)


def _parse_want(data: bytes) -> Want:
    if len(data) % _RANGE.size:
        raise PeerProtocolError("WANT that ends inside a range")
    ranges = tuple(ChunkRange(first, count) for first, count in _RANGE.iter_unpack(data))
    _check_ranges(ranges, PeerProtocolError)
    return Want(ranges)


def _check_ranges(ranges: Sequence[ChunkRange], error: type[Exception]) -> None:
    if not 0 < len(ranges) <= MAX_RANGES:
        raise error(f"WANT with {len(ranges)} ranges")
    end = 0
    for item in ranges:
        if item.first < end or not 0 < item.count <= MAX_CHUNKS or item.first + item.count > MAX_CHUNKS:
            raise error(f"WANT with a range of {item.count} chunks at {item.first}")
        end = item.first + item.count


def _parse_chunk_header(data: memoryview, payload_length: int, max_chunk: int) -> ChunkHeader:
    index, number, reserved, raw_length, digest = _CHUNK.unpack(data)
    try:
        encoding = Encoding(number)
    except ValueError:
        raise PeerProtocolError(f"CHUNK of unknown encoding {number}") from None
    if any(reserved):
        raise PeerProtocolError("CHUNK with reserved bits")
    header = ChunkHeader(index, encoding, raw_length, digest, payload_length)
    _check_chunk(header, max_chunk, PeerProtocolError)
    return header


def _check_chunk(header: ChunkHeader, max_chunk: int, error: type[Exception]) -> None:
    if not 0 <= header.index < MAX_CHUNKS:
        raise error(f"CHUNK {header.index}")
    if not 0 < header.raw_length <= max_chunk:
        raise error(f"CHUNK {header.index} of {header.raw_length} bytes, at most {max_chunk} allowed")
    fits = {
        Encoding.RAW: header.payload_length == header.raw_length,
        Encoding.ZSTD: 0 < header.payload_length < header.raw_length,
        Encoding.ZERO: header.payload_length == 0,
    }
    if not fits[header.encoding] or len(header.digest) != DIGEST_SIZE:
        raise error(
            f"CHUNK {header.index}: {header.payload_length} bytes of {header.encoding.name} "
            f"for {header.raw_length} raw bytes"
        )
