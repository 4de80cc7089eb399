"""A look at the image before a session is made of it: the daemon reads it, so the daemon checks it."""

import os
import stat
from pathlib import Path

from bootd.errors import Exit, OperatorError

SECTOR = 512  # bytes; the size of a disk image is a multiple of it


TABLE_SECTORS = (512, 4096)  # bytes: where the header of a GPT may be, in its sector 1 (UEFI 2.10, 5.3.2)


def sector_of(path: str) -> int:
    """Bytes of a sector that the image at ``path`` was made for: where its GPT is. 0 when it does not tell."""
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(TABLE_SECTORS[-1] + 8)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "look at the kernel's log", Exit.INPUT) from None
    return next((size for size in TABLE_SECTORS if data[size : size + 8] == b"EFI PART"), 0)


def measure(path: str) -> int:
    """Size in bytes of the image at ``path``; `OperatorError` (INPUT) when it cannot be deployed."""
    if not path.startswith("/"):
        raise OperatorError(f"{path}: not an absolute path", "name the image with its full path", Exit.INPUT)
    try:
        # Non-blocking, so that a named pipe is refused and not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise OperatorError(
            f"{path}: no such file on the server", "the daemon reads the image: name a file there", Exit.INPUT
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OperatorError(f"{path}: {reason}", "the daemon must be able to read the image", Exit.INPUT) from None
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise OperatorError(
                f"{path}: neither a file nor a block device", "name a raw disk image or a disk", Exit.INPUT
            )
        size = os.lseek(fd, 0, os.SEEK_END)
        if size and not os.pread(fd, 1, 0):
            raise OperatorError(f"{path}: nothing can be read", "look at the kernel's log", Exit.INPUT)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "look at the kernel's log", Exit.INPUT) from None
    finally:
        os.close(fd)
    _check_size(path, size)
    return size


def _check_size(path: str, size: int) -> None:
    if size == 0:
        raise OperatorError(f"{path}: is empty", "name a raw disk image with content", Exit.INPUT)
    if size % SECTOR:
        raise OperatorError(
            f"{path}: {size} bytes are no whole number of {SECTOR}-byte sectors",
            "a raw disk image is wanted: unpack it (qemu-img convert -O raw, gunzip), or pad it with truncate",
            Exit.INPUT,
        )
