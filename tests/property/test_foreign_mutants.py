"""Hostile images of other programs: whatever their bytes are, a reader ends with data or with `ForeignError`."""

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random

import pytest
import zstandard

from bootd.images.foreign import clonesys, clonezilla, fog, partclone, superblocks, tables
from bootd.images.foreign.assembly import Assembly
from bootd.images.foreign.compression import START, recognise, unpack
from bootd.images.foreign.content import Content
from bootd.images.foreign.errors import ForeignError
from bootd.images.foreign.layout import parse_table
from bootd.wire.manifest import DEFAULT_CHUNK_SIZE

MUTANTS = 1500
MAX_OUTPUT = 64 << 20  # bytes that a mutant may unpack to before the test stops reading


def partclone_image() -> bytes:
    writer = partclone.Writer("EXTFS", 1 << 20, [(0, 8192), (65536, 4096), (500_000, 30_000)])
    data = b"".join(writer.add(Random(1).randbytes(length)) for _, length in writer.extents())
    return writer.start() + data + writer.end()


IMAGE = partclone_image()
DUMP = """label: dos
label-id: 0xdeadbeef
device: /dev/sda
unit: sectors
sector-size: 512

/dev/sda1 : start=        2048, size=       40960, type=83, bootable
/dev/sda2 : start=       43008, size=      243712, type=5
/dev/sda5 : start=       45056, size=       65536, type=c, uuid=1A7A35C8-014C, name="a b", attrs="x"
"""
PARTED = "Model: x\nDisk /dev/sda: 327680s\nSector size (logical/physical): 512B/512B\nPartition Table: msdos\n"
MBR = bytes(440) + b"\xef\xbe\xad\xde" + bytes(66) + b"\x55\xaa"
CLONEZILLA = {
    "disk": b"sda\n",
    "parts": b"sda1\n",
    "sda-pt.sf": DUMP.encode(),
    "sda-pt.parted": PARTED.encode(),
    "sda-mbr": MBR,
    "sda-hidden-data-after-mbr": bytes(1024),
    "sda2-ebr": MBR,
    "sda1.ext4-ptcl-img.gz.aa": b"",
    "swappt-sda5.info": b'UUID="0c85a70d-80bb-4496-bea8-d7abad7aab6e"\nLABEL="sw"\n',
}
FOG = {
    "d1.partitions": DUMP.encode(),
    "d1.mbr": MBR + bytes(1024),
    "d1p1.img": b"",
    "d1p2.ebr": MBR,
    "d1.size": b"1:167772160\n",
    "d1.original.swapuuids": b"/dev/sda5 0c85a70d-80bb-4496-bea8-d7abad7aab6e\n",
}
IMAGEDESC = (
    b"Image   : /i/sda5_x.gz\nOrigin  : c1\nUser    : u\nDate    : Tue May 25 12:51:24 CEST 1999\nComment: c\n"
)


class Files:
    """A directory that is only in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files, self.names = files, frozenset(files)

    def read(self, name: str, limit: int) -> bytes:
        if name not in self._files:
            raise ForeignError(f"{name} is not there")
        if len(self._files[name]) > limit:
            raise ForeignError("too large")
        return self._files[name]


def mutate(data: bytes, random: Random) -> bytes:
    """Flip, cut, repeat, insert; a few at once."""
    value = bytearray(data)
    for _ in range(random.randrange(1, 5)):
        if not value:
            break
        position = random.randrange(len(value))
        match random.randrange(5):
            case 0:
                value[position] ^= 1 << random.randrange(8)
            case 1:
                value[position : position + 8] = random.choice((b"\xff" * 8, bytes(8), random.randbytes(8)))
            case 2:
                del value[position : position + random.randrange(1, 64)]
            case 3:
                value[position:position] = value[position : position + random.randrange(1, 64)]
            case _:
                value[position : position + 1] = random.choice(
                    (b"\0", b"\xff", b'"', b",", b"=", b"\n", b"9" * 20, b"-")
                )
    return bytes(value)


def sealed(data: bytes) -> bytes:
    """With the header's checksum made right again: what is behind it is reached."""
    if len(data) < 110:
        return data
    return data[:106] + struct.pack("<I", zlib.crc32(data[:106]) ^ 0xFFFFFFFF) + data[110:]


