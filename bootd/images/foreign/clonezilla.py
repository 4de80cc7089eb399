"""Directories of Clonezilla: which file is what, as its ``ocs-functions`` writes them.

``disk`` and ``parts`` name devices; of each disk there are ``DISK-pt.sf`` (dump of sfdisk), ``DISK-pt.parted`` (its
size), ``DISK-mbr``, ``DISK-hidden-data-after-mbr``, ``DISK-gpt-1st``, ``DISK-gpt-2nd``, ``PART-ebr``; of each
partition ``PART.FS-ptcl-img.COMPRESSION`` or ``PART.dd-img``, whole or split into ``.aa``, ``.ab``, …; of swap only
``swappt-PART.info``. How a file is compressed is seen in the file.
"""

import re

from bootd.images.foreign import swap
from bootd.images.foreign.errors import ForeignError
from bootd.images.foreign.layout import SECTOR, Disk, Folder, Partition, Stream, Table, in_order, parse_table

_MAX_LIST = 1 << 16
_MAX_BYTES = 64 << 20  # of hidden data
_SIZE = re.compile(r"^Disk /dev/\S+: (\d{1,15})s$", re.MULTILINE)
_SECTOR_SIZE = re.compile(r"^Sector size \(logical/physical\): (\d{1,5})B", re.MULTILINE)
_DEVICE = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")
_SWAP = re.compile(r'^(UUID|LABEL)="([^"]*)"$', re.MULTILINE)
_BOOT_CODE = 440
_OTHERS = (".ntfs-img", ".000", ".aa")  # ntfsclone, partimage


def is_clonezilla(names: frozenset[str]) -> bool:
    """Whether a directory with these files is one."""
    return "parts" in names and any(
        name.endswith(("-pt.sf", "-ptcl-img", ".dd-img")) or "-img." in name for name in names
    )


def read(folder: Folder) -> tuple[Disk, ...]:
    """The disks of an image of whole disks, or the disk whose partitions were saved; `ForeignError`."""
    names = folder.names
    if "ecryptfs.info" in names:
        raise ForeignError("the Clonezilla image is encrypted: restore it with Clonezilla, and import the disk")
    if "lvm_vg_dev.list" in names:
        raise ForeignError(
            "the Clonezilla image holds LVM volumes: restore it with Clonezilla, and import the disk"
        )
    parts = _words(folder, "parts")
    disks = (
        _words(folder, "disk")
        if "disk" in names
        else tuple(name.removesuffix("-pt.sf") for name in sorted(names) if name.endswith("-pt.sf"))
    )
    if not disks or any(f"{disk}-pt.sf" not in names for disk in disks):
        raise ForeignError(
            "the Clonezilla image has no partition table (DISK-pt.sf): name the file of one partition"
        )
    return tuple(_read_disk(folder, disk, parts) for disk in disks)


def is_whole(folder: Folder) -> bool:
    """Whether whole disks were saved (savedisk), and not some partitions (saveparts)."""
    return "disk" in folder.names


def _read_disk(folder: Folder, disk: str, saved: tuple[str, ...]) -> Disk:
    table = parse_table(_text(folder, f"{disk}-pt.sf"), f"{disk}-pt.sf")
    size = _disk_size(folder, disk, table)
    notes: list[str] = []
    streams: list[Stream] = []
    for part in table.partitions:
        device = _device(disk, part.number)
        if part.is_extended and table.label == "dos":
            continue
        stream = _stream(folder, device, part, saved)
        if stream is not None:
            streams.append(stream)
        else:
            notes.append(f"{device} was not saved by Clonezilla: it is empty in the image")
    missing = set(saved) - {stream.name for stream in streams}
    missing = {device for device in missing if re.fullmatch(re.escape(disk) + r"p?\d+", device)}
    if missing:
        raise ForeignError(f"the image of {', '.join(sorted(missing))} is missing")
    if "efi-nvram.dat" in folder.names:
        notes.append("efi-nvram.dat, the boot entries of the firmware, is no part of a disk: it was left")
    return Disk(disk, size, table, tuple(_beside(folder, disk, table, size)), tuple(streams), tuple(notes))


