"""Tables, superblocks and lists of other programs, against sfdisk, mkfs and mkswap."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bootd.images.foreign import clonesys, swap, tables
from bootd.images.foreign.assembly import Assembly
from bootd.images.foreign.content import Content, fewer
from bootd.images.foreign.errors import ForeignError
from bootd.images.foreign.layout import in_order, parse_table
from bootd.images.foreign.superblocks import LEAST, stated_size
from tests.foreign_images import FILESYSTEMS, make_filesystem, tool

DOS = """label: dos
label-id: 0x12345678
start=2048, size=20480, type=83, bootable
start=22528, size=20480, type=17
start=43008, size=100000, type=5
start=45056, size=4096, type=7
start=51200, size=4096, type=b
start=57344, size=4096, type=82
start=63488, size=4096, type=83
start=69632, size=4096, type=83
start=75776, size=4096, type=1c
start=81920, size=4096, type=83
"""
GPT = """label: gpt
label-id: 11111111-2222-3333-4444-555555555555
first-lba: 34
start=34, size=100, type=21686148-6449-6E6F-744E-656564454649, name="bios, boot: \\x22x\\x22"
start=2048, size=20480, type=U, name="EFI system"
start=22528, size=20480, type=L, attrs="RequiredPartition LegacyBIOSBootable GUID:60"
"""


def disk(script: str, path: Path, size: int = 128 << 20) -> Path:
    with path.open("xb") as file:
        file.truncate(size)
    tool("sfdisk", "-q", path, data=script.encode())
    return path


@pytest.mark.parametrize("script", [DOS, GPT], ids=["dos", "gpt"])
def test_a_dump_of_sfdisk_makes_the_same_table_again(script: str, tmp_path: Path) -> None:
    """Ten partitions with hidden and active ones; names with quotes, attributes, ids."""
    first = disk(script, tmp_path / "first")
    dump = tool("sfdisk", "--dump", first).decode().replace(str(first), "/dev/sda")
    table = parse_table(dump, "sda-pt.sf")
    again = disk(table.script(), tmp_path / "again")
    assert tool("sfdisk", "--dump", again).decode().replace(str(again), "/dev/sda") == dump
    tool("sfdisk", "--verify", again)


def test_a_dump_of_an_old_sfdisk() -> None:
    """As util-linux before 2.26 wrote it, and Clonezilla and FOG images of then have it."""
    text = """# partition table of /dev/sda
unit: sectors

