"""The wrong-disk table, for partitions: what makes a restore erase a neighbour, and not one byte is written in any.

The disks are real loop devices with real kernel partitions (a DOS table: 1 hidden, 2 extended with 5 and 6); what
is seen of them is what lsblk and blkid say, under the names that a row gives them. A row changes what is seen, what
is there, or both, between the plan and the write. The server chooses (`parts.choose_target`), the gate judges.
Where the server refuses, the gate is asked as well, with the plan of a server that had not looked.
"""

import copy
import hashlib
import json
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bootd.errors import OperatorError
from bootd.member.store import BlockStore
from bootd.session import selector
from bootd.session.effects import PartOrder
from bootd.session.parts import choose_target, disk_of, parse_wish
from bootd.session.selector import Refusal
from bootd.wire.control import ABILITIES, Disk, Join, Lock, PartTarget, Plan
from bootd.wire.targets import find
from stage2 import signatures
from stage2.gate import RefusedError, open_target
from stage2.inventory import COLUMNS, Facts, disks_of, table_digest

SIZE = 16 << 20
MIB = 1 << 20
TABLE = """label: dos
label-id: 0x6d9f7a52
1 : size=2M, type=17
2 : type=5
5 : size=3M, type=83
6 : type=7
"""
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")

Lsblk = dict[str, Any]
Change = Callable[[Lsblk], None]


def nothing(_: Lsblk) -> None:
    """What is seen is what is there."""


def part(number: int, **values: object) -> Change:
    """lsblk says ``values`` of a partition."""

    def change(device: Lsblk) -> None:
        next(child for child in device["children"] if child["kname"].endswith(str(number))).update(values)

    return change


def without(number: int) -> Change:
    def change(device: Lsblk) -> None:
        device["children"] = [child for child in device["children"] if not child["kname"].endswith(str(number))]

    return change


def whole(**values: object) -> Change:
    return lambda device: device.update(values)


@dataclass(frozen=True)
class Row:
    """``before``, ``since``: what lsblk says of the disk when the plan is made, and what it says right before the
    write. ``server``, ``gate``: why they refuse; "" = they do not, and then partition 5 of disk 0 is opened."""

    server: str
    gate: str
    before: Change = nothing
    since: Change | None = None  # None: as before
    parts: tuple[str, ...] = ("sda5",)
    disk: str = ""
    size: int = 3 * MIB
    locks: tuple[Lock, ...] = ()
    serial_since: str = "S1"
    mounted: int = 0  # this partition really is mounted, whatever lsblk is made to say
    nodes: tuple[tuple[str, int, int], ...] = ()  # device nodes that are others: name, disk, partition
    table_since: str = ""  # a byte of the boot sector changes between plan and write
    gate_parts: tuple[int, ...] = (5,)  # what the plan says where the server has refused


