"""A scheme on given disks: which partition begins and ends where. The same scheme and disks give the same answer,
so what an operator is shown is what the node makes.

Partitions begin and end at whole MiB. Starts and sizes of a table's entries are in sectors, all else is in bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from bootd.wire.scheme.model import (
    BIOS,
    ESP,
    EXTENDED,
    FILESYSTEMS,
    FILL,
    LINUX,
    LVM,
    MAX_PARTITIONS,
    MIB,
    RAID,
    SWAP,
    Array,
    Content,
    Partition,
    Scheme,
    Volume,
    numbers,
)
from bootd.wire.table import MAX_DOS_SECTORS, Entry, PartitionTable

UEFI = "uefi"
ESP_SIZE = 512 * MIB  # of one that the scheme does not name: FAT32 on sectors of 4096 bytes needs 260 MiB
EXTENT = 4 * MIB  # of LVM, its default
_SLOT = MIB  # before each logical partition, for the table that names it
_GPT_ENTRIES = 128 * 128  # bytes
# kind -> type in a DOS table, in a GPT (UEFI 2.10, 5.2.2 and 5.3.3; systemd's list for those of Linux).
TYPES = {
    LINUX: ("83", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
    SWAP: ("82", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"),
    EXTENDED: ("5", ""),
    ESP: ("ef", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
    BIOS: ("", "21686148-6449-6E6F-744E-656564454649"),
    RAID: ("fd", "A19D880F-05FC-4D3B-A006-743F0F84911E"),
    LVM: ("8e", "E6D6D379-F507-44C2-A23C-238F2A3DF928"),
}
_BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
_BY_DOS_TYPE = {
    **{dos: gpt for dos, gpt in TYPES.values() if dos and gpt},
    **dict.fromkeys(("1", "4", "6", "7", "b", "c", "e"), _BASIC_DATA),
}


class Room(Protocol):
    """What must be known of a disk; `bootd.wire.control.Disk` has it."""

    @property
    def size(self) -> int: ...
    @property
    def sector(self) -> int: ...


@dataclass(frozen=True)
class Bare:
    """A disk of which only this is known."""

    size: int
    sector: int = 512


@dataclass(frozen=True)
class Misfit:
    """The scheme cannot be made on these disks. Nothing else may be done then."""

    reason: str


@dataclass(frozen=True)
class Placed:
    """One partition at its place. ``is_added``: no line of the scheme asks for it, the firmware does."""

    disk: int  # from 0
    entry: Entry
    kind: str
    name: str
    content: Content
    is_added: bool = False


@dataclass(frozen=True)
class FittedArray:
    """``members``: positions in `Fitted.partitions`. ``size``: at least, in bytes."""

    array: Array
    members: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class FittedVolume:
    """``size``: whole extents; of a volume that fills: at least."""

    volume: Volume
    size: int


@dataclass(frozen=True)
class FittedGroup:
    """``partitions``: positions in `Fitted.partitions`; ``arrays``: names."""

    name: str
    partitions: tuple[int, ...]
    arrays: tuple[str, ...]
    size: int
    volumes: tuple[FittedVolume, ...]


@dataclass(frozen=True)
class Fitted:
    """``tables``: one a disk, in their order, without identifiers: those are made when it is written. ``boot``: the
    disks that get a boot loader, those with the files that it needs."""

    firmware: str
    tables: tuple[PartitionTable, ...]
    partitions: tuple[Placed, ...]
    arrays: tuple[FittedArray, ...] = ()
    groups: tuple[FittedGroup, ...] = ()
    boot: tuple[int, ...] = (0,)
    boot_code: bytes = b""


class _NoRoomError(Exception):
    """Inside this module: becomes a `Misfit`."""


def fit(scheme: Scheme, disks: Sequence[Room], firmware: str) -> Fitted | Misfit:
    """Where everything of ``scheme`` goes on ``disks`` (in the plan's order) of a machine with ``firmware`` ("bios"
    or "uefi")."""
    if len(disks) != scheme.disks:
        return Misfit(f"the layout is for {scheme.disks} disks, there are {len(disks)}")
    try:
        return _fit(scheme, disks, firmware)
    except _NoRoomError as error:
        return Misfit(str(error))


def _fit(scheme: Scheme, disks: Sequence[Room], firmware: str) -> Fitted:
    boot = _boot_disks(scheme)
    tables, placed = [], []
    for number, disk in enumerate(disks):
        label = _label(scheme, number, disk, firmware)
        wanted = _wanted(scheme, number, label, firmware, is_boot=number in boot)
        own = _place(wanted, number, disk, label)
        own = _activated(own) if label == "dos" and firmware != UEFI and number in boot else own
        entries = tuple(one.entry for one in sorted(own, key=lambda one: one.entry.number))
        tables.append(PartitionTable(label, "", disk.sector, entries))
        placed += [one for one in own if one.kind != EXTENDED]
    partitions = tuple(placed)
    sectors = tuple(disk.sector for disk in disks)
    arrays = tuple(_array(one, partitions, sectors) for one in scheme.arrays)
    groups = _groups(scheme, partitions, arrays, sectors)
    fitted = Fitted(firmware, tuple(tables), partitions, arrays, groups, boot, scheme.boot_code)
    for what, size, content in sizes(fitted):
        least = FILESYSTEMS.get(content.filesystem, (0, 0))[1] * MIB
        if size < least:
            lack = f"{(least - size) // MIB} MiB too little"
            raise _NoRoomError(f"{what} has {size // MIB} MiB, {content.filesystem} needs {least // MIB}: {lack}")
    return fitted


def sizes(fitted: Fitted) -> Iterator[tuple[str, int, Content]]:
    """What there is, in an operator's words, its bytes, and what goes into it."""
    for one in fitted.partitions:
        sector = fitted.tables[one.disk].sector
        where = f" of disk {one.disk}" if len(fitted.tables) > 1 else ""
        yield f"partition {one.entry.number}{where}", one.entry.size * sector, one.content
    for array in fitted.arrays:
        yield f"array {array.array.name}", array.size, array.array.content
    for group in fitted.groups:
        for volume in group.volumes:
            yield f"volume {group.name}/{volume.volume.name}", volume.size, volume.volume.content


