"""A scheme of disks as they are: what KA's fdisk_to_desc did for one DOS disk, and wrongly for large ones.

The kind of table is left to the firmware of the machine that gets it. The last partition of a disk, and the
extended one around it, become `fill`: so the scheme fits a disk of another size, and whole MiB, rounded down, never
add up to more than the disk has. What a scheme cannot say (an encrypted partition, a file system that is not made
here) is told in notes.

Nothing is asked here: `describe` is given a function that runs a program.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bootd.wire.control import Disk
from bootd.wire.errors import PeerProtocolError
from bootd.wire.mounts import DEFAULTS, Entry, normal, parse_fstab
from bootd.wire.scheme.fitting import TYPES
from bootd.wire.scheme.model import (
    BIOS,
    ESP,
    EXTENDED,
    FILESYSTEMS,
    FILL,
    LEVELS,
    LVM,
    MIB,
    NOTHING,
    RAID,
    SWAP,
    TYPE,
    Array,
    Content,
    Group,
    Partition,
    Scheme,
    SchemeError,
    Volume,
)
from bootd.wire.table import EXTENDED as EXTENDED_TYPES
from bootd.wire.table import PartitionTable, parse

Run = Callable[[Sequence[str]], str]
"""Runs a program: its output, "" when it failed."""
COLUMNS = "NAME,KNAME,PATH,TYPE,SIZE,FSTYPE,LABEL,UUID,PARTUUID,MOUNTPOINTS"
_BLKID = {"fstype": "TYPE", "label": "LABEL", "uuid": "UUID", "partuuid": "PART_ENTRY_UUID"}
_ELSEWHERE = ("/run", "/media", "/mnt", "/tmp", "/var/lib", "/snap")  # mounts of the moment  # noqa: S108
_GPT_KINDS = {gpt.lower(): kind for kind, (_, gpt) in TYPES.items() if gpt}
_DOS_KINDS = {dos: kind for kind, (dos, _) in TYPES.items() if dos}
_FULL = 0.95  # of a volume group: its largest volume fills then
_DASHES = re.compile(r"(?<!-)-(?!-)")


@dataclass(frozen=True)
class Derived:
    """``notes``: what an operator should know, a sentence each."""

    scheme: Scheme
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """A partition as it is. ``member``: name of the array or group that it belongs to, with its kind before it."""

    name: str
    number: int
    start: int
    size: int
    kind: str
    type: str
    content: Content
    is_logical: bool
    is_active: bool
    member: tuple[str, str] = ("", "")
    disk: int = 0


@dataclass
class _Stack:
    """Whom to ask, and arrays, groups and volumes as they show up below the partitions."""

    run: Run = lambda _: ""
    fstab: Sequence[Entry] = ()
    arrays: dict[str, tuple[str, Content]] = field(default_factory=dict)  # level
    in_group: dict[str, str] = field(default_factory=dict)  # array -> group
    volumes: dict[tuple[str, str], tuple[int, Content]] = field(default_factory=dict)
    mounts: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


# --- from a live disk -----------------------------------------------------------------------------------------


def describe(run: Run, devices: Sequence[str], fstab: str = "") -> Derived:
    """The scheme of the disks ``devices`` (paths), and of those that their arrays and groups lie on, too.

    ``fstab``: of the system on them. `SchemeError` when they have no table that a scheme can say.
    """
    try:
        tree = json.loads(run(["lsblk", "--json", "--bytes", "--output", COLUMNS]) or "{}").get("blockdevices", [])
    except (ValueError, AttributeError):
        raise SchemeError("lsblk did not answer in JSON") from None
    disks = [one for one in tree if one.get("type") in ("disk", "loop")]
    wanted = [one for path in devices for one in disks if one.get("path") == path]
    if len(wanted) != len(devices) or not wanted:
        raise SchemeError(f"no disk {', '.join(devices)}; there are {', '.join(one['path'] for one in disks)}")
    wanted += [one for one in disks if one not in wanted and _tops(one) & set().union(*map(_tops, wanted))]
    stack, seen = _Stack(run, parse_fstab(fstab)), []
    for number, disk in enumerate(wanted):
        table = _table(run, disk["path"])
        nodes = {str(child.get("kname")): child for child in disk.get("children") or ()}
        for entry in sorted(table.entries, key=lambda entry: entry.start):
            path = disk["path"] + ("p" if disk["path"][-1].isdigit() else "") + str(entry.number)
            node = nodes.get(path.removeprefix("/dev/"), {"path": path})
            one = _seen(node, table, entry.number, stack)
            seen.append(replace(one, disk=number))
    return _derived(seen, stack)


def _tops(disk: Mapping[str, Any]) -> set[str]:
    """The arrays and volumes that lie on a disk."""
    return {str(one.get("path")) for one in _below(disk) if one.get("type") not in ("part", "disk", "loop")}


def _below(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("children") or ():
        yield from _below(child)


def _table(run: Run, path: str) -> PartitionTable:
    text = run(["sfdisk", "--json", path])
    try:
        table = parse(text)
    except PeerProtocolError as error:
        raise SchemeError(f"{path} has no partition table that a layout can say: {error}") from None
    if not table.entries:
        raise SchemeError(f"{path} has no partitions")
    return table


def _seen(node: Mapping[str, Any], table: PartitionTable, number: int, stack: _Stack) -> _Seen:
    entry = table.entry(number)
    if entry is None:
        raise SchemeError(f"partition {number} is gone")
    asked = _asked(stack.run, node)
    kind, code = _kind(entry.type)
    content = _content(asked, stack)
    member = _stacked(node, asked, stack)
    is_logical = table.label == "dos" and number > 4
    name = str(node.get("path", "")).removeprefix("/dev/")
    size, start = entry.size * table.sector, entry.start * table.sector
    one = _Seen(name, number, start, size, kind, code, content, is_logical, entry.active, member)
    return _settled(one, str(asked.get("fstype") or ""), stack)


def _asked(run: Run, node: Mapping[str, Any]) -> dict[str, Any]:
    """What lsblk leaves open without a udev data base, by blkid."""
    asked = dict(node)
    if not asked.get("fstype"):
        text = run(["blkid", "--probe", "--output", "export", str(node.get("path"))])
        tags = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        for column, tag in _BLKID.items():
            asked[column] = asked.get(column) or re.sub(r"\\(.)", r"\1", tags.get(tag, ""))
    return asked


def _kind(code: str) -> tuple[str, str]:
    """Kind and type of a partition with this type in the table."""
    lower = code.lower()
    if len(lower) <= 2:
        lower = lower.lstrip("0") or "0"
        kind = EXTENDED if lower in EXTENDED_TYPES else _DOS_KINDS.get(lower, TYPE)
    else:
        kind = _GPT_KINDS.get(lower, TYPE)
    return kind, lower if kind == TYPE else ""


def _content(asked: Mapping[str, Any], stack: _Stack) -> Content:
    """File system, label and place of what is on a device, as far as a scheme can say it."""
    kind, name = str(asked.get("fstype") or ""), str(asked.get("path", "")).removeprefix("/dev/")
    if kind not in FILESYSTEMS:
        return NOTHING
    label = str(asked.get("label") or "")
    if len(label) > FILESYSTEMS[kind][0] or not label.isprintable() or not label.isascii() or label[:1] == "-":
        stack.notes.append(f"{name}: its label {label!r} is left out")
        label = ""
    line = next((one for one in stack.fstab if _names(one.device, asked)), None)
    mount, options = "", ""
    if line is not None and line.point.startswith("/") and "noauto" not in line.options.split(","):
        mount, options = line.point, "" if line.options == DEFAULTS else line.options
    elif line is None:
        now = [str(one) for one in asked.get("mountpoints") or () if str(one).startswith("/")]
        mount = next((one for one in now if not one.startswith(_ELSEWHERE)), "")
    elif kind == SWAP:
        options = "" if line.options in (DEFAULTS, "sw") else line.options
    if kind == "btrfs" and "subvol" in options:
        options = ",".join(one for one in options.split(",") if not one.startswith("subvol"))
        stack.notes.append(f"{name}: its subvolumes are not made; all of it is one tree at {mount}")
    if re.search(r"[^!-~]", mount):
        stack.notes.append(f"{name}: its mount point {mount!r} has characters that a layout cannot say")
        mount = ""
    mount = normal(mount)
    if mount and mount in stack.mounts:
        stack.notes.append(f"{name}: {mount} is on another one already")
        mount = ""
    stack.mounts.add(mount)
    return Content(kind, label, mount, options)


def _names(device: str, asked: Mapping[str, Any]) -> bool:
    """Whether an fstab means this device."""
    key, separator, value = device.partition("=")
    value = value.strip('"')
    if separator:
        column = {"UUID": "uuid", "LABEL": "label", "PARTUUID": "partuuid"}.get(key, "")
        return bool(column and value) and str(asked.get(column) or "").lower() == value.lower()
    paths = {str(asked.get("path", "")), f"/dev/{asked.get('kname')}"}
    group, name = _volume_of(str(asked.get("name", "")))
    return device in (paths | ({f"/dev/{group}/{name}"} if asked.get("type") == "lvm" else set()))


def _stacked(node: Mapping[str, Any], asked: Mapping[str, Any], stack: _Stack) -> tuple[str, str]:
    """What a partition is a member of; arrays, groups and volumes on it are put into ``stack``."""
    for child in node.get("children") or ():
        kind = str(child.get("type"))
        if kind in LEVELS:
            name = _array_name(stack.run, str(child.get("path")))
            inner = _asked(stack.run, child)
            if name not in stack.arrays:  # each of its members leads here
                stack.arrays[name] = (kind, _content(inner, stack))
            of_kind, group = _stacked(child, inner, stack)
            if of_kind == LVM:
                stack.in_group[name] = group
            return RAID, name
        if kind == "lvm" and asked.get("fstype") in ("LVM2_member", "", None):
            _note_volumes(node, stack)
            return LVM, _volume_of(str(child.get("name")))[0]
    return "", ""


def _note_volumes(node: Mapping[str, Any], stack: _Stack) -> None:
    for child in node.get("children") or ():
        if child.get("type") == "lvm":
            inner = _asked(stack.run, child)
            place = _volume_of(str(child.get("name")))
            if place in stack.volumes:
                continue
            stack.volumes[place] = (int(child.get("size") or 0), _content(inner, stack))


def _volume_of(name: str) -> tuple[str, str]:
    """``my--group-root`` of the device mapper is volume root of my-group."""
    group, _, volume = _DASHES.sub("\0", name).partition("\0")
    return group.replace("--", "-"), volume.replace("--", "-")


def _array_name(run: Run, path: str) -> str:
    text = run(["mdadm", "--detail", "--export", path])
    found = next((line[8:] for line in text.splitlines() if line.startswith("MD_NAME=")), "")
    name = found.rpartition(":")[2] or path.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[:24].lstrip("-.+") or "md"


def _settled(one: _Seen, filesystem: str, stack: _Stack) -> _Seen:
    """Kind and content made to go together, by what lies there rather than by what the table says."""
    of_kind, _ = one.member
    if of_kind:
        return replace(one, kind=of_kind, type="", content=NOTHING)
    if one.kind in (RAID, LVM):  # nothing runs on it
        stack.notes.append(f"{one.name}: a member of nothing that runs here; an empty partition in the layout")
        return replace(one, kind=TYPE, type="fd" if one.kind == RAID else "8e", content=NOTHING)
    if one.kind in (EXTENDED, BIOS):
        return replace(one, content=NOTHING)
    if one.content.filesystem == SWAP:
        return replace(one, kind=SWAP, type="", content=replace(one.content, mount=""))
    if one.kind == SWAP:
        return replace(one, content=Content(SWAP))
    if one.kind == ESP and one.content.filesystem != "vfat":
        return replace(one, content=Content("vfat"))
    if filesystem and one.content == NOTHING:
        stack.notes.append(f"{one.name}: {filesystem} is not made by a layout; an empty partition in it")
    return one


# --- from a node's inventory ----------------------------------------------------------------------------------


def of_inventory(disk: Disk) -> Derived:
    """The scheme of a disk as its node has told of it: without mount points, and without what RAID and LVM hold."""
    stack = _Stack()
    seen = []
    for one in sorted(disk.partitions, key=lambda one: one.start):
        kind, code = _kind(one.type.removeprefix("0x") or "83")
        asked = {"fstype": one.filesystem, "label": one.label, "path": f"/dev/{disk.name} partition {one.number}"}
        content = _content(asked, stack)
        is_logical = one.type.startswith("0x") and one.number > 4
        member = _Seen(
            f"partition {one.number}",
            one.number,
            one.start,
            one.size,
            kind,
            code,
            content,
            is_logical,
            is_active=False,
        )
        seen.append(_settled(member, one.filesystem, stack))
    if not seen:
        raise SchemeError(f"{disk.name} has no partitions")
    derived = _derived(seen, stack)
    note = "mount points are not known to the server: put them in"
    return replace(derived, notes=(*derived.notes, note))


# --- both -----------------------------------------------------------------------------------------------------


def _derived(seen: Sequence[_Seen], stack: _Stack) -> Derived:
    notes = list(stack.notes)
    filling = _filling(seen)
    partitions = []
    for one in seen:
        kind, name = one.member
        partitions.append(
            Partition(
                kind=one.kind,
                size=FILL if one in filling else max(MIB, one.size // MIB * MIB),
                content=one.content,
                type=one.type,
                is_logical=one.is_logical,
                is_active=one.is_active,
                name=_member_name(kind, name) if kind else "",
                disks=(one.disk,),
            )
        )
    groups: dict[str, list[str]] = {}
    for one in seen:
        if one.member[0] == LVM and _member_name(*one.member) not in groups.get(one.member[1], []):
            groups.setdefault(one.member[1], []).append(_member_name(*one.member))
    for array, group in stack.in_group.items():
        groups.setdefault(group, []).append(array)
    arrays = tuple(
        Array(name, level, (_member_name(RAID, name),), NOTHING if name in stack.in_group else content)
        for name, (level, content) in stack.arrays.items()
    )
    volumes = tuple(_volumes(seen, stack))
    scheme = Scheme(
        tuple(partitions),
        arrays,
        tuple(Group(name, tuple(members)) for name, members in groups.items()),
        volumes,
    )
    numbered = [one.number for one in seen if one.disk == 0]
    if numbered != sorted(numbered):
        notes.append("the partitions are not numbered in their order: in the layout they are")
    return Derived(scheme, tuple(dict.fromkeys(notes)))


def _member_name(kind: str, name: str) -> str:
    return f"{name[:28]}.{'raid' if kind == RAID else 'pv'}"


def _filling(seen: Sequence[_Seen]) -> list[_Seen]:
    """The last one of each disk, and the extended one around it."""
    found = []
    for number in {one.disk for one in seen}:
        own = [one for one in seen if one.disk == number and one.kind != EXTENDED]
        last = max(own, key=lambda one: one.start, default=None)
        if last is not None:
            found.append(last)
            if last.is_logical:
                found += [one for one in seen if one.disk == number and one.kind == EXTENDED]
    return found


def _volumes(seen: Sequence[_Seen], stack: _Stack) -> Iterator[Volume]:
    for (group, name), (size, content) in stack.volumes.items():
        own = {place: held for place, (held, _) in stack.volumes.items() if place[0] == group}
        room = sum(one.size for one in seen if one.member == (LVM, group))
        room += sum(_array_room(seen, stack, array) for array, of in stack.in_group.items() if of == group)
        is_largest = (group, name) == max(own, key=lambda place: own[place])
        is_full = room > 0 and sum(own.values()) >= room * _FULL
        yield Volume(name, group, FILL if is_largest and is_full else max(MIB, size // MIB * MIB), content)


def _array_room(seen: Sequence[_Seen], stack: _Stack, array: str) -> int:
    sizes = [one.size for one in seen if one.member == (RAID, array)]
    level, _ = stack.arrays[array]
    least, count = min(sizes, default=0), len(sizes)
    data = {"raid1": 1, "raid4": count - 1, "raid5": count - 1, "raid6": count - 2, "raid10": count // 2}
    return least * data[level] if level in data else sum(sizes)
