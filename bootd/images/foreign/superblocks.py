"""How large a filesystem says that it is: an image that is shorter was cut off, whatever its file looks like."""

import struct

LEAST = 0x11000  # bytes from the begin of a filesystem that `stated_size` wants to see
_SUPERBLOCK_EXT, _SUPERBLOCK_BTRFS = 0x400, 0x10000
_EXT_64BIT = 0x80


def stated_size(kind: str, start: bytes) -> int | None:
    """Bytes of a filesystem that begins with ``start``; ``kind`` as blkid calls it. None: it is not known."""
    try:
        if kind in ("ext2", "ext3", "ext4"):
            low, exponent = _at("<I", start, _SUPERBLOCK_EXT + 4), _at("<I", start, _SUPERBLOCK_EXT + 24)
            wide = _at("<I", start, _SUPERBLOCK_EXT + 0x60) & _EXT_64BIT
            high = _at("<I", start, _SUPERBLOCK_EXT + 0x150) if wide else 0
            return (high << 32 | low) << (10 + min(exponent, 10))
        if kind == "xfs":
            return _at(">I", start, 4) * _at(">Q", start, 8)
        if kind == "btrfs":
            return _at("<Q", start, _SUPERBLOCK_BTRFS + 0xD1)
        if kind == "ntfs":
            return _at("<H", start, 0x0B) * _at("<Q", start, 0x28)
        if kind == "exfat":
            return _at("<Q", start, 72) << min(_at("<B", start, 108), 12)
        if kind == "vfat":
            return _at("<H", start, 0x0B) * (_at("<H", start, 0x13) or _at("<I", start, 0x20))
    except struct.error:
        return None
    return None


def _at(layout: str, data: bytes, offset: int) -> int:
    value: int = struct.unpack_from(layout, data, offset)[0]
    return value
