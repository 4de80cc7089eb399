"""A look at what is to be sent before a session is made of it: the daemon reads it, so the daemon checks it.

A source is an absolute path, or ``image:NAME@ID`` of the image store (`bootd.wire.stored`).
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootd.drivers.images.store import ImageStore
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import ImageManifest
from bootd.wire.stored import IMAGE, image_of, image_source
from bootd.wire.tree import Tree, decode_tree

SECTOR = 512  # bytes; the size of a disk image is a multiple of it


TABLE_SECTORS = (512, 4096)  # bytes: where the header of a GPT may be, in its sector 1 (UEFI 2.10, 5.3.2)


class Sources:
    """Looks at sources, those of ``images`` too. `OperatorError` (INPUT) when one cannot be deployed."""

    def __init__(self, images: Callable[[], ImageStore] | None = None) -> None:
        """``images`` is asked when the first image is named: files need no store."""
        self._images = images
        self._opened: dict[str, ImageManifest] = {}

    def resolve(self, text: str) -> str:
        """What an operator wrote as a source: a path stays; NAME, NAME:TAG or an id, maybe behind ``image:``,
        becomes the image that this is now."""
        if text.startswith("/"):
            return text
        if self._images is None:
            raise OperatorError(f"{text}: not an absolute path", "name the image with its full path", Exit.INPUT)
        store = self._images()
        id_ = image_of(text) or store.resolve(text.removeprefix(IMAGE))
        image = store.read_manifest(id_)
        source = image_source(image.name, id_)
        self._opened[source] = image
        return source

    def tree(self, source: str) -> Tree | None:
        """What is known of an image of files beside its archive; None for everything else."""
        image = self._opened.get(source)
        if image is None or image.kind != "files":
            return None
        return decode_tree(image.tree)

    def size(self, source: str) -> int:
        """Bytes."""
        image = self._opened.get(source)
        if image is None:
            return measure(source)
        _check_size(source, image.size)
        return image.size

    def sector(self, source: str) -> int:
        """Bytes of a sector that a GPT was made for; 0 when there is none."""
        if source not in self._opened:
            return sector_of(source)
        return _sector_in(self.head(source, TABLE_SECTORS[-1] + 8))

    def head(self, source: str, count: int) -> bytes:
        """The first ``count`` bytes, or all of a shorter one."""
        image = self._opened.get(source)
        if image is None or self._images is None:
            try:
                with Path(source).open("rb") as stream:
                    return stream.read(count)
            except OSError as error:
                raise OperatorError(
                    f"{source}: {error.strerror}", "name a file on the server", Exit.INPUT
                ) from None
        store = self._images()
        pieces = (store.read_chunk(image, index) for index in range(-(-min(count, image.size) // image.chunk_size)))
        return b"".join(bytes(piece) for piece in pieces)[:count]

    def table(self, source: str) -> dict[str, Any] | None:
        """The partition table of an image, as sfdisk told it; None for a file, which sfdisk can be asked about."""
        image = self._opened.get(source)
        return image.table if image is not None else None


def sector_of(path: str) -> int:
    """Bytes of a sector that the image at ``path`` was made for: where its GPT is. 0 when it does not tell."""
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(TABLE_SECTORS[-1] + 8)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "look at the kernel's log", Exit.INPUT) from None
    return _sector_in(data)


def _sector_in(data: bytes) -> int:
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
