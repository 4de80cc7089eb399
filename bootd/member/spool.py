"""A file without a name, for a stream that must be read or written at any place: gone with the process."""

import errno
import os
import tempfile

from bootd.member.store import FileStore, StoreError

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


class Spool(FileStore):
    """An unlinked file in ``folder``, sparse where nothing or zeros are written. ``size`` in bytes; 0 for one that
    grows with what is written, until `set_size`. `StoreError` when it cannot be made or has no room."""

    def __init__(self, folder: str, size: int = 0) -> None:
        try:
            status = os.statvfs(folder)
            if status.f_bavail * status.f_frsize < size:
                raise StoreError(
                    f"{folder} has room for {status.f_bavail * status.f_frsize} bytes, {size} are to be kept there"
                )
            self._take(_open(folder), folder, size)
        except OSError as error:
            raise StoreError(f"cannot spool in {folder}: {error.strerror}") from None

    def set_size(self, size: int) -> None:
        """All of the stream is there: it ends after ``size`` bytes."""
        os.ftruncate(self._descriptor, size)
        self.size = size


def _open(folder: str) -> int:
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:  # a file system without O_TMPFILE
            raise
    descriptor, path = tempfile.mkstemp(prefix=".bootd-", dir=folder)
    os.unlink(path)
    return descriptor
