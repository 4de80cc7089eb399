"""Chunk digests and compression: the only module that imports ``blake3`` and ``zstandard``.

Nodes have both packages beside their bundle. Digests are BLAKE3-256, 32 bytes, always over the raw bytes of a
chunk. Compressed payloads are single Zstandard frames that state their content size, so that nothing is
allocated on a sender's word alone. Both libraries release the interpreter lock while they work.
"""

import zstandard
from blake3 import blake3

from bootd.wire.errors import PeerProtocolError

DIGEST_SIZE = 32
LEVEL = 1
_ZERO_BLOCK = bytes(1 << 16)
_MAX_WINDOW = 1 << 23  # bytes; level 1 needs 512 KiB

Buffer = bytes | bytearray | memoryview


def digest(data: Buffer) -> bytes:
    """BLAKE3-256 of ``data``, 32 bytes."""
    return blake3(data).digest()


def zero_digest(length: int) -> bytes:
    """The digest of ``length`` zero bytes."""
    hasher = blake3()
    for _ in range(length // len(_ZERO_BLOCK)):
        hasher.update(_ZERO_BLOCK)
    hasher.update(_ZERO_BLOCK[: length % len(_ZERO_BLOCK)])
    return hasher.digest()


class Compressor:
    """Zstandard level 1. One per thread: the context is kept and is not safe to share."""

    def __init__(self) -> None:
        self._context = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True, write_checksum=False)

    def compress(self, data: Buffer) -> bytes:
        """One frame with its content size in the header."""
        return self._context.compress(data)


class Decompressor:
    """The bounded opposite of `Compressor`. One per thread."""

    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)

    def decompress(self, data: Buffer, length: int) -> bytes:
        """Exactly ``length`` bytes, or `PeerProtocolError`; never allocates more than that."""
        try:
            stated = zstandard.frame_content_size(data)
            if stated != length:
                raise PeerProtocolError(f"compressed chunk states {stated} bytes, its frame says {length}")
            raw = self._context.decompress(data, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise PeerProtocolError(f"chunk does not decompress: {error}") from None
        if len(raw) != length:
            raise PeerProtocolError(f"compressed chunk holds {len(raw)} bytes, its frame says {length}")
        return raw

    def expand(self, data: Buffer, limit: int) -> bytes:
        """As many bytes as the frame states, at most ``limit``, or `PeerProtocolError`."""
        try:
            stated = zstandard.frame_content_size(data)
        except zstandard.ZstdError as error:
            raise PeerProtocolError(f"chunk does not decompress: {error}") from None
        if not 0 <= stated <= limit:
            raise PeerProtocolError(f"compressed chunk states {stated} bytes, at most {limit} are allowed")
        return self.decompress(data, stated)
