"""What the head sends: files and block devices, and streams that it spools first.

A session is arranged when the size and every digest of its source are known. A stream is taken in to its end before
anything else happens, and digested meanwhile; a command that fails sends nothing. Sizes and offsets in bytes.
"""

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from bootd.member.buffers import Slot
from bootd.member.child import Child
from bootd.member.digest_cache import DigestCache
from bootd.member.images import ImageContent
from bootd.member.parts import PartStore
from bootd.member.spool import Spool
from bootd.member.store import SourceStore, Store, StoreError
from bootd.wire import manifest
from bootd.wire.digest import digest, zero_digest
from bootd.wire.errors import LocalProtocolError
from bootd.wire.manifest import Manifest, Part
from bootd.wire.stored import IMAGE, SLICE, image_of

READ_AHEAD = 3  # chunks
_STDIN = 0

Progress = Callable[[int], None]


class SourceError(Exception):
    """The source cannot be sent; the text says why."""


class Source(Protocol):
    """One part of what is sent. ``store`` and ``size`` are there from the start, or from `take` on."""

    name: str

    @property
    def store(self) -> Store: ...

    @property
    def size(self) -> int: ...

    def take(self, chunk_size: int, progress: Progress) -> None:
        """Bring a stream in; ``progress`` hears the bytes so far. `SourceError`."""

    def digests(self, chunk_size: int, progress: Progress) -> Sequence[bytes]:
        """Of every chunk. `OSError` when reading fails."""

    def mistrust(self) -> None:
        """Chunks are not what their digests say: forget what was remembered of it."""

    def close(self) -> None:
        """Give it up."""


class FileSource:
    """A regular file or a block device. ``cache``: where the digests of a file may be known from an earlier run."""

    def __init__(
        self, path: str, cache: DigestCache | None = None, *, start: int = 0, size: int | None = None
    ) -> None:
        """``start``, ``size``: only these bytes of it; their digests are not remembered."""
        try:
            self._store = SourceStore(path, start, size)
        except StoreError as error:
            raise SourceError(str(error)) from None
        if size is not None:
            cache = None
        self.name = os.fsencode(os.path.basename(path) or path).decode("utf-8", "replace")
        self._path = path
        self._cache = cache

    @property
    def store(self) -> Store:
        return self._store

    @property
    def size(self) -> int:
        return self._store.size

    def take(self, chunk_size: int, progress: Progress) -> None:
        """Nothing: the bytes are where they are."""

    def digests(self, chunk_size: int, progress: Progress) -> Sequence[bytes]:
        key = self._cache.key(self._path, self._store.descriptor, chunk_size) if self._cache else None
        if self._cache and key:
            known = self._cache.get(key, self.size, chunk_size)
            if known is not None:
                progress(self.size)
                return known
        found = list(_digest_store(self._store, chunk_size, progress))
        if self._cache and key and key == self._cache.key(self._path, self._store.descriptor, chunk_size):
            self._cache.put(key, self.size, chunk_size, found)
        return found

    def mistrust(self) -> None:
        if self._cache:
            self._cache.forget(self._path)

    def close(self) -> None:
        self._store.close()


class ImageSource:
    """An image of the store in ``folder``, or ``size`` bytes of it from ``start`` on. Its digests are known."""

    def __init__(self, folder: str, text: str, *, start: int = 0, size: int | None = None) -> None:
        try:
            self._store = ImageContent(folder, image_of(text), start, size)
        except StoreError as error:
            raise SourceError(str(error)) from None
        self.name = text.removeprefix(IMAGE).rpartition("@")[0]

    @property
    def store(self) -> Store:
        return self._store

    @property
    def size(self) -> int:
        return self._store.size

    @property
    def chunk_size(self) -> int:
        """Bytes; in other chunks its digests are not known."""
        return self._store.chunk_size

    def take(self, chunk_size: int, progress: Progress) -> None:
        """Nothing: the bytes are where they are."""

    def digests(self, chunk_size: int, progress: Progress) -> Sequence[bytes]:
        if chunk_size != self.chunk_size:
            return list(_digest_store(self._store, chunk_size, progress))
        found = []
        for offset in range(0, self.size, chunk_size):
            length = min(chunk_size, self.size - offset)
            known = self._store.digest(offset, length)
            if known is None:
                piece = memoryview(bytearray(length))
                self._store.read(offset, piece)
                known = digest(piece)
            found.append(known)
            progress(offset + length)
        return found

    def mistrust(self) -> None:
        """Nothing is remembered."""

    def close(self) -> None:
        self._store.close()


def open_source(text: str, cache: DigestCache | None = None, images: str = "") -> FileSource | ImageSource:
    """A path, ``image:NAME@ID`` of the store in ``images``, or ``slice:START:SIZE:`` and one of these: some bytes
    of it. `SourceError`."""
    if not text.startswith(SLICE):
        return ImageSource(images, text) if text.startswith(IMAGE) else FileSource(text, cache)
    try:
        start, size, path = text.removeprefix(SLICE).split(":", 2)
        if path.startswith(IMAGE):
            return ImageSource(images, path, start=int(start), size=int(size))
        return FileSource(path, cache, start=int(start), size=int(size))
    except ValueError:
        raise SourceError(f"{text[:100]!r} is not {SLICE}START:SIZE:PATH") from None


