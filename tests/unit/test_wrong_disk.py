"""The wrong-disk table: what makes a cloner erase the wrong disk, and not one byte is written in any of it.

Each row is a machine when the plan was made, the machine right before the write, and what must come of it. What
lsblk says is in the form of recorded output (util-linux 2.38); serials are what sysfs would say; the disks are real
loop devices, under the names that the row gives them. The server chooses (`locks.choose_unlocked`), the node's gate
judges (`stage2.gate.open_target`). Where the server refuses, the gate is asked as well, with the plan of a server
that had not looked: it must refuse by itself.
"""

import hashlib
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bootd.session import selector
from bootd.session.locks import choose_unlocked
from bootd.session.selector import Refusal
from bootd.wire.control import Disk, Lock, Plan
from stage2.gate import RefusedError, open_target
from stage2.inventory import Facts, disks_of, table_digest

SIZE = 4 << 20
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")


@dataclass(frozen=True)
class Drive:
    """One disk as lsblk and sysfs show it. ``device``: which of the two real ones it is."""

    name: str
    device: int
    serial: str = ""
    wwn: str = ""
    tran: str = "sata"
    removable: bool = False
    sector: int = 512
    filesystem: str | None = None
    mount: str | None = None
    part: str | None = None  # filesystem of its only partition
    part_mount: str | None = None
    kind: str = "part"  # of what lies on the disk
    size: int = SIZE

    def lsblk(self) -> dict[str, Any]:
        own = {"ro": False, "mountpoints": [self.mount], "fstype": self.filesystem, "log-sec": self.sector}
        child = {"ro": False, "mountpoints": [self.part_mount], "fstype": self.part, "log-sec": self.sector}
        below = {"name": f"{self.name}1", "kname": f"{self.name}1", "type": self.kind, "size": 1 << 20, "rm": False}
        return {
            "name": self.name,
            "kname": self.name,
            "type": "disk",
            "size": self.size,
            "rm": self.removable,
            "tran": self.tran,
            "model": "SAMSUNG MZ7LH480",
            **own,
            "children": [{**below, **child, "partuuid": "6d9f7a52-01"}] if self.part or self.part_mount else [],
        }


@dataclass(frozen=True)
class Row:
    """``planned``: the machine when the plan was made; ``present``: right before the write.

    ``target``: which of ``planned`` the plan is for where the server refuses; ``server``, ``gate``: why they
    refuse; "" = they do not, and then it is the real device ``opens``.
    """

    planned: Sequence[Drive]
    present: Sequence[Drive]
    server: str
    gate: str
    disk: str = "only"
    target: int = 0
    opens: int = 0
    image: int = SIZE
    image_sector: int = 0
    locks: tuple[Lock, ...] = ()
    is_mounted: bool = False  # the device really is, and the inventory has missed it


A = Drive("sda", 0, "S1", "0x5000")
B = Drive("sdb", 1, "S2", "0x5001")
USB = Drive("sda", 1, "U1", tran="usb", removable=True)


def always(*drives: Drive, **row: Any) -> Row:
    """The same machine all the time."""
    return Row(drives, drives, **row)


