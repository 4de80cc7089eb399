"""Images of other programs become images of the store, whole or not at all. Made by the real tools, on files."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootd.drivers.formats.exporting import export_image
from bootd.drivers.formats.importing import import_image
from bootd.drivers.images.store import ImageStore
from bootd.errors import Exit, OperatorError
from tests.foreign_images import MIB, clone, make_filesystem, tool
from tests.unit.operators import Operators

SECTOR = 512


class Told:
    """What long work says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done = self.total = 0

    def progress(self, done: int, total: int, text: str = "") -> None:
        assert done >= self.done
        self.done, self.total = done, total

    def note(self, text: str) -> None:
        self.notes.append(text)


def take(store: Path, path: Path, **more: Any) -> dict[str, Any]:
    """Import ``path``; the one image."""
    order = {"name": "x", "user": "ann", "comment": "why", **more}
    result = import_image(Told(), store=str(store), path=str(path), **order)
    assert len(result["images"]) == 1
    found: dict[str, Any] = result["images"][0]
    return found


def content(store: Path, reference: str = "x") -> bytes:
    images = ImageStore(store)
    manifest = images.open(reference)
    return b"".join(bytes(images.read_chunk(manifest, index)) for index in range(len(manifest.chunks)))


def refuse(store: Path, path: Path, text: str, code: Exit = Exit.INPUT, **more: Any) -> None:
    """The import fails, says ``text``, and leaves no image."""
    with pytest.raises(OperatorError) as error:
        take(store, path, **more)
    assert text in str(error.value)
    assert error.value.code == code
    assert ImageStore(store).images() == []
    assert not [path for path in store.iterdir() if path.name.startswith(("tmp", "."))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk: boot code, data behind it, ext4, NTFS, and a logical FAT and swap."""
    folder = tmp_path_factory.mktemp("made")
    disk = folder / "disk.raw"
    source = random.Random(3)
    with disk.open("wb") as file:
        file.truncate(48 * MIB)
    tool(
        "sfdisk", "-q", disk,
        data=b"label: dos\nlabel-id: 0xdeadbeef\n"
        b"start=2048,size=24576,type=83,bootable\nstart=26624,size=16384,type=7\n"
        b"start=43008,type=f\nstart=45056,size=32768,type=c\nstart=79872,size=8192,type=82\n",
    )  # fmt: skip
    for kind, start in (("ext4", 2048), ("ntfs", 26624), ("vfat", 45056)):
        place(disk, start * SECTOR, make_filesystem(kind, folder / kind).read_bytes())
    swap = folder / "swap"
    swap.write_bytes(bytes(8192 * SECTOR))
    tool("mkswap", "-L", "sw", "-U", "0c85a70d-80bb-4496-bea8-d7abad7aab6e", swap)
    place(disk, 79872 * SECTOR, swap.read_bytes())
    place(disk, 0, source.randbytes(440))
    place(disk, SECTOR, source.randbytes(2047 * SECTOR))
    return folder


def place(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


PACKERS = {
    "raw": ("cat",), "gzip": ("gzip", "-1"), "xz": ("xz", "-0"), "zstd": ("zstd",),
    "bzip2": ("bzip2", "-1"), "lz4": ("lz4", "-c"), "lzop": ("lzop", "-1"),
}  # fmt: skip


@pytest.mark.parametrize("packer", PACKERS)
def test_raw_disks_however_they_are_compressed(packer: str, made: Path, tmp_path: Path) -> None:
    raw = (made / "disk.raw").read_bytes()
    path = tmp_path / "image"  # no name says what it is
    path.write_bytes(tool(*PACKERS[packer], data=raw))
    item = take(tmp_path / "store", path)
    assert content(tmp_path / "store") == raw
    assert (item["kind"], item["size"], item["partitions"]) == ("disk", len(raw), 4)
    manifest = ImageStore(tmp_path / "store").open("x")
    assert manifest.table is not None
    listed = json.loads(tool("sfdisk", "--json", made / "disk.raw"))["partitiontable"]
    wanted = [
        {**part, "node": part["node"].replace(str(made / "disk.raw"), "/dev/sda")} for part in listed["partitions"]
    ]
    assert manifest.table["partitions"] == wanted
    assert [(found.start, found.type) for found in manifest.filesystems] == [
        (2048 * SECTOR, "ext4"),
        (26624 * SECTOR, "ntfs"),
        (45056 * SECTOR, "vfat"),
        (79872 * SECTOR, "swap"),
    ]
    assert (manifest.user, manifest.comment, manifest.extents) == ("ann", "why", None)
    again = take(tmp_path / "store", made / "disk.raw")
    assert again["new_chunks"] == 0


@pytest.mark.parametrize("format_", ["qcow2", "vmdk", "vdi", "vhdx"])
def test_virtual_disks(format_: str, made: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    tool("qemu-img", "convert", "-O", format_, made / "disk.raw", path)
    item = take(tmp_path / "store", path)
    assert item["format"] == format_
    assert content(tmp_path / "store") == (made / "disk.raw").read_bytes()


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_vhd_of_either_kind(subformat: str, made: Path, tmp_path: Path) -> None:
    """Rounded up to its geometry; a fixed one shows only at its end what it is."""
    path = tmp_path / "image"
    tool("qemu-img", "convert", "-O", "vpc", "-o", f"subformat={subformat}", made / "disk.raw", path)
    raw = (made / "disk.raw").read_bytes()
    assert take(tmp_path / "store", path)["format"] == "vpc"
    found = content(tmp_path / "store")
    assert found[: len(raw)] == raw
    assert not any(found[len(raw) :])


def test_a_virtual_disk_leans_on_nothing(made: Path, tmp_path: Path) -> None:
    """Neither a backing file, nor an external data file, nor the extents of a vmdk: they could be any file."""
    store, secret = tmp_path / "store", tmp_path / "secret"
    secret.write_bytes(b"root:secret" + bytes(MIB - 11))
    backed = tmp_path / "backed.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, backed)
    refuse(store, backed, "leans on another file")
    outside = tmp_path / "outside.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", outside, "1M")
    refuse(store, outside, "leans on another file")
    flat = tmp_path / "flat.vmdk"
    tool("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", secret, flat)
    refuse(store, flat, "several files")
    raw = tmp_path / "compressed"
    tool("qemu-img", "convert", "-O", "qcow2", made / "disk.raw", tmp_path / "q")
    raw.write_bytes(tool("gzip", "-c", tmp_path / "q"))
    refuse(store, raw, "compressed qcow2 image: unpack it first")


def test_damaged_virtual_disks(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    tool("qemu-img", "convert", "-O", "qcow2", made / "disk.raw", path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuse(tmp_path / "store", path, "qemu-img")
    path.write_bytes(whole[:70000] + bytes(range(256)) * 200 + whole[121200:])
    refuse(tmp_path / "store", path, "qemu-img")


@pytest.mark.parametrize("packer", ["gzip", "xz", "zstd", "bzip2", "lz4"])
def test_what_is_cut_off_is_no_image(packer: str, made: Path, tmp_path: Path) -> None:
    packed = tool(*PACKERS[packer], data=(made / "ext4").read_bytes())
    path = tmp_path / "image"
    for length in (len(packed) - 1, len(packed) // 2):
        path.write_bytes(packed[:length])
        refuse(tmp_path / "store", path, "truncated")


def test_a_raw_disk_that_is_cut_off_is_no_image(made: Path, tmp_path: Path) -> None:
    """Its table or its filesystem says that more belongs to it."""
    raw = (made / "disk.raw").read_bytes()
    path = tmp_path / "image"
    for data in (raw[: 30 * MIB], (made / "ext4").read_bytes()[: 8 * MIB], (made / "ntfs").read_bytes()[: 5 * MIB]):
        path.write_bytes(data)
        refuse(tmp_path / "store", path, "truncated")
    path.write_bytes(raw[:-100])
    refuse(tmp_path / "store", path, "whole number of sectors")
    gpt = tmp_path / "gpt"
    gpt.write_bytes(bytes(32 * MIB))
    tool("sfdisk", "-q", gpt, data=b"label: gpt\nsize=4MiB\n")
    os.truncate(gpt, 16 * MIB)
    refuse(tmp_path / "store", gpt, "truncated")


def test_partitions_by_themselves(made: Path, tmp_path: Path) -> None:
    """A filesystem without a table is a partition; a boot sector of FAT, NTFS or exFAT is no table."""
    store = tmp_path / "store"
    make_filesystem("exfat", tmp_path / "exfat")
    for path in (made / "ext4", made / "ntfs", made / "vfat", tmp_path / "exfat"):
        item = take(store, path)
        assert (item["kind"], item["partitions"]) == ("partition", 0)
        manifest = ImageStore(store).open("x")
        assert manifest.table is None
        assert [(found.start, found.type) for found in manifest.filesystems] == [(0, path.name)]
    with pytest.raises(OperatorError, match="without a partition table"):
        take(store, made / "ext4", kind="disk")


@pytest.mark.parametrize("packer", ["raw", "gzip", "zstd"])
def test_images_of_partclone_split_and_compressed(packer: str, made: Path, tmp_path: Path) -> None:
    image = clone("ext4", made / "ext4", tmp_path / "image")
    packed = tool(*PACKERS[packer], data=image.read_bytes())
    tool("split", "-a", "2", "-b", str(len(packed) // 3 + 1), "-", tmp_path / "sda1.ext4-ptcl-img.gz.", data=packed)
    first = tmp_path / "sda1.ext4-ptcl-img.gz.aa"
    item = take(tmp_path / "store", first)
    assert (item["format"], item["kind"]) == ("partclone", "partition")
    assert item["used"] < item["size"]
    assert content(tmp_path / "store") == tool_restore(image, made / "ext4")
    (tmp_path / "sda1.ext4-ptcl-img.gz.ac").unlink()
    other = tmp_path / "other"
    refuse(other, first, "truncated")
    refuse(other, tmp_path / "sda1.ext4-ptcl-img.gz.ab", "not the first")


def tool_restore(image: Path, like: Path) -> bytes:
    target = image.with_suffix(".out")
    target.write_bytes(bytes(like.stat().st_size))
    tool("partclone.restore", "-C", "-f", "0", "-s", image, "-O", target, "-L", image.with_suffix(".log"))
    return target.read_bytes()


IMAGEDESC = """Image   : /images/cloneimages/sda5_WinNTEduD_SP4.gz
Origin  : client1
User    : kurmann
Date    : Tue May 25 12:51:24 CEST 1999
Comment: WindowsNT Educ D with SP4, Xwindows, Netscape 4.6
"""


@pytest.fixture
def clonesys(made: Path, tmp_path: Path) -> Path:
    """A repository as the manual lays it out, by its own command lines."""
    images = tmp_path / "cloneimages"
    images.mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "imagedesc.txt").write_text(IMAGEDESC)
    for source, name in (("ntfs", "sda5_WinNTEduD_SP4.gz"), ("disk.raw", "sda_InitClone.gz")):
        line = 'dd if="$0" bs=1024 |gzip -c |dd of="$1" bs=1024'
        tool("sh", "-c", line, made / source, images / name)
    return images


def test_clonesys(clonesys: Path, made: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    item = take(store, clonesys / "sda5_WinNTEduD_SP4.gz", name="nt", comment="")
    manifest = ImageStore(store).open("nt")
    assert item["format"] == "clonesys"
    assert (manifest.user, manifest.origin, manifest.created) == ("kurmann", "client1", "1999-05-25T10:51:24Z")
    assert manifest.comment == "WindowsNT Educ D with SP4, Xwindows, Netscape 4.6"
    assert manifest.kind == "partition"
    assert content(store, "nt") == (made / "ntfs").read_bytes()
    result = import_image(Told(), store=str(store), path=str(clonesys), name="lab", user="ann", comment="all")
    assert [found["name"] for found in result["images"]] == ["lab-sda5-WinNTEduD_SP4", "lab-sda-InitClone"]
    assert content(store, "lab-sda-InitClone") == (made / "disk.raw").read_bytes()
    assert ImageStore(store).open("lab-sda-InitClone").kind == "disk"
    one = take(store, clonesys, name="one", device="sda")
    assert (one["name"], one["size"]) == ("one", 48 * MIB)
    other = tmp_path / "other"
    refuse(other, clonesys / "sda_InitClone.gz", "no comment", Exit.USAGE, comment="")
    refuse(other, clonesys, "no image of sda7", device="sda7")
    packed = (clonesys / "sda5_WinNTEduD_SP4.gz").read_bytes()
    (clonesys / "sda5_WinNTEduD_SP4.gz").write_bytes(packed[:-4])
    refuse(other, clonesys / "sda5_WinNTEduD_SP4.gz", "truncated")


def make_fog(made: Path, folder: Path, pack: tuple[str, ...], *, split: bool = False) -> None:
    """A FOG image of the disk, file by file as fog.upload, savePartition and saveGRUB of FOG make it."""
    folder.mkdir()
    raw = (made / "disk.raw").read_bytes()
    (folder / "d1.mbr").write_bytes(raw[: 2048 * SECTOR])
    dump = tool("sfdisk", "-d", made / "disk.raw").decode().replace(str(made / "disk.raw"), "/dev/sda")
    (folder / "d1.partitions").write_text(dump)
    (folder / "d1p3.ebr").write_bytes(raw[43008 * SECTOR : 43009 * SECTOR])
    (folder / "d1.original.swapuuids").write_text("/dev/sda6 0c85a70d-80bb-4496-bea8-d7abad7aab6e\n")
    (folder / "d1.original.fstypes").write_text("")
    for kind, number in (("ext4", 1), ("ntfs", 2), ("vfat", 5)):
        image = clone(kind, made / kind, folder.parent / f"{folder.name}-{number}", "-n", "Storage Location x")
        packed = tool(*pack, data=image.read_bytes())
        target = folder / f"d1p{number}.img"
        if split:
            tool("split", "-a", "3", "-d", "-b", "100000", "-", f"{target}.", data=packed)
        else:
            target.write_bytes(packed)


def used_is_equal(made: Path, found: bytes) -> None:
    """The disk, partition by partition: what is in use is there, the filesystems are whole."""
    raw = (made / "disk.raw").read_bytes()
    assert found[: 2048 * SECTOR] == raw[: 2048 * SECTOR]
    for number, start, size in ((1, 2048, 24576), (2, 26624, 16384), (5, 45056, 32768)):
        kind = {1: "ext4", 2: "ntfs", 5: "vfat"}[number]
        image = clone(kind, made / kind, Path(f"{made}/again-{kind}-{os.urandom(4).hex()}"))
        wanted = tool_restore(image, made / kind)
        assert found[start * SECTOR : start * SECTOR + len(wanted)] == wanted
        assert found[start * SECTOR + len(wanted) : (start + size) * SECTOR].count(0) == size * SECTOR - len(wanted)


@pytest.mark.parametrize(
    ("pack", "split"), [(("pigz",), False), (("zstd", "--rsyncable", "--ultra", "-10"), True), (("cat",), False)]
)
def test_fog(pack: tuple[str, ...], split: bool, made: Path, tmp_path: Path) -> None:
    folder, store = tmp_path / "fog", tmp_path / "store"
    make_fog(made, folder, pack, split=split)
    item = take(store, folder)
    assert (item["format"], item["kind"], item["partitions"]) == ("fog", "disk", 4)
    found = content(store)
    used_is_equal(made, found)
    target = tmp_path / "target"
    target.write_bytes(found)
    dump = tool("sfdisk", "-d", target).decode().replace(str(target), "/dev/sda")
    assert dump == (folder / "d1.partitions").read_text()
    swap = tool("blkid", "--probe", "--offset", str(79872 * SECTOR), "--size", str(8192 * SECTOR), target)
    assert b"0c85a70d-80bb-4496-bea8-d7abad7aab6e" in swap
    part = take(store, folder, name="part", device="d1p2")
    assert (part["kind"], part["size"]) == ("partition", 16384 * SECTOR)
    assert content(store, "part") == found[26624 * SECTOR : 43008 * SECTOR]


def test_fog_with_gpt(made: Path, tmp_path: Path) -> None:
    """Its table is in the backup of sgdisk and in the dump of sfdisk; both say how large the disk is."""
    disk, folder, store = tmp_path / "disk", tmp_path / "fog", tmp_path / "store"
    disk.write_bytes(bytes(64 * MIB))
    tool(
        "sfdisk",
        "-q",
        disk,
        data=b'label: gpt\nsize=12MiB,name="root"\nsize=16MiB,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n',
    )
    place(disk, MIB, (made / "ext4").read_bytes())
    place(disk, 13 * MIB, (made / "ntfs").read_bytes())
    folder.mkdir()
    tool("sgdisk", "-b", folder / "d1.mbr", disk)
    dump = tool("sfdisk", "-d", disk).decode().replace(str(disk), "/dev/sda")
    (folder / "d1.partitions").write_text(dump)
    for kind, number in (("ext4", 1), ("ntfs", 2)):
        image = clone(kind, made / kind, tmp_path / kind)
        (folder / f"d1p{number}.img").write_bytes(tool("zstd", data=image.read_bytes()))
    assert take(store, folder)["size"] == 64 * MIB
    target = tmp_path / "target"
    target.write_bytes(content(store))
    tool("sgdisk", "-v", target)
    assert tool("sfdisk", "-d", target).decode().replace(str(target), "/dev/sda") == dump


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/shadow")


def test_fog_images_that_are_not_whole(made: Path, tmp_path: Path) -> None:
    folder, store = tmp_path / "fog", tmp_path / "store"
    make_fog(made, folder, ("zstd",), split=True)
    changes: list[tuple[str, Callable[[Path], object], str]] = [
        ("d1p1.img.000", lambda path: path.unlink(), "missing"),
        (max(folder.glob("d1p2.img.*")).name, lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
        (max(folder.glob("d1p2.img.*")).name, lambda path: path.unlink(), "truncated"),
        ("d1.partitions", lambda path: path.unlink(), "no partition table"),
        (
            "d1.partitions",
            lambda path: path.write_text(path.read_text().replace("24576", "2457")),
            "larger than its",
        ),
        ("d1.partitions", lambda path: path.write_text(path.read_text().replace("sda5", "sda7")), "does not have"),
        ("d1.mbr", lambda path: path.write_bytes(b"x" * 1024), "no boot record"),
        ("d1p1.img.000", replace_by_link, "symbolic link"),
    ]
    for name, change, text in changes:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        change(copy / name)
        refuse(store, copy, text)
        shutil.rmtree(copy)


def test_directories_that_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    refuse(tmp_path / "store", folder, "no directory of Clonezilla, FOG or CloneSys")
    refuse(tmp_path / "store", tmp_path / "absent", "No such file")
    (folder / "link").symlink_to("/etc/passwd")
    refuse(tmp_path / "store", folder / "link", "symbolic link")
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "store", tmp_path / "pipe", "no plain file")
    (tmp_path / "file").write_bytes(bytes(512))
    refuse(tmp_path / "store", tmp_path / "file", "--device", Exit.USAGE, device="sda1")


def test_a_file_that_is_still_written_is_no_image(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    shutil.copy(made / "ext4", path)

    class Writes(Told):
        def progress(self, done: int, total: int, text: str = "") -> None:
            if done > total // 2 and path.stat().st_size == total:
                with path.open("ab") as file:
                    file.write(bytes(SECTOR))

    with pytest.raises(OperatorError, match="changed while it was read"):
        import_image(Writes(), store=str(tmp_path / "store"), path=str(path), name="x", user="ann", comment="c")
    assert ImageStore(tmp_path / "store").images() == []


def test_progress_reaches_the_end(made: Path, tmp_path: Path) -> None:
    told = Told()
    path = tmp_path / "image.gz"
    path.write_bytes(tool("gzip", "-1", data=(made / "disk.raw").read_bytes()))
    import_image(told, store=str(tmp_path / "store"), path=str(path), name="x", user="ann", comment="c")
    assert told.done == told.total == path.stat().st_size


def test_export_qcow2_and_raw(made: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    take(store, made / "disk.raw")
    for format_ in ("qcow2", "raw"):
        target = tmp_path / format_
        export_image(Told(), store=str(store), image="x", path=str(target), format_=format_)
        tool("qemu-img", "compare", "-f", format_, "-F", "raw", target, made / "disk.raw")
        with pytest.raises(OperatorError, match="there already"):
            export_image(Told(), store=str(store), image="x", path=str(target), format_=format_)
    assert (tmp_path / "qcow2").stat().st_size < 40 * MIB
    tool("qemu-img", "check", tmp_path / "qcow2")


def test_export_of_a_partition_is_restored_by_partclone(made: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for kind in ("ext4", "ntfs", "vfat"):
        image = clone(kind, made / kind, tmp_path / kind)
        item = take(store, image, name=kind)
        target = tmp_path / f"{kind}.zst"
        export_image(Told(), store=str(store), image=kind, path=str(target), format_="partclone")
        plain = tmp_path / f"{kind}.img"
        plain.write_bytes(tool("zstd", "-dc", target))
        assert tool_restore(plain, made / kind) == content(store, kind) == tool_restore(image, made / kind)
        again = take(store, target, name="again")
        assert again["new_chunks"] == 0
        assert item["used"] <= again["used"] <= item["used"] + 65536  # whole blocks of 4 KiB
    take(store, made / "disk.raw")
    with pytest.raises(OperatorError, match="--format clonezilla"):
        export_image(Told(), store=str(store), image="x", path=str(tmp_path / "no"), format_="partclone")
    assert not (tmp_path / "no").exists()


def test_an_export_that_fails_leaves_nothing(made: Path, tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "out"
    folder.mkdir()
    take(store, made / "disk.raw")
    images = ImageStore(store)
    victim = next(name for name in images.open("x").chunks[20:] if name)
    images.chunk_path(victim).write_bytes(b"damaged")
    for format_ in ("raw", "qcow2", "clonezilla"):
        with pytest.raises(OperatorError):
            export_image(Told(), store=str(store), image="x", path=str(folder / "x"), format_=format_)
        assert list(folder.iterdir()) == []


def test_a_directory_for_clonezilla_comes_back(made: Path, tmp_path: Path) -> None:
    """Each partition is one that partclone restores; the whole is imported again as the same chunks."""
    store, folder = tmp_path / "store", tmp_path / "golden"
    make_fog(made, tmp_path / "fog", ("zstd",))
    first = take(store, tmp_path / "fog")
    export_image(Told(), store=str(store), image="x", path=str(folder), format_="clonezilla")
    for kind, number in (("ext4", 1), ("ntfs", 2), ("vfat", 5)):
        plain = tmp_path / f"{kind}.img"
        plain.write_bytes(tool("zstd", "-dc", folder / f"sda{number}.{kind}-ptcl-img.zst"))
        assert tool_restore(plain, made / kind) == tool_restore(
            clone(kind, made / kind, tmp_path / kind), made / kind
        )
    assert (folder / "disk").read_text() == "sda\n"
    assert (folder / "parts").read_text() == "sda1 sda2 sda5\n"
    again = take(store, folder, name="again")
    assert again["format"] == "clonezilla"
    assert content(store, "again") == content(store)
    assert again["new_chunks"] == 0
    assert first["used"] <= again["used"] <= first["used"] + 65536  # whole blocks of 4 KiB


def test_what_clonezilla_runs_as_a_script_holds_no_commands(made: Path, tmp_path: Path) -> None:
    """It reads swappt-PART.info with the shell's `.`; labels come from whoever made the disk."""
    disk, store, folder = tmp_path / "disk", tmp_path / "store", tmp_path / "golden"
    shutil.copy(made / "disk.raw", disk)
    swap = tmp_path / "swap"
    swap.write_bytes(bytes(8192 * SECTOR))
    tool("mkswap", "-L", '$(id)`id`"', swap)
    place(disk, 79872 * SECTOR, swap.read_bytes())
    take(store, disk)
    export_image(Told(), store=str(store), image="x", path=str(folder), format_="clonezilla")
    out = tool("sh", "-c", '. "$0"; echo "$LABEL"', folder / "swappt-sda6.info").decode()
    assert "uid" not in out
    assert out.strip().count("id") == 2


def test_command_line_on_a_store_without_the_daemon(made: Path, tmp_path: Path) -> None:
    def bootd(*words: object) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("bootd"), "image", "--store", tmp_path / "store", *words]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)

    done = bootd("import", made / "disk.raw", "--name", "golden", "-m", "why", "--json")
    assert done.returncode == Exit.OK, done.stderr
    item = json.loads(done.stdout)["images"][0]
    assert (item["name"], item["format"], item["size"]) == ("golden", "raw", 48 * MIB)
    done = bootd("export", "golden", tmp_path / "out.qcow2", "--format", "qcow2", "--json")
    assert done.returncode == Exit.OK, done.stderr
    tool("qemu-img", "compare", tmp_path / "out.qcow2", made / "disk.raw")
    (tmp_path / "cut.gz").write_bytes(tool("gzip", data=bytes(MIB))[:-2])
    done = bootd("import", tmp_path / "cut.gz", "--name", "cut", "-m", "why")
    assert done.returncode == Exit.INPUT
    assert "truncated" in done.stderr
    assert bootd("import", tmp_path / "cut.gz", "--name", "../x", "-m", "why").returncode == Exit.USAGE
    assert bootd("export", "absent", tmp_path / "no").returncode == Exit.INPUT


