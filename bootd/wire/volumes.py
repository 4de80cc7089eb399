"""What the first blocks of a file system say about its state: whether it was left cleanly.

A file system that was not has its truth in a journal, and its own map of free blocks is out of date. Judged from
the published layouts of each; whatever does not look as expected counts as not clean. Numbers are little-endian.
"""

import struct
from collections.abc import Callable

from bootd.wire import xfs_log

# blkid's names -> the program of partclone that knows which blocks are in use.
PARTCLONE = {
    "ext2": "extfs",
    "ext3": "extfs",
    "ext4": "extfs",
    "xfs": "xfs",
    "btrfs": "btrfs",
    "ntfs": "ntfs",
    "vfat": "fat",
    "exfat": "exfat",
}
ENCRYPTED = ("crypto_LUKS", "BitLocker")
SWAP = "swap"
HIBERNATED = "swsuspend"  # swap space that holds the memory of a sleeping system
SWAP_HEADER = 64 << 10  # bytes: the largest page of any machine
HIBERNATION_FILE = "hiberfil.sys"  # of NTFS, in its root folder

Read = Callable[[int, int], bytes]
"""``length`` bytes from ``offset`` of the volume, fewer at its end."""


def unclean(filesystem: str, read: Read) -> str:
    """Why the volume must not be read by its map of free blocks; "" when it was left cleanly, or has no state.

    ``filesystem`` as blkid calls it. OSError is passed on.
    """
    judge = _JUDGES.get(filesystem)
    if judge is None:
        return ""
    try:
        return judge(read)
    except (struct.error, IndexError):
        return f"{filesystem}: its first blocks are not what they should be"


def is_hibernation(head: bytes) -> bool:
    """Whether the file hiberfil.sys that begins with ``head`` holds a sleeping Windows. One that is empty, or all
    zeros, is of a Windows that was shut down."""
    return head[:4].lower() in (b"hibr", b"wake")


def _ext(read: Read) -> str:
    """linux/Documentation/filesystems/ext4/super.rst."""
    block = read(1024, 1024)
    magic, state = struct.unpack_from("<HH", block, 0x38)
    (incompatible,) = struct.unpack_from("<I", block, 0x60)
    if magic != 0xEF53:
        return "ext: no superblock"
    if incompatible & 0x4:
        return "its journal has changes that are not in place yet (it is in use, or was not unmounted)"
    if state & 0x2:
        return "it has noted errors"
    return "" if state & 0x1 else "it was not unmounted"


def _btrfs(read: Read) -> str:
    """btrfs-dev-docs/on-disk-format: the superblock at 64 KiB."""
    block = read(65536, 4096)
    if block[64:72] != b"_BHRfS_M":
        return "btrfs: no superblock"
    (log_root,) = struct.unpack_from("<Q", block, 96)
    return "its log tree has changes that are not in place yet (it was not unmounted)" if log_root else ""


def _ntfs(read: Read) -> str:
    """The flags of $Volume, record 3 of the master file table."""
    boot = read(0, 512)
    if boot[3:11] != b"NTFS    ":
        return "ntfs: no boot sector"
    sector, per_cluster = struct.unpack_from("<HB", boot, 11)
    if sector not in (256, 512, 1024, 2048, 4096) or not per_cluster:
        return "ntfs: no boot sector"
    cluster = sector * (per_cluster if per_cluster <= 0x80 else 1 << (256 - per_cluster))
    (table,) = struct.unpack_from("<Q", boot, 48)
    (per_record,) = struct.unpack_from("<b", boot, 64)
    size = per_record * cluster if per_record > 0 else 1 << -per_record
    if not 512 <= size <= 65536:
        return "ntfs: no boot sector"
    record = _mended(read(table * cluster + 3 * size, size), sector)
    if record[:4] != b"FILE":
        return "ntfs: no $Volume"
    (position,) = struct.unpack_from("<H", record, 20)
    while position + 24 <= len(record):
        kind, length = struct.unpack_from("<II", record, position)
        if kind == 0xFFFFFFFF or length < 24:
            break
        if kind == 0x70 and not record[position + 8]:  # $VOLUME_INFORMATION, resident
            (value,) = struct.unpack_from("<H", record, position + 20)
            (flags,) = struct.unpack_from("<H", record, position + value + 10)
            return "it is marked dirty: Windows did not shut down, or wants to check it" if flags & 1 else ""
        position += length
    return "ntfs: $Volume does not say how it was left"


def _mended(record: bytes, sector: int) -> bytearray:
    """A record with the last two bytes of each of its sectors put back from its update sequence array."""
    mended = bytearray(record)
    offset, count = struct.unpack_from("<HH", record, 4)
    for index in range(1, count):
        end = index * min(sector, 512)
        if end <= len(mended) and offset + 2 * index + 2 <= len(mended):
            mended[end - 2 : end] = record[offset + 2 * index : offset + 2 * index + 2]
    return mended


def _fat(read: Read) -> str:
    """Microsoft FAT specification 1.03, section 4.2, and the state byte that Linux sets while it is mounted."""
    boot = read(0, 512)
    sector, reserved, per_fat = struct.unpack_from("<HxHxxxxxxH", boot, 11)
    is_wide = not per_fat
    if boot[65 if is_wide else 37] & 1:
        return "it is marked dirty: it is in use, or was not unmounted"
    entries = read(sector * reserved, 8)
    if boot[54:62] == b"FAT16   ":
        return "" if struct.unpack_from("<H", entries, 2)[0] & 0x8000 else "its FAT is marked dirty"
    if is_wide:
        return "" if struct.unpack_from("<I", entries, 4)[0] & 0x08000000 else "its FAT is marked dirty"
    return ""


def _exfat(read: Read) -> str:
    """Microsoft exFAT specification, section 3.1.13.2: VolumeDirty."""
    boot = read(0, 512)
    if boot[3:11] != b"EXFAT   ":
        return "exfat: no boot sector"
    (flags,) = struct.unpack_from("<H", boot, 106)
    return "it is marked dirty: it is in use, or was not unmounted" if flags & 2 else ""


_JUDGES: dict[str, Callable[[Read], str]] = {
    "ext2": _ext,
    "ext3": _ext,
    "ext4": _ext,
    "xfs": xfs_log.unclean,
    "btrfs": _btrfs,
    "ntfs": _ntfs,
    "vfat": _fat,
    "exfat": _exfat,
    HIBERNATED: lambda _: "it holds the memory of a hibernated system",
}