# --- what is wanted on a disk ---------------------------------------------------------------------------------


def _label(scheme: Scheme, number: int, disk: Room, firmware: str) -> str:
    """DOS for BIOS as long as it can name every partition and sector, else GPT."""
    if scheme.table != "auto":
        return scheme.table
    own = [one for one in scheme.partitions if number in one.disks]
    primary = sum(not one.is_logical for one in own)
    needs_gpt = any(one.kind == BIOS or len(one.type) > 2 for one in own) or primary > 4
    is_large = disk.size // disk.sector > MAX_DOS_SECTORS
    return "gpt" if firmware == UEFI or needs_gpt or is_large else "dos"


def _boot_disks(scheme: Scheme) -> tuple[int, ...]:
    """Those that /boot lies on, or / when it is not a file system of its own; the first one if nothing is said."""
    for mount in ("/boot", "/"):
        names: set[str] = set()
        for volume in scheme.volumes:
            if volume.content.mount == mount:
                names |= {name for group in scheme.groups if group.name == volume.group for name in group.members}
        names |= {array.name for array in scheme.arrays if array.content.mount == mount}
        names |= {name for array in scheme.arrays if array.name in names for name in array.members}
        found = {
            disk
            for one in scheme.partitions
            if one.content.mount == mount or (one.name and one.name in names)
            for disk in one.disks
        }
        if found:
            return tuple(sorted(found))
    return (0,)


@dataclass(frozen=True)
class _Wanted:
    partition: Partition
    number: int
    type: str
    is_added: bool = False


