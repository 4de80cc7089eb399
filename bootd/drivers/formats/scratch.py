"""Sparse files without a name, and the tools that read or write them: gone with the process, whatever ends it."""

import errno
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bootd.errors import OperatorError
from bootd.images.foreign.errors import ForeignError

PIECE = 1 << 20  # bytes read at once
_SECONDS = 60


class Scratch:
    """A file of ``size`` zero bytes in ``folder``. Close it."""

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by `close`
            self._file.truncate(size)
        except OSError as error:
            raise no_room(folder, error) from None
        self.descriptor = self._file.fileno()
        self.path = f"/proc/self/fd/{self.descriptor}"  # for a child that inherits it

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``."""
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self.descriptor, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise no_room(Path("the scratch file"), error) from None

    def data(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """What was written from ``start`` to ``end``: offsets and bytes, rising."""
        while start < end:
            try:
                start = max(start, os.lseek(self.descriptor, start, os.SEEK_DATA))
                stop = min(end, os.lseek(self.descriptor, start, os.SEEK_HOLE))
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole
                    return
                raise
            while start < stop:
                piece = os.pread(self.descriptor, min(PIECE, stop - start), start)
                if not piece:
                    return
                yield start, piece
                start += len(piece)

    def run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
        """A tool that was given `path`; ``text`` is its standard input."""
        return run(*command, text=text, descriptors=(self.descriptor,))


def run(
    *command: str, text: str = "", descriptors: tuple[int, ...] = (), seconds: float | None = _SECONDS
) -> subprocess.CompletedProcess[bytes]:
    """A tool and its answer, in English; `OperatorError` when it is not installed."""
    try:
        return subprocess.run(
            command,
            input=text.encode(),
            capture_output=True,
            pass_fds=descriptors,
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        )
    except FileNotFoundError:
        raise OperatorError(
            f"{command[0]} is not installed", f"install the Debian package that has {command[0]}"
        ) from None
    except subprocess.TimeoutExpired:
        raise ForeignError(f"{command[0]} did not end within {seconds} seconds") from None


def read_table(scratch: Scratch) -> dict[str, Any] | None:
    """The partition table as ``sfdisk --json`` tells it, None if there is none. Its device is /dev/sda."""
    done = scratch.run("sfdisk", "--json", scratch.path)
    if done.returncode:
        return None
    table: dict[str, Any] = json.loads(done.stdout)["partitiontable"]
    table["device"] = "/dev/sda"
    for part in table.get("partitions", ()):
        part["node"] = "/dev/sda" + part["node"].removeprefix(scratch.path).removeprefix("p")
    return table


def write_table(scratch: Scratch, script: str) -> None:
    """Have sfdisk write the table that ``script`` describes."""
    done = scratch.run(
        "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never", "--wipe-partitions=never",
        scratch.path, text=script,
    )  # fmt: skip
    if done.returncode:
        text = done.stderr.decode("utf-8", "replace").replace(scratch.path, "the disk").strip()
        raise ForeignError(f"sfdisk does not take the partition table: {text[-300:]}")


def no_room(folder: Path, error: OSError) -> OperatorError:
    """What an operator is told when a scratch file cannot be written."""
    return OperatorError(f"cannot write a scratch file in {folder}: {error.strerror}", "make room there")
