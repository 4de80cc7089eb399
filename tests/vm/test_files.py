"""A real Debian cloned by its files on real firmware: from a BIOS machine's virtio disk to a larger AHCI disk of a
UEFI machine, which boots as itself."""

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from bootd.build.cache import DEFAULT
from stage2.customise import Facts, customise
from stage2.made import SWAP, Filesystem, Made
from tests.lab import debian_tree
from tests.lab.lab import STAGE_LABEL, build_artefacts
from tests.lab.login import asked, log_in
from tests.lab.machine import Firmware, Specification
from tests.lab.room import Room
from tests.lab.server import Server
from tests.netns import file_trees as trees
from tests.netns.volumes import disk, mounted, run
from tests.vm.test_clone import Log
from tests.vm.test_images import powered_on, stand
from tests.vm.test_layouts import LVM_ON_RAID

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
GOLDEN_ID = "0123456789abcdef" * 2
MACS = ("52:54:00:b0:07:11", "52:54:00:b0:07:12")
TABLE = "label: dos\nsize=128MiB, type=82\nsize=2200MiB, type=83, bootable\ntype=83\n"
LAYOUT = """table = "auto"
[[partition]]
kind = "swap"
size = "192M"
filesystem = "swap"
[[partition]]
kind = "linux"
size = "3G"
filesystem = "ext4"
mount = "/"
[[partition]]
kind = "linux"
size = "fill"
filesystem = "ext4"
mount = "/home"
"""
SWAP_VOLUME = """[[volume]]
name = "swap"
group = "system"
size = "192M"
filesystem = "swap"
"""
# With room for kernels, and swap.
STACKED = LVM_ON_RAID.replace('"100M"', '"256M"').replace("on-raid", "system")
STACKED = STACKED.replace("[[volume]]", f"{SWAP_VOLUME}[[volume]]")
# What customise makes this machine's own, what is built for its hardware and its firmware, and what a boot writes.
NAMED = (
    *("/etc/fstab", "/etc/hostname", "/etc/hosts", "/etc/mailname", "/etc/machine-id", "/etc/ssh/ssh_host_*"),
    *("/etc/initramfs-tools", "/boot/initrd.img-*", "/boot/grub", "/boot/efi", "/var/lib/bootd", "/etc/bootd"),
    *("/var/lib/systemd", "/var/log", "/var/cache", "/var/tmp", "/tmp", "/run", "/proc", "/sys", "/dev"),
)


def golden_disk(path: Path, folder: Path, tree: Path) -> None:
    """As a machine of its own that was installed: DOS table, swap, ext4 root, separate /home, GRUB for BIOS."""
    with path.open("wb") as stream:
        stream.truncate(2600 * MIB)
    subprocess.run(["sfdisk", "--quiet", str(path)], input=TABLE.encode(), check=True)
    with disk(path) as device, ExitStack() as stack:
        made = []
        for number, kind, mount in ((1, SWAP, ""), (2, "ext4", "/"), (3, "ext4", "/home")):
            part = f"{device}p{number}"
            run(*(("mkswap", "-q") if kind == SWAP else ("mkfs.ext4", "-q", "-F")), part)
            uuid = run("blkid", "--probe", "-o", "value", "-s", "UUID", part).decode().strip()
            made.append(Filesystem(part, kind, uuid, "", mount))
        root = folder / "golden"
        root.mkdir()
        for one in made[1:]:
            place = root / one.mount.lstrip("/")
            place.mkdir(exist_ok=True)
            run("mount", one.device, place)
            stack.callback(run, "umount", place)
        debian_tree.copy(tree, root)
        (root / "home/eva").mkdir()
        (root / "home/eva/letter").write_text("Dear all\n")
        (root / "etc/fstab").write_text(
            f"UUID={made[1].uuid} / ext4 errors=remount-ro 0 1\nUUID={made[2].uuid} /home ext4 nodev 0 2\n"
            f"UUID={made[0].uuid} none swap sw 0 0\n"
        )
        lines: list[str] = []
        done = customise(
            str(root), Made((device,), "dos", tuple(made)), Facts("golden", MACS[0], "bios"), lines.append
        )
        assert done.is_done, "\n".join(lines[-20:])
        (root / "etc/machine-id").write_text(f"{GOLDEN_ID}\n")


