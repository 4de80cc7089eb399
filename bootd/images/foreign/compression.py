"""Compressed streams: recognised by their first bytes, unpacked piece by piece, never believed before their end.

A stream is whole when its last member, frame or stream has ended with its checksum. What stands behind it must be
another one, or padding of zeros where the format allows that.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Protocol

import zstandard

from bootd.images.foreign.errors import ForeignError

OUTPUT = 1 << 20  # bytes given at once, about
_ZSTD_INPUT = 1 << 10  # each 4 bytes may become a block of 128 KiB, and this decoder cannot be stopped between
_MAX_WINDOW = 1 << 27  # zstd's own limit without --long
_MAX_XZ_MEMORY = 1 << 28
START = 16  # bytes that `recognise` wants to see


class Compression(Enum):
    """How a stream is compressed. The value is its name in messages."""

    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"
    LZ4 = "lz4"  # these two are unpacked by their own tools
    LZOP = "lzop"


_SIGNS = (
    (b"\x1f\x8b\x08", Compression.GZIP),
    (b"BZh", Compression.BZIP2),
    (b"\xfd7zXZ\0", Compression.XZ),
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD),
    (b"\x04\x22\x4d\x18", Compression.LZ4),
    (b"\x89LZO\0\r\n\x1a\n", Compression.LZOP),
)
_UNKNOWN = ((b"LZIP\x01", "lzip"), (b"LRZI", "lrzip"), (b"]\0\0\x80\0\xff\xff\xff\xff", "lzma"))


def recognise(start: bytes) -> Compression:
    """What the first `START` bytes of a file say. `ForeignError` for a compression that nothing here unpacks."""
    for sign, compression in _SIGNS:
        if start.startswith(sign) and (compression is not Compression.BZIP2 or _is_bzip2(start)):
            return compression
    if start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5:
        return Compression.ZSTD  # a skippable frame comes first
    for sign, name in _UNKNOWN:
        if start.startswith(sign):
            raise ForeignError(f"it is compressed with {name}: unpack it with {name} -d first")
    return Compression.NONE


def unpack(pieces: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """The raw bytes, in pieces; `ForeignError` where the stream is damaged, or at its end when that is missing."""
    if compression is Compression.NONE:
        yield from pieces
        return
    start, padded = _DECODERS[compression]
    yield from _members(pieces, start, padded, compression.value)


class _Decoder(Protocol):
    """One member of a stream."""

    def take(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` unpacks to."""
        ...

    def rest(self) -> bytes | None:
        """What stands behind the end; None before the end."""
        ...


class _Gzip:
    def __init__(self) -> None:
        self._machine = zlib.decompressobj(wbits=31)

    def take(self, data: bytes) -> Iterator[bytes]:
        while data:
            if raw := self._machine.decompress(data, OUTPUT):
                yield raw
            data = self._machine.unconsumed_tail
        while not self._machine.eof and (raw := self._machine.decompress(b"", OUTPUT)):
            yield raw

    def rest(self) -> bytes | None:
        return self._machine.unused_data if self._machine.eof else None


class _Limited:
    """bzip2 and xz: both take ``max_length`` and say when they want more."""

    def __init__(self, machine: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._machine = machine

    def take(self, data: bytes) -> Iterator[bytes]:
        yield self._machine.decompress(data, OUTPUT)
        while not self._machine.eof and not self._machine.needs_input:
            yield self._machine.decompress(b"", OUTPUT)

    def rest(self) -> bytes | None:
        return self._machine.unused_data if self._machine.eof else None


class _Zstd:
    def __init__(self) -> None:
        self._machine = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()
        self._behind = b""

    def take(self, data: bytes) -> Iterator[bytes]:
        for begin in range(0, len(data), _ZSTD_INPUT):
            if raw := self._machine.decompress(data[begin : begin + _ZSTD_INPUT]):
                yield raw
            if self._machine.eof:
                self._behind = self._machine.unused_data + data[begin + _ZSTD_INPUT :]
                return

    def rest(self) -> bytes | None:
        return self._behind if self._machine.eof else None


_DECODERS: dict[Compression, tuple[Callable[[], _Decoder], bool]] = {
    Compression.GZIP: (_Gzip, True),
    Compression.BZIP2: (lambda: _Limited(bz2.BZ2Decompressor()), False),
    Compression.XZ: (lambda: _Limited(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY)), True),
    Compression.ZSTD: (_Zstd, False),
}


def _members(pieces: Iterable[bytes], start: Callable[[], _Decoder], padded: bool, name: str) -> Iterator[bytes]:
    machine: _Decoder | None = None
    whole = False  # a member has ended, and nothing but padding came since
    for piece in pieces:
        data = piece
        while data:
            if machine is None:
                if whole and padded and not data.strip(b"\0"):
                    break
                machine = start()
            try:
                yield from filter(None, machine.take(data))
                rest = machine.rest()
            except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError) as error:
                if whole:
                    raise ForeignError(f"something else stands behind the end of the {name} stream") from None
                raise ForeignError(f"the {name} stream is damaged: {error}") from None
            if rest is None:
                break
            data, machine, whole = rest, None, True
    if machine is not None or not whole:
        raise ForeignError(f"the {name} stream ends too early: it is truncated")


def _is_bzip2(start: bytes) -> bool:
    return start[3:4] in b"123456789" and start[4:10] in (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
