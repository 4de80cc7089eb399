"""Which disk a lock holds: one rule, judged on the server when a disk is chosen and on the node by its gate.

A lock names a partition or a whole disk, but what is written is a disk with its partition table, so every lock
holds a disk. In doubt it holds: a disk named by a lock stays locked whatever its table says now, and a lock whose
partition is nowhere to be seen, on a disk that it does not name, holds every disk of the node.
"""

from collections.abc import Iterable, Sequence

from bootd.wire.control import Disk, Lock


def holding(locks: Iterable[Lock], disk: Disk, disks: Sequence[Disk]) -> Lock | None:
    """The first of ``locks`` that holds ``disk``, one of the node's ``disks``; None when it may be written."""
    for lock in locks:
        if lock.partuuid and _has(disk, lock.partuuid):
            return lock
        if lock.disk:
            if lock.disk in (disk.serial, disk.wwn):
                return lock
        elif not lock.partuuid or not any(_has(other, lock.partuuid) for other in disks):
            return lock
    return None


def describe(lock: Lock) -> str:
    """What is locked, in an operator's words."""
    if not lock.partition and not lock.partuuid:
        return f"disk {lock.disk}" if lock.disk else "every disk"
    where = f" of disk {lock.disk}" if lock.disk else ""
    name = f" {lock.partition}" if lock.partition else ""
    return f"partition{name}{f' ({lock.partuuid})' if lock.partuuid else ''}{where}"


def reason(lock: Lock) -> str:
    """The refusal that a lock is."""
    return f"{describe(lock)} is locked by {lock.owner}: {lock.reason}"


def _has(disk: Disk, partuuid: str) -> bool:
    return any(partition.partuuid == partuuid for partition in disk.partitions)
