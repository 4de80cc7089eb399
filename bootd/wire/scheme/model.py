"""The values that a scheme consists of, and what must hold of each by itself and of all of them together.

Sizes are in bytes, whole MiB of them. What only the disks can tell (whether it all has room, which kind of table)
is judged by `bootd.wire.scheme.fitting`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FILL = 0  # as a size: what the others leave, in equal shares when there are several
MIB = 1 << 20
MAX_SIZE = 1 << 60
MAX_PARTITIONS = 128
MAX_DISKS = 16
MAX_BOOT_CODE = 446  # bytes, as in KA; the last six are the disk's identifier and are never written
LINUX, SWAP, EXTENDED, ESP, BIOS, RAID, LVM, TYPE = (
    "linux",
    "swap",
    "extended",
    "esp",
    "bios",
    "raid",
    "lvm",
    "type",
)
KINDS = (LINUX, SWAP, EXTENDED, ESP, BIOS, RAID, LVM, TYPE)
TABLES = ("auto", "dos", "gpt")
# File system -> longest label (mkfs of each), smallest size in MiB that its mkfs takes.
FILESYSTEMS = {
    "ext2": (16, 1),
    "ext3": (16, 8),
    "ext4": (16, 8),
    "xfs": (12, 300),
    "btrfs": (64, 128),
    "vfat": (11, 1),
    "swap": (15, 1),
}
# RAID level -> members that it needs at least.
LEVELS = {"linear": 2, "raid0": 2, "raid1": 2, "raid4": 3, "raid5": 3, "raid6": 4, "raid10": 2}
METADATA = ("1.2", "1.1", "1.0")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,31}\Z")
_LABEL = re.compile(r"[ -~]*\Z")
_OPTIONS = re.compile(r"[!-~]{0,500}\Z")
_MOUNT = re.compile(r"/([!-.0-~]+(/[!-.0-~]+)*)?\Z")
_DOS_TYPE = re.compile(r"[0-9a-f]{1,2}\Z")
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_MAKE = re.compile(r"(-[A-Za-z]|[A-Za-z0-9^][A-Za-z0-9^_=,.:]*)\Z")  # no path, so it names no other device
_RESERVED = re.compile(r"(snapshot|pvmove)|.*_([cmrt]?data|[ct]?meta|mlog|mimage|rimage|rmeta|vorigin|pmspare)")


class SchemeError(Exception):
    """A scheme that means nothing. ``list_name`` and ``index``: the entry that is at fault, if it is one."""

    def __init__(self, text: str, list_name: str = "", index: int = -1) -> None:
        super().__init__(text)
        self.text, self.list_name, self.index = text, list_name, index


@dataclass(frozen=True)
class Content:
    """What goes into a partition, an array or a volume."""

    filesystem: str = ""  # as blkid calls it; "" = nothing is made there
    label: str = ""
    mount: str = ""  # "/", "/home"
    options: str = ""  # of fstab; "" = defaults
    make: tuple[str, ...] = ()  # further words for mkfs: ("-O", "^metadata_csum")


NOTHING = Content()


@dataclass(frozen=True)
class Partition:
    """``kind``: one of `KINDS`; of kind "type" ``type`` is what the table says. ``name``: how arrays and groups
    call it; several partitions may have one name, and are all meant then."""

    kind: str
    size: int
    content: Content = NOTHING
    type: str = ""  # "83" and so on of a DOS table, or a GUID of a GPT, lower case
    is_logical: bool = False
    is_active: bool = False
    name: str = ""
    disks: tuple[int, ...] = (0,)  # on which disks of the node it is made, counted from 0 in the plan's order


@dataclass(frozen=True)
class Array:
    """A software RAID. ``members``: names of partitions."""

    name: str
    level: str
    members: tuple[str, ...]
    content: Content = NOTHING
    metadata: str = "1.2"


@dataclass(frozen=True)
class Group:
    """A volume group of LVM. ``members``: names of partitions or arrays."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Volume:
    """A logical volume."""

    name: str
    group: str
    size: int
    content: Content = NOTHING


@dataclass(frozen=True)
class Scheme:
    """Checked when it is made: `SchemeError`. ``boot_code``: what the boot sector begins with, b"" = zeros."""

    partitions: tuple[Partition, ...]
    arrays: tuple[Array, ...] = ()
    groups: tuple[Group, ...] = ()
    volumes: tuple[Volume, ...] = ()
    table: str = "auto"  # "auto": by the firmware
    boot_code: bytes = b""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def disks(self) -> int:
        """How many disks it needs."""
        return 1 + max(number for one in self.partitions for number in one.disks)

    @property
    def contents(self) -> Iterator[Content]:
        yield from (one.content for one in self.partitions)
        yield from (one.content for one in self.arrays)
        yield from (one.content for one in self.volumes)


def numbers(partitions: Sequence[Partition], disk: int) -> dict[int, int]:
    """Position in ``partitions`` -> number on ``disk``, as KA and the kernel count: primary ones from 1, the
    extended one among them, logical ones from 5."""
    found: dict[int, int] = {}
    primary, logical = 0, 4
    for index, one in enumerate(partitions):
        if disk in one.disks and one.is_logical:
            logical += 1
            found[index] = logical
        elif disk in one.disks:
            primary += 1
            found[index] = primary
    return found


