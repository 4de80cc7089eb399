"""Members that write block devices: direct I/O on a loop device, an image of odd size, a full disk."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.member.store import DISCARD_ZEROS, WRITE_ZEROS, BlockStore, FileStore, StoreError
from bootd.wire.control import MemberState
from tests.unit.ring_parts import CHUNK, PATIENCE, Room

OLD = b"\xa5"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.close()


@pytest.fixture
def device(room: Room) -> Iterator[int]:
    """A loop device of one MiB more than the image, full of old bytes, open for reading and writing."""
    backing = room.folder / "backing"
    backing.write_bytes(OLD * ((len(room.body) // 512 * 512) + (1 << 20)))
    name = subprocess.run(
        ["losetup", "--find", "--show", str(backing)], check=True, capture_output=True, text=True
    ).stdout.strip()
    descriptor = os.open(name, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        subprocess.run(["losetup", "--detach", name], check=True)


def test_ring_over_a_block_device(room: Room, device: int) -> None:
    """head -> block device -> file: bytes after the image, also those in its last sector, stay."""
    assert len(room.body) % 512
    room.add_head()
    room.add_target("m1", lambda _: BlockStore(device, len(room.body)))
    room.add_target("m2")
    room.arrange("m1", "head")
    room.arrange("m2", "m1")
    assert room.members["m1"].wait(PATIENCE).state is MemberState.VERIFIED
    room.expect_verified("m2")
    assert fcntl.fcntl(device, fcntl.F_GETFL) & os.O_DIRECT
    os.fsync(device)
    content = (room.folder / "backing").read_bytes()
    assert content[: len(room.body)] == room.body
    assert set(content[len(room.body) :]) == set(OLD)


@pytest.mark.parametrize("zeros", [WRITE_ZEROS, DISCARD_ZEROS])
def test_zeros_reach_the_device(room: Room, device: int, zeros: str) -> None:
    """Every chunk of the image that is zeros lies over old bytes, also the last one, which ends inside a sector."""
    store = BlockStore(device, 3 * CHUNK + 700, zeros)
    store.zero(CHUNK, CHUNK)
    store.zero(3 * CHUNK, 700)
    store.sync()
    os.fsync(device)
    content = (room.folder / "backing").read_bytes()
    expected = OLD * CHUNK + bytes(CHUNK) + OLD * CHUNK + bytes(700)
    assert content == expected + OLD * (len(content) - len(expected))
    allocated = (room.folder / "backing").stat().st_blocks * 512
    assert (allocated < len(content)) == (zeros == DISCARD_ZEROS), "discarding gives room back"


def test_late_successor_is_served_from_the_device(room: Room, device: int) -> None:
    room.add_head()
    room.add_target("m1", lambda _: BlockStore(device, len(room.body)))
    room.arrange("m1", "head")
    assert room.members["m1"].wait(PATIENCE).state is MemberState.VERIFIED
    room.members["head"].stop()
    room.add_target("m2")
    room.arrange("m2", "m1")
    room.expect_verified("m2")


def test_device_that_is_too_small_or_none(room: Room, device: int) -> None:
    with pytest.raises(StoreError, match="the image needs"):
        BlockStore(device, 1 << 30)
    with (room.folder / "source").open("r+b") as file, pytest.raises(StoreError, match="not a block device"):
        BlockStore(file.fileno(), 512)


def test_file_system_that_fills_up(room: Room) -> None:
    """A real file system without room for the image: the member fails with the kernel's words."""
    mount = room.folder / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={10 * CHUNK}", "none", str(mount)], check=True)
    try:
        room.add_head()
        room.add_target("m1", lambda _: FileStore(str(mount / "disk"), len(room.body)))
        room.arrange("m1", "head")
        report = room.members["m1"].wait(PATIENCE)
        assert report.state is MemberState.FAILED
        assert report.reason.startswith("writing the target at byte ")
        assert report.reason.endswith(": No space left on device")
        assert report.written <= 13 * CHUNK  # two of the first twelve are zeros, and stay holes
    finally:
        room.close()
        subprocess.run(["umount", str(mount)], check=True)