/dev/sda1 : start=       63, size=   208782, Id=83, bootable
/dev/sda2 : start=   208845, size=  4192965, Id= f
/dev/sda3 : start=        0, size=        0, Id= 0
/dev/sda4 : start=        0, size=        0, Id= 0
/dev/sda5 : start=   208908, size=  4192902, Id=82
"""
    table = parse_table(text, "sda-pt.sf")
    places = [(part.number, part.start, part.size, part.type) for part in table.partitions]
    assert places == [(1, 63, 208782, "83"), (2, 208845, 4192965, "f"), (5, 208908, 4192902, "82")]
    assert table.label == "dos"
    assert ", bootable" in table.partitions[0].fields


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "label: dos\nsector-size: 4096\n/dev/sda1 : start=1, size=1, type=83",
        "label: sun\n/dev/sda1 : start=1, size=1, type=83",
        "/dev/sda1 : start=2048, size=99, type=83\n/dev/sda1 : start=4096, size=9, type=83",
        "/dev/sda1 : start=2048, size=99, type=83\n/dev/sda2 : start=2100, size=99, type=83",
        "/dev/sda1 : start=0, size=99, type=83",
        "/dev/sda1 : start=-5, size=99, type=83",
        "/dev/sda1 : start=5, size=99999999999999999999, type=83",
        "/dev/sda1 : start=5, size=99, type=83; rm -rf /",
        "/dev/sda1 : start=5, size=99, type=83\n/dev/sda5 : start=500, size=99, type=83",
        "/dev/sda1 : start=5, size=99, type=5\n/dev/sda2 : start=50, size=99, type=83",
        "/dev/sda1 : start=5, size=99, type=5\n/dev/sda2 : start=500, size=99, type=f",
        'label: gpt\nlabel-id: x\nlabel: gpt\n/dev/sda1 : start=99, size=99, type=83, name="\x01"',
        "label: dos\nlabel-id: 0x1; device: /dev/sdb\n/dev/sda1 : start=99, size=99, type=83",
    ],
)
def test_tables_that_are_refused(text: str) -> None:
    with pytest.raises(ForeignError):
        parse_table(text, "sda-pt.sf")


def test_a_table_says_nothing_to_sfdisk_but_what_was_checked() -> None:
    table = parse_table('label: gpt\n/dev/sda1 : start=99, size=99, type=L, name="a\\", size=7"', "x")
    line = table.script().splitlines()[-1]
    assert line == '1 : start=99, size=99, type=L, name="a\\", size=7"'


def test_records_of_logical_partitions_are_found(tmp_path: Path) -> None:
    """All seven: sfdisk reads a copy that has nothing else."""
    first = disk(DOS, tmp_path / "first")
    data = first.read_bytes()
    copy = tmp_path / "copy"
    with copy.open("wb") as file:
        file.truncate(len(data))
        for offset, length in tables.regions(lambda offset, length: data[offset : offset + length], len(data)):
            file.seek(offset)
            file.write(data[offset : offset + length])
    listed = tool("sfdisk", "--dump", copy).decode().replace(str(copy), str(first))
    assert listed == tool("sfdisk", "--dump", first).decode()


def test_a_chain_of_records_that_bites_its_tail_ends() -> None:
    record = bytearray(512)
    record[450], record[454:458], record[510:] = 5, (1).to_bytes(4, "little"), b"\x55\xaa"
    loop = bytes(record) * 4
    found = list(tables.extended_records(lambda offset, length: loop[offset : offset + length], len(loop)))
    assert found == [512, 1024]


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_filesystems_say_how_large_they_are(kind: str, tmp_path: Path) -> None:
    path = make_filesystem(kind, tmp_path / "filesystem")
    size, stated = path.stat().st_size, stated_size(kind, path.read_bytes()[:LEAST])
    assert stated is not None
    assert size - 65536 <= stated <= size  # some leave a rest that is smaller than a block of theirs


def test_swap_headers_are_those_of_mkswap(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    for size, label in ((1 << 20, ""), (10 << 20, "swapspace"), ((4 << 20) + 512, "x" * 15)):
        path.write_bytes(b"")
        with path.open("r+b") as file:
            file.truncate(size)
        tool("mkswap", "-U", "0c85a70d-80bb-4496-bea8-d7abad7aab6e", *(("-L", label) if label else ()), path)
        assert swap.header(size, "0c85a70d-80bb-4496-bea8-d7abad7aab6e", label) == path.read_bytes()[:4096]
    for identifier in ("", "x", "0c85a70d-80bb-4496-bea8-d7abad7aab6e; reboot"):
        with pytest.raises(ForeignError):
            swap.header(1 << 20, identifier, "")


def test_files_of_split(tmp_path: Path) -> None:
    data = bytes(100)
    for letters, number in (("2", 30), ("3", 4)):
        tool("split", "-a", letters, "-b", str(100 // number + 1), "-", tmp_path / f"{letters}.img.", data=data)
        names = frozenset(path.name for path in tmp_path.iterdir())
        found = in_order(names | {f"{letters}.img.info"}, f"{letters}.img.")
        assert b"".join((tmp_path / name).read_bytes() for name in found) == data
        for missing in (found[0], found[len(found) // 2]):
            with pytest.raises(ForeignError, match="missing"):
                in_order(names - {missing}, f"{letters}.img.")


IMAGEDESC = """Image   : /images/new_images/sda5_WinNTEduD_SP4.gz
Origin  : client1
User    : kurmann
Date    : Tue May 25 12:51:24 CEST 1999
Comment: WindowsNT Educ D with SP4, Xwindows, Netscape 4.6

