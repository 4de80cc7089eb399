"""What arrives packed is unpacked on arrival: decompressed in this process, archives given to tar and cpio."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence

from bootd.dolly.config import Archive, Packing
from bootd.drivers.dolly.consumer import Piece
from bootd.drivers.formats.streams import through_tool
from bootd.errors import Exit, OperatorError
from bootd.images.foreign.compression import Compression, unpack
from bootd.images.foreign.errors import ForeignError
from bootd.member.child import Child
from bootd.member.sinks import unpack_words

_COMPRESSIONS = {
    Packing.GZIP: Compression.GZIP,
    Packing.XZ: Compression.XZ,
    Packing.ZSTD: Compression.ZSTD,
    Packing.BZIP2: Compression.BZIP2,
}
_LZW = b"\x1f\x9d"  # compress(1)
_SLICE = 64 << 10


class UnpackError(Exception):
    """An archive could not be unpacked."""


FAILURES = (UnpackError, ForeignError)  # what comes out of here besides `OSError`


def decompress(pieces: Iterator[Piece], packing: Packing) -> Iterator[Piece]:
    """The bytes inside; `ForeignError` when the stream is damaged, truncated, or something else."""
    if packing is Packing.NONE:
        return pieces
    raw = (bytes(piece) for piece in pieces)
    if packing is Packing.COMPRESS:
        return through_tool(("gzip", "-dc"), _signed(raw), "compress")  # gzip reads that format, too
    return unpack(raw, _COMPRESSIONS[packing])


def archive_words(archive: Archive, folder: str) -> list[str]:
    """The command that unpacks a decompressed archive from its standard input into ``folder``."""
    if archive is Archive.TAR:
        return unpack_words(folder, b"")
    words = [
        "cpio",
        "--extract",
        "--make-directories",
        "--preserve-modification-time",
        "--unconditional",
        "--quiet",
    ]
    return [*words, "--no-absolute-filenames", f"--directory={folder}"]


def check_program(archive: Archive) -> None:
    """`OperatorError` (REFUSED) when the program for ``archive`` is not installed."""
    if archive is not Archive.NONE and shutil.which(archive.value) is None:
        raise OperatorError(
            f"{archive.value} is not installed", f"apt install {archive.value}, then begin again", Exit.REFUSED
        )


def feed(words: Sequence[str], pieces: Iterator[Piece], started: Callable[[Child], None]) -> None:
    """Run ``words`` with the bytes on its standard input, to its end. `UnpackError` unless that is status 0.

    ``pieces`` is read to its end, also when the program wants no more: padding behind an archive is not of its
    kind.
    """
    child = Child(words, feeds=True)
    started(child)
    takes = True
    try:
        for piece in pieces:
            if takes:
                takes = _give(child, memoryview(piece))
        child.close_stream()
        reason = child.wait()
    finally:
        child.kill()
        child.close_stream()
    if reason:
        raise UnpackError(f"{words[0]}: {reason}")


def _give(child: Child, view: memoryview) -> bool:
    while view:
        try:
            view = view[os.write(child.stream, view[:_SLICE]) :]
        except BrokenPipeError:
            return False
    return True


def _signed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """gzip would pass on what is not packed at all."""
    start = b""
    for piece in pieces:
        start += piece
        if len(start) >= len(_LZW):
            break
    if not start.startswith(_LZW):
        raise ForeignError("it is not compressed with compress")
    yield start
    yield from pieces
