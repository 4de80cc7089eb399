"""A fitted scheme for people and programs: one row for each partition, array and volume, in bytes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bootd.wire.scheme.fitting import Fitted
from bootd.wire.scheme.model import EXTENDED, FILL, NOTHING, Content


@dataclass(frozen=True)
class Row:
    """``place``: "2", "2 of disk 1", "md/root", "system/home". ``start``: bytes, 0 for what lies on partitions.
    ``kind``: of the partition, level of the array, "volume". ``note``: what else there is to know."""

    place: str
    disk: int
    number: int
    start: int
    size: int
    kind: str
    filesystem: str = ""
    label: str = ""
    mount: str = ""
    note: str = ""


def rows(fitted: Fitted) -> tuple[Row, ...]:
    """In the order of the disks and, on each, of the places."""
    return (*_partitions(fitted), *_arrays(fitted), *_volumes(fitted))


def _partitions(fitted: Fitted) -> Iterator[Row]:
    for disk, table in enumerate(fitted.tables):
        placed = {one.entry.number: one for one in fitted.partitions if one.disk == disk}
        for entry in sorted(table.entries, key=lambda entry: (entry.start, not entry.is_extended)):
            one = placed.get(entry.number)
            notes = []
            if one is not None and one.is_added:
                notes.append("for the firmware")
            if entry.active:
                notes.append("active")
            content = one.content if one is not None else NOTHING
            kind = one.kind if one is not None else EXTENDED
            if one is not None and one.name:
                notes.append(f"named {one.name}")
            if kind == "type":
                kind = f"type {entry.type}"
            place = f"{entry.number} of disk {disk}" if len(fitted.tables) > 1 else str(entry.number)
            start, size = entry.start * table.sector, entry.size * table.sector
            yield _row(Row(place, disk, entry.number, start, size, kind, note=", ".join(notes)), content)


def _arrays(fitted: Fitted) -> Iterator[Row]:
    for one in fitted.arrays:
        members = [fitted.partitions[index] for index in one.members]
        note = "of " + ", ".join(
            f"{member.entry.number} of disk {member.disk}" if len(fitted.tables) > 1 else str(member.entry.number)
            for member in members
        )
        yield _row(Row(f"md/{one.array.name}", 0, 0, 0, one.size, one.array.level, note=note), one.array.content)


def _volumes(fitted: Fitted) -> Iterator[Row]:
    for group in fitted.groups:
        for one in group.volumes:
            note = "at least" if one.volume.size == FILL else ""
            yield _row(
                Row(f"{group.name}/{one.volume.name}", 0, 0, 0, one.size, "volume", note=note), one.volume.content
            )


def _row(row: Row, content: Content) -> Row:
    return replace(row, filesystem=content.filesystem, label=content.label, mount=content.mount)
