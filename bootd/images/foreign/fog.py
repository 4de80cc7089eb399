"""Directories of FOG (1.x): which file is what, as ``fog.upload`` and ``funcs.sh`` of FOG's own system write them.

Of disk N: ``dN.mbr`` (all before the first partition; for a GPT what ``sgdisk -b`` writes), ``dN.partitions`` or
``dN.original.partitions`` (dump of sfdisk), ``dN.minimum.partitions`` of an image that can be resized,
``dNpM.ebr``, ``dN.original.swapuuids``, ``dN.size``; of each partition ``dNpM.img``, partclone's format compressed
with gzip or zstd, whole or split into ``.000``, ``.001``, ….
"""

import re
import struct

from bootd.images.foreign import swap
from bootd.images.foreign.errors import ForeignError
from bootd.images.foreign.layout import SECTOR, Disk, Folder, Stream, Table, in_order, parse_table

_MAX_LIST = 1 << 16
_MAX_RECORD = 64 << 20
_ALIGNMENT = 1 << 20
_IMAGE = re.compile(r"d(\d{1,2})p(\d{1,3})\.img(?:\.\d{3})?\Z")
_SWAP = re.compile(r"^(?:/dev/\S*?)?(\d{1,3})\s+(\S+)$", re.MULTILINE)
_ALTERNATE = struct.Struct("<8s24xQ")  # header of a GPT: signature, place of the other header


def is_fog(names: frozenset[str]) -> bool:
    """Whether a directory with these files is one."""
    return any(_IMAGE.match(name) for name in names)


def read(folder: Folder) -> tuple[Disk, ...]:
    """Its disks; `ForeignError`."""
    if "sys.img.000" in folder.names:
        raise ForeignError("an image of FOG before 1.0 (sys.img.000): capture it anew with FOG 1.x")
    numbers = sorted({int(match[1]) for name in folder.names if (match := _IMAGE.match(name))})
    return tuple(_read_disk(folder, number) for number in numbers)


def _read_disk(folder: Folder, number: int) -> Disk:
    names, notes = folder.names, []
    table = _table(folder, number)
    record = folder.read(f"d{number}.mbr", _MAX_RECORD) if f"d{number}.mbr" in names else b""
    size = _disk_size(folder, number, table, record)
    if size is None:
        size = -(-table.end * SECTOR // _ALIGNMENT) * _ALIGNMENT
        notes.append(f"FOG did not save how large disk {number} is: the image ends after its last partition")
    if size < table.end * SECTOR:
        raise ForeignError(f"disk {number} of {size} bytes is smaller than its partitions")
    if f"d{number}.minimum.partitions" in names:
        notes.append("FOG had shrunk the filesystems for this image: grow them after a restore")
    swaps = _swaps(folder, number)
    streams = []
    for part in table.partitions:
        if part.is_extended and table.label == "dos":
            continue
        name = f"d{number}p{part.number}"
        files = (f"{name}.img",) if f"{name}.img" in names else in_order(names, f"{name}.img.")
        place = part.start * SECTOR, part.size * SECTOR
        if files:
            streams.append(Stream(name, *place, files))
        elif part.number in swaps:
            streams.append(Stream(name, *place, content=swap.header(place[1], swaps[part.number], "")))
        else:
            notes.append(f"partition {part.number} was not saved by FOG: it is empty in the image")
    known = {stream.name for stream in streams}
    for name in names:
        if (match := _IMAGE.match(name)) and int(match[1]) == number and f"d{number}p{match[2]}" not in known:
            raise ForeignError(f"{name} is the image of a partition that the table does not have")
    return Disk(f"d{number}", size, table, _beside(folder, number, table, record), tuple(streams), tuple(notes))


def _table(folder: Folder, number: int) -> Table:
    for ending in ("partitions", "original.partitions", "minimum.partitions"):
        name = f"d{number}.{ending}"
        if name in folder.names:
            return parse_table(folder.read(name, _MAX_LIST).decode("utf-8", "replace"), name)
    raise ForeignError(f"the FOG image has no partition table (d{number}.partitions): capture it anew")


def _disk_size(folder: Folder, number: int, table: Table, record: bytes) -> int | None:
    if f"d{number}.size" in folder.names:
        text = folder.read(f"d{number}.size", 100).decode("ascii", "replace").strip()
        stated, _, size = text.partition(":")
        if stated != str(number) or not size.isdigit() or len(size) > 18:
            raise ForeignError(f"d{number}.size does not say how large the disk is: {text[:40]!r}")
        return int(size)
    if table.label == "gpt":
        if len(record) >= SECTOR + _ALTERNATE.size:
            signature, alternate = _ALTERNATE.unpack_from(record, SECTOR)
            if signature == b"EFI PART" and table.end < alternate < 1 << 41:
                return int(alternate + 1) * SECTOR
        if table.last_sector is not None:
            return (table.last_sector + 34) * SECTOR
    return None


def _beside(folder: Folder, number: int, table: Table, record: bytes) -> tuple[tuple[int, bytes], ...]:
    first = min(part.start for part in table.partitions) * SECTOR
    if table.label == "gpt":
        loader = f"d{number}.grub.mbr"
        code = folder.read(loader, _MAX_RECORD) if loader in folder.names else record
        return ((0, code[:440]),) if code else ()
    found = []
    if len(record) >= SECTOR:
        if record[510:512] != b"\x55\xaa":
            raise ForeignError(f"d{number}.mbr is no boot record")
        found += [(0, record[:440]), (SECTOR, record[SECTOR:first])]
    for part in table.partitions:
        name = f"d{number}p{part.number}.ebr"
        if part.is_extended and name in folder.names and (ebr := folder.read(name, SECTOR)):
            found.append((part.start * SECTOR, ebr))
    return tuple((offset, data) for offset, data in found if data)


def _swaps(folder: Folder, number: int) -> dict[int, str]:
    name = f"d{number}.original.swapuuids"
    text = folder.read(name, _MAX_LIST).decode("ascii", "replace") if name in folder.names else ""
    return {int(match[1]): match[2] for match in _SWAP.finditer(text)}
