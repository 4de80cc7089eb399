"""The source of a capture on real block devices: disks with tables and without, and who else may have them."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bootd.wire.captured import CHUNK
from bootd.wire.control import Capture, Disk, Partition
from stage2.inventory import Facts, disks_of, run_lsblk
from stage2.source import Source
from stage2.used_blocks import RefusedError
from tests.netns import volumes
from tests.netns.volumes import BY_NAME, MIB

GPT = "label: gpt\nstart=1MiB, size=64MiB, type=U\nstart=70MiB, size=60MiB, type=L\n"


def inventory(device: str, serial: str = "S1") -> Callable[[], Sequence[Disk]]:
    def take() -> Sequence[Disk]:
        name = Path(device).name
        devices = [item for item in run_lsblk()["blockdevices"] if item["kname"] == name]
        found = disks_of({"blockdevices": devices}, {name: Facts(serial=serial, table_digest="00")})
        return [replace(disk, excluded=disk.excluded.replace("loop device", "")) for disk in found]

    return take


def order(device: str, partition: int = 0) -> Capture:
    disk = inventory(device)()[0]
    if partition:  # as the node told it when the backup was ordered
        disk = replace(disk, partitions=(Partition(partition, 60 * MIB, "", "", ""),))
    return Capture("t1", disk, partition, False, False, "stay")


def read_all(source: Source) -> bytes:
    return b"".join(bytes(source.read_chunk(index)) for index in range(source.description.chunks))


@pytest.fixture
def gpt(tmp_path: Path) -> Path:
    """Two file systems in a GPT; all else holds old bytes."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * (140 * MIB // 256))
    subprocess.run(["sfdisk", "-q", str(path)], input=GPT.encode(), check=True, capture_output=True)
    with volumes.disk(path) as device:
        volumes.run("mkfs.vfat", "-F32", f"{device}p1")
        volumes.run("mkfs.ext4", "-q", "-F", f"{device}p2")
    return path


def test_a_disk_with_a_gpt_keeps_both_tables_and_all_gaps(gpt: Path) -> None:
    before = gpt.read_bytes()
    with volumes.disk(gpt, "--read-only") as device:  # the kernel itself would refuse a write
        source = Source(order(device), inventory(device))
        try:
            about = source.description
            content = read_all(source)
            assert not source.changed()
        finally:
            source.close()
    assert gpt.read_bytes() == before
    assert about.table is not None
    assert (about.kind, about.size, about.table["label"]) == ("disk", 140 * MIB, "gpt")
    assert [(volume.start, volume.type) for volume in about.volumes] == [(MIB, "vfat"), (70 * MIB, "ext4")]
    for start, end in ((0, MIB), (65 * MIB, 70 * MIB), (130 * MIB, 140 * MIB)):
        assert content[start:end] == before[start:end]
    assert content.count(bytes(CHUNK)) > 80, "free blocks are zeros, whatever lay there"
    for start, length in about.ranges:
        assert content[start : start + length] == before[start : start + length]


def test_a_disk_without_a_table(tmp_path: Path) -> None:
    path = volumes.make(BY_NAME["fat32"], tmp_path / "disk")
    content = volumes.fill(BY_NAME["fat32"], path, tmp_path)
    with volumes.loop(path) as device:
        source = Source(order(device), inventory(device))
        try:
            about = source.description
            (tmp_path / "restored").write_bytes(read_all(source))
        finally:
            source.close()
    assert [volume.type for volume in about.volumes] == ["vfat"]
    assert sum(length for _, length in about.ranges) < 20 * MIB
    assert volumes.read_files(BY_NAME["fat32"], tmp_path / "restored", tmp_path) == content


def test_nobody_mounts_it_meanwhile_and_what_is_mounted_is_refused(gpt: Path, tmp_path: Path) -> None:
    with volumes.disk(gpt) as device:
        take = inventory(device)
        source = Source(order(device), take)
        try:
            done = subprocess.run(["mount", f"{device}p2", str(tmp_path)], capture_output=True, check=False)
            assert done.returncode != 0, "it is ours"
        finally:
            source.close()
        with volumes.mounted("ext4", f"{device}p2", tmp_path / "mount"):
            with pytest.raises(RefusedError, match=r"cannot be opened alone.*unmount it"):
                Source(order(device), take)
            with pytest.raises(RefusedError, match="cannot be opened alone"):
                Source(order(device, 2), take)
            held = replace(take()[0], excluded="mounted at /mnt")  # as the inventory says it of a real disk
            with pytest.raises(RefusedError, match="is mounted at /mnt: unmount it"):
                Source(order(device), lambda: [held])


def test_writes_of_others_are_seen(gpt: Path) -> None:
    with volumes.disk(gpt) as device:
        for part, written in ((0, f"{device}p1"), (2, f"{device}p2")):
            source = Source(order(device, part), inventory(device))
            try:
                assert not source.changed()
                volumes.run("dd", "if=/dev/zero", f"of={written}", "bs=4096", "count=1", "seek=999", "conv=notrunc")
                assert "was written to" in source.changed()
            finally:
                source.close()


def test_another_disk_than_was_meant(gpt: Path) -> None:
    with volumes.disk(gpt) as device:
        take, wanted = inventory(device), order(device)
        with pytest.raises(RefusedError, match=r"0 disks are \S+ \(S2\)"):
            Source(replace(wanted, disk=replace(wanted.disk, serial="S2")), take)
        with pytest.raises(RefusedError, match="2 disks"):
            Source(wanted, lambda: [*take(), *take()])
        with pytest.raises(RefusedError, match="when the backup was ordered"):
            Source(replace(wanted, disk=replace(wanted.disk, size=1 << 20)), take)
        with pytest.raises(RefusedError, match="there is no partition"):
            Source(order(device, 3), take)
        smaller = order(device, 1)  # 60 MiB when it was ordered, 64 MiB now
        with pytest.raises(RefusedError, match="order it again"):
            Source(smaller, take)
