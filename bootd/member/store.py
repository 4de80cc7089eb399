"""Where a member reads and writes its chunks: a block device, a file, or a read-only source.

Offsets and lengths in bytes. Buffers begin at a page boundary (see buffers.py). Errors are `OSError` as the kernel
gives them; `StoreError` when the thing itself cannot serve.
"""

import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
from typing import Any, Protocol

from bootd.member.direct import DirectReader
from bootd.wire.frames import Encoding

_BLKSSZGET = 0x1268  # logical sector size of a block device, linux/fs.h
_BLKZEROOUT = 0x127F  # struct {u64 start, length}: reads as zeros afterwards and stays allocated, linux/fs.h
_PUNCH = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h
_PAGE = mmap.PAGESIZE
_LARGEST = 4 << 20  # bytes of a chunk
# Page-aligned, for all threads: the kernel's one page of zeros, many times over.
_ZEROS = memoryview(mmap.mmap(-1, _LARGEST, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ))
WRITE_ZEROS, DISCARD_ZEROS = "write", "discard"  # how zeros reach a block device: `Prepare.zeros`
_NOT_THIS_DEVICE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENODEV, errno.ENOSYS, errno.EINVAL)

try:  # Python's os has no fallocate with a mode; a node's small Python may be without ctypes
    import ctypes

    _fallocate: Any = ctypes.CDLL(None, use_errno=True).fallocate
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
except (ImportError, AttributeError):
    _fallocate = None


class StoreError(Exception):
    """This source or target cannot be used; the text says why."""


class Store(Protocol):
    """What a member needs of its disk. Methods may be called from several threads at once."""

    size: int
    completes: bool  # whether the target has an end of its own, which `complete` waits for

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``."""

    def packed(self, offset: int, length: int) -> tuple[Encoding, bytes] | None:
        """These bytes as a chunk goes out, if that is how they are kept; None: they have to be read. Who asks again
        for what it was given has found it wrong: then it is checked, and `OSError` names what is damaged."""

    def write(self, offset: int, buffer: memoryview) -> None:
        """Write all of ``buffer``; afterwards the kernel has it."""

    def zero(self, offset: int, length: int) -> None:
        """Make ``length`` bytes read as zeros. Never skipped, unless it is known that they do already."""

    def sync(self) -> None:
        """Everything written before is on stable storage when this returns."""

    def read_back(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from the medium, not from the page cache."""

    def complete(self, stop: threading.Event) -> str:
        """Called once, when everything is verified, if the target `completes`: waits for its end, or for ``stop``.
        "" when it ended well, else why not."""

    def close(self) -> None:
        """Give up what the store opened itself."""


def read_exactly(descriptor: int, offset: int, buffer: memoryview) -> None:
    """`os.preadv` until ``buffer`` is full; `OSError` (EIO) at the end of the file."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, f"ends at byte {offset + done}")
        done += count


def write_exactly(descriptor: int, offset: int, buffer: memoryview) -> None:
    """`os.pwritev` until all of ``buffer`` is written."""
    done = 0
    while done < len(buffer):
        count = os.pwritev(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += count


def _punch(descriptor: int, offset: int, length: int) -> None:
    """fallocate(2) of a block device: unmapped, and zeros when read; EOPNOTSUPP where that is not certain."""
    if _fallocate is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if _fallocate(descriptor, _PUNCH, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _zero_out(descriptor: int, offset: int, length: int) -> None:
    fcntl.ioctl(descriptor, _BLKZEROOUT, struct.pack("QQ", offset, length))


class PlainStore:
    """What stores without an end of their own have in common."""

    completes = False

    def complete(self, stop: threading.Event) -> str:  # noqa: ARG002 - of the protocol
        return ""

    def packed(self, offset: int, length: int) -> tuple[Encoding, bytes] | None:  # noqa: ARG002 - of the protocol
        """Nothing is kept in the way of chunks."""
        return None

    def write(self, offset: int, buffer: memoryview) -> None:
        raise NotImplementedError

    def zero(self, offset: int, length: int) -> None:
        """Zeros are written like everything else."""
        self.write(offset, _ZEROS[:length])


class BlockStore(PlainStore):
    """A block device by a descriptor that is already open for reading and writing, and stays the caller's.

    I/O is direct (O_DIRECT is switched on here). The image may end inside a sector: the rest of that sector keeps
    what it holds. ``size``: bytes of the image; the device may be larger. ``zeros``: with `DISCARD_ZEROS` ranges
    of zeros are unmapped where the device promises that they read as zeros then, else made by the device itself,
    else written.
    """

    def __init__(self, descriptor: int, size: int, zeros: str = WRITE_ZEROS) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISBLK(status.st_mode):
            raise StoreError("the target is not a block device")
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end < size:
            raise StoreError(f"the target has {end} bytes, the image needs {size}")
        self.size = size
        self._descriptor = descriptor
        self.sector = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, struct.pack("i", 0)))[0]
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        except OSError as error:
            raise StoreError(f"the target cannot be written directly: {error.strerror}") from None
        self._tail_lock = threading.Lock()
        # Ways to zeros without sending them, the best one first; one that the device has not is struck out.
        self._ways = [_punch, _zero_out] if zeros == DISCARD_ZEROS else []

    def read(self, offset: int, buffer: memoryview) -> None:
        whole = len(buffer) - len(buffer) % self.sector
        read_exactly(self._descriptor, offset, buffer[:whole])
        if whole < len(buffer):
            with mmap.mmap(-1, _PAGE) as scratch, memoryview(scratch) as view, view[: self.sector] as block:
                read_exactly(self._descriptor, offset + whole, block)
                buffer[whole:] = block[: len(buffer) - whole]

    def write(self, offset: int, buffer: memoryview) -> None:
        whole = len(buffer) - len(buffer) % self.sector
        write_exactly(self._descriptor, offset, buffer[:whole])
        if whole < len(buffer):
            with (
                self._tail_lock,
                mmap.mmap(-1, _PAGE) as scratch,
                memoryview(scratch) as view,
                view[: self.sector] as block,
            ):
                read_exactly(self._descriptor, offset + whole, block)
                block[: len(buffer) - whole] = buffer[whole:]
                write_exactly(self._descriptor, offset + whole, block)

    def zero(self, offset: int, length: int) -> None:
        whole = length - length % self.sector
        for way in tuple(self._ways) if whole else ():
            try:
                way(self._descriptor, offset, whole)
            except OSError as error:
                if error.errno not in _NOT_THIS_DEVICE:
                    raise
                if way in self._ways:
                    self._ways.remove(way)
            else:
                offset, length = offset + whole, length - whole
                break
        if length:
            super().zero(offset, length)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def read_back(self, offset: int, buffer: memoryview) -> None:
        self.read(offset, buffer)

    def close(self) -> None:
        """The descriptor is the caller's."""