USED = {"mountpoints": ["/mnt"], "fstype": "ext2"}
ROWS: dict[str, Row] = {
    "the right partition": Row("", ""),
    "the right one by number and serial": Row("", "", parts=("5",), disk="serial=S1"),
    "no such partition": Row("sda has no partition 7", "no partition 7 any more", parts=("sda7",), gate_parts=(7,)),
    "gone since": Row("", "has no partition 5 any more", since=without(5)),
    "moved since": Row("", "sda5 has moved since the plan", since=part(5, start=12288)),
    "resized since": Row("", "sda5 has moved since the plan", since=part(5, size=4 * MIB)),
    "another type since": Row("", "another partition than the plan's", since=part(5, parttype="0x17")),
    "another identifier since": Row("", "another partition than the plan's", since=part(5, partuuid="12345678-05")),
    "moved, and the inventory missed it": Row("", "sda5 changed to", before=part(5, start=9216)),
    "another disk since": Row("", r"sda \(S1\) is not here", serial_since="S2"),
    "table changed since": Row("", "partition table of sda .* has changed", table_since="x"),
    "mounted": Row("sda5 is in use: mounted|excluded .mounted", "mounted at /mnt", before=part(5, **USED)),
    "mounted since": Row("", "excluded: mounted at /mnt", since=part(5, **USED)),
    "mounted, and the inventory missed it": Row("", "partition sda5 cannot be opened alone", mounted=5),
    "a neighbour is mounted": Row("excluded .mounted", "mounted at /mnt", before=part(6, **USED)),
    "swap on it": Row("used as swap", "used as swap", before=part(5, mountpoints=["[SWAP]"], fstype="swap")),
    "image larger than the partition": Row("has 3145728 bytes, the image needs", "image needs", size=3 * MIB + 512),
    "extended partition": Row("logical ones inside it", "logical ones", parts=("sda2",), size=512, gate_parts=(2,)),
    "overlapping partitions": Row("sda5 and sda6 overlap", "overlap", before=part(6, start=8192)),
    "BitLocker on it": Row("another system .BitLocker", "excluded: BitLocker", before=part(5, fstype="BitLocker")),
    "BitLocker on it, its disk named by serial": Row(
        "", "", before=part(5, fstype="BitLocker"), parts=("5",), disk="serial=S1"
    ),
    "BitLocker on a neighbour": Row("", "", before=part(6, fstype="BitLocker")),
    "BitLocker since": Row("", "excluded: BitLocker", since=part(5, fstype="BitLocker")),
    "RAID member on a neighbour": Row("", "", before=part(1, fstype="linux_raid_member")),
    "RAID member as a whole": Row("excluded .raid", "excluded: raid", before=whole(fstype="isw_raid_member")),
    "RAID member as a whole and in a part": Row(
        "excluded .raid",
        "excluded: raid",
        before=lambda device: (whole(fstype="isw_raid_member")(device), part(6, fstype="isw_raid_member")(device))[
            0
        ],
    ),
    "USB disk": Row("excluded .usb", "is excluded: usb", before=whole(tran="usb")),
    "read-only disk": Row("excluded .read-only", "is excluded: read-only", before=whole(ro=True)),
    "locked": Row("locked by eva", "locked by eva", locks=(Lock("", 5, "6d9f7a52-05", "eva", "thesis"),)),
    "locked by number": Row("locked by eva", "locked by eva", locks=(Lock("S1", 5, "", "eva", "thesis"),)),
    "disk locked": Row("locked by eva", "locked by eva", locks=(Lock("S1", 0, "", "eva", "thesis"),)),
    "every disk locked": Row("locked by eva", "locked by eva", locks=(Lock("", 0, "", "eva", "thesis"),)),
    "a neighbour is locked": Row("", "", locks=(Lock("S1", 6, "6d9f7a52-06", "eva", "thesis"),)),
    "lock of a partition that is nowhere": Row(
        "locked by eva", "locked by eva", locks=(Lock("", 0, "6d9f7a52-09", "eva", "thesis"),)
    ),
    "lock of a partition that has gone from this disk": Row(
        "locked by eva", "locked by eva", locks=(Lock("S1", 9, "6d9f7a52-09", "eva", "thesis"),)
    ),
    "device node of a neighbour": Row("", "is partition 6 of device .* not partition 5", nodes=(("sda5", 0, 6),)),
    "device node of another disk's partition": Row("", "not partition 5 of the disk", nodes=(("sda5", 1, 5),)),
    "device node of a whole disk": Row("", "cannot be checked", nodes=(("sda5", 1, 0),)),
    "the second of two is locked": Row(
        "locked by eva",
        "locked by eva",
        parts=("sda5", "sda6"),
        gate_parts=(5, 6),
        locks=(Lock("S1", 6, "6d9f7a52-06", "eva", "thesis"),),
    ),
    "one partition twice": Row("named twice", "names a partition twice", parts=("sda5", "sda5"), gate_parts=(5, 5)),
}


