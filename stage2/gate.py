"""The one gate to a target disk. Nothing else in stage2 opens a disk for writing.

A plan names one disk as the node had described it when it joined. Right before the first write everything is looked
at again, and any doubt is a refusal: a result with a reason, never a second choice.
"""

import fcntl
import os
import stat
import struct
from collections.abc import Callable, Sequence

from bootd.wire import locks
from bootd.wire.control import Disk, Plan
from stage2.inventory import table_digest

# What keeps a disk from being chosen by rule, but not from being named by serial or WWN; all else is final here.
NAMEABLE = ("usb", "removable", "network", "multipath", "raid member", "BitLocker", "foreign filesystem")

_BLKGETSIZE64 = 0x80081272  # linux/fs.h
_BLKROGET = 0x125E


class RefusedError(Exception):
    """The gate says no. Nothing was written; the text is the reason."""


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
    lock = locks.holding(plan.locks, disk, disks)
    if lock is not None:
        raise RefusedError(locks.reason(lock))
    if plan.image_sector not in (0, disk.sector):
        text = f"disk {describe(disk)} has sectors of {disk.sector}, the image was made for {plan.image_sector}"
        raise RefusedError(text)
    if disk.table_digest != wanted.table_digest:
        raise RefusedError(f"the partition table of {describe(disk)} has changed since the plan was made")
    if disk.size < plan.image_size:
        raise RefusedError(f"disk {describe(disk)} has {disk.size} bytes, the image needs {plan.image_size}")
    return disk


def describe(disk: Disk) -> str:
    """A disk in an operator's words: name, then what identifies it."""
    identity = disk.serial or disk.wwn
    return f"{disk.name} ({identity})" if identity else f"{disk.name} (no serial)"


def open_target(plan: Plan, take: Callable[[], Sequence[Disk]], dev_root: str = "/dev") -> tuple[int, Disk]:
    """A descriptor of the plan's disk, open for writing and for nobody else, and the disk itself.

    Takes a new inventory, matches, opens with O_EXCL (fails while the disk, or a partition of it, is mounted or
    held) and then checks size and table once more through the descriptor, behind which the disk can no longer
    change hands. `RefusedError` otherwise. The caller closes the descriptor.
    """
    disk = match(plan, take())
    path = f"{dev_root}/{disk.name}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise RefusedError(f"disk {describe(disk)} cannot be opened alone: {error.strerror}") from None
    try:
        _check_open(descriptor, path, disk)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, disk


def _check_open(descriptor: int, path: str, disk: Disk) -> None:
    try:
        if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
            raise RefusedError(f"{path} is not a block device")
        (size,) = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))
        (read_only,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKROGET, bytes(4)))
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
    if read_only:
        raise RefusedError(f"disk {describe(disk)} is read-only")
    if digest != disk.table_digest:
        raise RefusedError(f"the partition table of {describe(disk)} changed while it was being opened")
