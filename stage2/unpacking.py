"""A tree of files on its way to this node's disks: unpacked as it arrives, proven, customised.

What arrives is spooled to a file without a name on the largest of the new file systems; the ring serves successors
from there, and tar is fed from it. The member counts as verified when tar has ended well, every member of the
archive was compared with what is on the disks, and the tree was made this node's own.
"""

import contextlib
import errno
import io
import os
import posixpath
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from bootd.member import archive
from bootd.member.child import Child
from bootd.member.sinks import Outlet, StreamStore
from bootd.member.spool import Spool
from bootd.member.store import StoreError
from bootd.wire.manifest import Manifest
from bootd.wire.tree import Mount, TreeOrder
from stage2 import proof
from stage2.made import Made

SIMPLE = ("vfat", "msdos", "exfat", "ntfs")  # file systems without owners and modes
OVERHEAD = 32  # one in so many bytes goes for what describes files
SHOW_SECONDS = 10.0
DROP_CACHES = "/proc/sys/vm/drop_caches"


@dataclass(frozen=True)
class Room:
    """What is free in a mounted file system. Bytes and inodes; ``inodes`` None = made as they are wanted."""

    mount: str
    size: int
    inodes: int | None


def rooms(made: Made, root: str) -> list[Room]:
    """Of all that is mounted at ``root``. OSError."""
    found = []
    for filesystem in made.mounted:
        status = os.statvfs(f"{root}{filesystem.mount}")
        found.append(Room(filesystem.mount, status.f_bfree * status.f_frsize, status.f_ffree or None))
    return found


def place_of(path: str, mounts: list[str]) -> str:
    """The one of ``mounts`` that ``path`` lies in."""
    inside = [mount for mount in mounts if mount in ("/", path) or path.startswith(f"{mount}/")]
    return max(inside, key=len, default="")


def choose_spool(found: list[Room], mounts: tuple[Mount, ...], size: int) -> str:
    """The mount point whose file system takes the spool of ``size`` bytes beside what is unpacked there.
    `StoreError` when a file system is too small for its own, or none has room for the spool."""
    places = [room.mount for room in found]
    left = {room.mount: room.size for room in found}
    inodes = {room.mount: room.inodes for room in found}
    for mount in mounts:
        if not mount.path:
            continue
        place = place_of(mount.path, places)
        if not place:
            raise StoreError("nothing is mounted at / for the tree")
        need = mount.used + mount.used // OVERHEAD
        if need > left[place]:
            text = f"{place} has room for {left[place]} bytes, what goes there takes {need}"
            raise StoreError(f"{text}: make it larger by {need - left[place]}")
        left[place] -= need
        there = inodes[place]
        if there is not None:
            if mount.files > there:
                raise StoreError(f"{place} has room for {there} files, {mount.files} go there: make it larger")
            inodes[place] = there - mount.files
    best = max(left, key=lambda place: left[place])
    need = size + size // OVERHEAD
    if need > left[best]:
        text = f"beside what is unpacked {best} has room for {left[best]} bytes, and {need} are on their way"
        raise StoreError(f"{text}: the layout needs {need - left[best]} bytes more")
    return best


class SpoolFile(io.RawIOBase):
    """A spool as a file to read. Offsets in bytes."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self._position = spool, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._spool.size}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._spool.size - self._position))
        if count:
            self._spool.read(self._position, view[:count])
            self._position += count
        return count


class TreeStore(StreamStore):
    """The one part of ``manifest``, an archive, unpacked into the tree that is mounted at ``root``. `StoreError`
    when it has no room. ``finish`` is called with the tree proven, and gives "" or why the node is not done."""

    def __init__(
        self,
        manifest: Manifest,
        order: TreeOrder,
        made: Made,
        root: str,
        *,
        finish: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        self._order, self._made, self._root = order, made, root
        self._finish, self._say = finish, say
        self.idle = threading.Event()  # nothing works on the tree
        self.idle.set()
        self._simple = tuple(one.mount for one in made.mounted if one.kind in SIMPLE)
        try:
            place = choose_spool(rooms(made, root), order.tree.mounts, manifest.size)
        except OSError as error:
            raise StoreError(f"the new file systems cannot be looked at: {error.strerror}") from None
        self._file = Spool(f"{root}{place}", manifest.size)
        say(f"spool of {manifest.size} bytes in {place}")
        super().__init__(manifest, 0, self._file, self._start_tar)

    def _start_tar(self, _first: bytes) -> Outlet:
        self._say("kainstall2: unpacking the files")
        return Child(archive.extract_words(self._root, self._order.exclude, self._simple), feeds=True)

    def complete(self, stop: threading.Event) -> str:
        """Everything has arrived and is proven to be what was sent: now the same of the tree."""
        self.idle.clear()
        try:
            reason = super().complete(stop)
            return f"unpacking: {reason}" if reason else self._work_on(stop)
        finally:
            self.idle.set()

    def _work_on(self, stop: threading.Event) -> str:
        """Prove the unpacked tree, then let it be finished; "" or why not."""
        try:
            if self._simple:
                self._unpack_simple()
            begun = time.monotonic()
            self._settle()
            count = self._prove(stop)
            self._say(f"files proven: {count} in {time.monotonic() - begun:.1f} s")
            if stop.is_set():
                return "stopped before the tree was finished"
            reason = self._finish()
            os.sync()
        except proof.DifferenceError as error:
            return f"the tree is not what was sent: {error}"
        except (OSError, tarfile.TarError) as error:
            return f"the tree cannot be proven: {getattr(error, 'strerror', '') or error}"
        return reason

    def _unpack_simple(self) -> None:
        """What belongs on file systems without owners comes last: tar would end badly for every owner there."""
        with self._archive() as file, tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as members:
            for member in proof.members_of(members):
                path = posixpath.normpath(f"/{member.name}")
                if archive.is_below(path, self._simple) and not archive.is_below(path, self._order.exclude):
                    self._unpack_member(members, member, path)

    def _unpack_member(self, members: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if member.isdir():
            os.makedirs(f"{self._root}{path}", exist_ok=True)
            return
        content = members.extractfile(member) if member.isreg() else None
        if content is None:
            raise OSError(errno.EOPNOTSUPP, f"{path} is neither a file nor a folder, and FAT knows nothing else")
        with content, open(f"{self._root}{path}", "wb") as target:
            shutil.copyfileobj(content, target, proof.PIECE)

    def _settle(self) -> None:
        """All on the disks, and as little as possible of it in memory: the proof is to read the disks."""
        for filesystem in self._made.mounted:
            descriptor = os.open(f"{self._root}{filesystem.mount}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        os.sync()
        with contextlib.suppress(OSError), open(DROP_CACHES, "w") as stream:
            stream.write("3\n")

    def _prove(self, stop: threading.Event) -> int:
        shown = time.monotonic()

        def tick(done: int) -> None:
            nonlocal shown
            if stop.is_set():
                raise proof.DifferenceError("stopped before everything was compared")
            if time.monotonic() - shown >= SHOW_SECONDS:
                shown = time.monotonic()
                self._say(f"files: {done * 100 // max(1, self.size)} % compared")

        with self._archive() as file:
            return proof.compare(file, self._root, exclude=self._order.exclude, simple=self._simple, tick=tick)

    def _archive(self) -> BinaryIO:
        return io.BufferedReader(SpoolFile(self._file), proof.PIECE)