def _wanted(scheme: Scheme, disk: int, label: str, firmware: str, *, is_boot: bool) -> list[_Wanted]:
    """The partitions of a disk in their order, numbered as KA and the kernel do: primary ones from 1, logical ones
    from 5. A GPT keeps those numbers, without the extended one. What the firmware needs besides comes first on the
    disk, with the next free number."""
    counted = numbers(scheme.partitions, disk)
    own = [scheme.partitions[index] for index in counted]
    primary = sum(not one.is_logical for one in own)
    if primary > 4 and (label == "dos" or primary < len(own)):
        raise _NoRoomError(f"there are 4 primary partitions at most, the layout has {primary}: make some logical")
    found = [
        _Wanted(scheme.partitions[index], number, _type(scheme.partitions[index], label))
        for index, number in counted.items()
        if label == "dos" or scheme.partitions[index].kind != EXTENDED
    ]
    added = None
    if firmware == UEFI and disk == 0 and all(one.kind != ESP for one in scheme.partitions):
        added = Partition(ESP, ESP_SIZE, Content("vfat", mount=_free_mount(scheme), options="umask=0077"))
    elif firmware != UEFI and label == "gpt" and is_boot and all(one.kind != BIOS for one in own):
        added = Partition(BIOS, MIB)
    if added is not None:
        number = max(one.number for one in found) + 1 if label == "gpt" else primary + 1
        if label == "dos" and number > 4:
            raise _NoRoomError("there is no number left for an EFI system partition in the dos table: say gpt")
        if number > MAX_PARTITIONS:
            raise _NoRoomError(f"a gpt has {MAX_PARTITIONS} partitions, and the firmware needs one more")
        found.insert(0, _Wanted(added, number, _type(added, label), is_added=True))
    return found


def _free_mount(scheme: Scheme) -> str:
    return "" if any(content.mount == "/boot/efi" for content in scheme.contents) else "/boot/efi"


def _type(one: Partition, label: str) -> str:
    if one.kind in TYPES:
        found = TYPES[one.kind][label == "gpt"]
    elif label == "dos":
        found = one.type if len(one.type) <= 2 else ""
    else:
        found = one.type.upper() if len(one.type) > 2 else _BY_DOS_TYPE.get(one.type.lstrip("0"), "")
    if not found:
        raise _NoRoomError(f"a {label} table knows no partition of {one.kind} {one.type}".rstrip())
    return found


# --- places on a disk -----------------------------------------------------------------------------------------


