"""What a head reads: a file, a device, numbered parts of one, standard input, or nothing at all (dummy)."""

import os
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from bootd.dolly.config import Transfer
from bootd.errors import Exit, OperatorError

PIECE = 1 << 20  # bytes
_STANDARD_INPUT = ("-", "/dev/stdin")
_GZIP = 31  # wbits of zlib for a gzip stream


class Stream:
    """``size``: bytes on the wire; None when only the end will tell. `OperatorError` (INPUT) when it cannot be read
    to its end."""

    def __init__(self, transfer: Transfer) -> None:
        self.name = transfer.infile
        self.warning = ""
        self._compress = transfer.compress
        self._paths: list[Path] = []
        self._sizes: list[int] = []
        self._is_input = transfer.infile in _STANDARD_INPUT
        if self._is_input:
            if transfer.is_split:
                raise OperatorError("standard input cannot be split", "leave split away", Exit.USAGE)
        elif transfer.is_split:
            self._paths = _parts(transfer.infile)
        else:
            self._paths = [Path(transfer.infile)]
        for path in self._paths:
            self._sizes.append(_size(path))
            self.warning = self.warning or _use(path)
        self.size = None if self._is_input or self._compress else sum(self._sizes)

    @property
    def parts(self) -> list[str]:
        """The files that are read, in their order."""
        return [str(path) for path in self._paths]

    def pieces(self) -> Iterator[bytes]:
        """The bytes that go over the wire."""
        if not self._compress:
            yield from self._read()
            return
        machine = zlib.compressobj(wbits=_GZIP)
        for piece in self._read():
            if packed := machine.compress(piece):
                yield packed
        yield machine.flush()

    def _read(self) -> Iterator[bytes]:
        if self._is_input:
            while piece := sys.stdin.buffer.read(PIECE):
                yield piece
            return
        for path, size in zip(self._paths, self._sizes, strict=True):
            try:
                yield from _read(path, size)
            except OSError as error:
                raise OperatorError(f"{path}: {error.strerror}", "nothing is whole", Exit.INPUT) from None


def _read(path: Path, size: int) -> Iterator[bytes]:
    done = 0
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while done < size:
            piece = file.read(min(PIECE, size - done))
            if not piece:
                raise OperatorError(
                    f"{path} ends at byte {done}, it had {size}",
                    "it was changed meanwhile: begin again",
                    Exit.INPUT,
                )
            done += len(piece)
            yield piece


def _size(path: Path) -> int:
    try:
        with path.open("rb", buffering=0) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                raise OperatorError(f"{path} is neither a file nor a block device", "name another", Exit.INPUT)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "correct the infile", Exit.INPUT) from None
    if size == 0:
        raise OperatorError(f"{path} is empty", "correct the infile", Exit.INPUT)
    return size


def _parts(infile: str) -> list[Path]:
    """``infile_0``, ``infile_1``, … . One that is missing in between would leave a hole that nobody sees."""
    path = Path(infile)
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError as error:
        raise OperatorError(f"{path.parent}: {error.strerror}", "correct the infile", Exit.INPUT) from None
    start = f"{path.name}_"
    numbers = sorted(
        int(name[len(start) :]) for name in names if name.startswith(start) and name[len(start) :].isdecimal()
    )
    if not numbers:
        raise OperatorError(f"there is no {infile}_0", "correct the infile, or leave split away", Exit.INPUT)
    if numbers != list(range(len(numbers))):
        missing = next(number for number in range(len(numbers)) if number not in numbers)
        text = f"{infile}_{missing} is missing, {infile}_{numbers[-1]} is there"
        raise OperatorError(text, "all parts are needed", Exit.INPUT)
    return [path.with_name(f"{start}{number}") for number in numbers]


def _use(path: Path) -> str:
    """A warning when a device is mounted."""
    try:
        mounts = Path("/proc/self/mounts").read_text()
    except OSError:
        return ""
    real = str(path.resolve())
    if any(line.split(" ")[0] == real for line in mounts.splitlines()) and path.is_block_device():
        return f"{path} is mounted: what changes while it is read makes the clones inconsistent"
    return ""


class Dummy:
    """Zeros, for measuring a network: ``size`` bytes, or for so many ``seconds``, which whoever reads has to
    count."""

    warning = ""

    def __init__(self, size: int | None) -> None:
        self.name = "dummy"
        self.size = size

    def pieces(self) -> Iterator[bytes]:
        zeros, left = bytes(PIECE), self.size
        while left is None or left > 0:
            piece = zeros if left is None or left >= PIECE else zeros[:left]
            yield piece
            left = None if left is None else left - len(piece)
