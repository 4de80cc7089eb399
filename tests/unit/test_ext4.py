"""The reader of ext2, ext3 and ext4 against what e2fsprogs say of file systems that e2fsprogs have made."""

import random
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.wire import ext4
from bootd.wire.errors import PeerProtocolError
from bootd.wire.ext4 import File

pytestmark = pytest.mark.skipif(not shutil.which("debugfs", path="/usr/sbin:/sbin"), reason="no e2fsprogs")

MIB = 1 << 20
KINDS = {
    "ext4": ["-t", "ext4", "-b", "4096"],
    "ext4 of small blocks": ["-t", "ext4", "-b", "1024"],
    "ext4 of 64 bits": ["-t", "ext4", "-b", "2048", "-O", "64bit,metadata_csum"],
    "ext4 without extents": ["-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"],
    "ext4 with meta groups": ["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"],
    "ext4 with small meta groups": [
        "-t",
        "ext4",
        "-b",
        "1024",
        "-g",
        "512",
        "-O",
        "meta_bg,^resize_inode,^flex_bg",
    ],
    "ext4 with two copies": ["-t", "ext4", "-b", "1024", "-O", "sparse_super2,meta_bg,^resize_inode"],
    "ext4 with data in inodes": ["-t", "ext4", "-b", "1024", "-O", "inline_data"],
    "ext4 without spread groups": ["-t", "ext4", "-b", "1024", "-O", "^flex_bg,uninit_bg,^metadata_csum"],
    "ext3": ["-t", "ext3", "-b", "1024"],
    "ext2": ["-t", "ext2", "-b", "1024", "-I", "128"],
    "ext2 as of old": ["-t", "ext2", "-b", "1024", "-r", "0"],
}


def run(*command: object) -> str:
    words = [str(word) for word in command]
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "DEBUGFS_PAGER": "cat", "TZ": "UTC"}
    return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout


def fill(folder: Path) -> None:
    """Small and large files, holes, links, one that is made of many pieces with holes between them."""
    draw = random.Random(4)
    folder.mkdir()
    for number in range(60):
        place = folder / f"folder{number % 7}"
        place.mkdir(exist_ok=True)
        (place / f"file{number}").write_bytes(draw.randbytes(draw.choice((0, 1, 60, 1024, 5000, 70_000))))
    (folder / "large").write_bytes(draw.randbytes(9 * MIB))
    (folder / "link").hardlink_to(folder / "large")
    (folder / "symbolic").symlink_to("large" * 40)
    with (folder / "sparse").open("wb") as stream:
        for number in range(700):
            stream.seek(number * 12 * 1024)
            stream.write(draw.randbytes(1024))
        stream.truncate(20 * MIB)
    with (folder / "far").open("wb") as stream:
        stream.seek(300 * MIB)
        stream.write(b"the end")


