"""RAID, LVM and FAT: what the kernel of a test machine may lack, shown in a machine that runs stage2's own.

The machine boots Debian's kernel and the very squashfs that nodes get. What its tools say comes back as text, and
is judged here: by what mdadm, LVM, blkid and the kernel's own mounts tell.
"""

import base64
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bootd.build import modules
from bootd.build.cache import DEFAULT, Cache
from bootd.build.initramfs import Archive, compress
from bootd.wire.scheme import encoding, text
from bootd.wire.scheme.model import MIB, Scheme
from stage2 import recipe

ROOT = Path(__file__).parents[2]
SECONDS = 400  # some 150 on a quiet machine
GIB = 1 << 30
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /lower /over /system
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for name in virtio_pci virtio_blk squashfs overlay; do modprobe $name; done
while ! test -b /dev/vda; do sleep 0.1; done
mount -t squashfs -o ro /dev/vda /lower
mount -t tmpfs tmpfs /over
mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/lower,upperdir=/over/upper,workdir=/over/work overlay /system
cp -r /guest /system/guest
for name in proc sys dev; do mount --move /$name /system/$name; done
exec switch_root /system /guest/run
"""
# The kernel asks for its modules in the root that it knows: so not in a chroot.
RUN = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/bootd/stage2.pyz:/bootd/site
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
python3 /guest/layout_guest.py /guest/cases.json
poweroff -f
"""
UEFI = """
[[partition]]
size = "400M"
mount = "/"
[[partition]]
kind = "swap"
size = "64M"
[[partition]]
size = "fill"
filesystem = "xfs"
mount = "/home"
"""
RAID1 = """
table = "gpt"
[[partition]]
kind = "raid"
name = "mirror"
size = "fill"
disks = [0, 1]
[[array]]
name = "root"
level = "raid1"
members = ["mirror"]
mount = "/"
label = "root"
"""
RAID5 = """
[[partition]]
size = "100M"
mount = "/boot"
[[partition]]
kind = "raid"
name = "r"
size = "fill"
disks = [0, 1, 2]
[[array]]
name = "data"
level = "raid5"
members = ["r"]
filesystem = "xfs"
mount = "/srv"
"""
LVM = """
[[partition]]
size = "100M"
mount = "/boot"
[[partition]]
kind = "lvm"
name = "pv"
size = "fill"
[[group]]
name = "system"
members = ["pv"]
[[volume]]
name = "root"
group = "system"
size = "302M"
mount = "/"
[[volume]]
name = "swap"
group = "system"
size = "64M"
filesystem = "swap"
[[volume]]
name = "home"
group = "system"
size = "fill"
mount = "/home"
"""
LVM_ON_RAID = """
[[partition]]
size = "100M"
mount = "/boot"
[[partition]]
kind = "raid"
name = "half"
size = "fill"
[[partition]]
kind = "raid"
name = "half"
size = "fill"
[[array]]
name = "all"
level = "raid1"
members = ["half"]
[[group]]
name = "on-raid"
members = ["all"]
[[volume]]
name = "root"
group = "on-raid"
size = "fill"
mount = "/"
"""
SIZES = {"U1": 2 * GIB, "R1": 64 * MIB, "R2": 64 * MIB}
CASES = {
    "uefi": (UEFI, ["U1"], "uefi"),
    "raid1": (RAID1, ["A1", "A2"], "bios"),
    "raid5": (RAID5, ["B1", "B2", "B3"], "bios"),
    "lvm": (LVM, ["L1"], "bios"),
    "lvm on raid": (LVM_ON_RAID, ["M1"], "bios"),
    "refusal": (RAID1, ["R1", "R2"], "bios"),
}