def _check(scheme: Scheme) -> None:
    if scheme.table not in TABLES:
        raise SchemeError(f"table {scheme.table!r}: say one of {', '.join(TABLES)}")
    if len(scheme.boot_code) > MAX_BOOT_CODE:
        raise SchemeError(f"boot code of {len(scheme.boot_code)} bytes: a boot sector has room for {MAX_BOOT_CODE}")
    if not scheme.partitions:
        raise SchemeError("there are no partitions")
    for name, found in _lists(scheme):
        if len(found) > MAX_PARTITIONS:
            raise SchemeError(f"more than {MAX_PARTITIONS} of kind {name}", name, MAX_PARTITIONS)
        for index, one in enumerate(found):
            try:
                _check_one(one)
                _check_content(one)
            except SchemeError as error:
                raise SchemeError(error.text, name, index) from None
    _check_numbers(scheme)
    _check_members(scheme)
    _check_mounts(scheme)


def _lists(scheme: Scheme) -> tuple[tuple[str, Sequence[Partition | Array | Group | Volume]], ...]:
    """Each list with the name that it has in a file."""
    return (
        ("partition", scheme.partitions),
        ("array", scheme.arrays),
        ("group", scheme.groups),
        ("volume", scheme.volumes),
    )


def _check_one(one: Partition | Array | Group | Volume) -> None:
    if one.name and not _NAME.match(one.name):
        raise SchemeError(f"name {one.name!r}: letters, digits, and _.+- after the first, at most 32")
    match one:
        case Partition():
            _check_partition(one)
        case Array():
            if one.level not in LEVELS:
                raise SchemeError(f"level {one.level!r}: say one of {', '.join(LEVELS)}")
            if one.metadata not in METADATA:
                raise SchemeError(f"metadata {one.metadata!r}: say one of {', '.join(METADATA)}")
        case Volume():
            _check_size(one.size)
            if _RESERVED.match(one.name):
                raise SchemeError(f"LVM keeps the name {one.name!r} for itself")
    if not isinstance(one, Partition) and not one.name:
        raise SchemeError("it has no name")


def _check_partition(one: Partition) -> None:
    if one.kind not in KINDS:
        raise SchemeError(f"kind {one.kind!r}: say one of {', '.join(KINDS)}")
    _check_size(one.size)
    if (one.kind == TYPE) != bool(one.type):
        raise SchemeError(
            "a type, and only that, needs its number" if one.kind == TYPE else "kind and type exclude"
        )
    if one.type and not (_DOS_TYPE.match(one.type) or _GUID.match(one.type)):
        raise SchemeError(f"type {one.type!r}: one or two hexadecimal digits, or a GUID, in small letters")
    if one.kind == EXTENDED and (one.is_logical or one.content != NOTHING):
        raise SchemeError("an extended partition is a container of logical ones, and nothing else")
    if one.kind in (BIOS, RAID, LVM) and one.content != NOTHING:
        raise SchemeError(f"a partition of kind {one.kind} has no file system of its own")
    if one.kind in (RAID, LVM) and not one.name:
        raise SchemeError(f"a partition of kind {one.kind} needs a name, by which it is taken as a member")
    if (one.kind == SWAP) != (one.content.filesystem == SWAP):
        raise SchemeError("kind and file system swap belong together")
    if one.kind == ESP and one.content.filesystem != "vfat":
        raise SchemeError("an EFI system partition has the file system vfat")
    if not one.disks or len(set(one.disks)) != len(one.disks) or not set(one.disks) <= set(range(MAX_DISKS)):
        raise SchemeError(f"disks {list(one.disks)}: numbers from 0 to {MAX_DISKS - 1}, each once")
    if len(one.disks) > 1 and one.content.mount:
        raise SchemeError(
            f"it is on {len(one.disks)} disks and cannot be mounted at one place: make an array of it"
        )


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE or size % MIB:
        raise SchemeError(f"a size of {size} bytes: whole MiB, at most {MAX_SIZE >> 40} TiB")


def _check_content(one: Partition | Array | Group | Volume) -> None:
    if isinstance(one, Group) or one.content == NOTHING:
        return
    content = one.content
    if content.filesystem not in FILESYSTEMS:
        text = f"file system {content.filesystem!r}" if content.filesystem else "no file system"
        raise SchemeError(f"{text}: say one of {', '.join(FILESYSTEMS)}")
    longest, _ = FILESYSTEMS[content.filesystem]
    if len(content.label) > longest or not _LABEL.match(content.label) or content.label.startswith("-"):
        raise SchemeError(f"label {content.label!r}: printable, no - in front, at most {longest} characters")
    if content.mount and content.filesystem == SWAP:
        raise SchemeError("swap is not mounted")
    if content.mount and (not _MOUNT.match(content.mount) or {".", ".."} & set(content.mount.split("/"))):
        raise SchemeError(f"mount point {content.mount!r}: an absolute path without spaces, . and ..")
    if not _OPTIONS.match(content.options):
        raise SchemeError(f"mount options {content.options!r}: no spaces")
    if len(content.make) > 32 or not all(len(word) <= 100 and _MAKE.match(word) for word in content.make):
        raise SchemeError(f"words for mkfs {list(content.make)}: options like -O and their values, no paths")


