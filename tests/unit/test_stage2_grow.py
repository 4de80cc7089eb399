"""Growth to a larger disk, on loop devices with real file systems: judged by sfdisk, sgdisk, fsck and a mount."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage2 import grow
from stage2.grow import read_table, size_of
from tests.netns.disks import MIB, LoopDisk, add_partitions

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
SMALL, LARGE = 400 * MIB, 600 * MIB
GPT = """label: gpt
label-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000001
1 : size=2M, type=21686148-6449-6E6F-744E-656564454649, attrs="RequiredPartition"
2 : uuid=6D9F7A52-0000-4F7F-9F42-B007D0000002, name="root"
"""
DOS = "label: dos\nlabel-id: 0x6d9f7a52\n1 : size=2M, type=17, bootable\n2 : type=5\n5 : type=83\n"
MAKE = {
    "ext4": (["mkfs.ext4", "-q", "-F"], ["e2fsck", "-f", "-n"]),
    "xfs": (["mkfs.xfs", "-q", "-f"], ["xfs_repair", "-n"]),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], ["btrfs", "check"]),
    "ntfs": (["mkfs.ntfs", "-q", "-F", "-f"], ["ntfsresize", "--check"]),
}


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout


class Disk:
    """A disk image of `SMALL` bytes that has come to a disk of `LARGE`."""

    def __init__(self, folder: Path, script: str, kind: str) -> None:
        small = LoopDisk(folder / "disk", SMALL, 0, script)
        self.number = 2 if "gpt" in script else 5
        if kind:
            run(*MAKE[kind][0], f"{small.device}p{self.number}")
        self.table = read_table(small.device)
        small.content()
        small.close()
        with (folder / "disk").open("r+b") as stream:
            stream.write(b"BOOT" * 110)
            stream.truncate(LARGE)
        done = run("losetup", "--find", "--show", folder / "disk")
        self.device = done.strip()
        self.partition = f"{self.device}p{self.number}"
        add_partitions(self.device)

    def grow(self) -> str:
        return grow.grow(self.device.removeprefix("/dev/"))

    def close(self) -> None:
        subprocess.run(["partx", "--delete", self.device], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", self.device], check=False)


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    disk = Disk(tmp_path, *request.param)
    yield disk
    disk.close()


def filesystem_bytes(device: str, kind: str) -> int:
    """As each file system's own tool says."""
    if kind == "ext4":
        lines = dict(line.split(":", 1) for line in run("dumpe2fs", "-h", device).splitlines() if ":" in line)
        return int(lines["Block count"]) * int(lines["Block size"])
    if kind == "ntfs":
        text = run("ntfsresize", "--info", "--force", device)
        return int(next(line for line in text.splitlines() if "Current volume size" in line).split()[3])
    if kind == "xfs":
        words = run("xfs_db", "-r", "-c", "sb 0", "-c", "p dblocks blocksize", device).split()
        return int(words[2]) * int(words[5])
    text = run("btrfs", "inspect-internal", "dump-super", device)
    return int(next(line for line in text.splitlines() if line.startswith("total_bytes")).split()[1])


CASES = [
    ((script, kind), kind)
    for kind, script in (("ext4", GPT), ("ext4", DOS), ("btrfs", GPT), ("ntfs", DOS), ("xfs", GPT))
]


@pytest.mark.parametrize(("made", "kind"), CASES, indirect=["made"])
def test_table_and_file_system_fill_the_disk(made: Disk, kind: str) -> None:
    known = Path("/proc/filesystems").read_text().split()
    if kind in ("xfs", "btrfs") and kind not in known:
        pytest.skip(f"this kernel does not mount {kind}")
    old_id = run("blkid", "-p", "-s", "UUID", "-o", "value", made.partition)
    note = made.grow()
    assert note.endswith(f", {kind} grown"), note
    table = read_table(made.device)
    before, after = made.table.entry(made.number), table.entry(made.number)
    assert before is not None
    assert after is not None
    assert after.end * 512 >= LARGE - 2 * MIB
    assert size_of(made.partition) == after.size * 512
    assert table.id == made.table.id
    for field in ("start", "uuid", "name", "type", "attributes", "active"):
        assert getattr(after, field) == getattr(before, field)
    assert [one for one in table.entries if one.start < before.start and not one.is_extended] == [
        one for one in made.table.entries if one.start < before.start and not one.is_extended
    ]
    if table.label == "gpt":
        assert "No problems found" in run("sgdisk", "--verify", made.device)
    with open(made.device, "rb") as stream:  # noqa: PTH123 - a device
        assert stream.read(440) == b"BOOT" * 110
    assert size_of(made.partition) - 2 * MIB <= filesystem_bytes(made.partition, kind) <= size_of(made.partition)
    assert run("blkid", "-p", "-s", "UUID", "-o", "value", made.partition) == old_id
    run(*MAKE[kind][1], made.partition)
    assert made.grow() == "", "the second time there is nothing left"


@pytest.mark.parametrize("made", [(GPT, "")], indirect=True)
def test_without_a_file_system_only_the_table_grows(made: Disk) -> None:
    run("wipefs", "--all", made.partition)
    assert made.grow().endswith("but its file system was not grown: there is none that blkid knows")
    assert size_of(made.partition) > SMALL


@pytest.mark.parametrize("made", [(GPT, "ext4")], indirect=True)
def test_a_tool_that_is_not_there_is_named(made: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage2.grow.shutil.which", lambda _: None)
    assert made.grow().endswith("its file system was not grown: e2fsck is not in this stage2")
    assert filesystem_bytes(made.partition, "ext4") < SMALL


def test_a_disk_without_a_table(tmp_path: Path) -> None:
    disk = LoopDisk(tmp_path / "disk", 4 * MIB, 1)
    before = disk.digest()
    try:
        assert grow.grow(disk.name).startswith("not grown: sfdisk failed")
        assert disk.digest() == before
    finally:
        disk.close()