def test_as_jobs_of_the_daemon(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operators = Operators(tmp_path)
    try:
        packed = tmp_path / "disk.xz"
        packed.write_bytes(tool("xz", "-0", data=(made / "disk.raw").read_bytes()))
        code, out, err = operators.run(
            capsys, "image", "import", str(packed), "--name", "golden", "-m", "why", "--tag", "v1", "--json"
        )
        assert code == Exit.OK, err
        item = json.loads(out)["images"][0]
        assert (item["kind"], item["size"]) == ("disk", 48 * MIB)
        target = tmp_path / "golden.qcow2"
        code, out, err = operators.run(capsys, "image", "export", "golden:v1", str(target), "--format", "qcow2")
        assert code == Exit.OK, err
        tool("qemu-img", "compare", target, made / "disk.raw")
        packed.write_bytes(packed.read_bytes()[:-100])
        code, out, err = operators.run(capsys, "image", "import", str(packed), "--name", "cut", "-m", "why")
        assert code == Exit.INPUT
        assert "truncated" in err
        code, out, err = operators.run(capsys, "image", "export", "golden", str(target))
        assert code == Exit.INPUT
        assert "there already" in err
        kinds = [line.what for line in operators.journal.audit(100)]
        assert kinds.count("image-import") == 2
        assert kinds.count("image-export") == 2
    finally:
        operators.close()


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """384 MiB that are 12 KiB of zstd: neither the stream, nor the chunks, nor a copy of them is held."""
    path = tmp_path / "zeros.zst"
    path.write_bytes(tool("sh", "-c", f"head -c {384 * MIB} /dev/zero | zstd -c"))
    program: list[str | Path] = [Path(sys.executable).with_name("bootd"), "image", "--store", tmp_path / "store"]
    command = [*program, "import", path, "--name", "zeros", "-m", "why", "--kind", "disk"]
    # From a small process: the greatest memory of a child counts from its fork on, and this process may be large.
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)"
    )
    measure += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    assert int(tool(sys.executable, "-c", measure, *command)) < 250_000  # KiB
    assert ImageStore(tmp_path / "store").open("zeros").size == 384 * MIB
