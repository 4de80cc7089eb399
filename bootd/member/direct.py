"""Reading a block device past the page cache: one request for a whole chunk, where the cache asks for a few pages
at a time and waits for each.
"""

import errno
import fcntl
import mmap
import os
import struct
import threading

_BLKSSZGET = 0x1268  # logical sector size of a block device, linux/fs.h
_REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)


class DirectReader:
    """Reads the open block device ``descriptor``, which stays the caller's. For several threads."""

    def __init__(self, descriptor: int) -> None:
        """`OSError` when it is no block device. One that cannot be read directly is read through the cache."""
        (self._sector,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))
        self._descriptor = descriptor
        self._local = threading.local()
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise

    def read(self, offset: int, length: int) -> memoryview:
        """``length`` bytes from ``offset``, good until the same thread reads again. `OSError` (EIO) at the end."""
        begin = offset - offset % self._sector
        wanted = offset + length - begin
        buffer = self._buffer(wanted + -wanted % self._sector)
        done = 0
        while done < wanted:
            count = os.preadv(self._descriptor, [buffer[done:]], begin + done)
            if count == 0:
                raise OSError(errno.EIO, f"ends at byte {begin + done}")
            done += count
        return buffer[offset - begin : wanted]

    def _buffer(self, size: int) -> memoryview:
        """Page-aligned, of this thread."""
        memory: memoryview | None = getattr(self._local, "memory", None)
        if memory is None or len(memory) < size:
            memory = self._local.memory = memoryview(mmap.mmap(-1, size))
        return memory[:size]
