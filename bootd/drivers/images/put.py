"""A file or a block device of this machine becomes an image."""

import errno
import json
import os
import stat
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from bootd.drivers.images.store import ImageStore
from bootd.drivers.images.times import timestamp
from bootd.drivers.jobs.tell import Result, Tell
from bootd.drivers.source import measure
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import ImageManifest
from bootd.images.names import parse_reference
from bootd.member.direct import DirectReader
from bootd.wire.digest import Buffer
from bootd.wire.manifest import suitable_chunk_size

THREADS = 2
AHEAD = 8  # chunks in memory
_Item = TypeVar("_Item")
_Value = TypeVar("_Value")


def put_file(
    tell: Tell,
    *,
    store: str,
    path: str,
    name: str,
    user: str,
    comment: str,
    origin: str = "",
    tags: Iterable[str] = (),
    kind: str = "disk",
) -> Result:
    """Store the raw disk image or block device ``path``; chunks that the store has are not written again."""
    size = measure(path)
    parse_reference(name)
    chunk_size = suitable_chunk_size(size)
    with ImageStore(Path(store)) as images, _open(path) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        before = os.fstat(file.fileno())
        images.missing(())  # takes over what an interrupted one has left
        keeper, reader = Keeper(images), _Reader(file.fileno())
        names: list[str] = []

        def keep(offset: int) -> tuple[str, int]:
            length = min(chunk_size, size - offset)
            return keeper.keep(reader.read(offset, length)), length

        done = 0
        for found, length in in_order(keep, range(0, size, chunk_size)):
            names.append(found)
            done += length
            tell.progress(done, size, "read")
        after = os.fstat(file.fileno())
        if stat.S_ISREG(before.st_mode) and (before.st_mtime_ns, before.st_size) != (
            after.st_mtime_ns,
            after.st_size,
        ):
            raise OperatorError(
                f"{path} was changed while it was read", "stop what writes it, then again", Exit.INPUT
            )
        table, sector = read_table(path)
        manifest = ImageManifest(
            name=name,
            user=user,
            created=timestamp(),
            comment=comment,
            origin=origin or path[:255],
            kind="partition" if kind == "partition" else "disk",
            size=size,
            sector=sector,
            chunk_size=chunk_size,
            table=table,
            chunks=tuple(names),
        )
        id_ = images.commit(manifest, tags)
    return {
        "id": id_,
        "name": name,
        "size": size,
        "chunks": len(names),
        "new_chunks": keeper.new_chunks,
        "new_bytes": keeper.new_bytes,
    }


class Keeper:
    """Puts chunks into a store that may have them, and counts what was new. For several threads."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.new_chunks = 0
        self.new_bytes = 0  # raw

    def keep(self, raw: Buffer) -> str:
        """The name of the chunk in a manifest."""
        if is_zero(raw):
            return ""
        found, is_new = self._store.add(raw)
        if is_new:
            with self._lock:
                self.new_chunks += 1
                self.new_bytes += len(raw)
        return found


def is_zero(raw: Buffer) -> bool:
    """Whether there are only zeros in ``raw``, at most a chunk."""
    return raw == _zeros(len(raw))


@lru_cache(maxsize=4)
def _zeros(length: int) -> bytes:
    return bytes(length)


def in_order(work: Callable[[_Item], _Value], items: Iterable[_Item]) -> Iterator[_Value]:
    """What ``work`` makes of each of ``items``, in their order; done by `THREADS` threads, few ahead."""
    with ThreadPoolExecutor(THREADS, "bootd-image") as threads:
        waiting: deque[Future[_Value]] = deque()
        try:
            for item in items:
                waiting.append(threads.submit(work, item))
                if len(waiting) >= AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read_table(path: str) -> tuple[dict[str, Any] | None, int]:
    """The partition table as sfdisk tells it, None if there is none; bytes of a sector."""
    done = subprocess.run(["sfdisk", "--json", path], capture_output=True, timeout=60)
    if done.returncode:
        return None, 512
    table: dict[str, Any] = json.loads(done.stdout)["partitiontable"]
    return table, int(table.get("sectorsize", 512))


def _open(path: str) -> BinaryIO:
    """To read. A disk that is mounted, or a part of something, changes while it is read: it is refused."""
    exclusive = os.O_EXCL if stat.S_ISBLK(Path(path).stat().st_mode) else 0  # see open(2)
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | exclusive), "rb", buffering=0)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise OperatorError(f"cannot open {path}: {error.strerror}", "look at its mode", Exit.INPUT) from None
        raise OperatorError(
            f"{path} is in use: mounted, or a part of LVM, RAID or the like", "unmount it first", Exit.BUSY
        ) from None


class _Reader:
    """Reads into a buffer of each thread: what `read` gives is good until the same thread reads again."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._local = threading.local()
        is_device = stat.S_ISBLK(os.fstat(descriptor).st_mode)
        self._direct = DirectReader(descriptor) if is_device else None

    def read(self, offset: int, length: int) -> Buffer:
        if self._direct is not None:
            return self._direct.read(offset, length)
        buffer: bytearray | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) != length:
            buffer = self._local.buffer = bytearray(length)
        done = 0
        with memoryview(buffer) as view:
            while done < length:
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
                if not count:
                    text = f"it ends at byte {offset + done}"
                    raise OperatorError(text, "stop what writes it, then again", Exit.INPUT)
                done += count
        return buffer
