"""What a receiver by hand writes: a file, complete under its name or not there at all, or a block device.

Nothing is opened for writing before the operator has named what is lost: a block device, and a file that is there
already, need their own name a second time.
"""

import contextlib
import fcntl
import os
import stat
import struct
from pathlib import Path

from bootd.errors import Exit, OperatorError
from bootd.member.context import describe
from bootd.member.store import BlockStore, FileStore, Store, StoreError

_BLKROGET = 0x125E  # linux/fs.h
_BLOCK = 512  # bytes; the unit of st_blocks, stat(2)


class Target:
    """Checked and, if it is a device, held alone (O_EXCL) until `close`. Made by `claim`."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._descriptor = descriptor
        self._store: Store | None = None

    @property
    def is_device(self) -> bool:
        return self._descriptor is not None

    def capacity(self) -> int:
        """Bytes that an image may have here, as it is now."""
        if self._descriptor is not None:
            return os.lseek(self._descriptor, 0, os.SEEK_END)
        status = os.statvfs(self.path.parent)
        with contextlib.suppress(OSError):  # none yet
            return status.f_bavail * status.f_frsize + self._part.stat().st_blocks * _BLOCK
        return status.f_bavail * status.f_frsize

    def open(self, size: int) -> Store:
        """The store for an image of ``size`` bytes; `StoreError` or `OSError` when there is no room."""
        capacity = self.capacity()
        if capacity < size:
            raise StoreError(f"{self.path} has room for {capacity} bytes, the image needs {size}")
        if self._descriptor is not None:
            self._store = BlockStore(self._descriptor, size)
        else:
            self._store = FileStore(str(self._part), size)
        return self._store

    def commit(self) -> None:
        """The image is verified: it gets its name. `OSError` when the file system refuses."""
        if self.is_device:
            return
        self._part.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Gives everything up. What was not committed stays beside the target as ``.part``."""
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def claim(path: str, confirmed: str) -> Target:
    """The target at ``path``. ``confirmed``: what the operator named as lost, "" for nothing.

    `OperatorError` (REFUSED) for anything that is there and was not named, is in use, or is read-only.
    """
    real = Path(path).resolve()
    try:
        status = real.stat()
    except FileNotFoundError:
        return _claim_file(real)
    except OSError as error:
        raise OperatorError(f"{path}: {describe(error)}", "name a file or a block device", Exit.INPUT) from None
    is_device = stat.S_ISBLK(status.st_mode)
    if not is_device and not stat.S_ISREG(status.st_mode):
        raise OperatorError(f"{path} is neither a file nor a block device", "name another target", Exit.REFUSED)
    if not confirmed or Path(confirmed).resolve() != real:
        what = "is a block device: everything on it would be lost" if is_device else "is there already"
        raise OperatorError(f"{path} {what}", f"if that is meant, add --yes-overwrite {path}", Exit.REFUSED)
    return _claim_device(real) if is_device else _claim_file(real)


def _claim_file(real: Path) -> Target:
    folder = real.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OperatorError(f"{folder} is no folder that can be written", "make it first", Exit.INPUT)
    return Target(real, None)


def _claim_device(real: Path) -> Target:
    try:
        descriptor = os.open(real, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        hint = "unmount it, and see lsblk for what else holds it"
        raise OperatorError(f"{real} cannot be opened alone: {describe(error)}", hint, Exit.REFUSED) from None
    try:
        (read_only,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKROGET, bytes(4)))
    except OSError as error:
        os.close(descriptor)
        raise OperatorError(f"{real}: {describe(error)}", "name another device", Exit.REFUSED) from None
    if read_only:
        os.close(descriptor)
        raise OperatorError(f"{real} is read-only", "name another device", Exit.REFUSED)
    return Target(real, descriptor)