def pieces(data: bytes, random: Random) -> Iterator[bytes]:
    while data:
        size = random.choice((1, 100, 4096, 1 << 16))
        yield data[:size]
        data = data[size:]


def read_partclone(data: bytes, random: Random) -> None:
    reader = partclone.Reader()
    total = 0
    for piece in pieces(data, random):
        total += sum(len(raw) for _, raw in reader.feed(piece))
    reader.finish()
    assert total <= len(data)


def read_stream(data: bytes, random: Random) -> None:
    total = 0
    for raw in unpack(pieces(data, random), recognise(data[:START])):
        total += len(raw)
        if total > MAX_OUTPUT:
            return


def read_content(data: bytes, random: Random) -> None:
    assembly = Assembly(DEFAULT_CHUNK_SIZE)
    content = Content(pieces(data, random))
    for offset, raw in content:
        for _ in assembly.add(offset, raw):
            pass
    if content.size < 1 << 32:
        for _ in assembly.end(content.size):
            pass


def read_superblock(data: bytes, random: Random) -> None:
    for kind in ("ext4", "xfs", "btrfs", "ntfs", "vfat", "exfat", "swap"):
        superblocks.stated_size(kind, data)
    list(tables.regions(lambda offset, length: data[offset : offset + length], len(data)))
    tables.gpt_size(lambda offset, length: data[offset : offset + length])


def in_folder(files: dict[str, bytes], read: Callable[[Files], object]) -> Callable[[bytes, Random], None]:
    """One of the files is the mutant."""

    def run(data: bytes, random: Random) -> None:
        name = random.choice(sorted(files))
        read(Files({**files, name: mutate(files[name], random) if random.random() < 0.9 else data}))
        gone = random.choice(sorted(files))
        read(Files({key: value for key, value in files.items() if key != gone}))

    return run


RECORD = bytes(446) + bytes([0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0]) + bytes(48) + b"\x55\xaa"
SUBJECTS: dict[str, tuple[bytes, Callable[[bytes, Random], object]]] = {
    "partclone": (IMAGE, read_partclone),
    "partclone behind its header": (IMAGE, lambda data, random: read_partclone(sealed(data), random)),
    "gzip": (gzip.compress(IMAGE), read_stream),
    "bzip2": (bz2.compress(IMAGE), read_stream),
    "xz": (lzma.compress(IMAGE), read_stream),
    "zstd": (zstandard.compress(IMAGE), read_stream),
    "content": (IMAGE[:5000], read_content),
    "table": (DUMP.encode(), lambda data, _: parse_table(data.decode("utf-8", "replace"), "x")),
    "imagedesc": (
        IMAGEDESC * 3,
        lambda data, _: [item.created for item in clonesys.parse_descriptions(data)] and None,
    ),
    "clonezilla": (DUMP.encode(), in_folder(CLONEZILLA, clonezilla.read)),
    "fog": (DUMP.encode(), in_folder(FOG, fog.read)),
    "sectors": (RECORD + RECORD + b"EFI PART" + bytes(500), read_superblock),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_nothing_but_the_peers_error(name: str) -> None:
    data, read = SUBJECTS[name]
    told = {"nothing"}
    for seed in range(MUTANTS):
        random = Random(f"{name} {seed}")
        try:
            read(mutate(data, random), random)
        except ForeignError as error:
            told.add(str(error))
    assert all(text.isprintable() and len(text) < 400 for text in told)


def test_what_is_not_mutated_is_read() -> None:
    for name in ("partclone", "gzip", "bzip2", "xz", "zstd", "table", "imagedesc", "sectors"):
        data, read = SUBJECTS[name]
        read(data, Random(0))
    assert len(clonezilla.read(Files(CLONEZILLA))[0].streams) == 2
    assert len(fog.read(Files(FOG))[0].streams) == 2