class StreamSource:
    """Standard input, or what a shell command writes, by way of a spool in ``folder``."""

    def __init__(self, name: str, folder: str, command: str | None = None) -> None:
        self.name = name
        self._folder = folder
        self._command = command
        self._spool: Spool | None = None
        self._digests: list[bytes] = []
        self._taken = 0
        self._child: Child | None = None

    @property
    def store(self) -> Store:
        if self._spool is None:
            raise SourceError(f"{self.name} is not taken in yet")
        return self._spool

    @property
    def size(self) -> int:
        return self._taken

    def take(self, chunk_size: int, progress: Progress) -> None:
        try:
            self._spool = Spool(self._folder)
        except StoreError as error:
            raise SourceError(str(error)) from None
        stream = _STDIN
        if self._command is not None:
            try:
                self._child = Child(["/bin/sh", "-c", self._command], feeds=False)
            except OSError as error:
                raise SourceError(f"{self.name}: cannot be started: {error.strerror}") from None
            stream = self._child.stream
        try:
            self._absorb(stream, chunk_size, progress)
        except OSError as error:
            raise SourceError(f"{self.name}: {error.strerror}") from None
        problem = self._child.wait() if self._child is not None else ""
        if problem:
            raise SourceError(f"{self.name}: {problem}")
        if not self._taken:
            raise SourceError(f"{self.name} is empty")
        self._spool.set_size(self._taken)

    def digests(self, chunk_size: int, progress: Progress) -> Sequence[bytes]:  # noqa: ARG002 - `take` had it
        progress(self._taken)
        return self._digests

    def mistrust(self) -> None:
        """Nothing is remembered."""

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.close_stream()
        if self._spool is not None:
            self._spool.close()

    def _absorb(self, stream: int, chunk_size: int, progress: Progress) -> None:
        zeros = zero_digest(chunk_size)
        for view in read_ahead(lambda buffer: _read_stream(stream, buffer), chunk_size):
            found = digest(view)
            if found != zeros:  # zeros stay a hole
                self._keep(view)
            self._digests.append(found)
            self._taken += len(view)
            progress(self._taken)

    def _keep(self, view: memoryview) -> None:
        try:
            if self._spool is not None:
                self._spool.write(self._taken, view)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise SourceError(
                f"{self.name}: {self._folder} is full after {self._taken} bytes: {error.strerror}"
            ) from None


def open_standard_input(folder: str) -> StreamSource:
    """`StreamSource` of descriptor 0; `SourceError` when a person would have to type it."""
    if os.isatty(_STDIN):
        raise SourceError("standard input is a terminal")
    return StreamSource("standard input", folder)


def describe_sources(
    sources: Sequence[Source], chunk_size: int, progress: Progress, *, is_phased: bool = False
) -> Manifest:
    """The manifest of ``sources``, all taken in, in their order; one alone has no name in it. ``is_phased``: each
    is a phase of its own. `SourceError` says which one cannot be read, or that they are too much."""
    digests: list[bytes] = []
    before = 0
    for source in sources:
        try:
            digests += source.digests(chunk_size, _shifted(progress, before))
        except OSError as error:
            raise SourceError(f"reading {source.name}: {error.strerror or error}") from None
        before += source.size
    try:
        if len(sources) == 1:
            return manifest.build(sources[0].size, chunk_size, digests)
        parts = [
            Part(source.name[: manifest.MAX_PART_NAME // 4], source.size, number if is_phased else 0)
            for number, source in enumerate(sources)
        ]
        return manifest.build_parts(parts, chunk_size, digests)
    except LocalProtocolError as error:
        raise SourceError(str(error)) from None


def suitable_chunk_size(sources: Sequence[Source]) -> int:
    """For all of them; of a stream that is not taken in yet nothing is known. Images say what their chunks are."""
    stored = {source.chunk_size for source in sources if isinstance(source, ImageSource)}
    if len(stored) == 1:
        return stored.pop()
    return manifest.suitable_chunk_size(sum(source.size for source in sources))


def join_stores(image: Manifest, sources: Sequence[Source]) -> Store:
    """What the head reads."""
    stores = [source.store for source in sources]
    return stores[0] if len(stores) == 1 else PartStore(image, stores)


def read_ahead(fill: Callable[[memoryview], int], chunk_size: int) -> Iterator[memoryview]:
    """What ``fill`` puts into a buffer of ``chunk_size``, again and again until it gives 0.

    It runs in a thread, at most `READ_AHEAD` chunks ahead; what it raises is raised here. A view is good until the
    next one is asked for.
    """
    free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[Slot, int] | Exception] = queue.SimpleQueue()
    for _ in range(READ_AHEAD):
        free.put(Slot(chunk_size))

    def run() -> None:
        while (slot := free.get()) is not None:
            try:
                count = fill(slot.memory)
            except Exception as error:
                full.put(error)
                return
            full.put((slot, count))
            if count == 0:
                return

    threading.Thread(target=run, name="bootd-read", daemon=True).start()
    try:
        while True:
            item = full.get()
            if isinstance(item, Exception):
                raise item
            slot, count = item
            if count == 0:
                return
            yield slot.memory[:count]
            free.put(slot)
    finally:
        free.put(None)


def _digest_store(store: Store, chunk_size: int, progress: Progress) -> Iterator[bytes]:
    position = 0

    def fill(buffer: memoryview) -> int:
        nonlocal position
        count = min(chunk_size, store.size - position)
        store.read(position, buffer[:count])
        position += count
        return count

    done = 0
    for view in read_ahead(fill, chunk_size):
        yield digest(view)
        done += len(view)
        progress(done)


def _read_stream(stream: int, buffer: memoryview) -> int:
    """Fills ``buffer``; less only at the end of the stream."""
    done = 0
    while done < len(buffer):
        count = os.readv(stream, [buffer[done:]])
        if count == 0:
            break
        done += count
    return done


def _shifted(progress: Progress, before: int) -> Progress:
    return lambda done: progress(before + done)
