"""Systems besides stage2: folders and images become squashfs files and labels. Judged by unsquashfs, cpio."""

import json
import os
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bootd.build import systems as building
from bootd.build.described import BLOCK, describe
from bootd.build.systems import Folder, check_squashfs, digest, find_init, in_folder, kind_of, pack, with_modules
from bootd.drivers import systems
from bootd.drivers.systems import System, Systems, changing, image_name, keep, list_systems, read_stage, remove
from bootd.errors import OperatorError
from bootd.netboot.labels import Label, LabelKind

ATTRIBUTE = "user.bootd"
LONG_AGO = 1_000_000_000  # so that the present, where it gets in, is seen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree with everything that a copy may lose."""
    made = tmp_path / "root"
    for name in ("etc", "usr/sbin", "usr/lib", "empty"):
        (made / name).mkdir(parents=True)
    (made / "lib").symlink_to("usr/lib")
    (made / "sbin").symlink_to("usr/sbin")
    (made / "usr/sbin/program").write_bytes(os.urandom(70_000))
    (made / "usr/sbin/program").chmod(0o4755)
    (made / "usr/sbin/init").symlink_to("/usr/sbin/program")
    (made / "etc/hard").hardlink_to(made / "usr/sbin/program")
    (made / "etc/with space é").write_text("text")
    (made / "etc/with space é").chmod(0o640)
    with (made / "etc/sparse").open("wb") as stream:
        stream.truncate(3 << 20)
    os.mkfifo(made / "etc/pipe")
    os.setxattr(made / "etc/sparse", ATTRIBUTE, b"kept")
    made.chmod(0o750)
    for number, path in enumerate(sorted(made.rglob("*"))):
        os.utime(path, (LONG_AGO + number, LONG_AGO + number), follow_symlinks=False)
    os.utime(made, (LONG_AGO + 99, LONG_AGO + 99))
    return made


