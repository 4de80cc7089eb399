"""What a fitted scheme says, made on the disks that the gate has opened: tables, arrays, groups, file systems.

The table is written and read back through the gate's own descriptor. Then the hold on the disk becomes a hold on
its new partitions, each found to be the one of that disk by the kernel's numbers, and both ends of each are zeroed,
so that nothing of what was there before shows again. Only then do other programs work on them, by name.
"""

import contextlib
import os
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bootd.wire.control import Partition
from bootd.wire.layout import Layout
from bootd.wire.scheme.fitting import Fitted, Placed
from bootd.wire.scheme.model import ESP, NOTHING, Content
from bootd.wire.table import PartitionTable
from bootd.wire.targets import partition_name
from stage2 import layout as partitioning
from stage2 import signatures, stacking
from stage2.gate import RefusedError, Target, open_partitions
from stage2.made import Array, Filesystem, Made
from stage2.programs import ProgramError, run

MKFS_SECONDS = 1200.0
_FAT32_SECTORS = 70_000  # FAT32 has at least 65525 clusters, of a sector each, and its tables beside them


class FormattingError(Exception):
    """The disks are not as the scheme wants them; the text says why. They hold nothing that is of use."""


def make(fitted: Fitted, targets: Sequence[Target], tell: Callable[[str], None], dev: str = "/dev") -> Made:
    """Make all of ``fitted`` on ``targets``, one a disk in their order; they are closed then, in every case.

    ``tell`` gets a line for each step. Nothing is mounted; arrays and groups run, until `stacking.release`.
    `FormattingError`.
    """
    disks = [target.disk.name for target in targets]
    arrays: list[Array] = []
    groups: list[str] = []
    with contextlib.ExitStack() as opened:
        try:
            tables = _write_tables(fitted, targets, tell, dev)
            readers = [opened.enter_context(_reading(target)) for target in targets]
        except (partitioning.LayoutError, ProgramError, OSError) as error:
            raise FormattingError(str(error)) from None
        finally:
            for target in targets:
                target.close()
        try:
            for reader, name, table in zip(readers, disks, tables, strict=True):
                _wipe(reader, name, table, dev)
            stacking.make_arrays(fitted, [_device(one, disks, dev) for one in fitted.partitions], arrays, tell)
            stacking.make_groups(fitted, [_device(one, disks, dev) for one in fitted.partitions], groups, tell)
            filesystems = _make_filesystems(fitted, disks, tables, tell, dev)
        except (ProgramError, RefusedError, OSError) as error:
            for trouble in stacking.release(arrays, groups):
                tell(trouble)
            raise FormattingError(str(error)) from None
    return Made(
        disks=tuple(f"{dev}/{disks[number]}" for number in fitted.boot),
        table=fitted.tables[0].label,
        filesystems=filesystems,
        arrays=tuple(arrays),
        groups=tuple(groups),
        esp=next((_device(one, disks, dev) for one in fitted.partitions if one.kind == ESP), ""),
    )


def _write_tables(
    fitted: Fitted, targets: Sequence[Target], tell: Callable[[str], None], dev: str
) -> tuple[PartitionTable, ...]:
    """Write the tables, with identifiers of this machine alone, and have the kernel see their partitions."""
    if len(targets) != len(fitted.tables):
        raise OSError(f"the layout is for {len(fitted.tables)} disks, {len(targets)} are open")
    stacking.check_names(fitted, [f"{dev}/{target.disk.name}" for target in targets])
    tables = tuple(_identified(table) for table in fitted.tables)
    for target, table in zip(targets, tables, strict=True):
        name = target.disk.name
        partitioning.write(Layout(table, fitted.boot_code.ljust(512, b"\0")), target)
        tell(f"Writing partition table for {name}...OK")
        if os.stat(f"{dev}/{name}").st_rdev != os.fstat(target.reader).st_rdev:
            raise OSError(f"{name} is no longer the disk that was opened")
        run(["partx", "--delete", f"{dev}/{name}"], ok=(0, 1))  # those of the table before
        for entry in table.contents:  # not the extended one: partx has no size for it that sectors of 4096 allow
            run(["partx", "--add", "--nr", str(entry.number), f"{dev}/{name}"])
    return tables


def _identified(table: PartitionTable) -> PartitionTable:
    if table.label == "dos":
        return replace(table, id=f"0x{secrets.randbits(32) or 1:08x}")
    entries = tuple(replace(entry, uuid=_new_uuid()) for entry in table.entries)
    return replace(table, id=_new_uuid(), entries=entries)


