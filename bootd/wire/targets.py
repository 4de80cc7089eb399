"""Partitions as targets: which of them may be written, judged on the server and again by the gate of the node.

A partition is named by its number on one disk. What other partitions of that disk hold does not matter, as long as
nothing on the disk is in use; a disk that is no target as a whole (USB, network, read-only) has none on it either.
"""

from collections.abc import Iterable, Sequence

from bootd.wire import locks as lock_rule
from bootd.wire.control import Disk, Lock, Partition, PartTarget

# What lies on a disk or partition that nobody uses: it can be overwritten when an operator names the disk.
CONTENT = ("raid member", "multipath", "BitLocker", "foreign filesystem")
EXTENDED = frozenset({"0x5", "0xf", "0x85"})  # containers of logical partitions: writing one erases all of them


def partition_name(disk: str, number: int) -> str:
    """``sda5``, but ``nvme0n1p5``: a name that ends in a digit gets a ``p``."""
    return f"{disk}{'p' if disk[-1:].isdigit() else ''}{number}"


def find(disk: Disk, number: int) -> Partition | None:
    """The partition of this number; None when there is none, or when two say they are it."""
    found = [partition for partition in disk.partitions if partition.number == number]
    return found[0] if len(found) == 1 else None


def exclusion(disk: Disk) -> str:
    """Why no partition of ``disk`` is a target, "" when one may be: not for what merely lies on another one."""
    if not disk.excluded:
        return ""
    used = [partition.used for partition in disk.partitions if partition.used]
    merely_content = disk.excluded.startswith(CONTENT) and disk.excluded in used and not disk.filesystem
    return "" if merely_content and all(text.startswith(CONTENT) for text in used) else disk.excluded


def problem(target: PartTarget, disk: Disk, disks: Sequence[Disk], locks: Iterable[Lock]) -> str:
    """Why ``target``, a partition of ``disk``, may not be written; "" when it may. ``disks``: all of the node.

    What lies on the partition itself (`CONTENT`) is not judged here: whether it may go depends on who named it.
    """
    partition = target.partition
    name = partition_name(disk.name, partition.number)
    if find(disk, partition.number) != partition:
        return f"{disk.name} has no partition {partition.number}, or another one"
    if partition.type in EXTENDED:
        return f"{name} is an extended partition: the logical ones inside it would be lost"
    if partition.used and not partition.used.startswith(CONTENT):
        return f"{name} is in use: {partition.used}"
    if partition.start <= 0 or partition.start + partition.size > disk.size:
        return f"{name} does not lie within {disk.name}: its place is not known"
    over = next((other for other in disk.partitions if other is not partition and _overlap(partition, other)), None)
    if over is not None:
        return f"{name} and {partition_name(disk.name, over.number)} overlap: mend the partition table first"
    lock = holding(locks, disk, partition, disks)
    if lock is not None:
        return lock_rule.reason(lock)
    if target.size > partition.size:
        return f"{name} has {partition.size} bytes, the image needs {target.size}"
    return ""


def holding(locks: Iterable[Lock], disk: Disk, partition: Partition, disks: Sequence[Disk]) -> Lock | None:
    """The first lock that holds ``partition`` of ``disk``: its own, one of the disk, or one in doubt.

    A lock of another partition holds nothing here, if that partition is seen where the lock says; else it might be
    this one under another number or identifier, and it holds.
    """
    for lock in locks:
        if lock_rule.holding([lock], disk, disks) is None:
            continue
        if not lock.partition and not lock.partuuid:
            return lock
        if lock.partuuid:
            named = [other for other in disk.partitions if other.partuuid == lock.partuuid]
        else:
            named = [other for other in disk.partitions if other.number == lock.partition]
        if len(named) != 1 or named[0] == partition:
            return lock
    return None


def content(disk: Disk) -> str:
    """What is on a disk, in a few words; "" when it is empty."""
    if disk.partitions:
        return f"{len(disk.partitions)} partition{'s' if len(disk.partitions) > 1 else ''}"
    return f"{disk.filesystem} on the whole disk" if disk.filesystem else ""


def _overlap(one: Partition, other: Partition) -> bool:
    if other.type in EXTENDED or not other.start:
        return False  # a container holds its own; the kernel shows it with the size of its first sectors
    return one.start < other.start + other.size and other.start < one.start + one.size