class Machine:
    """Two loop devices with the same table and contents of their own, and a folder of device nodes."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / "disk0", folder / "disk1"]
        self.loops: list[str] = []
        self.dev, self.mount = folder / "dev", folder / "mnt"
        self.dev.mkdir()
        self.mount.mkdir()
        for number, path in enumerate(self.files):
            path.write_bytes(b"".join((number << 40 | block).to_bytes(8, "big") for block in range(SIZE // 8)))
            run("sfdisk", "--quiet", "--wipe", "never", str(path), text=TABLE)
            done = subprocess.run(["losetup", "--find", "--show", str(path)], capture_output=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"no loop device: {done.stderr.decode().strip()}")
            self.loops.append(done.stdout.decode().strip())
            # Added by hand: a kernel may be without a parser of DOS tables, as its partitions are not its parser's.
            # First what somebody left on a loop device of this number.
            subprocess.run(["partx", "--delete", self.loops[-1]], check=False, capture_output=True)
            subprocess.run(["partx", "--add", self.loops[-1]], check=False, capture_output=True)
        run("mke2fs", "-q", "-F", "-t", "ext2", f"{self.loops[0]}p5")
        self.before = self.digests()

    def digests(self) -> list[str]:
        for loop in self.loops:
            for device in (loop, *(f"{loop}p{number}" for number in (1, 5, 6))):
                run("blockdev", "--flushbufs", device)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files]

    def number(self, disk: int, partition: int = 0) -> int:
        return Path(self.loops[disk] + (f"p{partition}" if partition else "")).stat().st_rdev

    def lsblk(self) -> Lsblk:
        """What lsblk says of disk 0, as it would call a SATA disk."""
        text = run("lsblk", "--json", "--bytes", "--output", COLUMNS, self.loops[0])
        name = self.loops[0].removeprefix("/dev/")
        seen = json.loads(text)["blockdevices"][0]
        signatures.complete(seen)
        device: Lsblk = json.loads(json.dumps(seen).replace(f"{name}p", "sda").replace(name, "sda"))
        device.update(type="disk", tran="sata", model="SAMSUNG MZ7LH480", mountpoints=[None])
        for child in device["children"]:
            child.update(mountpoints=[None])
        return device

    def show(
        self, change: Change, serial: str = "S1", nodes: tuple[tuple[str, int, int], ...] = ()
    ) -> tuple[Disk, ...]:
        device = copy.deepcopy(self.lsblk())
        change(device)
        for node in self.dev.iterdir():
            node.unlink()
        places = {"sda": (0, 0)} | {f"sda{number}": (0, number) for number in (1, 2, 5, 6)}
        for name, (disk, number) in (places | {name: (disk, number) for name, disk, number in nodes}).items():
            os.mknod(self.dev / name, stat.S_IFBLK | 0o600, self.number(disk, number))
        descriptor = os.open(self.loops[0], os.O_RDONLY)
        try:
            digest = table_digest(descriptor, SIZE)
        finally:
            os.close(descriptor)
        return disks_of({"blockdevices": [device]}, {"sda": Facts(serial, "", device["tran"], "SAMSUNG", digest)})

    def close(self) -> None:
        for loop in self.loops:
            subprocess.run(["partx", "--delete", loop], check=False, capture_output=True)
            subprocess.run(["losetup", "--detach", loop], check=False)


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    yield made
    made.close()


def join(disks: tuple[Disk, ...]) -> Join:
    return Join(
        "52:54:00:00:00:01", "", "x86_64", "bios", "10.0.0.1", "", "ka", 1 << 30, disks, abilities=ABILITIES
    )


def plan_of(disk: Disk, *targets: PartTarget, locks: tuple[Lock, ...] = ()) -> Plan:
    size = sum(target.size for target in targets)
    eligible = 0 if disk.excluded else 1
    return Plan("s1", "52:54:00:00:00:01", "ab" * 32, size, MIB, disk, eligible, locks, parts=targets)


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_not_one_byte(machine: Machine, row: Row) -> None:
    planned = machine.show(row.before)
    plan = plan_or_refusal(planned, row)
    if row.mounted:
        run("mount", "-o", "ro", f"{machine.loops[0]}p{row.mounted}", str(machine.mount))
    if row.table_since:
        swap_byte(machine.loops[0], 440)
    try:
        opened = judge(machine, plan, row)
    finally:
        if row.mounted:
            run("umount", str(machine.mount))
        if row.table_since:
            swap_byte(machine.loops[0], 440)
    assert opened == ([] if row.gate else [machine.number(0, 5)])
    assert machine.digests() == machine.before


def judge(machine: Machine, plan: Plan, row: Row) -> list[int]:
    """The devices that the gate opens, none when it refuses for the reason of the row."""
    present = row.since or row.before
    try:
        target = open_target(plan, lambda: machine.show(present, row.serial_since, row.nodes), str(machine.dev))
    except RefusedError as refused:
        assert_says(str(refused), row.gate)
        return []
    opened = [os.fstat(descriptor).st_rdev for descriptor in target.writable]
    target.close()
    return opened


def assert_says(text: str, wanted: str) -> None:
    assert wanted, f"refused, though it should not be: {text}"
    assert re.search(wanted, text), text


def plan_or_refusal(planned: tuple[Disk, ...], row: Row) -> Plan:
    """The server's plan; where it refuses, as the row says, that of one that had not looked."""
    wishes = [parse_wish(text) for text in row.parts]
    orders = [PartOrder(wish.number, "/image", row.size) for wish in wishes]
    refusal = ""
    try:
        chosen = selector.parse(disk_of(wishes, row.disk))
    except OperatorError as error:
        refusal = str(error)
    else:
        choice = choose_target(join(planned), chosen, row.size, row.locks, orders=orders)
        if not isinstance(choice, Refusal):
            assert not row.server, f"the server plans {choice}"
            return plan_of(choice.disk, *choice.parts, locks=row.locks)
        refusal = choice.reason
    assert_says(refusal, row.server)
    disk = replace(planned[0], excluded="")
    missing = replace(disk.partitions[-1], number=7)
    targets = [PartTarget(find(disk, number) or missing, row.size) for number in row.gate_parts]
    return plan_of(disk, *targets, locks=row.locks)