def _new_uuid() -> str:
    return str(uuid.uuid4()).upper()


@contextlib.contextmanager
def _reading(target: Target) -> Iterator[int]:
    """The disk once more: as long as it is open, its device number is that of no other disk."""
    descriptor = os.open(f"/proc/self/fd/{target.reader}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _wipe(reader: int, disk: str, table: PartitionTable, dev: str) -> None:
    """Both ends of each partition of the disk that ``reader`` has open become zeros. `RefusedError`, OSError."""
    wanted = [
        Partition(entry.number, entry.size * table.sector, "", "", "", entry.start * table.sector)
        for entry in table.contents
    ]
    with open_partitions(reader, disk, wanted, dev) as opened:
        for descriptor, one in zip(opened, wanted, strict=True):
            partitioning.zero(descriptor, 0, min(one.size, partitioning.WIPED))
            partitioning.zero(descriptor, max(0, one.size - partitioning.WIPED), one.size)
            os.fsync(descriptor)


def _device(one: Placed, disks: Sequence[str], dev: str) -> str:
    return f"{dev}/{partition_name(disks[one.disk], one.entry.number)}"


# --- file systems ---------------------------------------------------------------------------------------------


def _make_filesystems(
    fitted: Fitted, disks: Sequence[str], tables: Sequence[PartitionTable], tell: Callable[[str], None], dev: str
) -> tuple[Filesystem, ...]:
    made = []
    for one in fitted.partitions:
        if one.content != NOTHING:
            filesystem = make_filesystem(_device(one, disks, dev), one.content, tell)
            made.append(replace(filesystem, partuuid=_partuuid(tables[one.disk], one.entry.number)))
    for array in fitted.arrays:
        if array.array.content != NOTHING:
            made.append(make_filesystem(stacking.array_device(array.array.name), array.array.content, tell))
    for group in fitted.groups:
        for volume in group.volumes:
            if volume.volume.content != NOTHING:
                device = stacking.volume_device(group.name, volume.volume.name)
                made.append(make_filesystem(device, volume.volume.content, tell))
    return tuple(made)


def _partuuid(table: PartitionTable, number: int) -> str:
    """As the kernel and blkid have it."""
    entry = table.entry(number)
    if table.label == "dos" or entry is None:
        return f"{table.id.removeprefix('0x')}-{number:02x}"
    return entry.uuid.lower()


def make_filesystem(device: str, content: Content, tell: Callable[[str], None]) -> Filesystem:
    """A new file system with a new identifier, found there by blkid afterwards. `ProgramError`."""
    wanted = str(uuid.uuid4())
    run(make_words(device, content, wanted), seconds=MKFS_SECONDS)
    tags = signatures.probe(device)
    found = tags.get("UUID", "")
    identifier = wanted[:8].upper() if content.filesystem == "vfat" else wanted
    if (tags.get("TYPE"), found.replace("-", "") if content.filesystem == "vfat" else found) != (
        content.filesystem,
        identifier,
    ):
        raise ProgramError(f"{device}: blkid finds {tags.get('TYPE') or 'nothing'} {found} after mkfs")
    tell(f"Formatting {device} as {content.filesystem}...OK")
    return Filesystem(device, content.filesystem, found, content.label, content.mount, content.options)


def make_words(device: str, content: Content, identifier: str) -> list[str]:
    """The program that makes the file system, with its options."""
    kind, label = content.filesystem, content.label
    match kind:
        case "swap":
            words = ["mkswap", "--uuid", identifier, *(["--label", label] if label else [])]
        case "vfat":
            words = ["mkfs.vfat", "-i", identifier[:8], *(["-n", label] if label else []), *_fat_size(device)]
        case "xfs":
            words = ["mkfs.xfs", "-q", "-m", f"uuid={identifier}", *(["-L", label] if label else [])]
        case "btrfs":
            words = ["mkfs.btrfs", "-q", "-U", identifier, *(["-L", label] if label else [])]
        case _:
            words = [f"mkfs.{kind}", "-q", "-U", identifier, *(["-L", label] if label else [])]
    return [*words, *content.make, device]


def _fat_size(device: str) -> list[str]:
    """FAT32 wherever it has room: firmware is only promised to read that from a disk (UEFI 2.10, 13.3)."""
    with open(device, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        sector = partitioning.sector_size(stream.fileno())
    return ["-F", "32"] if size // sector >= _FAT32_SECTORS else []
