"""partclone's format: what it wrote is read, what is written here it restores; whatever is damaged is seen."""

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.images.foreign import bitmap, partclone
from bootd.images.foreign.errors import ForeignError
from tests.foreign_images import FILESYSTEMS, clone, make_filesystem, restore, tool


def read(data: bytes, piece: int = 65536) -> tuple[bytes, partclone.Reader]:
    """The partition that an image holds, by our reader, fed in pieces."""
    reader = partclone.Reader()
    found: list[tuple[int, bytes]] = []
    for start in range(0, len(data), piece):
        found += reader.feed(data[start : start + piece])
    target = bytearray(reader.finish().size)
    for offset, raw in found:
        target[offset : offset + len(raw)] = raw
    return bytes(target), reader


CASES = [
    ("ext4", ("-a0",)),
    ("ext4", ("-k", "7")),
    ("ntfs", ("-k", "7", "-K")),
    *((kind, ()) for kind in FILESYSTEMS),
]


@pytest.mark.parametrize(
    ("kind", "options"), CASES, ids=lambda value: value if value.__class__ is str else "".join(value)
)
def test_images_of_partclone(kind: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """Every filesystem; with checksums at every distance, without, and with one that goes on counting (-K)."""
    source = make_filesystem(kind, tmp_path / "source")
    image = clone(kind, source, tmp_path / "image", *options)
    found, reader = read(image.read_bytes())
    original = source.read_bytes()
    assert len(found) == len(original)
    assert found == restore(image, len(found))
    end = 0
    for offset, length in reader.extents():
        assert found[end:offset].count(0) == offset - end
        assert found[offset : offset + length] == original[offset : offset + length]
        end = offset + length
    assert found[end:].count(0) == len(found) - end


def test_any_split_gives_the_same(tmp_path: Path) -> None:
    image = clone("vfat", make_filesystem("vfat", tmp_path / "source"), tmp_path / "image").read_bytes()
    whole, _ = read(image, len(image))
    for piece in (7, 511, 4097):
        assert read(image, piece)[0] == whole


def test_every_cut_and_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    """Whatever is damaged: header, bitmap, data, checksums. Only blocks' own padding is free."""
    image = clone("ext4", make_filesystem("ext4", tmp_path / "source"), tmp_path / "image").read_bytes()
    source = random.Random(6)
    for length in [0, 15, 16, 33, 109, 110, len(image) - 1, len(image) - 4, *source.sample(range(len(image)), 12)]:
        with pytest.raises(ForeignError):
            read(image[:length])
    for position in [16, 40, 90, 106, 110, 200, len(image) - 1, *source.sample(range(len(image)), 12)]:
        damaged = bytearray(image)
        damaged[position] ^= 1 << source.randrange(8)
        with pytest.raises(ForeignError):
            read(bytes(damaged))
    with pytest.raises(ForeignError, match="behind the end"):
        read(image + b"\0")


def version_1(blocks: list[bytes | None], size: int) -> bytes:
    """An image of version 0001 by its description, bit by bit: None is a block that is not in use."""
    used = [block for block in blocks if block is not None]
    header = struct.pack(
        "<15s15s4s2xIQQQ4096x",
        b"partclone-image",
        b"EXTFS",
        b"0001",
        size,
        size * len(blocks),
        len(blocks),
        len(used),
    )
    body = bytes(block is not None for block in blocks) + b"BiTmAgIc"
    register = 0xFFFFFFFF
    for block in used:
        for _ in range(size):  # the same byte again and again: partclone's old mistake
            register ^= block[0]
            for _ in range(8):
                register = register >> 1 ^ (0xEDB88320 if register & 1 else 0)
        body += block + struct.pack("<I", register)
    return header + body


def test_version_0001(tmp_path: Path) -> None:
    """No partclone of today writes it, but every one restores it, and so judges whether this one is right."""
    source = random.Random(1)
    blocks = [source.randbytes(512) if source.random() < 0.6 else None for _ in range(200)]
    blocks[-1] = source.randbytes(512)
    data = version_1(blocks, 512)
    image = tmp_path / "image"
    image.write_bytes(data)
    wanted = b"".join(block or bytes(512) for block in blocks)
    assert restore(image, len(wanted)) == wanted
    assert read(data)[0] == wanted
    assert read(data, 13)[0] == wanted
    first = data.index(b"BiTmAgIc") + 8
    for position in (first, first + 512, first - 1, len(data) - 1):  # the checksum only counts first bytes
        damaged = bytearray(data)
        damaged[position] ^= 4
        with pytest.raises(ForeignError):
            read(bytes(damaged))
    with pytest.raises(ForeignError, match="truncated"):
        read(data[:-1])


@pytest.mark.parametrize(("size", "block"), [(1 << 20, 4096), ((1 << 20) + 512, 512), ((1 << 20) + 2048, 2048)])
def test_partclone_restores_what_is_written(size: int, block: int, tmp_path: Path) -> None:
    source = random.Random(size)
    extents: list[tuple[int, int]] = []
    position = source.randrange(9000)
    while position < size - 20000:
        extents.append((position, source.randrange(1, 20000)))
        position += extents[-1][1] + source.randrange(1, 30000)
    extents.append((size - 512, 512))
    data = bytearray(source.randbytes(size))
    writer = partclone.Writer("EXTFS", size, extents)
    assert writer.block_size == block
    image = tmp_path / "image"
    body = b"".join(writer.add(bytes(data[offset : offset + length])) for offset, length in writer.extents())
    image.write_bytes(writer.start() + body + writer.end())
    wanted = bytearray(size)
    for offset, length in extents:
        begin, end = offset // block * block, -(-(offset + length) // block) * block
        wanted[begin:end] = data[begin:end]
    assert restore(image, size) == wanted
    assert read(image.read_bytes())[0] == wanted
    tool("partclone.chkimg", "-f", "0", "-s", image, "-L", tmp_path / "log")


def test_full_and_empty_partitions(tmp_path: Path) -> None:
    for extents in ([(0, 3 << 20)], [], [(0, 1)], [(1 << 20, 1 << 20)]):
        writer = partclone.Writer("raw", 3 << 20, extents)
        data = b"".join(writer.add(b"x" * length) for _, length in writer.extents())
        image = tmp_path / "image"
        image.write_bytes(writer.start() + data + writer.end())
        assert read(image.read_bytes())[0] == restore(image, 3 << 20)


def bits(data: bytes | bytearray, count: int) -> list[int]:
    return [data[index // 8] >> index % 8 & 1 for index in range(count)]


def slow_runs(data: bytes, count: int) -> Iterator[tuple[int, int]]:
    start = None
    for index, bit in enumerate([*bits(data, count), 0]):
        if bit and start is None:
            start = index
        if not bit and start is not None:
            yield start, index - start
            start = None


def test_runs_of_a_bitmap() -> None:
    source = random.Random(4)
    for _ in range(400):
        count = source.randrange(1, 200)
        pieces = (source.choice((b"\0\0\0", b"\xff\xff\xff", source.randbytes(1))) for _ in range(70))
        data = b"".join(pieces)[: -(-count // 8)]
        found = list(bitmap.runs(data, count))
        assert found == list(slow_runs(data, count))
        assert bitmap.population(data, count) == sum(bits(data, count))
        assert bits(bitmap.from_runs(found, count), count) == bits(data, count)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((30, b"0003"), "version"),
        ((34, b"\xc0\xde"), "big-endian"),
        ((96, b"\x21\0"), "checksums of kind"),
        ((84, b"\0\0\0\0"), "blocks of 0 bytes"),
        ((60, b"\xff" * 8), "blocks of"),
        ((105, b"\x07"), "bitmap of kind"),
        ((100, b"\0\0\0\0"), "every 0 blocks"),
    ],
)
def test_headers_that_are_refused(change: tuple[int, bytes], text: str) -> None:
    """With a right checksum over the wrong header."""
    header = bytearray(partclone.Writer("EXTFS", 1 << 20, [(0, 4096)]).start()[:106])
    position, value = change
    header[position : position + len(value)] = value
    register = 0xFFFFFFFF
    for byte in header:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xEDB88320 if register & 1 else 0)
    with pytest.raises(ForeignError, match=text):
        read(bytes(header) + struct.pack("<I", register) + bytes(100))