@pytest.mark.vm
@pytest.mark.long
def test_a_golden_debian_becomes_a_machine_of_another_kind(tmp_path: Path) -> None:
    boot, layout = tmp_path / "boot", tmp_path / "layout.toml"
    build_artefacts(boot, ROOT / DEFAULT, Log())
    layout.write_text(LAYOUT)
    golden = Specification("golden", Firmware.BIOS, MACS[0], tmp_path / "golden.raw", "LAB-GOLDEN", 1024)
    clone = Specification("clone", Firmware.UEFI, MACS[1], tmp_path / "clone.raw", "LAB-CLONE", 1024, bus="ahci")
    golden_disk(golden.disk, tmp_path, debian_tree.build(ROOT / DEFAULT))
    with clone.disk.open("wb") as stream:
        stream.truncate(4600 * MIB)
    with Room(tmp_path / "room", 2) as room:
        room.start_dhcp()
        with Server(room, boot, {golden.name: golden.mac, clone.name: clone.mac}) as server:
            server.command("backup", "golden", "debian", "-m", "test", "--files", "-x", "/var/cache", "--no-wait")
            machine = powered_on(room, golden, "backup")
            stand(machine, 900)
            machine.kill()
            assert json.loads(server.command("image", "show", "debian", "--json"))["kind"] == "files"
            words = ("--disk", "only", "--layout", str(layout), "--label", STAGE_LABEL, "--yes")
            server.command("deploy", "debian", "clone", *words)
            machine = powered_on(room, clone, "clone")
            stand(machine, 2700)  # most of it is update-initramfs, in a processor of software
            differ = differences(golden.disk, clone.disk, tmp_path)
            assert differ == [], differ[:40]
            machine.resume()
            log_in(machine, "clone", 600)
            said = asked(machine, "cat /etc/machine-id; ls /sys/firmware; findmnt -lno TARGET --real").split()
            assert "efi" in said
            assert {"/", "/home"} <= set(said)
            assert next(word for word in said if len(word) == 32) != GOLDEN_ID
            assert "partition" in asked(machine, "swapon --noheadings --show=TYPE")
            assert "Dear all" in asked(machine, "cat /home/eva/letter")


@pytest.mark.vm
@pytest.mark.long
def test_a_tree_onto_lvm_on_raid(tmp_path: Path) -> None:
    """The array is one of two partitions, so that one disk does; the system starts both by itself."""
    boot, layout = tmp_path / "boot", tmp_path / "layout.toml"
    build_artefacts(boot, ROOT / DEFAULT, Log())
    tree = debian_tree.build(ROOT / DEFAULT, also=("lvm2", "mdadm"))
    layout.write_text(STACKED)
    clone = Specification("clone", Firmware.UEFI, MACS[1], tmp_path / "clone.raw", "LAB-CLONE", 1024, bus="ahci")
    with clone.disk.open("wb") as stream:
        stream.truncate(5800 * MIB)
    with Room(tmp_path / "room", 1) as room:
        room.start_dhcp()
        with Server(room, boot, {clone.name: clone.mac}) as server:
            out = ("-x", "/var/cache", "-x", "/proc", "-x", "/sys", "-x", "/dev")
            server.command("image", "put", "--tree", str(tree), "debian", "-m", "test", *out, seconds=300)
            words = ("--disk", "only", "--layout", str(layout), "--label", STAGE_LABEL, "--yes")
            server.command("deploy", "debian", "clone", *words)
            machine = powered_on(room, clone, "clone")
            stand(machine, 2700)
            machine.resume()
            log_in(machine, "clone", 600)
            assert asked(machine, "findmnt -no SOURCE /").strip().endswith("/dev/mapper/system-root")
            arrays = asked(machine, "cat /proc/mdstat")
            assert "active raid1" in arrays
            assert "[UU]" in arrays
            assert "/boot" in asked(machine, "findmnt -lno TARGET --real").split()
            assert "partition" in asked(machine, "swapon --noheadings --show=TYPE")


def differences(golden: Path, clone: Path, folder: Path) -> list[str]:
    """By rsync: content, owners, modes, ACLs, attributes, links, devices; but the exceptions that have names. Of
    folders in which one of these lies the time is another one."""
    with (
        disk(golden) as one,
        disk(clone) as other,
        mounted("ext4", f"{one}p2", folder / "one") as old,
        mounted("ext4", f"{root_of(other)}", folder / "other") as new,
    ):
        for device, root in ((f"{one}p3", old), (home_of(other), new)):
            run("mount", "-o", "ro", device, root / "home")
        try:
            found = trees.differences(old, new, "/home/lost+found", *NAMED)
        finally:
            for root in (old, new):
                run("umount", root / "home")
    return [line for line in found if not line.startswith(".d..t......")]


def linux_of(device: str) -> list[str]:
    """Partitions with ext4, the smaller one (/home takes what is left) last."""
    names = sorted(Path("/dev").glob(f"{device.removeprefix('/dev/')}p*"))
    kinds = [(str(path), run("blkid", "-p", "-o", "value", "-s", "TYPE", path).decode().strip()) for path in names]
    return [path for path, kind in kinds if kind == "ext4"]


def root_of(device: str) -> str:
    return linux_of(device)[0]


def home_of(device: str) -> str:
    return linux_of(device)[1]