class FileStore(PlainStore):
    """A regular file of ``size`` bytes, made when it is missing."""

    def __init__(self, path: str, size: int) -> None:
        self._take(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600), path, size)

    def _take(self, descriptor: int, path: str, size: int) -> None:
        """Make the open file ``descriptor`` the store's own; it is closed if that fails."""
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StoreError(f"{path} is not a regular file")
        try:
            os.ftruncate(descriptor, size)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self.size = size

    def read(self, offset: int, buffer: memoryview) -> None:
        read_exactly(self._descriptor, offset, buffer)

    def write(self, offset: int, buffer: memoryview) -> None:
        write_exactly(self._descriptor, offset, buffer)

    def zero(self, offset: int, length: int) -> None:
        """A hole reads as zeros (lseek(2), SEEK_DATA) and stays one; all else is written."""
        try:
            data = os.lseek(self._descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data up to the end of the file
                raise
            return
        if data < offset + length:
            super().zero(offset, length)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def read_back(self, offset: int, buffer: memoryview) -> None:
        """Drops the clean pages of the range first; a file system without a medium (tmpfs) has only those."""
        os.posix_fadvise(self._descriptor, offset, len(buffer), os.POSIX_FADV_DONTNEED)
        read_exactly(self._descriptor, offset, buffer)

    def close(self) -> None:
        os.close(self._descriptor)


class SourceStore(PlainStore):
    """A regular file or block device that the head reads: all of it, or ``size`` bytes from ``start`` on."""

    def __init__(self, path: str, start: int = 0, size: int | None = None) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}") from None
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            os.close(descriptor)
            raise StoreError(f"{path} is neither a regular file nor a block device")
        end = os.lseek(descriptor, 0, os.SEEK_END)
        self.size = end - start if size is None else size
        self._descriptor, self._start = descriptor, start
        if start + self.size > end:
            os.close(descriptor)
            raise StoreError(f"{path} has {end} bytes, {start + self.size} were expected")
        if self.size == 0:
            os.close(descriptor)
            raise StoreError(f"{path} is empty")
        self._direct = DirectReader(descriptor) if stat.S_ISBLK(mode) else None
        os.posix_fadvise(descriptor, start, self.size, os.POSIX_FADV_SEQUENTIAL)

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        return self._descriptor

    def read(self, offset: int, buffer: memoryview) -> None:
        if self._direct is None:
            read_exactly(self._descriptor, self._start + offset, buffer)
        else:
            buffer[:] = self._direct.read(self._start + offset, len(buffer))

    def write(self, offset: int, buffer: memoryview) -> None:
        raise OSError(errno.EROFS, f"a source is never written: {len(buffer)} bytes at {offset}")

    def sync(self) -> None:
        """Nothing was written."""

    def read_back(self, offset: int, buffer: memoryview) -> None:
        self.read(offset, buffer)

    def close(self) -> None:
        os.close(self._descriptor)
