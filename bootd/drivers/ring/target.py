"""What a receiver by hand writes: files, block devices, and streams for a command, a directory or standard output.

A file is complete under its name or not there at all. Nothing is opened for writing before the operator has named
what is lost: a block device, a file that is there already, and a directory with something in it need their own name
a second time.
"""

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from bootd.errors import Exit, OperatorError
from bootd.member.context import describe
from bootd.member.durable import sync_folder
from bootd.member.parts import PartStore
from bootd.member.sinks import command_store, output_store, unpack_store
from bootd.member.store import BlockStore, FileStore, Store, StoreError
from bootd.wire.control import Prepare
from bootd.wire.manifest import Manifest

_BLKROGET = 0x125E  # linux/fs.h
_BLOCK = 512  # bytes; the unit of st_blocks, stat(2)
_STDOUT = 1
MAX_TARGETS = 64


class Target(Protocol):
    """Where one part of what is received goes. ``label``: what the operator calls it."""

    label: str

    def capacity(self) -> int:
        """Bytes that a part may have here, as it is now."""

    def pool(self) -> object:
        """Targets whose pools are equal take their room from the same place."""

    def open(self, image: Manifest, number: int, order: Prepare) -> Store:
        """The store for part ``number``; `StoreError` or `OSError` when there cannot be one."""

    def commit(self) -> None:
        """All is verified. `OSError` when that cannot be made visible."""

    def close(self) -> None:
        """Gives up what the target holds; stores are closed before."""


class FileTarget:
    """``path`` gets its name when it is verified; what was not committed stays beside it as ``.part``."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        self._part = path.with_name(f"{path.name}.part")

    @property
    def path(self) -> Path:
        """Where it will be; symbolic links are resolved."""
        return self._path

    def capacity(self) -> int:
        status = os.statvfs(self._path.parent)
        free = status.f_bavail * status.f_frsize
        with contextlib.suppress(OSError):  # none yet
            free += self._part.stat().st_blocks * _BLOCK
        return free

    def pool(self) -> object:
        return self._path.parent.stat().st_dev

    def open(self, image: Manifest, number: int, order: Prepare) -> Store:
        if order.compare and self._path.exists() and not self._part.exists():
            self._path.rename(self._part)  # what is there is brought up to date; no name before that is proven
        return FileStore(str(self._part), image.parts[number].size)

    def commit(self) -> None:
        self._part.replace(self._path)
        sync_folder(self._path.parent)

    def close(self) -> None:
        """Nothing is held."""


class DeviceTarget:
    """A block device, held alone (O_EXCL) until `close`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.label = str(path)
        self._descriptor: int | None = descriptor

    @property
    def descriptor(self) -> int:
        """Of the open device; `StoreError` when it was given up."""
        if self._descriptor is None:
            raise StoreError(f"{self.label} was given up")
        return self._descriptor

    def capacity(self) -> int:
        return 0 if self._descriptor is None else os.lseek(self._descriptor, 0, os.SEEK_END)

    def pool(self) -> object:
        return self.label

    def open(self, image: Manifest, number: int, order: Prepare) -> Store:
        return BlockStore(self.descriptor, image.parts[number].size, order.zeros)

    def commit(self) -> None:
        """It is what it is."""

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class StreamTarget:
    """A command, a directory to unpack into, or standard output; ``build`` makes the store with its spool in
    ``folder``."""

    def __init__(self, label: str, folder: str, build: Callable[[Manifest, int, str], Store]) -> None:
        self.label = label
        self._folder = folder
        self._build = build

    def capacity(self) -> int:
        status = os.statvfs(self._folder)
        return status.f_bavail * status.f_frsize

    def pool(self) -> object:
        return Path(self._folder).stat().st_dev

    def open(self, image: Manifest, number: int, order: Prepare) -> Store:  # noqa: ARG002 - a stream begins anew
        return self._build(image, number, self._folder)

    def commit(self) -> None:
        """The command has ended well."""

    def close(self) -> None:
        """The store ends the command."""