def make(path: Path, words: list[str], source: Path) -> Path:
    with path.open("wb") as stream:
        stream.truncate(48 * MIB)
    run("mkfs.ext4", "-q", "-F", *words, "-d", source, path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "files"
    fill(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def image(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("image") / "image", KINDS[request.param], source)


def files_of(path: Path, data: bytes | None = None) -> list[File]:
    content = path.read_bytes() if data is None else data

    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length >= 0
        return content[offset : offset + length]

    about = ext4.read_superblock(read, len(content))
    return list(ext4.read_files(read, about, ext4.read_groups(read, about)))


def blocks_of(file: File) -> Iterator[tuple[int, int]]:
    for piece in file.pieces:
        for number in range(piece.count):
            yield piece.logical + number, piece.physical + number


def test_files_and_their_blocks_are_those_of_debugfs(image: Path, source: Path) -> None:
    found = {file.number: file for file in files_of(image)}
    numbers = {}
    for path in (path for path in source.rglob("*") if path.is_file() and not path.is_symlink()):
        name = path.relative_to(source)
        said = run("debugfs", "-R", f"stat /{name}", image)
        number = int(re.search(r"Inode: (\d+)", said)[1])  # type: ignore[index]
        numbers[number] = path
        file = found[number]
        assert file.size == int(re.search(r"Size: (\d+)", said)[1])  # type: ignore[index] # mkfs may cut holes off
        assert f"Generation: {struct.unpack_from('<I', file.identity, 4)[0]} " in said
        blocks = said.partition("EXTENTS:")[2] or said.partition("BLOCKS:")[2]
        told = set()
        for first, last, start in re.findall(r"\((\d+)(?:-(\d+))?\):(\d+)", blocks):
            told |= {
                (number, int(start) + number - int(first)) for number in range(int(first), int(last or first) + 1)
            }
        assert set(blocks_of(file)) == told, name
        assert file.changed == int(path.stat().st_mtime) or file.changed > path.stat().st_mtime
    assert set(numbers) == set(found)


def test_their_bytes_are_there(image: Path, source: Path) -> None:
    data = image.read_bytes()
    size = int(re.search(r"Block size:\s+(\d+)", run("dumpe2fs", "-h", image))[1])  # type: ignore[index]
    contents = {
        path.read_bytes() for path in source.rglob("*") if path.is_file() and path.stat().st_size < 21 * MIB
    }
    compared = 0
    for file in files_of(image):
        if not file.pieces or file.size > 21 * MIB:
            continue
        content = bytearray(-(-file.size // size) * size)
        for logical, physical in blocks_of(file):
            content[logical * size : (logical + 1) * size] = data[physical * size : (physical + 1) * size]
        assert any(one.startswith(content[: file.size]) for one in contents)
        compared += 1
    assert compared > 25


def test_groups_are_those_of_dumpe2fs(image: Path) -> None:
    data = image.read_bytes()

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    about = ext4.read_superblock(read, len(data))
    groups = ext4.read_groups(read, about)
    said = run("dumpe2fs", image).partition("\nGroup 0")[2].split("\nGroup ")
    assert len(said) == len(groups)
    for text, group in zip(said, groups, strict=True):
        assert int(re.search(r"Inode bitmap at (\d+)", text)[1]) == group.bitmap  # type: ignore[index]
        assert int(re.search(r"Inode table at (\d+)", text)[1]) == group.table  # type: ignore[index]
        unused = re.search(r"(\d+) unused inodes", text)
        if about.tables_unused and "INODE_UNINIT" not in text:
            assert group.used == about.group_inodes - int(unused[1] if unused else 0)
        assert group.zeroed == (about.tables_unused and "ITABLE_ZEROED" in text)


@pytest.mark.parametrize(
    "words",
    [
        ["-t", "ext4", "-O", "bigalloc"],
        ["-t", "ext4", "-O", "journal_dev"],
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "image"
    with path.open("wb") as stream:
        stream.truncate(48 * MIB)
    run("mkfs.ext4", "-q", "-F", *words, path)
    with pytest.raises(PeerProtocolError):
        files_of(path)


def test_not_left_cleanly(tmp_path: Path, source: Path) -> None:
    path = make(tmp_path / "image", KINDS["ext4"], source)
    run("debugfs", "-w", "-R", "feature needs_recovery", path)
    with pytest.raises(PeerProtocolError, match="cleanly"):
        files_of(path)


@pytest.mark.parametrize("kind", ["ext4", "ext4 with meta groups", "ext2"])
def test_damaged_metadata_is_an_error_and_bounded(tmp_path: Path, source: Path, kind: str) -> None:
    """Superblock, descriptors, inodes and trees with other bytes: the reader's own error, or files inside."""
    path = make(tmp_path / "image", KINDS[kind], source)
    content = bytearray(path.read_bytes())

    def read(offset: int, length: int) -> bytes:
        return bytes(content[offset : offset + length])

    about = ext4.read_superblock(read, len(content))
    groups = ext4.read_groups(read, about)
    table = groups[0].table * about.block
    places = [(1024, 1024), (2048, 4096), (table + 11 * about.inode, 40 * about.inode)]
    places += [
        (piece.physical * about.block - 2 * about.block, 2 * about.block)
        for file in ext4.read_files(read, about, groups)
        for piece in file.pieces[:1]
        if len(file.pieces) > 3
    ]
    draw = random.Random(9)
    outcomes = {"error": 0, "files": 0}
    for _ in range(300):
        start, length = draw.choice(places)
        changed = [(start + draw.randrange(length), draw.choice((0, 1, 0x7F, 0xFF, draw.randrange(256))))]
        changed += [(start + draw.randrange(length), 0xFF) for _ in range(draw.randrange(3))]
        before = [(place, content[place]) for place, _ in changed]
        for place, byte in changed:
            content[place] = byte
        try:
            found = ext4.read_superblock(read, len(content))
            total = 0
            for file in ext4.read_files(read, found, ext4.read_groups(read, found)):
                for piece in file.pieces:
                    assert piece.physical > 0
                    assert piece.physical + piece.count <= found.blocks
                    total += piece.count
            assert total <= found.blocks
            outcomes["files"] += 1
        except PeerProtocolError:
            outcomes["error"] += 1
        finally:
            for place, byte in reversed(before):
                content[place] = byte
    assert min(outcomes.values()) > 10, outcomes
