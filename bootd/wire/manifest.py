"""The manifest of a source: chunk size, parts, and the digest of every chunk. Its own digest is the identity.

A source has one part, or several: partitions or files that travel in one session, each to a target of its own.
Parts may stand in phases; a phase is received only when the one before is complete everywhere. Chunks never cross
a part. Offsets are virtual: chunk ``i`` begins at ``i * chunk_size``, so a part begins at a multiple of the chunk
size, and its last chunk may be shorter.

Binary, big endian: magic ``BMAN``, u16 version, u16 digest algorithm (1 = BLAKE3-256), u32 chunk size, u64 size in
bytes, u32 count of chunks; in version 2 a table of parts: u16 count, then u64 size, u16 phase, u8 length of the
name and the name (UTF-8) of each; then 32 bytes per chunk. One part without a name is version 1, everything else
version 2: there is exactly one encoding of a manifest, so equal sources have equal roots.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bootd.wire.digest import DIGEST_SIZE, digest, zero_digest
from bootd.wire.errors import LocalProtocolError, PeerProtocolError

MAGIC = b"BMAN"
PLAIN, WITH_PARTS = 1, 2  # versions
ALGORITHM_BLAKE3 = 1
MIN_CHUNK_SIZE = 4096
MAX_CHUNK_SIZE = 4 << 20
MAX_CHUNKS = 1 << 22  # 16 TiB in chunks of 4 MiB
MAX_PARTS = 1024
MAX_PART_NAME = 255  # bytes
DEFAULT_CHUNK_SIZE = 1 << 20
_COMFORTABLE_CHUNKS = 1 << 20
_HEADER = struct.Struct(">4sHHIQI")
_PARTS = struct.Struct(">H")
_PART = struct.Struct(">QHB")
HEADER_SIZE = _HEADER.size
MAX_ENCODED = HEADER_SIZE + _PARTS.size + MAX_PARTS * (_PART.size + MAX_PART_NAME) + MAX_CHUNKS * DIGEST_SIZE


def suitable_chunk_size(size: int) -> int:
    """1 MiB up to 1 TiB, then 2 and 4 MiB, so that a manifest stays small beside the memory of a node."""
    chunk_size = DEFAULT_CHUNK_SIZE
    while chunk_size < MAX_CHUNK_SIZE and size > chunk_size * _COMFORTABLE_CHUNKS:
        chunk_size *= 2
    return chunk_size


@dataclass(frozen=True)
class Part:
    """One stream of a source. ``size`` in bytes, from 1; ``phase`` from 0, never falling from part to part."""

    name: str
    size: int
    phase: int = 0


@dataclass(frozen=True)
class Manifest:
    """A checked manifest. Sizes and offsets in bytes; chunks are counted from 0."""

    encoded: bytes = field(repr=False)
    chunk_size: int
    parts: tuple[Part, ...]
    _starts: tuple[int, ...] = field(repr=False, compare=False)  # first chunk of each part
    _ends: tuple[int, ...] = field(repr=False, compare=False)  # chunk after the last one of each phase
    _digests_at: int = field(repr=False, compare=False)
    _zeros: dict[int, bytes] = field(repr=False, compare=False)  # digests of zeros, by length

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def count(self) -> int:
        """Number of chunks."""
        return self._ends[-1]

    @property
    def phases(self) -> int:
        """Number of phases, at least 1."""
        return len(self._ends)

    @property
    def root(self) -> str:
        """BLAKE3-256 over the encoded manifest, hex: the identity of the image."""
        return digest(self.encoded).hex()

    def phase(self, index: int) -> int:
        """The phase that chunk ``index`` belongs to."""
        self._check(index)
        return bisect_right(self._ends, index)

    def phase_end(self, phase: int) -> int:
        """The chunk after the last one of ``phase`` and of all before it; beyond the last phase, `count`."""
        return self._ends[min(phase, len(self._ends) - 1)]

    def part_start(self, number: int) -> int:
        """The first chunk of part ``number``."""
        return self._starts[number]

    def digest(self, index: int) -> bytes:
        """Digest of the raw bytes of chunk ``index``; `IndexError` outside the image."""
        self._check(index)
        start = self._digests_at + index * DIGEST_SIZE
        return self.encoded[start : start + DIGEST_SIZE]

    def offset(self, index: int) -> int:
        """Where chunk ``index`` begins, counted as if every part filled its last chunk."""
        self._check(index)
        return index * self.chunk_size

    def length(self, index: int) -> int:
        """Bytes of chunk ``index``: the chunk size, less for the last one of a part."""
        self._check(index)
        number = bisect_right(self._starts, index) - 1
        return min(self.chunk_size, self.parts[number].size - (index - self._starts[number]) * self.chunk_size)

    def is_zero(self, index: int) -> bool:
        """True for a chunk of nothing but zero bytes."""
        return self.digest(index) == self.zero_digest(self.length(index))

    def zero_digest(self, length: int) -> bytes:
        """Digest of ``length`` zero bytes, at most a chunk; computed once."""
        if length not in self._zeros:
            self._zeros[length] = zero_digest(length)
        return self._zeros[length]

    def _check(self, index: int) -> None:
        if not 0 <= index < self._ends[-1]:
            raise IndexError(f"chunk {index} of {self.count}")


def build(size: int, chunk_size: int, digests: Iterable[bytes]) -> Manifest:
    """The manifest of a source of one part; `LocalProtocolError` when the numbers do not fit together."""
    return build_parts([Part("", size)], chunk_size, digests)


def build_parts(parts: Sequence[Part], chunk_size: int, digests: Iterable[bytes]) -> Manifest:
    """The manifest of a source; ``digests`` of the chunks of all parts, in order. Errors as `build`."""
    body = b"".join(digests)
    size, count = sum(part.size for part in parts), len(body) // DIGEST_SIZE
    version = PLAIN if _is_plain(parts) else WITH_PARTS
    try:
        encoded = _HEADER.pack(MAGIC, version, ALGORITHM_BLAKE3, chunk_size, size, count)
        if version == WITH_PARTS:
            encoded += _encode_parts(parts)
        return parse(encoded + body)
    except (PeerProtocolError, struct.error) as error:
        raise LocalProtocolError(str(error)) from None


def parse(data: bytes) -> Manifest:
    """The manifest in ``data``; `PeerProtocolError` for everything that is not exactly one manifest."""
    if len(data) < HEADER_SIZE:
        raise PeerProtocolError(f"manifest of {len(data)} bytes is shorter than its header")
    magic, version, algorithm, chunk_size, size, count = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise PeerProtocolError("not a manifest")
    if version not in (PLAIN, WITH_PARTS) or algorithm != ALGORITHM_BLAKE3:
        raise PeerProtocolError(f"manifest version {version}, digest {algorithm}: only 1 or 2, and 1, are known")
    if not MIN_CHUNK_SIZE <= chunk_size <= MAX_CHUNK_SIZE or chunk_size & (chunk_size - 1):
        raise PeerProtocolError(f"manifest with chunks of {chunk_size} bytes")
    if size == 0:
        raise PeerProtocolError("manifest of an empty source")
    parts, digests_at = ((Part("", size),), HEADER_SIZE) if version == PLAIN else _parse_parts(data)
    if version == WITH_PARTS:
        _check_parts(parts, size)
    starts, ends = _places(parts, chunk_size)
    if count > MAX_CHUNKS or count != ends[-1]:
        raise PeerProtocolError(f"manifest counts {count} chunks of {chunk_size} for {size} bytes")
    if len(data) != digests_at + count * DIGEST_SIZE:
        raise PeerProtocolError(f"manifest of {len(data)} bytes for {count} chunks")
    return Manifest(bytes(data), chunk_size, parts, starts, ends, digests_at, {})


def _is_plain(parts: Sequence[Part]) -> bool:
    return len(parts) == 1 and parts[0].name == "" and parts[0].phase == 0


def _encode_parts(parts: Sequence[Part]) -> bytes:
    table = [_PARTS.pack(len(parts))]
    for part in parts:
        name = part.name.encode()
        table += [_PART.pack(part.size, part.phase, len(name)), name]
    return b"".join(table)


def _parse_parts(data: bytes) -> tuple[tuple[Part, ...], int]:
    """The table of parts, and where the digests begin."""
    position = HEADER_SIZE + _PARTS.size
    parts: list[Part] = []
    try:
        (number,) = _PARTS.unpack_from(data, HEADER_SIZE)
        if not 1 <= number <= MAX_PARTS:
            raise PeerProtocolError(f"manifest of {number} parts, 1 to {MAX_PARTS} are allowed")
        for _ in range(number):
            size, phase, length = _PART.unpack_from(data, position)
            position += _PART.size
            name = data[position : position + length]
            position += length
            if len(name) < length:
                raise PeerProtocolError("manifest ends inside its table of parts")
            parts.append(Part(name.decode(), size, phase))
    except struct.error:
        raise PeerProtocolError("manifest ends inside its table of parts") from None
    except UnicodeDecodeError:
        raise PeerProtocolError("manifest names a part in something else than UTF-8") from None
    return tuple(parts), position


def _check_parts(parts: tuple[Part, ...], size: int) -> None:
    if _is_plain(parts):
        raise PeerProtocolError("manifest of one nameless part in version 2")
    if any(part.size == 0 for part in parts) or sum(part.size for part in parts) != size:
        raise PeerProtocolError(f"manifest whose parts do not make up its {size} bytes")
    phase = 0
    for part in parts:
        if part.phase not in (phase, phase + 1) or (part is parts[0] and part.phase):
            raise PeerProtocolError(f"manifest whose phases do not rise one by one from 0: {part.phase}")
        phase = part.phase


def _places(parts: tuple[Part, ...], chunk_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first chunk of each part; the chunk after the last one of each phase."""
    starts: list[int] = []
    ends: dict[int, int] = {}
    position = 0
    for part in parts:
        starts.append(position)
        position += -(-part.size // chunk_size)
        ends[part.phase] = position
    return tuple(starts), tuple(ends.values())