TABLE: dict[str, Row] = {
    "the right disk": always(A, server="", gate=""),
    "reordered disks, by serial": Row(
        [A, B], [replace(A, name="sdb"), replace(B, name="sda")], "", "", disk="serial=S1", opens=0
    ),
    "reordered disks, by name": Row(
        [A, B], [replace(A, name="sdb"), replace(B, name="sda")], "", "", disk="name=sda", opens=0
    ),
    "reordered disks without serials": Row(
        [replace(A, serial="", wwn="")], [replace(A, name="sdb", serial="", wwn="")], "", r"is not here; .*sdb"
    ),
    "swapped SSD": Row([A], [replace(B, name="sda")], "", r"sda \(S1\) is not here; there are: sda \(S2\)"),
    "swapped SSD that says the same serial": Row(
        [A], [replace(A, device=1)], "", "partition table of sda .* has changed since the plan"
    ),
    "another disk has shown up": Row([A], [A, B], "", "2 disks are eligible"),
    "USB first": Row([A], [USB, replace(A, name="sdb")], "", "", opens=0),
    "USB first, and no other": always(USB, server="excluded .usb", gate="is excluded: usb"),
    "USB first, where a name was planned": Row(
        [A], [USB, replace(A, name="sdb", serial="S9")], "", "is not here", disk="name=sda"
    ),
    "missing serial, alone": always(replace(A, serial="", wwn=""), server="", gate=""),
    "missing serial, one of two": always(
        replace(A, serial="", wwn=""),
        replace(B, serial="", wwn=""),
        server="",
        gate="has no serial and no WWN, and is one of 2",
        disk="name=sda",
    ),
    "serial gone since": Row([A], [replace(A, serial="", wwn="")], "", "is not here"),
    "two equal disks": always(A, B, server="2 disks match 'only'", gate="the plan was made with 1"),
    "two disks of one serial": always(
        replace(A, wwn=""),
        replace(B, serial="S1", wwn=""),
        server="2 disks match 'serial=S1'",
        gate="2 disks match sda",
        disk="serial=S1",
    ),
    "RAID member": always(
        replace(A, part="linux_raid_member"), server="excluded .raid member", gate="is excluded: raid member"
    ),
    "RAID member since": Row(
        [A], [replace(A, filesystem="isw_raid_member")], "", "is excluded: raid member", disk="serial=S1"
    ),
    "mounted": always(
        replace(A, part="ext4", part_mount="/mnt"), server="excluded .mounted at /mnt", gate="mounted at /mnt"
    ),
    "mounted, though named by serial": always(
        replace(A, part="ext4", part_mount="/mnt"),
        server="excluded .mounted at /mnt",
        gate="mounted at /mnt",
        disk="serial=S1",
    ),
    "mounted, and the inventory missed it": always(A, server="", gate="cannot be opened alone", is_mounted=True),
    "swap": always(replace(A, mount="[SWAP]", filesystem="swap"), server="used as swap", gate="used as swap"),
    "multipath": always(
        replace(A, filesystem="mpath_member"), server="excluded .multipath", gate="is excluded: multipath"
    ),
    "multipath, two paths and nothing that joins them": always(
        A, replace(A, name="sdb", device=1), server="same WWN as sdb", gate="2 disks match sda"
    ),
    "BitLocker": always(replace(A, part="BitLocker"), server="excluded .BitLocker", gate="is excluded: BitLocker"),
    "BitLocker beside a mounted partition": always(
        replace(A, filesystem="BitLocker", part="ext4", part_mount="/mnt"),
        server="excluded .mounted at /mnt",
        gate="mounted at /mnt",
        disk="serial=S1",
    ),
    "BitLocker, named by serial on purpose": always(
        replace(A, part="BitLocker"), server="", gate="", disk="serial=S1"
    ),
    "foreign filesystem": always(
        replace(A, part="zfs_member"), server="foreign filesystem: zfs_member", gate="foreign filesystem"
    ),
    "foreign filesystem on the whole disk": always(
        replace(A, filesystem="ceph_bluestore"), server="foreign filesystem: ceph", gate="foreign filesystem"
    ),
    "smaller disk": always(A, server="is smaller than the image", gate="the image needs 4194816", image=SIZE + 512),
    "smaller disk than the inventory says": always(
        replace(A, size=2 * SIZE), server="", gate="changed from 8388608 to 4194304", image=2 * SIZE
    ),
    "4K sectors, image made for 512": always(
        replace(A, sector=4096), server="the image was made for 512", gate="made for 512", image_sector=512
    ),
    "512-byte sectors, image made for 4K": always(
        A, server="the image was made for 4096", gate="made for 4096", image_sector=4096
    ),
    "4K sectors since": Row([A], [replace(A, sector=4096)], "", "sectors of 4096, the plan says 512"),
    "network disk": always(replace(A, tran="iscsi"), server="excluded .network", gate="is excluded: network"),
    "locked partition": always(
        replace(A, part="ext4"),
        server="locked by eva: thesis",
        gate="locked by eva: thesis",
        locks=(Lock("", 1, "6d9f7a52-01", "eva", "thesis"),),
    ),
    "locked partition that is nowhere": always(
        A, server="locked by eva", gate="locked by eva", locks=(Lock("", 0, "6d9f7a52-09", "eva", "thesis"),)
    ),
}