def _stream(folder: Folder, device: str, part: Partition, saved: tuple[str, ...]) -> Stream | None:
    names, start, size = folder.names, part.start * SECTOR, part.size * SECTOR
    pattern = re.compile(
        re.escape(device) + r"\.(?:[a-z0-9+]{1,20}-ptcl-img(?:\.[a-z0-9]{2,6}?)?|dd-img)(\.[a-z]{2,5})?\Z"
    )
    found = sorted(name for name in names if pattern.match(name) and not name.endswith(".info"))
    if found and device in saved:
        prefixes = {_unsplit(name, names) for name in found}
        if len(prefixes) != 1:
            raise ForeignError(f"there is more than one image of {device}: {', '.join(found[:4])}")
        prefix = prefixes.pop()
        files = (prefix,) if prefix in names else in_order(names, prefix + ".")
        return Stream(device, start, size, files)
    if f"swappt-{device}.info" in names:
        words = dict(_SWAP.findall(_text(folder, f"swappt-{device}.info")))
        return Stream(device, start, size, content=swap.header(size, words.get("UUID", ""), words.get("LABEL", "")))
    if any(name.startswith(device + ending) for name in names for ending in _OTHERS):
        raise ForeignError(
            f"{device} was saved with ntfsclone or partimage: save it with Clonezilla's partclone (-q2)"
        )
    return None


def _unsplit(name: str, names: frozenset[str]) -> str:
    """The name without the suffix of `split`, for the first of the files that it made."""
    stem, _, suffix = name.rpartition(".")
    is_split = suffix.isalpha() and ("-img" in stem) and f"{stem}.{'a' * len(suffix)}" in names
    return stem if is_split else name


def _beside(folder: Folder, disk: str, table: Table, size: int) -> list[tuple[int, bytes]]:
    """The boot record, what stands behind it, and the tables that logical partitions or a GPT have."""
    names, found = folder.names, []
    if table.label == "gpt":
        if f"{disk}-gpt-1st" in names and f"{disk}-gpt-2nd" in names:
            first, second = folder.read(f"{disk}-gpt-1st", 1 << 20), folder.read(f"{disk}-gpt-2nd", 1 << 20)
            found += [(0, first), (size - len(second), second)] if first[512:520] == b"EFI PART" else []
        elif f"{disk}-mbr" in names:
            found.append((0, folder.read(f"{disk}-mbr", SECTOR)[:_BOOT_CODE]))
        return found
    if f"{disk}-mbr" in names:
        record = folder.read(f"{disk}-mbr", SECTOR)
        if len(record) != SECTOR or record[510:] != b"\x55\xaa":
            raise ForeignError(f"{disk}-mbr is no boot record of 512 bytes")
        found.append((0, record))
    if f"{disk}-hidden-data-after-mbr" in names:
        hidden = folder.read(f"{disk}-hidden-data-after-mbr", _MAX_BYTES)
        first_start = min(part.start for part in table.partitions) * SECTOR
        found.append((SECTOR, hidden[: max(0, first_start - SECTOR)]))
    for part in table.partitions:
        name = f"{_device(disk, part.number)}-ebr"
        if part.is_extended and name in names:
            found.append((part.start * SECTOR, folder.read(name, SECTOR)))
    return found


def _disk_size(folder: Folder, disk: str, table: Table) -> int:
    text = _text(folder, f"{disk}-pt.parted") if f"{disk}-pt.parted" in folder.names else ""
    sector = _SECTOR_SIZE.search(text)
    if sector is not None and int(sector[1]) != SECTOR:
        raise ForeignError(f"{disk} has sectors of {sector[1]} bytes: only 512 can be taken over")
    found = _SIZE.search(text)
    if found is None:
        raise ForeignError(f"{disk}-pt.parted does not say how large {disk} is")
    size = int(found[1]) * SECTOR
    least = table.end * SECTOR if table.last_sector is None else (table.last_sector + 34) * SECTOR
    if size < least:
        raise ForeignError(f"{disk} of {size} bytes is smaller than its partitions")
    return size


def _device(disk: str, number: int) -> str:
    return f"{disk}p{number}" if disk[-1].isdigit() else f"{disk}{number}"


def _words(folder: Folder, name: str) -> tuple[str, ...]:
    words = tuple(_text(folder, name).split())
    for word in words:
        if not _DEVICE.match(word):
            raise ForeignError(f"{name} names {word[:40]!r}, which is no device")
    return words


def _text(folder: Folder, name: str) -> str:
    return folder.read(name, _MAX_LIST).decode("utf-8", "replace")