def initramfs(tree: Path, folder: Path) -> bytes:
    archive = Archive()
    archive.add_file("init", INIT.encode(), 0o755)
    archive.add_file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    archive.add_file("guest/run", RUN.encode(), 0o755)
    archive.add_file("guest/layout_guest.py", Path(__file__).with_name("layout_guest.py").read_bytes())
    cases = [
        {
            "name": name,
            "scheme": base64.b64encode(encoding.encode(text.parse(scheme))).decode(),
            "serials": serials,
            "firmware": firmware,
            "twice": name in ("raid1", "lvm"),
        }
        for name, (scheme, serials, firmware) in CASES.items()
    ]
    archive.add_file("guest/cases.json", json.dumps(cases).encode())
    modules.copy(tree, ["virtio_pci", "virtio_blk", "squashfs", "overlay"], folder / "modules")
    archive.add_tree(folder / "modules")
    return compress(archive.finish())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One machine for all cases: what it printed, by name of the case."""
    folder = tmp_path_factory.mktemp("layouts")
    store = Cache(ROOT / DEFAULT)
    tree = modules.kernel_tree(store)
    image = recipe.finished_image(store, recipe.base_image(store, print), print)
    (folder / "initrd").write_bytes(initramfs(tree, folder))
    command = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "1024", "-nographic", "-no-reboot"]
    command += ["-kernel", str(modules.kernel_image(tree)), "-initrd", str(folder / "initrd"), "-nic", "none"]
    command += ["-append", "console=ttyS0 panic=-1 quiet", "-monitor", "none", "-serial", "stdio"]
    drives = [("stage2", image, "on")]
    for _, serials, _ in CASES.values():
        for serial in serials:
            path = folder / serial
            with path.open("wb") as stream:
                stream.truncate(SIZES.get(serial, GIB))
            drives.append((serial, path, "off"))
    for serial, path, read_only in drives:
        command += ["-drive", f"if=none,id={serial},format=raw,cache=unsafe,readonly={read_only},file={path}"]
        command += ["-device", f"virtio-blk-pci,drive={serial},serial={serial}"]
    print(shlex.join(command))
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SECONDS)
    said = done.stdout.decode(errors="replace").replace("\r", "")
    print(said[-20000:], done.stderr.decode(errors="replace"))
    found = [json.loads(line[7:]) for line in said.splitlines() if line.startswith("RESULT ")]
    assert "END" in said
    return {one["name"]: one for one in found}


def tags(exported: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in exported.splitlines() if "=" in line)


def described(result: dict[str, Any], scheme: str) -> None:
    """`bootd layout from-disk` tells of these disks what was asked for, but for names of members and sizes."""
    assert "error" not in result, result["error"]
    wanted, found = text.parse(scheme), encoding.of_object(result["described"]["layout"])
    assert contents(found) == contents(wanted)
    assert {one.level for one in found.arrays} == {one.level for one in wanted.arrays}
    assert [one.name for one in found.arrays] == [one.name for one in wanted.arrays]
    assert [one.name for one in found.groups] == [one.name for one in wanted.groups]
    assert sorted(one.name for one in found.volumes) == sorted(one.name for one in wanted.volumes)
    assert found.disks == wanted.disks


def contents(scheme: Scheme) -> list[tuple[str, str, str]]:
    return sorted((one.filesystem, one.label, one.mount) for one in scheme.contents if one.filesystem)


def check(result: dict[str, Any], wanted: list[tuple[str, str]]) -> None:
    """Every file system is what blkid says, was mounted, is whole, and is found again with what was put into it."""
    assert "error" not in result, result["error"]
    assert [(kind, mount) for kind, _, _, mount, _ in result["filesystems"]] == wanted
    for (kind, uuid, label, _, partuuid), exported in zip(result["filesystems"], result["blkid"], strict=True):
        found = tags(exported)
        assert (found["TYPE"], found["UUID"], found.get("LABEL", "")) == (kind, uuid, label)
        assert found.get("PART_ENTRY_UUID", "") == partuuid
    mounted = sorted((mount, kind, uuid) for kind, uuid, _, mount, _ in result["filesystems"] if mount)
    assert [line.split() for line in result["mounted"]] == [[kind, uuid] for _, kind, uuid in mounted]
    assert result["again"] == [mount for mount, _, _ in mounted]
    assert result["trouble"] == []


@pytest.mark.vm
@pytest.mark.long
def test_uefi_with_an_esp_that_nobody_asked_for(results: dict[str, dict[str, Any]]) -> None:
    result = results["uefi"]
    check(result, [("vfat", "/boot/efi"), ("ext4", "/"), ("swap", ""), ("xfs", "/home")])
    assert result["esp"]
    first = min(result["tables"][0], key=lambda one: one["start"])
    assert (first["type"], first["size"]) == ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 512 * MIB // 512)


@pytest.mark.vm
@pytest.mark.long
def test_raid1_over_two_disks(results: dict[str, dict[str, Any]]) -> None:
    result = results["raid1"]
    described(result, RAID1)
    check(result, [("ext4", "/")])
    (array,) = (tags(text) for text in result["arrays"])
    assert (array["MD_LEVEL"], array["MD_DEVICES"], array["MD_NAME"]) == ("raid1", "2", "any:root")
    assert [array["MD_UUID"]] == result["uuids"]
    assert len(result["boot"]) == 2  # both get a boot loader, and room for it
    for table in result["tables"]:
        assert [one["type"][:8] for one in table] == ["A19D880F", "21686148"]


@pytest.mark.vm
@pytest.mark.long
def test_raid5_over_three_disks(results: dict[str, dict[str, Any]]) -> None:
    result = results["raid5"]
    described(result, RAID5)
    check(result, [("ext4", "/boot"), ("xfs", "/srv")])
    (array,) = (tags(text) for text in result["arrays"])
    assert (array["MD_LEVEL"], array["MD_DEVICES"]) == ("raid5", "3")
    assert len(result["boot"]) == 1


@pytest.mark.vm
@pytest.mark.long
def test_lvm(results: dict[str, dict[str, Any]]) -> None:
    result = results["lvm"]
    described(result, LVM)
    check(result, [("ext4", "/boot"), ("ext4", "/"), ("swap", ""), ("ext4", "/home")])
    sizes = {one["lv_name"]: float(one["lv_size"]) for one in result["volumes"] if one["vg_name"] == "system"}
    # 1024 MiB: one before and 100 of /boot; one for LVM; extents of 4.
    assert sizes == {"root": 304.0, "swap": 64.0, "home": (1024 - 101 - 1) // 4 * 4 - 304 - 64}


@pytest.mark.vm
@pytest.mark.long
def test_lvm_on_raid(results: dict[str, dict[str, Any]]) -> None:
    result = results["lvm on raid"]
    described(result, LVM_ON_RAID)
    check(result, [("ext4", "/boot"), ("ext4", "/")])
    (volume,) = [one for one in result["volumes"] if one["vg_name"] == "on-raid"]
    assert 440 <= float(volume["lv_size"]) <= 461  # half of 923 MiB, without what mdadm and LVM keep
    assert tags(result["arrays"][0])["MD_LEVEL"] == "raid1"


@pytest.mark.vm
@pytest.mark.long
def test_a_further_disk_that_is_not_the_plans_refuses_all(results: dict[str, dict[str, Any]]) -> None:
    result = results["refusal"]
    assert "has changed since the plan was made" in result["refused"], result
    assert result["unchanged"]