class Machine:
    """Two loop devices over files with content of their own, and a folder of device nodes named as a row says."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / "disk0", folder / "disk1"]
        self.loops: list[str] = []
        for number, path in enumerate(self.files):
            path.write_bytes(b"".join((number << 40 | block).to_bytes(8, "big") for block in range(SIZE // 8)))
            self.loops.append(attach(path))
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", self.files[0]], check=True, capture_output=True)
        self.before = self.digests()
        self.dev = folder / "dev"
        self.mount = folder / "mnt"
        self.mount.mkdir()

    def digests(self) -> list[str]:
        """Of what is on the devices, with nothing left in their caches."""
        for loop in self.loops:
            subprocess.run(["blockdev", "--flushbufs", loop], check=True)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files]

    def numbers(self, device: int) -> int:
        return Path(self.loops[device]).stat().st_rdev

    def show(self, drives: Sequence[Drive]) -> tuple[Disk, ...]:
        """What stage2 finds on a machine with ``drives``: device nodes are made, tables are read from them."""
        self.dev.mkdir(exist_ok=True)
        for node in self.dev.iterdir():
            node.unlink()
        facts = {}
        for drive in drives:
            node = self.dev / drive.name
            os.mknod(node, stat.S_IFBLK | 0o600, self.numbers(drive.device))
            descriptor = os.open(node, os.O_RDONLY)
            try:
                digest = table_digest(descriptor, min(drive.size, SIZE))
            finally:
                os.close(descriptor)
            facts[drive.name] = Facts(drive.serial, drive.wwn, drive.tran, "SAMSUNG", digest)
        return disks_of({"blockdevices": [drive.lsblk() for drive in drives]}, facts)

    def close(self) -> None:
        for loop in self.loops:
            subprocess.run(["losetup", "--detach", loop], check=False)


def attach(path: Path) -> str:
    done = subprocess.run(["losetup", "--find", "--show", str(path)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop device: {done.stderr.decode().strip()}")
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    yield made
    made.close()


@pytest.mark.parametrize("row", TABLE.values(), ids=list(TABLE))
def test_not_one_byte(machine: Machine, row: Row) -> None:
    planned = machine.show(row.planned)
    choice = choose_unlocked(planned, selector.parse(row.disk), row.image, row.locks, row.image_sector)
    if row.server:
        assert isinstance(choice, Refusal)
        assert_says(choice.reason, row.server)
        disk = replace(planned[row.target], excluded="")  # of a server that had not looked
        eligible = 1
    else:
        assert isinstance(choice, Disk), choice
        disk, eligible = choice, sum(not one.excluded for one in planned)
    plan = Plan(
        "s1", "52:54:00:00:00:01", "ab" * 32, row.image, 1 << 20, disk, eligible, row.locks, row.image_sector
    )
    if row.is_mounted:
        subprocess.run(["mount", "-o", "ro", machine.loops[0], str(machine.mount)], check=True)
    try:
        opened = judge(machine, plan, row)
    finally:
        if row.is_mounted:
            subprocess.run(["umount", str(machine.mount)], check=True)
    assert opened == (None if row.gate else machine.numbers(row.opens))
    assert machine.digests() == machine.before


def judge(machine: Machine, plan: Plan, row: Row) -> int | None:
    """The device that the gate opens, None when it refuses for the reason of the row."""
    try:
        (descriptor,) = open_target(plan, lambda: machine.show(row.present), str(machine.dev)).writable
    except RefusedError as refused:
        assert_says(str(refused), row.gate)
        return None
    try:
        return os.fstat(descriptor).st_rdev
    finally:
        os.close(descriptor)


def assert_says(text: str, wanted: str) -> None:
    assert wanted, f"refused, though it should not be: {text}"
    assert re.search(wanted, text), text


def test_the_check_for_written_bytes_can_fail(machine: Machine) -> None:
    """One byte written through the gate's own descriptor shows."""
    disks = machine.show([A])
    plan = Plan("s1", "52:54:00:00:00:01", "ab" * 32, SIZE, 1 << 20, disks[0], 1)
    (descriptor,) = open_target(plan, lambda: machine.show([A]), str(machine.dev)).writable
    path = f"/proc/self/fd/{descriptor}"
    old = machine.files[0].read_bytes()
    try:
        with open(path, "r+b") as stream:  # noqa: PTH123 - a device
            stream.seek(SIZE // 2)
            stream.write(bytes([old[SIZE // 2] ^ 1]))
        assert machine.digests()[0] != machine.before[0]
        assert machine.digests()[1] == machine.before[1]
        with open(path, "r+b") as stream:  # noqa: PTH123 - a device
            stream.seek(SIZE // 2)
            stream.write(old[SIZE // 2 : SIZE // 2 + 1])
    finally:
        os.close(descriptor)
    assert machine.digests() == machine.before
