"""Data in rising order become chunks of the store."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from bootd.drivers.images.put import AHEAD, THREADS, Keeper
from bootd.drivers.images.store import ImageStore
from bootd.images.foreign.assembly import Assembly
from bootd.images.manifest import ImageManifest


class Intake:
    """Puts the chunks of one image into ``store``, and counts what was new."""

    def __init__(self, store: ImageStore, chunk_size: int) -> None:
        self.names: list[str] = []  # of the chunks, as in a manifest
        self.size = 0
        self.chunk_size = chunk_size
        self.keeper = Keeper(store)
        self._store = store

    def take(self, places: Iterable[tuple[int, bytes]], size: Callable[[], int]) -> None:
        """All of ``places``, offsets and data, rising. ``size`` (bytes) is asked when they have come to an end."""
        assembly = Assembly(self.chunk_size)
        waiting: deque[tuple[int, Future[str]]] = deque()

        def settle(most: int) -> None:
            while len(waiting) > most:
                index, future = waiting.popleft()
                self.names[index] = future.result()

        def keep(chunks: Iterable[bytes | None]) -> None:
            for chunk in chunks:
                self.names.append("")
                if chunk is not None:
                    waiting.append((len(self.names) - 1, threads.submit(self.keeper.keep, chunk)))
                    settle(AHEAD)

        with ThreadPoolExecutor(THREADS, "bootd-import") as threads:
            try:
                for offset, data in places:
                    keep(assembly.add(offset, data))
                self.size = size()
                keep(assembly.end(self.size))
                settle(0)
            finally:
                for _, future in waiting:
                    future.cancel()
        self._store.flush()

    def read(self, offset: int, length: int) -> bytes:
        """What was taken, from the store."""
        found = b""
        while length > 0 and offset < self.size:
            index, within = divmod(offset, self.chunk_size)
            chunk = bytes(self._store.read_chunk(self._part(index), 0))[within : within + length]
            found += chunk
            offset, length = offset + len(chunk), length - len(chunk)
        return found

    def _part(self, index: int) -> ImageManifest:
        """A chunk as an image of its own: the store reads chunks of images."""
        size = min(self.chunk_size, self.size - index * self.chunk_size)
        return ImageManifest(
            name="import", user="-", created="-", comment="-", size=size, chunk_size=self.chunk_size,
            chunks=(self.names[index],),
        )  # fmt: skip
