"""Bytes that come in rising order with gaps between them become the chunks of an image."""

from collections.abc import Iterator

from bootd.images.foreign.errors import ForeignError
from bootd.wire.manifest import MAX_CHUNKS


class Assembly:
    """Chunks of ``chunk_size`` bytes. What is never given reads as zero."""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._buffer = bytearray()  # of the chunk at `_index`, as far as it goes
        self._index = 0
        self._end = 0

    def add(self, offset: int, data: bytes) -> Iterator[bytes | None]:
        """Each chunk that is complete now, None for one of zeros only, in order. ``offset`` never goes back."""
        if offset < self._end:
            raise ForeignError(f"two parts of the image are both at byte {offset}")
        view = memoryview(data)
        while view:
            index, within = divmod(offset, self._chunk_size)
            if index >= MAX_CHUNKS:
                raise ForeignError(f"it has more than {MAX_CHUNKS * self._chunk_size} bytes")
            while self._index < index:
                yield self._take()
            piece, view = view[: self._chunk_size - within], view[self._chunk_size - within :]
            self._buffer += bytes(within - len(self._buffer))
            self._buffer += piece
            offset += len(piece)
            if len(self._buffer) == self._chunk_size:
                yield self._take()
        self._end = offset

    def end(self, size: int) -> Iterator[bytes | None]:
        """The rest of an image of ``size`` bytes."""
        if not self._end <= size or size < 1:
            raise ForeignError(f"data at byte {self._end} of an image of {size} bytes")
        count = -(-size // self._chunk_size)
        while self._index < count - 1:
            yield self._take()
        if self._index < count:
            if self._buffer:
                self._buffer += bytes(size - self._index * self._chunk_size - len(self._buffer))
            yield self._take(last=True)

    def _take(self, *, last: bool = False) -> bytes | None:
        self._index += 1
        if not self._buffer:
            return None
        if not last:
            self._buffer += bytes(self._chunk_size - len(self._buffer))
        chunk = bytes(self._buffer)
        self._buffer.clear()
        return chunk
