"""A retry writes the disks that its parent session had planned, or none. Pure."""

from collections.abc import Sequence

from bootd.session.effects import Binding
from bootd.session.selector import Refusal
from bootd.wire.control import Disk


def of(disk: Disk, further: Sequence[Disk] = (), *, begun: bool) -> Binding:
    """What to remember of ``disk``; its partition table may be half written by now, so that is no part of it."""
    others = tuple(of(other, begun=begun) for other in further)
    return Binding(disk.name, disk.serial, disk.wwn, disk.size, disk.sector, begun, others)


def bound(disks: Sequence[Disk], binding: Binding | None) -> Refusal | None:
    """Why ``disks``, chosen by the selectors, are not those of ``binding``; None when they are, each in its place.
    No binding binds to nothing."""
    if binding is None:
        return None
    before = _each(binding)
    if len(disks) != len(before):
        return Refusal(f"{len(disks)} disks are chosen, {len(before)} were planned before")
    for disk, one in zip(disks, before, strict=True):
        if not _is_same(disk, one):
            identity = disk.serial or disk.wwn or "no serial"
            planned = f"{one.name} ({one.serial or one.wwn or 'no serial'}, {one.size} bytes)"
            text = f"{disk.name} ({identity}, {disk.size} bytes) is not the disk that was planned before: {planned}"
            return Refusal(text)
    return None


def find(disks: Sequence[Disk], binding: Binding) -> tuple[Disk, ...]:
    """Those of ``disks`` that ``binding`` means."""
    return tuple(disk for disk in disks if any(_is_same(disk, one) for one in _each(binding)))


def _each(binding: Binding) -> tuple[Binding, ...]:
    return binding, *binding.further


def _is_same(disk: Disk, binding: Binding) -> bool:
    if (disk.size, disk.sector) != (binding.size, binding.sector):
        return False
    if disk.serial or disk.wwn or binding.serial or binding.wwn:
        return (disk.serial, disk.wwn) == (binding.serial, binding.wwn)
    return disk.name == binding.name
