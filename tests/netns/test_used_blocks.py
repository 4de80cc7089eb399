"""Which blocks are in use, on real file systems: judged by partclone's own images and by their own tools."""

import os
import struct
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from bootd.wire import used, volumes
from bootd.wire.used import Range
from stage2 import used_blocks
from stage2.used_blocks import Order, Place, RefusedError
from tests.netns import volumes as real
from tests.netns.volumes import BY_NAME, KINDS, Kind

STRICT = Order(dirty=False, raw=False)


def examine(path: Path, order: Order = STRICT) -> tuple[str, tuple[Range, ...], list[str]]:
    """Type, ranges in use and notes of a file that holds one volume."""
    size = path.stat().st_size
    with real.loop(path) as device, path.open("rb") as stream:

        def read(offset: int, length: int) -> bytes:
            return os.pread(stream.fileno(), length, offset)

        found, ranges, notes = used_blocks.examine([Place("sda1", 0, size, device)], size, device, read, order)
    return found[0].type if found else "", ranges, notes


def copy_used(path: Path, ranges: tuple[Range, ...], target: Path) -> None:
    """What an image restores to: bytes in use, zeros elsewhere."""
    with path.open("rb") as source, target.open("wb") as stream:
        stream.truncate(path.stat().st_size)
        for start, length in ranges:
            source.seek(start)
            stream.seek(start)
            stream.write(source.read(length))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_in_use_is_the_whole_file_system(kind: Kind, tmp_path: Path) -> None:
    path = real.make(kind, tmp_path / "volume")
    content = real.fill(kind, path, tmp_path)
    found, ranges, notes = examine(path)
    assert found == {"fat16": "vfat", "fat32": "vfat"}.get(kind.name, kind.name)
    size = path.stat().st_size
    if kind.name == "swap":
        assert ranges == ((0, 65536),)
        assert not notes
        copy_used(path, ranges, tmp_path / "restored")
        assert b"SWAPSPACE2" in (tmp_path / "restored").read_bytes()[:4096]
        return
    if not kind.partclone:
        assert ranges == ((0, size),)
        assert notes == ["sda1: f2fs, all of it"]
        return
    assert used.total(ranges) < size * 0.9, "free blocks are left out"
    assert not notes
    copy_used(path, ranges, tmp_path / "restored")
    real.check(kind, tmp_path / "restored")
    if content:
        assert real.read_files(kind, tmp_path / "restored", tmp_path) == content


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.partclone], ids=lambda kind: kind.name)
def test_partclones_own_image_has_nothing_that_ours_lacks(kind: Kind, tmp_path: Path) -> None:
    """partclone.restore of partclone's clone, beside ours: every block that it restores is the same in both."""
    path = real.make(kind, tmp_path / "volume")
    real.fill(kind, path, tmp_path)
    _, ranges, _ = examine(path)
    copy_used(path, ranges, tmp_path / "ours")
    quiet = ("--quiet", "--logfile", "/dev/null")
    real.run(f"partclone.{kind.partclone}", "-c", "-s", path, "-o", tmp_path / "clone", *quiet)
    theirs = tmp_path / "theirs"
    with theirs.open("wb") as stream:
        stream.truncate(path.stat().st_size)
    real.run("partclone.restore", "-C", "-s", tmp_path / "clone", "-O", theirs, *quiet)
    ours, restored, block = (tmp_path / "ours").read_bytes(), theirs.read_bytes(), 512
    wrong = [
        offset
        for offset in range(0, len(restored), block)
        if any(restored[offset : offset + block])
        and restored[offset : offset + block] != ours[offset : offset + block]
    ]
    assert not wrong, f"{len(wrong)} blocks, the first at {wrong[0]}"
    assert any(restored), "partclone has restored something"


def spoil(kind: str) -> Callable[[Path, Path], None]:
    return lambda path, folder: real.spoil(kind, path, folder)


def mark(offset: int, value: int) -> Callable[[Path, Path], None]:
    def change(path: Path, _folder: Path) -> None:
        with path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(bytes([value]))

    return change


def suspend(path: Path, _folder: Path) -> None:
    """The signature that the kernel puts in place of swap's own (kernel/power/swap.c)."""
    with path.open("r+b") as stream:
        stream.seek(4096 - 10)
        stream.write(b"S1SUSPEND\0")


def break_root(path: Path, _folder: Path) -> None:
    """The record of the root folder in the master file table: ntfs-3g cannot open it any more."""
    with path.open("r+b") as stream:
        boot = stream.read(512)
        cluster = struct.unpack_from("<H", boot, 11)[0] * boot[13]
        stream.seek(struct.unpack_from("<Q", boot, 48)[0] * cluster + 5 * 1024)
        stream.write(bytes(1024))


