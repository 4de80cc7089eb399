"""A retry writes the disk that its parent session had planned, or none. Pure."""

from collections.abc import Sequence

from bootd.session.effects import Binding
from bootd.session.selector import Refusal
from bootd.wire.control import Disk


def of(disk: Disk, *, begun: bool) -> Binding:
    """What to remember of ``disk``; its partition table may be half written by now, so that is no part of it."""
    return Binding(disk.name, disk.serial, disk.wwn, disk.size, disk.sector, begun)


def bound(disk: Disk | Refusal, binding: Binding | None) -> Disk | Refusal:
    """``disk``, chosen by the selector, if it is the one of ``binding``; None binds to nothing."""
    if binding is None or isinstance(disk, Refusal) or _is_same(disk, binding):
        return disk
    identity = disk.serial or disk.wwn or "no serial"
    before = f"{binding.name} ({binding.serial or binding.wwn or 'no serial'}, {binding.size} bytes)"
    return Refusal(f"{disk.name} ({identity}, {disk.size} bytes) is not the disk that was planned before: {before}")


def find(disks: Sequence[Disk], binding: Binding) -> Disk | None:
    """The one of ``disks`` that ``binding`` means."""
    return next((disk for disk in disks if _is_same(disk, binding)), None)


def _is_same(disk: Disk, binding: Binding) -> bool:
    if (disk.size, disk.sector) != (binding.size, binding.sector):
        return False
    if disk.serial or disk.wwn or binding.serial or binding.wwn:
        return (disk.serial, disk.wwn) == (binding.serial, binding.wwn)
    return disk.name == binding.name
