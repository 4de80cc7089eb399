"""The medium that starts stage1 without network boot: as mtools and sfdisk see it, and what it never does.

Machines boot it in tests/vm/test_ways.py.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from bootd.build import medium
from bootd.errors import Exit, OperatorError


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """A boot folder with files of the right names; what they hold is only copied."""
    folder = tmp_path / "boot"
    for name in medium.FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(100_000))
    return folder


def inside(image: str, place: str) -> bytes:
    return subprocess.run(["mtype", "-i", image, f"::/{place}"], check=True, capture_output=True).stdout


def test_a_rescue_partition(boot: Path, tmp_path: Path) -> None:
    out = tmp_path / "rescue.img"
    medium.build(boot, out, tmp_path / "cache", "", print, partition=True)
    for name, place in medium.FILES.items():
        assert inside(str(out), place) == (boot / name).read_bytes()
    told = subprocess.run(
        ["blkid", "-p", "-o", "export", str(out)], check=True, capture_output=True, text=True
    ).stdout
    assert {"LABEL=BOOTD", "TYPE=vfat", "VERSION=FAT32"} <= set(told.split())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_disk(boot: Path, tmp_path: Path) -> None:
    """Table, file system and boot code are where each other expects them."""
    library = Path("/usr/lib/grub/i386-pc")
    if not (library / "boot.img").exists():
        pytest.skip("grub-pc-bin is not installed")
    image = medium.disk(medium.file_system(boot, tmp_path), tmp_path, library, "console=ttyS0")
    table = json.loads(subprocess.run(["sfdisk", "--json", str(image)], check=True, capture_output=True).stdout)
    bios, fat = table["partitiontable"]["partitions"]
    assert bios["type"] == "21686148-6449-6E6F-744E-656564454649"
    assert fat["type"] == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    assert inside(f"{image}@@{fat['start'] * 512}", "vmlinuz") == (boot / "stage1/vmlinuz").read_bytes()
    assert (tmp_path / "grub.cfg").read_text().splitlines()[2] == "linux /vmlinuz bootd.ask console=ttyS0"
    first = image.read_bytes()[:512]
    assert int.from_bytes(first[0x5C:0x64], "little") == bios["start"]
    assert first[510:] == b"\x55\xaa"


def test_what_is_there_is_never_written(boot: Path, tmp_path: Path) -> None:
    present, link = tmp_path / "present", tmp_path / "link"
    present.write_text("mine")
    link.symlink_to("/dev/null")
    for path in (present, link, Path("/dev/null")):
        with pytest.raises(OperatorError, match="is there already") as caught:
            medium.build(boot, path, tmp_path, "", print, partition=True)
        assert caught.value.code is Exit.REFUSED
    assert present.read_text() == "mine"


def test_without_a_build(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="uki-x64") as caught:
        medium.build(tmp_path, tmp_path / "out", tmp_path, "", print, partition=True)
    assert caught.value.hint == "bootd stage build"