def swap_byte(path: str, offset: int) -> None:
    with open(path, "r+b", buffering=0) as stream:  # noqa: PTH123 - a device
        stream.seek(offset)
        old = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([old[0] ^ 1]))


def test_an_older_stage2_gets_no_plan_that_it_would_misread(machine: Machine) -> None:
    """It would pass over the field that it does not know, and write the whole disk."""
    old = replace(join(machine.show(nothing)), abilities=())
    orders = [PartOrder(5, "/image", MIB)]
    choice = choose_target(old, selector.parse("name=sda"), MIB, (), orders=orders)
    assert isinstance(choice, Refusal)
    assert "knows no partitions: bootd stage build" in choice.reason


def test_only_the_partition_is_written(machine: Machine) -> None:
    """Every byte of it through the gate's own descriptor; none of its neighbours; the kernel stops at its end."""
    disks = machine.show(nothing)
    partition = find(disks[0], 5)
    assert partition is not None
    assert (partition.start, partition.size, partition.type) == (4 * MIB, 3 * MIB, "0x83")
    before = machine.files[0].read_bytes()
    target = open_target(
        plan_of(disks[0], PartTarget(partition, 3 * MIB)), lambda: machine.show(nothing), str(machine.dev)
    )
    (descriptor,) = target.writable
    try:
        with pytest.raises(OSError, match="busy"):
            os.close(os.open(f"{machine.loops[0]}p5", os.O_RDWR | os.O_EXCL))
        store = BlockStore(descriptor, 3 * MIB)
        store.zero(0, 3 * MIB)
        store.sync()
        with pytest.raises(OSError, match="No space left"):
            store.zero(3 * MIB, 4096)
    finally:
        target.close()
    machine.digests()
    after = machine.files[0].read_bytes()
    assert after == before[: 4 * MIB] + bytes(3 * MIB) + before[7 * MIB :]
    Path(f"{machine.loops[0]}p5").write_bytes(before[4 * MIB : 7 * MIB])
    assert machine.digests() == machine.before