class TargetSet:
    """One target for each part, in their order."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = tuple(targets)
        self._store: Store | None = None

    @property
    def label(self) -> str:
        return ", ".join(target.label for target in self._targets)

    def capacity(self) -> int:
        """Bytes for all of them; what several share counts once."""
        return sum({target.pool(): target.capacity() for target in self._targets}.values())

    def open(self, image: Manifest, order: Prepare) -> Store:
        """The store for ``image``; `StoreError` or `OSError` when a part has no target or no room."""
        if len(image.parts) != len(self._targets):
            names = ", ".join(part.name or "one stream" for part in image.parts[:8])
            raise StoreError(
                f"the sender has {len(image.parts)} parts ({names}), here are {len(self._targets)} targets"
            )
        self._check_room(image)
        stores: list[Store] = []
        try:
            for number, target in enumerate(self._targets):
                stores.append(target.open(image, number, order))
        except (StoreError, OSError):
            for store in stores:
                store.close()
            raise
        self._store = stores[0] if len(stores) == 1 else PartStore(image, stores)
        return self._store

    def commit(self) -> None:
        """All is verified: files get their names. `OSError` when a file system refuses."""
        for target in self._targets:
            target.commit()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        for target in self._targets:
            target.close()

    def _check_room(self, image: Manifest) -> None:
        needed: dict[object, int] = {}
        for part, target in zip(image.parts, self._targets, strict=True):
            pool = target.pool()
            needed[pool] = needed.get(pool, 0) + part.size
            if target.capacity() < needed[pool]:
                raise StoreError(
                    f"{target.label} has room for {target.capacity()} bytes, {needed[pool]} are needed there"
                )


def claim(path: str, confirmed: Collection[str]) -> Target:
    """The file or device at ``path``. ``confirmed``: what the operator named as lost.

    `OperatorError` (REFUSED) for anything that is there and was not named, is in use, or is read-only.
    """
    real = Path(path).resolve()
    try:
        status = real.stat()
    except FileNotFoundError:
        return _claim_file(real)
    except OSError as error:
        raise OperatorError(f"{path}: {describe(error)}", "name a file or a block device", Exit.INPUT) from None
    if stat.S_ISDIR(status.st_mode):
        raise OperatorError(f"{path} is a directory", f"say --unpack {path} for an archive", Exit.REFUSED)
    is_device = stat.S_ISBLK(status.st_mode)
    if not is_device and not stat.S_ISREG(status.st_mode):
        raise OperatorError(f"{path} is neither a file nor a block device", "name another target", Exit.REFUSED)
    if not _is_confirmed(real, confirmed):
        what = "is a block device: everything on it would be lost" if is_device else "is there already"
        raise OperatorError(f"{path} {what}", f"if that is meant, add --yes-overwrite {path}", Exit.REFUSED)
    return _claim_device(real) if is_device else _claim_file(real)


def claim_folder(path: str, spool: str, confirmed: Collection[str]) -> Target:
    """A directory that an archive is unpacked into; errors as of `claim`."""
    real = Path(path).resolve()
    try:
        with os.scandir(real) as entries:
            is_empty = next(entries, None) is None
    except OSError as error:
        raise OperatorError(f"{path}: {describe(error)}", "make the directory first", Exit.INPUT) from None
    if not os.access(real, os.W_OK | os.X_OK):
        raise OperatorError(f"{path} cannot be written", "name another directory", Exit.INPUT)
    if not is_empty and not _is_confirmed(real, confirmed):
        hint = f"if files in it may be replaced, add --yes-overwrite {path}"
        raise OperatorError(f"{path} is not empty", hint, Exit.REFUSED)
    return StreamTarget(
        str(real), spool, lambda image, number, folder: unpack_store(image, number, folder, str(real))
    )


def claim_command(line: str, spool: str) -> Target:
    """A shell command that gets the bytes on its standard input."""
    words = ["/bin/sh", "-c", line]
    return StreamTarget(line, spool, lambda image, number, folder: command_store(image, number, folder, words))


def claim_output(spool: str) -> Target:
    """Standard output. `OperatorError` when that is a terminal."""
    if os.isatty(_STDOUT):
        raise OperatorError("standard output is a terminal", "send it to a file or a pipe", Exit.USAGE)
    return StreamTarget(
        "standard output", spool, lambda image, number, folder: output_store(image, number, folder, _STDOUT)
    )


def check_spool(folder: str) -> str:
    """``folder``, which exists and can be written; `OperatorError` (INPUT) otherwise."""
    if not Path(folder).is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OperatorError(f"{folder} is no directory that can be written", "name one with --spool", Exit.INPUT)
    return folder


def _is_confirmed(real: Path, confirmed: Collection[str]) -> bool:
    return any(name and Path(name).resolve() == real for name in confirmed)


def _claim_file(real: Path) -> Target:
    folder = real.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OperatorError(f"{folder} is no folder that can be written", "make it first", Exit.INPUT)
    return FileTarget(real)


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
    return DeviceTarget(real, descriptor)