def _check_numbers(scheme: Scheme) -> None:
    """Extended and logical partitions fit together, disk by disk, and no disk of the row is left out."""
    for disk in range(scheme.disks):
        own = [(index, one) for index, one in enumerate(scheme.partitions) if disk in one.disks]
        if not own:
            raise SchemeError(f"nothing is made on disk {disk}, though there are later ones")
        around = [index for index, one in own if one.kind == EXTENDED]
        if len(around) > 1:
            raise SchemeError("a disk has one extended partition", "partition", around[1])
        inside = [index for index, one in own if one.is_logical]
        if inside and not around:
            raise SchemeError("a logical partition without an extended one", "partition", inside[0])
        if inside and inside[0] < around[0]:
            raise SchemeError("a logical partition before the extended one", "partition", inside[0])
        check_sum(scheme, disk)


def check_sum(scheme: Scheme, disk: int) -> None:
    """What lies in an extended partition has room in it. `SchemeError`: KA's fdisk_to_desc wrote such files."""
    own = [(index, one) for index, one in enumerate(scheme.partitions) if disk in one.disks]
    around = next(((index, one) for index, one in own if one.kind == EXTENDED), None)
    if around is None or around[1].size == FILL:
        return
    inside = [one for _, one in own if one.is_logical]
    needed = sum(one.size for one in inside) + MIB * sum(one.size == FILL for one in inside)
    if needed > around[1].size:
        text = (
            f"the logical partitions need {needed // MIB} MiB, the extended one has {around[1].size // MIB}"
            " (fdisk_to_desc is known to write this for large disks): say `extended fill`, and `fill` for the last"
            " logical one"
        )
        raise SchemeError(text, "partition", around[0])


def _check_members(scheme: Scheme) -> None:
    """Every member is there, of the right kind, and of one array or group only."""
    free: dict[str, dict[str, int]] = {RAID: {}, LVM: {}}
    names = {one.name for one in scheme.partitions if one.name}
    for one in scheme.partitions:
        if one.kind in free:
            free[one.kind][one.name] = free[one.kind].get(one.name, 0) + len(one.disks)
    if set(free[RAID]) & set(free[LVM]):
        raise SchemeError(f"partitions named {min(set(free[RAID]) & set(free[LVM]))!r} are of kinds raid and lvm")
    for index, array in enumerate(scheme.arrays):
        if array.name in names:
            raise SchemeError(f"the name {array.name!r} stands for something else already", "array", index)
        names.add(array.name)
        count = sum(_take(free[RAID], name, "raid", "array", index) for name in array.members)
        if count < LEVELS[array.level]:
            text = f"{array.level} needs {LEVELS[array.level]} members at least, there are {count}"
            raise SchemeError(text, "array", index)
        if array.content == NOTHING:
            free[LVM][array.name] = 1
    arrays = {array.name for array in scheme.arrays}
    _check_groups(scheme, free[LVM])
    for kind in (RAID, LVM):
        for name in sorted(set(free[kind]) - arrays):
            index = next(index for index, one in enumerate(scheme.partitions) if one.name == name)
            text = f"{name!r} is of kind {kind}, and no {'array' if kind == RAID else 'group'} takes it as a member"
            raise SchemeError(text, "partition", index)


def _check_groups(scheme: Scheme, free: dict[str, int]) -> None:
    groups: set[str] = set()
    for index, group in enumerate(scheme.groups):
        if group.name in groups or group.name in (".", ".."):
            raise SchemeError(f"two groups are called {group.name!r}", "group", index)
        groups.add(group.name)
        if not group.members:
            raise SchemeError("it has no members", "group", index)
        for name in group.members:
            _take(free, name, "lvm, or array without a file system", "group", index)
    volumes: set[tuple[str, str]] = set()
    for index, volume in enumerate(scheme.volumes):
        if volume.group not in groups:
            raise SchemeError(f"there is no group {volume.group!r}", "volume", index)
        if (volume.group, volume.name) in volumes:
            raise SchemeError(f"two volumes of {volume.group} are called {volume.name!r}", "volume", index)
        volumes.add((volume.group, volume.name))


def _take(free: dict[str, int], name: str, kind: str, list_name: str, index: int) -> int:
    count = free.pop(name, 0)
    if not count:
        raise SchemeError(f"member {name!r} is no partition of kind {kind}, or a member already", list_name, index)
    return count


def _check_mounts(scheme: Scheme) -> None:
    places: set[str] = set()
    for list_name, found in _lists(scheme):
        for index, one in enumerate(found):
            if isinstance(one, Group) or not one.content.mount:
                continue
            if one.content.mount in places:
                raise SchemeError(f"two file systems at {one.content.mount}", list_name, index)
            places.add(one.content.mount)
