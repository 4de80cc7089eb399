"""How a chunk that comes from disk goes out: as zeros, compressed, or raw when compression does not pay."""

from bootd.wire.digest import Compressor
from bootd.wire.frames import ChunkHeader, Encoding

_WORTH = 0.9  # compressed to less than this part of its size
_LONGEST_REST = 32  # chunks


class ChunkEncoder:
    """Per serving thread. After chunks that do not compress it rests, twice as long each time."""

    def __init__(self) -> None:
        self._compressor = Compressor()
        self._rest = 0
        self._next_rest = 1

    def encode(
        self, index: int, raw: memoryview, digest: bytes, *, is_zero: bool
    ) -> tuple[ChunkHeader, bytes | memoryview]:
        """Header and payload of chunk ``index``; ``digest`` is that of ``raw``."""
        if is_zero:
            return ChunkHeader(index, Encoding.ZERO, len(raw), digest, 0), b""
        if self._rest:
            self._rest -= 1
        else:
            packed = self._compressor.compress(raw)
            if len(packed) < len(raw) * _WORTH:
                self._next_rest = 1
                return ChunkHeader(index, Encoding.ZSTD, len(raw), digest, len(packed)), packed
            self._rest = self._next_rest
            self._next_rest = min(self._next_rest * 2, _LONGEST_REST)
        return ChunkHeader(index, Encoding.RAW, len(raw), digest, len(raw)), raw
