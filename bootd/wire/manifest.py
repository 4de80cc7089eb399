"""The manifest of a source: chunk size, size, and the digest of every chunk. Its own digest is the identity.

Binary, big endian: magic ``BMAN``, u16 version (1), u16 digest algorithm (1 = BLAKE3-256), u32 chunk size,
u64 size in bytes, u32 count of chunks, then 32 bytes per chunk. Every chunk has the chunk size but the last,
which may be shorter. There is exactly one encoding of a manifest, so equal sources have equal roots.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from bootd.wire.digest import DIGEST_SIZE, digest, zero_digest
from bootd.wire.errors import LocalProtocolError, PeerProtocolError

MAGIC = b"BMAN"
VERSION = 1
ALGORITHM_BLAKE3 = 1
MIN_CHUNK_SIZE = 4096
MAX_CHUNK_SIZE = 4 << 20
MAX_CHUNKS = 1 << 22  # 16 TiB in chunks of 4 MiB
DEFAULT_CHUNK_SIZE = 1 << 20
_COMFORTABLE_CHUNKS = 1 << 20
_HEADER = struct.Struct(">4sHHIQI")
HEADER_SIZE = _HEADER.size
MAX_ENCODED = HEADER_SIZE + MAX_CHUNKS * DIGEST_SIZE


def suitable_chunk_size(size: int) -> int:
    """1 MiB up to 1 TiB, then 2 and 4 MiB, so that a manifest stays small beside the memory of a node."""
    chunk_size = DEFAULT_CHUNK_SIZE
    while chunk_size < MAX_CHUNK_SIZE and size > chunk_size * _COMFORTABLE_CHUNKS:
        chunk_size *= 2
    return chunk_size


@dataclass(frozen=True)
class Manifest:
    """A checked manifest. Sizes and offsets in bytes; chunks are counted from 0."""

    encoded: bytes = field(repr=False)
    chunk_size: int
    size: int
    _zero: bytes = field(repr=False, compare=False)
    _zero_tail: bytes = field(repr=False, compare=False)

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self.size // self.chunk_size)

    @property
    def root(self) -> str:
        """BLAKE3-256 over the encoded manifest, hex: the identity of the image."""
        return digest(self.encoded).hex()

    def digest(self, index: int) -> bytes:
        """Digest of the raw bytes of chunk ``index``; `IndexError` outside the image."""
        self._check(index)
        start = HEADER_SIZE + index * DIGEST_SIZE
        return self.encoded[start : start + DIGEST_SIZE]

    def offset(self, index: int) -> int:
        """Where chunk ``index`` begins."""
        self._check(index)
        return index * self.chunk_size

    def length(self, index: int) -> int:
        """Bytes of chunk ``index``: the chunk size, less for the last one."""
        self._check(index)
        return min(self.chunk_size, self.size - index * self.chunk_size)

    def is_zero(self, index: int) -> bool:
        """True for a chunk of nothing but zero bytes."""
        zero = self._zero if self.length(index) == self.chunk_size else self._zero_tail
        return self.digest(index) == zero

    def _check(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise IndexError(f"chunk {index} of {self.count}")


def build(size: int, chunk_size: int, digests: Iterable[bytes]) -> Manifest:
    """The manifest of a source; `LocalProtocolError` when the numbers do not fit together."""
    body = b"".join(digests)
    encoded = _HEADER.pack(MAGIC, VERSION, ALGORITHM_BLAKE3, chunk_size, size, len(body) // DIGEST_SIZE) + body
    try:
        return parse(encoded)
    except PeerProtocolError as error:
        raise LocalProtocolError(str(error)) from None


def parse(data: bytes) -> Manifest:
    """The manifest in ``data``; `PeerProtocolError` for everything that is not exactly one manifest."""
    if len(data) < HEADER_SIZE:
        raise PeerProtocolError(f"manifest of {len(data)} bytes is shorter than its header")
    magic, version, algorithm, chunk_size, size, count = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise PeerProtocolError("not a manifest")
    if version != VERSION or algorithm != ALGORITHM_BLAKE3:
        raise PeerProtocolError(f"manifest version {version}, digest {algorithm}: only 1 and 1 are known")
    if not MIN_CHUNK_SIZE <= chunk_size <= MAX_CHUNK_SIZE or chunk_size & (chunk_size - 1):
        raise PeerProtocolError(f"manifest with chunks of {chunk_size} bytes")
    if size == 0:
        raise PeerProtocolError("manifest of an empty source")
    if count > MAX_CHUNKS or count != -(-size // chunk_size):
        raise PeerProtocolError(f"manifest counts {count} chunks of {chunk_size} for {size} bytes")
    if len(data) != HEADER_SIZE + count * DIGEST_SIZE:
        raise PeerProtocolError(f"manifest of {len(data)} bytes for {count} chunks")
    tail = size % chunk_size
    zero = zero_digest(chunk_size)
    return Manifest(bytes(data), chunk_size, size, zero, zero_digest(tail) if tail else zero)
