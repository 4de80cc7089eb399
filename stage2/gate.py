"""The one gate to a target: a disk, or partitions of one. Nothing else in stage2 opens a disk for writing.

A plan names one disk as the node had described it when it joined, and maybe partitions of it. Right before the
first write everything is looked at again, and any doubt is a refusal: a result with a reason, never a second
choice.

Partitions are opened as the kernel's own devices: it lets no write pass their ends, so what lies beside them cannot
be reached through what the gate hands out.
"""

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bootd.wire import locks, targets
from bootd.wire.control import Disk, Partition, Plan
from stage2.inventory import table_digest

# What keeps a disk from being chosen by rule, but not from being named by serial or WWN; all else is final here.
NAMEABLE = ("usb", "removable", "network", "multipath", "raid member", "BitLocker", "foreign filesystem")

_BLKGETSIZE64 = 0x80081272  # linux/fs.h
_BLKROGET = 0x125E
_WRITE = os.O_RDWR | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW


class RefusedError(Exception):
    """The gate says no. Nothing was written; the text is the reason."""


@dataclass(frozen=True)
class Target:
    """What the gate has opened. ``writable``: the disk, or each partition of the plan in its order, for writing and
    for nobody else; ``reader``: the disk, for reading."""

    disk: Disk
    reader: int
    writable: tuple[int, ...]

    def close(self) -> None:
        for descriptor in {self.reader, *self.writable}:
            os.close(descriptor)


def match(plan: Plan, disks: Sequence[Disk]) -> Disk:
    """The one disk that the plan means; `RefusedError` for none, for two, and for one that is no longer the same.

    A disk is known by its WWN or its serial. One that has neither can only be told from others by being alone:
    it must be the only eligible disk, with the name, size and table of the plan.
    """
    wanted = plan.disk
    named = describe(wanted)
    if wanted.excluded and not wanted.excluded.startswith(NAMEABLE):
        raise RefusedError(f"the plan's disk {named} was excluded when it was made: {wanted.excluded}")
    if not wanted.table_digest:
        raise RefusedError(f"the plan has no digest of the partition table of {named}")
    if wanted.serial or wanted.wwn:
        found = [disk for disk in disks if (disk.serial, disk.wwn) == (wanted.serial, wanted.wwn)]
    else:
        found = [disk for disk in disks if disk.name == wanted.name and not disk.serial and not disk.wwn]
    if not found:
        there = ", ".join(describe(disk) for disk in disks) or "no disks"
        raise RefusedError(f"disk {named} is not here; there are: {there}")
    if len(found) > 1:
        raise RefusedError(f"{len(found)} disks match {named}: {', '.join(disk.name for disk in found)}")
    disk = found[0]
    if disk.excluded != wanted.excluded:
        raise RefusedError(f"disk {describe(disk)} is excluded: {disk.excluded or 'no longer'}")
    eligible = [other.name for other in disks if not other.excluded]
    there = ", ".join(eligible) or "none"
    if not (wanted.serial or wanted.wwn) and eligible != [disk.name]:
        raise RefusedError(f"disk {named} has no serial and no WWN, and is one of {len(eligible)}: {there}")
    if len(eligible) != plan.eligible:
        # A selector such as `only` chose among the disks that had shown up: another one may make it two.
        raise RefusedError(f"{len(eligible)} disks are eligible ({there}), the plan was made with {plan.eligible}")
    if disk.size != wanted.size:
        raise RefusedError(f"disk {describe(disk)} has {disk.size} bytes, the plan says {wanted.size}")
    if disk.sector != wanted.sector:
        raise RefusedError(f"disk {describe(disk)} has sectors of {disk.sector}, the plan says {wanted.sector}")
    if disk.table_digest != wanted.table_digest:
        raise RefusedError(f"the partition table of {describe(disk)} has changed since the plan was made")
    if plan.parts and not plan.layout:
        _check_parts(plan, disk, disks)
    else:
        _check_whole(plan, disk, disks)
    return disk


