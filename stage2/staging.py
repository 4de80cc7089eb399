"""A new tree beside the present one, and the swap: whoever dies in the middle keeps the old tree.

A folder is swapped in one step of the kernel. The root of a file system cannot be: its entries are swapped one by
one, behind a mark, and who is interrupted there goes on at the next time.
"""

import ctypes
import os
import shutil
from collections.abc import Iterable

from bootd.member.durable import sync_folder

STAGE = ".bootd-sync"  # at the root of a file system; beside a folder: the same with its name behind
_NEW, _OLD, _EARLIER, _SWAPPING = "new", "old", "earlier", "swapping"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class StagingError(Exception):
    """The trees cannot be swapped; the text says why."""


class Stage:
    """For ``target``, an absolute path of a folder that is there."""

    def __init__(self, target: str) -> None:
        self.target = target.rstrip("/") or "/"
        self.is_root = os.path.ismount(self.target)
        parent, name = os.path.split(self.target)
        self.folder = f"{self.target}/{STAGE}" if self.is_root else f"{parent.rstrip('/')}/{STAGE}-{name}"
        self.new, self.old = f"{self.folder}/{_NEW}", f"{self.folder}/{_OLD}"
        self._earlier, self._mark = f"{self.folder}/{_EARLIER}", f"{self.folder}/{_SWAPPING}"

    def begin(self) -> list[str]:
        """Ready for a new tree. Trees to link to: the present one, and what an interrupted time has got."""
        self.finish()
        if os.path.isdir(self.new):  # its files may be links to the present ones: nobody may write to it again
            _remove(self._earlier)
            os.rename(self.new, self._earlier)
        os.makedirs(self.new)
        os.chmod(self.folder, 0o700)
        return [self.target, *([self._earlier] if os.path.isdir(self._earlier) else [])]

    def finish(self) -> bool:
        """A swap that was interrupted is carried on; whether there was one."""
        was_swapping = os.path.exists(self._mark)
        if was_swapping:
            self._swap_entries()
        if not os.path.isdir(self.new):
            _remove(self.folder)
        return was_swapping

    def swap(self) -> None:
        """The new tree takes the place of the present one. `StagingError`, OSError."""
        os.sync()  # names are worth nothing before what they name is on the disk
        if self.is_root:
            os.makedirs(self.old, exist_ok=True)
            with open(f"{self._mark}.tmp", "w", errors="surrogateescape") as mark:
                mark.write("\0".join(os.listdir(self.new)))
                mark.flush()
                os.fsync(mark.fileno())
            os.rename(f"{self._mark}.tmp", self._mark)
            sync_folder(self.folder)
            self._swap_entries()
        else:
            if os.stat(self.new).st_dev != os.stat(self.target).st_dev:
                raise StagingError(f"{self.target} is not in the file system of the folder above it")
            _exchange(self.new, self.target)
            sync_folder(os.path.dirname(self.target))
        _remove(self.folder)

    def _swap_entries(self) -> None:
        """What the new tree has comes, what it has not goes; may be done again after any of its steps."""
        with open(self._mark, errors="surrogateescape") as mark:
            coming = set(mark.read().split("\0"))
        for name in set(os.listdir(self.target)) - coming - {STAGE}:
            os.rename(f"{self.target}/{name}", f"{self.old}/{name}")
        for name in os.listdir(self.new):
            if os.path.lexists(f"{self.target}/{name}"):
                os.rename(f"{self.target}/{name}", f"{self.old}/{name}")
            os.rename(f"{self.new}/{name}", f"{self.target}/{name}")
        shutil.copystat(self.new, self.target)
        found = os.stat(self.new)
        os.chown(self.target, found.st_uid, found.st_gid)
        os.chmod(self.target, found.st_mode & 0o7777)
        os.sync()
        os.unlink(self._mark)
        _remove(self.new)


def mounts_below(target: str, mounts: Iterable[str]) -> list[str]:
    """Those of ``mounts`` that lie below ``target``."""
    prefix = f"{target.rstrip('/')}/"
    return [mount for mount in mounts if mount.startswith(prefix) and mount != prefix]


def _exchange(one: str, other: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE: at no moment is either name missing."""
    library = ctypes.CDLL(None, use_errno=True)
    done = library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done != 0:
        number = ctypes.get_errno()
        raise StagingError(f"{other} cannot be swapped: {os.strerror(number)}")


def _remove(path: str) -> None:
    if os.path.lexists(path):
        shutil.rmtree(path)