Image   : /images/cloneimages/sda9_Linux_6.0_UNI.gz
Origin  : client2
User    : rauch
Date    : Fri Jan  1 00:30:00 MET 1999
Comment : first
 and second line

Image   : /images/cloneimages/sda9_Linux_6.0_UNI.gz
Origin  : client3
User    : rauch
Date    : yesterday
Comment : again
"""


def test_imagedesc_of_the_manual() -> None:
    first, last = clonesys.parse_descriptions(IMAGEDESC.encode())
    assert first == clonesys.Description(
        "/images/new_images/sda5_WinNTEduD_SP4.gz",
        "client1",
        "kurmann",
        "Tue May 25 12:51:24 CEST 1999",
        "WindowsNT Educ D with SP4, Xwindows, Netscape 4.6",
    )
    assert first.created == int(tool("date", "-d", "1999-05-25 12:51:24 +0200", "+%s"))
    assert first.file == "sda5_WinNTEduD_SP4.gz"
    assert (last.origin, last.comment, last.created) == ("client3", "again", None)
    older = clonesys.parse_descriptions(IMAGEDESC.split("\n\n")[1].encode())[0]
    assert older.comment == "first and second line"
    assert older.created == int(tool("date", "-d", "1998-12-31 23:30:00 UTC", "+%s"))


def test_names_of_the_manual() -> None:
    for name, device, is_disk in (
        ("sda1_SysCom.gz", "sda1", False),
        ("sda_InitClone.gz", "sda", True),
        ("sda6_OberonEdu_2.3.6.gz", "sda6", False),
        ("sda5-WinNTEduc.gz", "sda5", False),  # so in section 5.1
    ):
        parsed = clonesys.parse_name(name)
        assert parsed is not None
        assert (parsed.device, parsed.is_disk) == (device, is_disk)
    assert clonesys.parse_name("clone.log.gz") is None


@pytest.mark.parametrize("text", ["nonsense", "User : x\n", "Image : a\nnonsense\n"])
def test_lists_that_are_refused(text: str) -> None:
    with pytest.raises(ForeignError):
        clonesys.parse_descriptions(text.encode())


def test_chunks_of_data_with_gaps() -> None:
    source = random.Random(2)
    for _ in range(200):
        data = bytearray(source.randrange(1, 300))
        places: list[tuple[int, bytes]] = []
        position = 0
        while (position := position + source.randrange(40)) < len(data):
            piece = source.randbytes(min(source.randrange(1, 50), len(data) - position))
            data[position : position + len(piece)] = piece
            places.append((position, piece))
            position += len(piece)
        assembly = Assembly(16)
        chunks = [chunk for offset, piece in places for chunk in assembly.add(offset, piece)]
        chunks += assembly.end(len(data))
        wanted = [bytes(data[start : start + 16]) for start in range(0, len(data), 16)]
        assert [
            bytes(len(want)) if chunk is None else chunk for chunk, want in zip(chunks, wanted, strict=True)
        ] == wanted
    with pytest.raises(ForeignError, match="both at byte"):
        list(assembly.add(0, b"x"))


def test_extents_become_fewer() -> None:
    many = [(index * 100_000, 1000) for index in range(1000)]
    assert fewer(many, 1000) == many
    found = fewer(many, 10)
    assert len(found) <= 10
    assert all(
        any(start <= offset and offset + length <= start + size for start, size in found) for offset, length in many
    )
    assert fewer([(0, 10), (10, 5), (20, 1)]) == [(0, 15), (20, 1)]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: b"PK\x03\x04" + bytes(600), "zip"),
        (lambda: bytes(257) + b"ustar" + bytes(600), "tar"),
        (lambda: b"QFI\xfb" + bytes(600), "compressed qcow2"),
        (lambda: tool("gzip", data=bytes(5000)).ljust(600, b"x"), "twice"),
        (lambda: bytes(1000), "whole number of sectors"),
        (lambda: b"", "whole number of sectors"),
    ],
)
def test_what_is_no_disk(make: Callable[[], bytes], text: str) -> None:
    with pytest.raises(ForeignError, match=text):
        list(Content([make()]))