def _check_whole(plan: Plan, disk: Disk, disks: Sequence[Disk]) -> None:
    lock = locks.holding(plan.locks, disk, disks)
    if lock is not None:
        raise RefusedError(locks.reason(lock))
    if plan.image_sector not in (0, disk.sector):
        text = f"disk {describe(disk)} has sectors of {disk.sector}, the image was made for {plan.image_sector}"
        raise RefusedError(text)
    if disk.size < max(plan.image_size, plan.least):
        needed = max(plan.image_size, plan.least)
        raise RefusedError(f"disk {describe(disk)} has {disk.size} bytes, the image needs {needed}")
    if plan.empty and (disk.partitions or disk.filesystem):
        raise RefusedError(f"disk {describe(disk)} is not empty: {targets.content(disk)}")


def _check_parts(plan: Plan, disk: Disk, disks: Sequence[Disk]) -> None:
    """Each partition is where and what it was, alone in its place, free, and large enough."""
    for target in plan.parts:
        wanted = target.partition
        name = targets.partition_name(disk.name, wanted.number)
        found = targets.find(disk, wanted.number)
        if found is None:
            raise RefusedError(f"{describe(disk)} has no partition {wanted.number} any more")
        if (found.start, found.size) != (wanted.start, wanted.size):
            there, planned = f"{found.size} bytes at {found.start}", f"{wanted.size} at {wanted.start}"
            raise RefusedError(f"{name} has moved since the plan was made: {there}, planned were {planned}")
        if (found.type, found.partuuid) != (wanted.type, wanted.partuuid):
            text = f"type {found.type}, id {found.partuuid or 'none'}"
            raise RefusedError(f"{name} is another partition than the plan's: {text}")
        if found.used != wanted.used:
            raise RefusedError(f"{name} is in use: {found.used or 'no longer'}")
        problem = targets.problem(replace(target, partition=found), disk, disks, plan.locks)
        if problem:
            raise RefusedError(problem)
    if len({target.partition.number for target in plan.parts}) != len(plan.parts):
        raise RefusedError("the plan names a partition twice")


def describe(disk: Disk) -> str:
    """A disk in an operator's words: name, then what identifies it."""
    identity = disk.serial or disk.wwn
    return f"{disk.name} ({identity})" if identity else f"{disk.name} (no serial)"


def open_target(plan: Plan, take: Callable[[], Sequence[Disk]], dev: str = "/dev", sys: str = "/sys") -> Target:
    """What the plan means to write, open.

    Takes a new inventory, matches, opens with O_EXCL (fails while the disk, or a partition of it, is mounted or
    held) and then checks everything once more through the descriptors, behind which the devices can no longer
    change hands. `RefusedError` otherwise. The caller closes the target.
    """
    disk = match(plan, take())
    if plan.parts and not plan.layout:
        return _open_parts(plan, disk, dev, sys)
    path = f"{dev}/{disk.name}"
    with _closing_on_error() as opened:
        descriptor = _open(path, _WRITE, f"disk {describe(disk)}", opened)
        _check_disk(descriptor, path, disk)
        if _ask_read_only(descriptor):
            raise RefusedError(f"disk {describe(disk)} is read-only")
    return Target(disk, descriptor, (descriptor,))


def open_targets(
    plan: Plan, take: Callable[[], Sequence[Disk]], dev: str = "/dev", sys: str = "/sys"
) -> tuple[Target, ...]:
    """The disk of the plan and its further ones, each judged as if it were the only one; all of them, or none.

    `RefusedError` otherwise. The caller closes the targets.
    """
    known = [(one.serial, one.wwn, one.name) for one in (plan.disk, *plan.further)]
    if len(set(known)) != len(known):
        raise RefusedError("the plan names a disk twice")
    if not plan.further:
        return (open_target(plan, take, dev, sys),)
    if plan.parts:
        raise RefusedError("the plan names partitions and further disks")
    room = plan.disk.size + sum(disk.size for disk in plan.further)
    if room < plan.image_size:
        raise RefusedError(f"the plan's disks have {room} bytes together, the image needs {plan.image_size}")
    opened: list[Target] = []
    try:
        for disk in (plan.disk, *plan.further):
            # The image is for all of them together. One that was empty when it was chosen has to be that now, also
            # when another one may be erased.
            is_empty = plan.empty or not targets.content(disk)
            own = replace(plan, disk=disk, further=(), image_size=0, least=0, empty=is_empty)
            opened.append(open_target(own, take, dev, sys))
    except BaseException:
        for target in opened:
            target.close()
        raise
    return tuple(opened)


