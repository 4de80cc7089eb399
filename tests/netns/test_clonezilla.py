"""Clonezilla itself, on loop devices: what it saves is imported, what is exported it restores."""

import os
import re
from pathlib import Path

import pytest

from bootd.drivers.formats.exporting import export_image
from bootd.drivers.formats.importing import import_image
from bootd.drivers.images.store import ImageStore
from bootd.images.manifest import ImageManifest
from tests.clonezilla import RESTORE, SAVE, clonezilla, loop
from tests.foreign_images import MIB, clone, make_filesystem, restore, tool
from tests.unit.test_image_import import Told

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for loop devices")]
SECTOR = 512
SIZE = 64 * MIB
# Table, and what is in the partitions: number, first sector, filesystem ("" = nothing that anybody knows).
TABLES = {
    "dos": (
        "label: dos\nlabel-id: 0xdeadbeef\nstart=2048,size=24576,type=83,bootable\nstart=26624,size=16384,type=17\n"
        "start=43008,type=f\nstart=45056,size=32768,type=c\nstart=79872,size=8192,type=82\n",
        ((1, 2048, "ext4"), (2, 26624, "ntfs"), (5, 45056, "vfat"), (6, 79872, "swap")),
    ),
    "gpt": (
        'label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\nsize=16MiB,type=U,name="EFI system"\n'
        "size=12MiB,type=L\nsize=8MiB,type=L\n",
        ((1, 2048, "vfat"), (2, 34816, "ext4"), (3, 59392, "")),
    ),
}


def build(kind: str, folder: Path) -> tuple[Path, dict[int, bytes]]:
    """A disk with boot code and data behind it; and what Clonezilla must keep of each partition."""
    script, parts = TABLES[kind]
    disk, kept = folder / "disk", {}
    with disk.open("xb") as file:
        file.truncate(SIZE)
    tool("sfdisk", "-q", disk, data=script.encode())
    with disk.open("r+b") as file:
        file.write(os.urandom(440))
        if kind == "dos":
            file.seek(SECTOR)
            file.write(os.urandom(2047 * SECTOR))
        for number, start, filesystem in parts:
            path = folder / f"part{number}"
            if filesystem == "swap":
                path.write_bytes(bytes(8192 * SECTOR))
                tool("mkswap", "-L", "sw", path)
                kept[number] = path.read_bytes()
            elif filesystem:
                made = make_filesystem(filesystem, path)
                kept[number] = restore(clone(filesystem, made, folder / f"image{number}"), made.stat().st_size)
            else:
                path.write_bytes(os.urandom(8 * MIB))
                kept[number] = path.read_bytes()
            file.seek(start * SECTOR)
            file.write(path.read_bytes())
    return disk, kept


def table(path: Path) -> str:
    return re.sub(
        r"/dev/\S+?p?(\d+) :", r"\1 :", tool("sfdisk", "--dump", path).decode().replace(str(path), "/dev/x")
    )


def whole(store: Path, name: str) -> tuple[bytes, ImageManifest]:
    images = ImageStore(store)
    manifest = images.open(name)
    return b"".join(bytes(images.read_chunk(manifest, index)) for index in range(len(manifest.chunks))), manifest


@pytest.mark.parametrize("kind", [pytest.param("gpt", marks=pytest.mark.long), "dos"])
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    disk, kept = build(kind, tmp_path)
    root, store = tmp_path / "partimag", tmp_path / "store"
    root.mkdir()
    with loop(disk) as device:
        clonezilla(root, *SAVE, "-z9p", "savedisk", "golden", device)
    result = import_image(
        Told(), store=str(store), path=str(root / "golden"), name="golden", user="ann", comment="c"
    )
    assert result["images"][0]["format"] == "clonezilla"
    found, manifest = whole(store, "golden")
    original = disk.read_bytes()
    assert len(found) == SIZE
    assert manifest.kind == "disk"
    copy = tmp_path / "copy"
    copy.write_bytes(found)
    assert table(copy) == table(disk)
    if kind == "dos":
        assert found[: 2048 * SECTOR] == original[: 2048 * SECTOR]
    else:
        assert found[: 34 * SECTOR] == original[: 34 * SECTOR]
        assert found[-33 * SECTOR :] == original[-33 * SECTOR :]
    for number, start, _ in TABLES[kind][1]:
        assert found[start * SECTOR : start * SECTOR + len(kept[number])] == kept[number], number

    export_image(Told(), store=str(store), image="golden", path=str(root / "back"), format_="clonezilla")
    target = tmp_path / "target"
    with target.open("xb") as file:
        file.truncate(SIZE)
    with loop(target) as device:
        clonezilla(root, *RESTORE, "restoredisk", "back", device)
    restored = target.read_bytes()
    assert table(target) == table(disk)
    assert restored[:440] == original[:440]
    for number, start, filesystem in TABLES[kind][1]:
        part = restored[start * SECTOR : start * SECTOR + len(kept[number])]
        if filesystem == "swap":  # made anew by Clonezilla, with the same id
            assert part[1024 + 12 : 1024 + 28] == kept[number][1024 + 12 : 1024 + 28]
        else:
            assert part == kept[number], number


def test_one_partition_that_clonezilla_saved(tmp_path: Path) -> None:
    """saveparts: the image is of the partition, and no disk."""
    disk, kept = build("gpt", tmp_path)
    root, store = tmp_path / "partimag", tmp_path / "store"
    root.mkdir()
    with loop(disk) as device:
        clonezilla(root, *SAVE, "-z1p", "saveparts", "root", f"{device}p2")
    import_image(Told(), store=str(store), path=str(root / "root"), name="root", user="ann", comment="c")
    found, manifest = whole(store, "root")
    assert (manifest.kind, manifest.size, manifest.table) == ("partition", 12 * MIB, None)
    assert found == kept[2]
