"""What lies on devices where no udev has written it down: real file systems, judged by blkid."""

import os
import subprocess
from pathlib import Path

import pytest

from stage2 import signatures
from stage2.inventory import disks_of


def test_real_file_systems(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as stream:
        stream.truncate(8 << 20)
    assert signatures.probe(str(image)) == {}
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "two words", image], check=True)
    tags = signatures.probe(str(image))
    assert (tags["TYPE"], tags["LABEL"]) == ("ext4", "two words")
    assert signatures.probe(str(tmp_path / "nothing")) == {}


def test_two_systems_left_their_marks(tmp_path: Path) -> None:
    """A file system inside what was an LVM volume: blkid will not say which one counts, so nobody overwrites it."""
    image = tmp_path / "disk"
    with image.open("wb") as stream:
        stream.truncate(8 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", image], check=True)
    other = tmp_path / "other"
    with other.open("wb") as stream:
        stream.truncate(8 << 20)
    subprocess.run(["mkfs.vfat", other], check=True, capture_output=True)
    with image.open("r+b") as stream:
        stream.write(other.read_bytes()[:1024])  # a FAT boot sector before the superblock of the ext2
    assert signatures.probe(str(image)) == {"TYPE": signatures.SEVERAL}
    device = {"kname": "sda", "type": "disk", "size": 8 << 20, "children": []}
    signatures.complete(device, str(tmp_path), lambda _: {"TYPE": signatures.SEVERAL})
    (disk,) = disks_of({"blockdevices": [device]}, {})
    assert disk.excluded == "foreign filesystem: several signatures"


def test_values_as_a_shell_would_read_them() -> None:
    text = "DEVNAME=/dev/sda1\nLABEL=two\\ words\\ \\$5\nTYPE=ntfs\n"
    assert signatures.parse(text) == {"DEVNAME": "/dev/sda1", "LABEL": "two words $5", "TYPE": "ntfs"}


def test_what_lsblk_knows_is_not_asked_again() -> None:
    asked: list[str] = []

    def ask(path: str) -> dict[str, str]:
        asked.append(path)
        return {"TYPE": "BitLocker", "PART_ENTRY_UUID": "6d9f7a52-02", "PART_ENTRY_TYPE": "0x7"}

    known = {"kname": "sda1", "type": "part", "size": 512, "fstype": "ext4", "partuuid": "6d9f7a52-01"}
    open_ = {"kname": "sda2", "type": "part", "size": 512, "fstype": None, "partuuid": None, "parttype": None}
    rom = {"kname": "sr0", "type": "rom", "size": 512}
    for device in (known, open_, rom):
        signatures.complete(device, "/dev", ask)
    assert asked == ["/dev/sda2"]
    assert (open_["fstype"], open_["partuuid"], open_["parttype"]) == ("BitLocker", "6d9f7a52-02", "0x7")


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
def test_lsblk_without_udev_says_less_than_blkid(tmp_path: Path) -> None:
    """The reason why blkid is asked: were lsblk enough here, so be it, but what blkid says must come through."""
    image = tmp_path / "disk"
    with image.open("wb") as stream:
        stream.truncate(8 << 20)
    subprocess.run(["mkswap", image], check=True, capture_output=True)
    done = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    name = done.stdout.strip().removeprefix("/dev/")
    try:
        device = {"kname": name, "type": "loop", "size": 8 << 20, "fstype": None}
        signatures.complete(device)
        assert device["fstype"] == "swap"
    finally:
        subprocess.run(["losetup", "--detach", f"/dev/{name}"], check=True)
