"""The small files of a Clonezilla directory, for an image of ours: all that stands beside the partitions."""

import re
import struct
import zlib
from dataclasses import dataclass

from bootd.images.foreign.errors import ForeignError

SECTOR = 512
_HEADER = struct.Struct("<8s4sIII QQQQ16sQIII")  # of a GPT, UEFI specification, table 5-5
_PLAIN = re.compile(r"[^A-Za-z0-9 ._+:@-]")
# Filesystem as blkid calls it: what Clonezilla calls it in the name of a file, and partclone in its header.
_KINDS = {
    "ext2": ("ext2", "EXTFS"),
    "ext3": ("ext3", "EXTFS"),
    "ext4": ("ext4", "EXTFS"),
    "xfs": ("xfs", "XFS"),
    "btrfs": ("btrfs", "BTRFS"),
    "ntfs": ("ntfs", "NTFS"),
    "vfat": ("vfat", "FAT32"),
    "exfat": ("exfat", "EXFAT"),
}


@dataclass(frozen=True)
class Part:
    """A partition with data. ``start`` and ``size`` in bytes; ``type`` as blkid calls it, "" when it does not."""

    number: int
    start: int
    size: int
    type: str
    uuid: str = ""
    label: str = ""


def names(kind: str) -> tuple[str, str] | None:
    """Clonezilla's and partclone's word for a filesystem; None for one whose bytes are saved as they are."""
    return _KINDS.get(kind)


def text_files(disk: str, size: int, label: str, dump: str, parts: tuple[Part, ...]) -> dict[str, str]:
    """Name and text of each. ``label`` is dos or gpt, ``dump`` what ``sfdisk --dump`` says of /dev/DISK."""
    saved = [f"{disk}{part.number}" for part in parts if part.type != "swap"]
    cylinders = size // (255 * 63 * SECTOR)
    table = "msdos" if label == "dos" else label
    lines = [
        f"Model: bootd (image)\nDisk /dev/{disk}: {size // SECTOR}s\nSector size (logical/physical): 512B/512B",
        f"Partition Table: {table}\nDisk Flags: \n\nNumber  Start  End  Size  File system",
    ]
    for part in parts:
        first, count = part.start // SECTOR, part.size // SECTOR
        lines.append(f" {part.number}  {first}s  {first + count - 1}s  {count}s  {part.type}")
    parted = "\n".join(lines) + "\n\n"
    found = {
        "disk": f"{disk}\n",
        "parts": " ".join(saved) + "\n",
        "clonezilla-img": "This image was exported by bootd.\n",
        "dev-fs.list": "".join(
            f"/dev/{disk}{part.number} {part.type or 'unknown'} {part.size >> 20}M\n" for part in parts
        ),
        "blkid.list": "".join(_blkid(disk, part) for part in parts if part.type),
        f"{disk}-chs.sf": f"cylinders={cylinders}\nheads=255\nsectors=63\n",
        f"{disk}-pt.parted": parted,
        f"{disk}-pt.parted.compact": parted,
        f"{disk}-pt.sf": dump,
    }
    for part in parts:
        if part.type == "swap":
            words = f'UUID="{_plain(part.uuid)}"\nLABEL="{_plain(part.label)}"\n'
            found[f"swappt-{disk}{part.number}.info"] = words
    return found


def gpt_files(disk: str, head: bytes, tail: bytes) -> dict[str, bytes]:
    """The three copies of a GPT. ``head``: the disk's first MiB; ``tail``: its last 128 KiB; `ForeignError`."""
    main, last = head[SECTOR : 2 * SECTOR], tail[-SECTOR:]
    entries_at, count, width = _header(main)
    length = -(-count * width // SECTOR) * SECTOR
    entries = head[entries_at * SECTOR : entries_at * SECTOR + length]
    _header(last)
    if len(entries) != length or len(tail) < length + SECTOR:
        raise ForeignError("the GPT of the image has its entries at an unusual place")
    return {
        f"{disk}-gpt-1st": head[: 2 * SECTOR] + entries,
        f"{disk}-gpt-2nd": tail[-32 * SECTOR :],  # Clonezilla saves and restores from there
        f"{disk}-gpt.gdisk": head[:SECTOR] + main + last + entries,
    }


def _header(sector: bytes) -> tuple[int, int, int]:
    """Where the entries are (sectors), how many, how long."""
    signature, _, size, crc, *_, entries_at, count, width, _ = _HEADER.unpack_from(sector)
    bare = sector[:16] + bytes(4) + sector[20:size]
    if signature != b"EFI PART" or not 92 <= size <= SECTOR or zlib.crc32(bare) != crc:
        raise ForeignError("the GPT of the image is damaged: mend it (sgdisk --verify) before it is exported")
    if not 1 <= count <= 1024 or not 128 <= width <= 4096:
        raise ForeignError(f"a GPT of {count} entries of {width} bytes")
    return int(entries_at), int(count), int(width)


def _blkid(disk: str, part: Part) -> str:
    label = f'LABEL="{_plain(part.label)}" ' if part.label else ""
    return f'/dev/{disk}{part.number}: {label}UUID="{_plain(part.uuid)}" TYPE="{_plain(part.type)}"\n'


def _plain(text: str) -> str:
    """Clonezilla runs some of these files as scripts of the shell."""
    return _PLAIN.sub("_", text)