def _place(wanted: list[_Wanted], number: int, disk: Room, label: str) -> list[Placed]:
    if disk.sector not in (512, 1024, 2048, 4096):
        raise _NoRoomError(f"disk {number} has sectors of {disk.sector} bytes")
    end = disk.size
    if label == "gpt":
        end -= disk.sector - (-_GPT_ENTRIES // disk.sector) * disk.sector
    else:
        end = min(end, MAX_DOS_SECTORS * disk.sector)
    room = end // MIB * MIB - MIB
    inside = [one for one in wanted if one.partition.is_logical and label == "dos"]
    outside = [one for one in wanted if one not in inside]
    least_inside = sum(_least(one) + _SLOT for one in inside)
    least = [max(_least(one), least_inside) if one.partition.kind == EXTENDED else _least(one) for one in outside]
    if sum(least) > room:
        lack = f"{(sum(least) - room) // MIB} MiB too little"
        raise _NoRoomError(
            f"disk {number} has room for {max(room, 0) // MIB} MiB, the layout needs"
            f" {sum(least) // MIB} MiB: {lack}"
        )
    result: list[Placed] = []
    start = MIB
    for one, size in zip(outside, _shared(outside, least, room), strict=True):
        result.append(_placed(one, number, (start, size), disk.sector, label))
        if one.partition.kind == EXTENDED:
            begin = start
            least = [_least(each) for each in inside]
            for each, length in zip(inside, _shared(inside, least, size - _SLOT * len(inside)), strict=True):
                result.append(_placed(each, number, (begin + _SLOT, length), disk.sector, label))
                begin += _SLOT + length
        start += size
    return result


def _least(one: _Wanted) -> int:
    return one.partition.size or MIB


def _shared(wanted: Sequence[_Wanted], least: Sequence[int], room: int) -> Iterator[int]:
    """The sizes: what the partitions that fill have beyond the least is shared equally, the last takes the rest."""
    filling = [index for index, one in enumerate(wanted) if one.partition.size == FILL]
    rest = room - sum(least)
    share = rest // MIB // len(filling) * MIB if filling else 0
    for index, size in enumerate(least):
        if index not in filling:
            yield size
        elif index != filling[-1]:
            yield size + share
        else:
            yield size + rest - share * (len(filling) - 1)


def _placed(one: _Wanted, disk: int, place: tuple[int, int], sector: int, label: str) -> Placed:
    """``place``: start and size in bytes."""
    partition = one.partition
    name = partition.name if label == "gpt" else ""
    is_active = partition.is_active and label == "dos"
    entry = Entry(one.number, place[0] // sector, place[1] // sector, one.type, "", name, "", is_active)
    return Placed(disk, entry, partition.kind, partition.name, partition.content, one.is_added)


def _activated(own: list[Placed]) -> list[Placed]:
    """Some BIOSes boot no disk without an active partition: that with the boot files, or the first that may be."""
    primary = [one for one in own if one.entry.number <= 4 and one.kind not in (EXTENDED, SWAP)]
    if any(one.entry.active for one in own) or not primary:
        return own
    order = {"/boot": 0, "/": 1}
    chosen = min(primary, key=lambda one: order.get(one.content.mount, 2))
    return [replace(one, entry=replace(one.entry, active=True)) if one is chosen else one for one in own]


# --- what lies on partitions ----------------------------------------------------------------------------------


def _array(array: Array, partitions: tuple[Placed, ...], sectors: tuple[int, ...]) -> FittedArray:
    """mdadm keeps up to 128 MiB, or a thousandth, of each member to itself (super1.c: the headroom of version 1.x),
    and rounds to its chunk of 512 KiB."""
    members = tuple(index for index, one in enumerate(partitions) if one.kind == RAID and one.name in array.members)
    usable = []
    for index in members:
        size = partitions[index].entry.size * sectors[partitions[index].disk]
        usable.append(max(0, (size - min(128 * MIB, size // 512) - 2 * MIB) // MIB * MIB))
    count, least = len(usable), min(usable)
    size = {
        "linear": sum(usable),
        "raid0": sum(usable),
        "raid1": least,
        "raid4": least * (count - 1),
        "raid5": least * (count - 1),
        "raid6": least * (count - 2),
        "raid10": least * count // 2 // MIB * MIB,
    }[array.level]
    if size < MIB:
        raise _NoRoomError(f"the members of array {array.name} are too small")
    return FittedArray(array, members, size)


def _groups(
    scheme: Scheme, partitions: tuple[Placed, ...], arrays: tuple[FittedArray, ...], sectors: tuple[int, ...]
) -> tuple[FittedGroup, ...]:
    made = []
    for group in scheme.groups:
        members = tuple(
            index for index, one in enumerate(partitions) if one.kind == LVM and one.name in group.members
        )
        below = tuple(array for array in arrays if array.array.name in group.members)
        usable = [partitions[index].entry.size * sectors[partitions[index].disk] for index in members]
        usable += [array.size for array in below]
        room = sum(max(0, (size - MIB) // EXTENT * EXTENT) for size in usable)
        volumes = [volume for volume in scheme.volumes if volume.group == group.name]
        least = [-(-(volume.size or 1) // EXTENT) * EXTENT for volume in volumes]
        if sum(least) > room:
            lack = f"{(sum(least) - room) // MIB} MiB too little"
            raise _NoRoomError(
                f"group {group.name} has {room // MIB} MiB, its volumes need {sum(least) // MIB}: {lack}"
            )
        filling = [index for index, volume in enumerate(volumes) if volume.size == FILL]
        share = (room - sum(least)) // EXTENT // max(1, len(filling)) * EXTENT
        fitted = tuple(
            FittedVolume(volume, least[index] + (share if index in filling else 0))
            for index, volume in enumerate(volumes)
        )
        names = tuple(array.array.name for array in below)
        made.append(FittedGroup(group.name, members, names, room, fitted))
    return tuple(made)
