"""Compressed streams, each by the tool that everybody uses: all of it, or an error that says what is wrong."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.drivers.formats.streams import read_stream
from bootd.images.foreign.compression import START, Compression, recognise, unpack
from bootd.images.foreign.errors import ForeignError
from tests.foreign_images import tool

TOOLS = {
    "gzip": ("gzip", "-c"),
    "pigz": ("pigz", "-c"),
    "bzip2": ("bzip2", "-c"),
    "xz": ("xz", "-c"),
    "xz of several blocks": ("xz", "-c", "-T2", "--block-size=30000"),
    "zstd": ("zstd", "-c"),
    "zstd without checksum": ("zstd", "-c", "--no-check"),
    "zstd, long and rsyncable": ("zstd", "-c", "-T2", "--rsyncable", "-12"),
    "lz4": ("lz4", "-c"),
    "lzop": ("lzop", "-c"),
}


@pytest.fixture(scope="module")
def content() -> bytes:
    source = random.Random(9)
    return b"".join(source.randbytes(5000) + bytes(source.randrange(90000)) for _ in range(10))


def read(path: Path) -> bytes:
    return b"".join(read_stream([path], lambda _: None))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool(name: str, content: bytes, tmp_path: Path) -> None:
    packed = tool(*TOOLS[name], data=content)
    path = tmp_path / "stream"
    path.write_bytes(packed)
    assert read(path) == content
    for cut in (1, 2, 3, 5, 8, len(packed) // 2, len(packed) - START):
        path.write_bytes(packed[:-cut])
        with pytest.raises(ForeignError):
            read(path)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 16
    path.write_bytes(flipped)
    if name != "zstd without checksum":
        with pytest.raises(ForeignError):
            read(path)


@pytest.mark.parametrize("name", [name for name in TOOLS if not name.startswith("lz")])
def test_pieces_members_and_what_stands_behind(name: str, content: bytes) -> None:
    packed = tool(*TOOLS[name], data=content)
    kind = recognise(packed[:START])
    for size in (13, 777, len(packed)):
        assert b"".join(unpack(pieces(packed + packed, size), kind)) == content + content
    for rest in (b"x", b"something else", packed[: len(packed) // 2]):
        with pytest.raises(ForeignError):
            b"".join(unpack(pieces(packed + rest, 65536), kind))


def test_padding_of_zeros_as_gzip_and_xz_allow_it(content: bytes) -> None:
    """`dd bs=… conv=sync`, and tapes, leave it."""
    for name in ("gzip", "xz"):
        packed = tool(*TOOLS[name], data=content)
        assert b"".join(unpack([packed, bytes(1024)], recognise(packed))) == content


def test_zeros_are_unpacked_in_small_pieces() -> None:
    """Four bytes of zstd may be 128 KiB of zeros: nothing may hold all of it."""
    size = 1 << 26
    packed = tool("sh", "-c", f"head -c {size} /dev/zero | zstd -c")
    for kind, data in (
        (Compression.ZSTD, packed),
        (Compression.GZIP, tool("sh", "-c", f"head -c {size} /dev/zero | gzip -1")),
    ):
        total = largest = 0
        for raw in unpack(pieces(data, 65536), kind):
            total, largest = total + len(raw), max(largest, len(raw))
        assert total == size
        assert largest <= 1 << 25


def test_what_nothing_here_unpacks_is_named() -> None:
    lzma = tool("xz", "--format=lzma", "-c", data=bytes(10000))
    with pytest.raises(ForeignError, match="lzma"):
        recognise(lzma[:START])
    with pytest.raises(ForeignError, match="lzip"):
        recognise(b"LZIP\x01" + bytes(11))


def test_other_files_are_not_compressed() -> None:
    for start in (b"", b"\x1f", b"BZh9 and text", b"\xeb\x3c\x90MSDOS5.0", bytes(16)):
        assert recognise(start) is Compression.NONE


def test_a_reader_that_fails_is_not_a_whole_stream(content: bytes, tmp_path: Path) -> None:
    """The second of two files is gone: its error is told, not that of lz4."""
    packed = tool("lz4", "-c", data=content)
    (tmp_path / "a").write_bytes(packed[:1000])
    got: list[int] = []
    with pytest.raises(Exception, match="No such file"):
        b"".join(read_stream([tmp_path / "a", tmp_path / "b"], got.append))
