"""Files and names that are on stable storage when a function returns. Each raises `OSError`."""

import os
import secrets
from pathlib import Path

from bootd.wire.digest import Buffer


def write_file(path: Path, data: Buffer) -> None:
    """All of it under its name, for the owner alone, or nothing: under a hidden name until it is whole."""
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_all(descriptor: int, data: Buffer) -> None:
    """All of ``data``, not on the disk yet."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_file(path: Path) -> None:
    """The bytes of the file."""
    _sync(path, 0)


def sync_folder(path: str | Path) -> None:
    """The names that were given in the directory."""
    _sync(path, os.O_DIRECTORY)


def _sync(path: str | Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