def unpacked(image: Path, folder: Path) -> Path:
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-dest", str(folder), str(image)], check=True)
    return folder


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """Mode, owner, size, time, links and content of everything below ``root``."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        content: object = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        target = str(path.readlink()) if path.is_symlink() else ""
        links = 0 if path.is_dir() else status.st_nlink
        own = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime), links)
        found[str(path.relative_to(root))] = (*own, target, content)
    return found


def test_a_folder_comes_back_as_it_was_and_the_same_twice(root: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    pack(Folder(root), first)
    pack(Folder(root), second)
    assert first.read_bytes() == second.read_bytes()
    there = unpacked(first, tmp_path / "there")
    assert facts(there) == facts(root), "no time of packing in it"
    assert os.getxattr(there / "etc/sparse", ATTRIBUTE) == b"kept"
    check_squashfs(first)


def test_the_digest_of_a_folder_is_that_of_what_is_in_it(root: Path) -> None:
    before = digest(Folder(root))
    (root / "usr/sbin/program").read_bytes()  # looked at, not changed
    assert digest(Folder(root)) == before
    (root / "etc/with space é").chmod(0o600)
    changed = digest(Folder(root))
    assert changed != before
    os.setxattr(root / "etc/sparse", ATTRIBUTE, b"other")
    assert digest(Folder(root)) != changed


def test_what_cannot_be_packed_leaves_nothing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="sqfstar"):
        pack(Folder(root), tmp_path / "no-such-folder" / "image")
    with pytest.raises(OperatorError, match="not-there"):
        pack(Folder(root, tmp_path, "not-there"), tmp_path / "image")
    assert not (tmp_path / "image").exists()


def stage2_with(modules: Path, image: Path) -> Path:
    (modules / "usr/lib/modules/6.1.0-56-amd64/kernel").mkdir(parents=True)
    (modules / "usr/lib/modules/6.1.0-56-amd64/kernel/nfs.ko").write_bytes(b"module")
    (modules / "bootd").mkdir()
    subprocess.run(["mksquashfs", str(modules), str(image), "-quiet", "-no-progress"], check=True)
    return image


@pytest.mark.parametrize("merged", [True, False], ids=["merged /usr", "/lib of its own"])
def test_modules_of_our_kernel_are_added(root: Path, tmp_path: Path, merged: bool) -> None:
    stage2 = stage2_with(tmp_path / "stage2", tmp_path / "stage2.squashfs")
    if not merged:
        (root / "lib").unlink()
        (root / "lib").mkdir()
        (root / "lib/own").write_text("own")
    before = facts(root)
    (tmp_path / "work").mkdir()
    folder = with_modules(root, stage2, tmp_path / "work")
    pack(folder, tmp_path / "image")
    there = unpacked(tmp_path / "image", tmp_path / "there")
    module = there / "lib/modules/6.1.0-56-amd64/kernel/nfs.ko"
    assert module.read_bytes() == b"module"
    assert (there / "lib").is_symlink() == merged
    after = facts(there)
    before.pop(".")  # sqfstar gives its root the latest time of all
    assert {name: after[name] for name in before} == before, "all else is as it was"
    assert not (there / "bootd").exists()


def test_modules_that_are_there_already(root: Path, tmp_path: Path) -> None:
    stage2 = stage2_with(tmp_path / "stage2", tmp_path / "stage2.squashfs")
    (root / "usr/lib/modules/6.1.0-56-amd64").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    assert with_modules(root, stage2, tmp_path / "work") == Folder(root)
    with pytest.raises(OperatorError, match="kernel modules come from it") as caught:
        with_modules(root, tmp_path / "none", tmp_path / "work")
    assert "--no-modules" in caught.value.hint


def test_first_program(root: Path) -> None:
    look = in_folder(root)
    assert find_init(look) == "/sbin/init"
    assert find_init(look, "/usr/sbin/program") == "/usr/sbin/program"
    with pytest.raises(OperatorError, match="it has no /etc"):
        find_init(look, "/etc")
    (root / "usr/sbin/init").unlink()
    (root / "usr/sbin/init").symlink_to("../../../../../../usr/sbin/program")  # above the root is the root
    assert find_init(look) == "/sbin/init"
    for wrong in ("init", "/sbin/init", "../../etc/missing"):
        (root / "usr/sbin/init").unlink()
        (root / "usr/sbin/init").symlink_to(wrong)
        with pytest.raises(OperatorError, match="nothing would run"):
            find_init(look)


def squashfs(compressor: int = 6, major: int = 4, used: int = 96) -> bytes:
    """A superblock, field by field as the kernel's documentation has it."""
    head = struct.pack("<5I", 0x73717368, 1, 0, 131072, 0)
    return head + struct.pack("<6H", compressor, 17, 0, 1, major, 0) + struct.pack("<2Q", 0, used)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (squashfs(major=3), "squashfs 3.0, the kernel reads 4.0"),
        (squashfs(compressor=2), "compressed with number 2"),
        (squashfs(used=5000), "its superblock says 5000"),
        (b"hsqs", "no squashfs"),
    ],
)
def test_images_that_stage1_could_not_mount(tmp_path: Path, content: bytes, reason: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    with pytest.raises(OperatorError, match=reason):
        check_squashfs(image)


def test_a_squashfs_that_is_cut_off(root: Path, tmp_path: Path) -> None:
    pack(Folder(root), tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    (tmp_path / "image").write_bytes(data[: len(data) // 2])
    with pytest.raises(OperatorError, match="its superblock says"):
        kind_of(tmp_path / "image").unpack(tmp_path / "image", tmp_path / "there")


def cpio(root: Path, image: Path) -> None:
    names = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
    with image.open("wb") as stream:
        subprocess.run(["cpio", "-o", "-H", "newc"], input=names.encode(), cwd=root, stdout=stream, check=True)
    subprocess.run(["gzip", str(image)], check=True)
    image.with_name(f"{image.name}.gz").rename(image)


def tar(root: Path, image: Path) -> None:
    with tarfile.open(image, "w:xz") as archive:
        archive.add(root, ".")


def iso(root: Path, image: Path) -> None:
    (root / "etc/pipe").unlink()  # not every ISO 9660 writer knows pipes
    subprocess.run(["bsdtar", "--format=iso9660", "-cf", str(image), "-C", str(root), "."], check=True)


def ext2(root: Path, image: Path) -> None:
    subprocess.run(["mke2fs", "-q", "-t", "ext2", "-d", str(root), str(image), "8M"], check=True)


@pytest.mark.parametrize("make", [cpio, tar, iso, ext2])
def test_what_operators_have(root: Path, tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    """Content and links, the hard link's too: cpio stores its bytes with the last name only."""
    if make is ext2 and os.geteuid() != 0:
        pytest.skip("mounting an ext file system needs root")
    make(root, tmp_path / "image")
    kind_of(tmp_path / "image").unpack(tmp_path / "image", tmp_path / "there")
    there = tmp_path / "there"
    assert (there / "etc/hard").read_bytes() == (root / "usr/sbin/program").read_bytes()
    assert (there / "usr/sbin/program").read_bytes() == (root / "usr/sbin/program").read_bytes()
    assert (there / "sbin").readlink() == Path("usr/sbin")
    assert find_init(in_folder(there)) == "/sbin/init"


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"MZ" + bytes(5000), "a squashfs, a cpio"),
        (b"#!/bin/sh\n#V2.0 Format\n", "extract_compressed_fs"),
        (b"", "a squash"),
    ],
)
def test_what_is_no_system(tmp_path: Path, content: bytes, hint: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    with pytest.raises(OperatorError) as caught:
        kind_of(image)
    assert hint in caught.value.hint


def stored(boot: Path, name: str, content: bytes, **fields: str) -> System:
    with changing(boot) as work:
        (work / "image").write_bytes(content)
        known = describe(work / "image")
        image = image_name(name, known["sha256"])
        system = System(known["size"], known["sha256"], known["block"], tuple(known["blocks"]), image, **fields)
        keep(boot, name, work / "image", system)
    return system


def test_a_system_is_a_label(tmp_path: Path) -> None:
    own = {"mine": Label("mine", LabelKind.LOCAL)}
    labels = Systems(tmp_path, own)
    assert labels.labels == own
    system = stored(tmp_path, "rescue2", os.urandom(BLOCK + 5), init="/bin/start", method="http")
    stored(tmp_path, "mine", b"x")
    labels.take_over(labels.look())
    assert labels.labels["mine"] is own["mine"], "what the settings say goes first"
    made = labels.labels["rescue2"]
    assert made.kind is LabelKind.STAGE
    assert made.system == "rescue2"
    assert made.append == "automatic=method:http,interface:auto,network:dhcp init=/bin/start"
    file, path = read_stage(tmp_path, "rescue2")
    assert (file, path) == (system, f"systems/{system.image}")
    assert len(file.blocks) == 2
    remove(tmp_path, "rescue2")
    labels.take_over(labels.look())
    assert "rescue2" not in labels.labels
    assert not (tmp_path / path).exists()
    with pytest.raises(OperatorError, match="no system 'rescue2'"):
        remove(tmp_path, "rescue2")


def test_a_new_version_takes_the_place_of_the_old(tmp_path: Path) -> None:
    first = stored(tmp_path, "a", b"one")
    other = stored(tmp_path, "a-b", b"other")
    second = stored(tmp_path, "a", b"two")
    kept = {path.name for path in (tmp_path / systems.FOLDER).glob("*.squashfs")}
    assert kept == {second.image, other.image}
    assert first.image != second.image


def test_broken_records_are_told_and_are_no_labels(tmp_path: Path) -> None:
    system = stored(tmp_path, "short", b"content")
    (tmp_path / "systems" / system.image).write_bytes(b"con")
    (tmp_path / "systems/broken.json").write_text('{"size": 0}')
    (tmp_path / "systems/evil.json").write_text(
        json.dumps({"size": 1, "sha256": "0" * 64, "image": "../../etc/passwd"})
    )
    found = {item.name: item.problem for item in list_systems(tmp_path)}
    assert "has 3 bytes, not 7" in found["short"]
    assert "size" in found["broken"]
    assert "image" in found["evil"]
    assert Systems(tmp_path, {}).labels == {}
    for name in ("broken", "evil", "../stage2/stage2", "none"):
        with pytest.raises(ValueError, match=r"\S"):
            read_stage(tmp_path, name)


def test_unfinished_work_of_another_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "systems/.work-killed").mkdir(parents=True)
    with changing(tmp_path):
        assert len(list((tmp_path / "systems").glob(".work-*"))) == 1
    assert not list((tmp_path / "systems").glob(".work-*"))


def test_the_root_of_this_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="this machine itself"):
        building.check_folder(Path("/"))
    with pytest.raises(OperatorError, match="not a folder"):
        building.check_folder(tmp_path / "none")
