"""Directories and files of foreign images: plain files only, whatever their names say."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bootd.errors import Exit, OperatorError
from bootd.images.foreign.errors import ForeignError

MAX_FILES = 10_000
PIECE = 1 << 16  # bytes read at once


class Directory:
    """A `bootd.images.foreign.layout.Folder`. A symbolic link in it is refused: it may lead anywhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        raise ForeignError(f"{entry.name} is a symbolic link: copy the file itself there")
                    if entry.is_file(follow_symlinks=False):
                        names.append(entry.name)
                    if len(names) > MAX_FILES:
                        raise ForeignError(f"more than {MAX_FILES} files: name the directory of one image")
        except OSError as error:
            raise unreadable(path, error) from None
        self.names = frozenset(names)

    def read(self, name: str, limit: int) -> bytes:
        """A whole small file."""
        if name not in self.names:
            raise ForeignError(f"{name} is not there")
        descriptor = open_plain(self.path / name)
        try:
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise ForeignError(f"{name} has {size} bytes, at most {limit} can belong there")
            return b"".join(iter(lambda: os.read(descriptor, PIECE), b""))
        finally:
            os.close(descriptor)

    def size(self, names: Sequence[str]) -> int:
        """Bytes of files together."""
        return sum(os.lstat(self.path / name).st_size for name in names)


def open_plain(path: Path) -> int:
    """A descriptor of a plain file or block device, for reading; `ForeignError` for a link or anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114 - no link is followed
            raise ForeignError(f"{path.name} is a symbolic link: name the file itself") from None
        raise unreadable(path, error) from None
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
        os.close(descriptor)
        raise ForeignError(f"{path.name} is no plain file")
    return descriptor


def read_files(paths: Sequence[Path], on_read: Callable[[int], None]) -> Iterator[bytes]:
    """The bytes of files one after the other; ``on_read`` is told how many came."""
    for path in paths:
        descriptor = open_plain(path)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            before = os.fstat(descriptor)
            while piece := os.read(descriptor, PIECE):
                on_read(len(piece))
                yield piece
            after = os.fstat(descriptor)
            if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                raise ForeignError(f"{path.name} was changed while it was read: stop what writes it, then again")
        except OSError as error:
            raise unreadable(path, error) from None
        finally:
            os.close(descriptor)


def unreadable(path: Path, error: OSError) -> OperatorError:
    """What an operator is told of ``error``."""
    return OperatorError(f"{path}: {error.strerror or error}", "name a file that can be read", Exit.INPUT)