def _open_parts(plan: Plan, disk: Disk, dev: str, sys: str) -> Target:
    """The partitions, each found to be that of this disk by the kernel's device numbers."""
    with _closing_on_error() as opened:
        path = f"{dev}/{disk.name}"
        reader = _open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, f"disk {describe(disk)}", opened)
        _check_disk(reader, path, disk)
        wanted = [target.partition for target in plan.parts]
        writable = _open_each(reader, disk.name, wanted, (dev, sys), opened)
    return Target(disk, reader, writable)


def _open_each(
    reader: int, disk: str, wanted: Sequence[Partition], roots: tuple[str, str], opened: list[int]
) -> tuple[int, ...]:
    dev, sys = roots
    writable = []
    for partition in wanted:
        name = targets.partition_name(disk, partition.number)
        writable.append(_open(f"{dev}/{name}", _WRITE, f"partition {name}", opened))
        _check_partition(writable[-1], reader, name, partition, sys)
    return tuple(writable)


@contextlib.contextmanager
def open_partitions(
    reader: int, disk: str, wanted: Sequence[Partition], dev: str = "/dev", sys: str = "/sys"
) -> Iterator[tuple[int, ...]]:
    """The partitions of a table that was just written, open for writing and for nobody else as long as it lasts.

    ``reader``: the disk, held open since the gate gave it out; each partition is found to be of that very disk, and
    to be where ``wanted`` has it (number, start, size). `RefusedError`.
    """
    opened: list[int] = []
    try:
        yield _open_each(reader, disk, wanted, (dev, sys), opened)
    finally:
        for descriptor in opened:
            os.close(descriptor)


@contextlib.contextmanager
def _closing_on_error() -> Iterator[list[int]]:
    opened: list[int] = []
    try:
        yield opened
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise


def _open(path: str, flags: int, what: str, opened: list[int]) -> int:
    try:
        opened.append(os.open(path, flags))
    except OSError as error:
        raise RefusedError(f"{what} cannot be opened alone: {error.strerror}") from None
    return opened[-1]


def _check_partition(descriptor: int, disk: int, name: str, wanted: Partition, sys: str) -> None:
    """The open device is that partition of the open disk, by what the kernel says of its number."""
    try:
        own, whole = os.fstat(descriptor), os.fstat(disk)
        if not stat.S_ISBLK(own.st_mode):
            raise RefusedError(f"{name} is not a block device")
        folder = f"{sys}/dev/block/{os.major(own.st_rdev)}:{os.minor(own.st_rdev)}"
        number, start = _number(f"{folder}/partition"), _number(f"{folder}/start") * 512
        with open(f"{os.path.realpath(folder)}/../dev") as stream:
            parent = stream.read().strip()
        size = _ask_size(descriptor)
    except (OSError, ValueError) as error:
        raise RefusedError(f"{name} cannot be checked: {error}") from None
    if parent != f"{os.major(whole.st_rdev)}:{os.minor(whole.st_rdev)}" or number != wanted.number:
        raise RefusedError(
            f"{name} is partition {number} of device {parent}, not partition {wanted.number} of the disk"
        )
    if (start, size) != (wanted.start, wanted.size):
        raise RefusedError(f"{name} changed to {size} bytes at {start} while it was being opened")
    if _ask_read_only(descriptor):
        raise RefusedError(f"{name} is read-only")


def _number(path: str) -> int:
    with open(path) as stream:
        return int(stream.read())


def _ask_size(descriptor: int) -> int:
    (size,) = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))
    return int(size)


def _ask_read_only(descriptor: int) -> bool:
    (read_only,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKROGET, bytes(4)))
    return bool(read_only)


def _check_disk(descriptor: int, path: str, disk: Disk) -> None:
    """The open device has the size and the table of the plan's disk."""
    try:
        if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
            raise RefusedError(f"{path} is not a block device")
        size = _ask_size(descriptor)
        # The digest reads through a second descriptor of the very same device: this one takes aligned buffers only.
        reader = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            digest = table_digest(reader, size)
        finally:
            os.close(reader)
    except OSError as error:
        raise RefusedError(f"disk {describe(disk)} cannot be checked: {error.strerror or error}") from None
    if size != disk.size:
        raise RefusedError(f"disk {describe(disk)} changed from {disk.size} to {size} bytes while being opened")
    if digest != disk.table_digest:
        raise RefusedError(f"the partition table of {describe(disk)} changed while it was being opened")