DIRTY: dict[str, tuple[str, Callable[[Path, Path], None], str]] = {
    "ext3": ("ext3", spoil("ext3"), "journal has changes"),
    "ext4": ("ext4", spoil("ext4"), "journal has changes"),
    "ext2": ("ext2", spoil("ext2"), "not unmounted"),
    "xfs": ("xfs", spoil("xfs"), "log has changes"),
    "btrfs": ("btrfs", spoil("btrfs"), "log tree has changes"),
    "ntfs": ("ntfs", real.kill_ntfs, "marked dirty"),
    "ntfs hibernated": ("ntfs", real.hibernate, "Windows is hibernated"),
    "ntfs without a root": ("ntfs", break_root, "cannot be told"),
    "fat32": ("fat32", mark(65, 1), "marked dirty"),
    "fat16": ("fat16", mark(37, 1), "marked dirty"),
    "exfat": ("exfat", mark(106, 2), "marked dirty"),
    "swap": ("swap", suspend, "hibernated"),
}


@pytest.mark.parametrize(("name", "change", "why"), DIRTY.values(), ids=list(DIRTY))
def test_what_was_not_left_cleanly_is_refused_unless_told(
    name: str, change: Callable[[Path, Path], None], why: str, tmp_path: Path
) -> None:
    path = real.make(BY_NAME[name], tmp_path / "volume")
    examine(path)
    change(path, tmp_path)
    with pytest.raises(RefusedError, match=why) as refused:
        examine(path)
    assert "--dirty" in str(refused.value)
    _, ranges, notes = examine(path, Order(dirty=True, raw=False))
    assert ranges == ((0, path.stat().st_size),), "its map of free blocks is not believed"
    assert "not clean" in notes[0]


def test_the_checkers_call_the_same_ones_dirty(tmp_path: Path) -> None:
    """The oracle for the marks that this test sets by hand: dosfstools."""
    path = real.make(BY_NAME["fat32"], tmp_path / "volume")
    mark(65, 1)(path, tmp_path)
    done = subprocess.run(["fsck.fat", "-n", str(path)], capture_output=True, check=False)
    assert b"Dirty bit is set" in done.stdout


@pytest.mark.parametrize(("rounds", "log"), [(1, "size=10m"), (9, "size=10m"), (4, "size=64m,su=32k")])
def test_the_log_of_xfs_as_its_own_tool_judges_it(rounds: int, log: str, tmp_path: Path) -> None:
    """Written around its ring several times; copies are taken all along, clean and not."""
    path = real.make(BY_NAME["xfs"], tmp_path / "volume")
    real.run("mkfs.xfs", "--unsupported", "-q", "-f", "-l", log, path)
    seen = set()
    for number in range(rounds):
        with real.loop(path) as device, real.mounted("xfs", device, tmp_path / "mount") as place:
            for index in range(number * 25):
                folder = place / f"{number}-{index}"
                folder.mkdir()
                for inner in range(24):
                    (folder / f"{inner}{'x' * 200}").touch()
            real.run("sync", "-f", place)
            seen.add(judged(path))
        seen.add(judged(path))
    assert seen >= {"CLEAN"}
    assert rounds == 1 or seen == {"CLEAN", "DIRTY"}
    if rounds == 9:
        assert b"Cycle 0" not in real.run("xfs_logprint", "-d", path)[-300:], "the ring was written once around"


def judged(path: Path) -> str:
    """What xfs_logprint says, which is what we say."""
    done = subprocess.run(["xfs_logprint", "-t", str(path)], capture_output=True, check=False, text=True)
    theirs = "CLEAN" if "<CLEAN>" in done.stdout else "DIRTY"
    with path.open("rb") as stream:
        ours = volumes.unclean("xfs", lambda offset, length: os.pread(stream.fileno(), length, offset))
    assert bool(ours) == (theirs == "DIRTY"), done.stdout[:500] + ours
    return theirs


def test_encrypted_is_refused_unless_raw(tmp_path: Path) -> None:
    """Signatures as blkid knows them: a LUKS2 header; boot sector and metadata of BitLocker (Windows 7 on)."""
    guid = uuid.UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le
    bitlocker = {0: b"\xeb\x58\x90-FVE-FS-", 160: guid + struct.pack("<Q", 1 << 20), 1 << 20: b"-FVE-FS-\x40\0\2\0"}
    luks = {0: b"LUKS\xba\xbe\x00\x02", 168: b"0f4e1b8d-73a2-4f6e-9a54-0c3e5a1b2c3d"}
    for kind, pieces in (("crypto_LUKS", luks), ("BitLocker", bitlocker)):
        path = tmp_path / kind
        with path.open("wb") as stream:
            stream.truncate(8 << 20)
            for offset, data in pieces.items():
                stream.seek(offset)
                stream.write(data)
        with pytest.raises(RefusedError, match=r"encrypted.*--raw"):
            examine(path)
        found, ranges, notes = examine(path, Order(dirty=False, raw=True))
        assert (found, ranges) == (kind, ((0, 8 << 20),))
        assert notes == [f"sda1: {kind}, all of it"]


def test_what_no_tool_knows_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    path.write_bytes(b"nothing that blkid knows" * 100000)
    assert examine(path)[1] == ((0, path.stat().st_size),)
