"""Which files an ext2, ext3 or ext4 has, and where their data lies: superblock, group descriptors, inode tables.

From linux/Documentation/filesystems/ext4; numbers are little-endian. Strict: what is not as it should be, or is
not known here, is a `PeerProtocolError`, for the whole file system. Bounded: tables lie inside of the volume, and
no more blocks are followed than there are. OSError of the reader is passed on.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bootd.wire.errors import PeerProtocolError

Read = Callable[[int, int], bytes]
"""``length`` bytes from ``offset`` of the volume, fewer at its end."""

TYPES = ("ext2", "ext3", "ext4")  # as blkid calls them

_MAGIC = 0xEF53
# Features that change nothing of what is read here. Not among them: compression, an external journal's device,
# clusters of blocks (bigalloc), blocks that several files share, snapshots, orphans that wait for their end.
_COMPATIBLE = 0x2 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
_READABLE = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x400 | 0x1000 | 0x2000 | 0x8000
_META_GROUPS, _WIDE = 0x10, 0x80
_NEEDS_RECOVERY = 0x4
_SPARSE, _TABLES_UNUSED = 0x1, 0x10 | 0x400
_TWO_COPIES = 0x200  # of the compatible features: sparse_super2
_GROUP_INODES_NOT_MADE, _GROUP_TABLE_ZEROED = 0x1, 0x4
_REGULAR = 0x8000
_EXTENTS, _INLINE = 0x80000, 0x10000000
# Written by the kernel without a change of times, or not data of a file: compressed, immutable (quota files are),
# values of extended attributes, snapshots.
_NOT_PLAIN = 0x4 | 0x200 | 0x10 | 0x200000 | 0x01000000
_INODE = struct.Struct("<HHIIIIIHHII4s60sIIII12s")
_MORE = struct.Struct("<HHIIIIII")  # from byte 128 on
_EXTENT = struct.Struct("<IHHI")
_HEAD = struct.Struct("<HHHHI")
_EXTENT_MAGIC = 0xF30A
_LONGEST = 32768  # blocks of one extent; larger numbers: so much less, and not written yet
_DEEPEST = 5
_IDENTITY = struct.Struct("<IIIIQIIIIIIII")


@dataclass(frozen=True)
class Superblock:
    """Times in seconds since the epoch, sizes in bytes, ``blocks`` and ``first_block`` in blocks."""

    uuid: bytes
    block: int
    blocks: int
    first_block: int
    group_blocks: int
    group_inodes: int
    inode: int
    first_inode: int
    descriptor: int
    meta_groups_from: int | None  # groups of descriptors from which on each lies in its own groups
    tables_unused: bool  # descriptors say how much of an inode table was never used
    is_sparse: bool
    copies: tuple[int, int] | None  # the only groups with a copy, of sparse_super2
    special: frozenset[int]  # inodes that are nobody's files
    mounted: int
    written: int
    checked: int
    made: int

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_block) // self.group_blocks)


@dataclass(frozen=True)
class Group:
    """``bitmap``, ``table``: blocks. ``used``: how many inodes of the table were ever used; ``zeroed``: the rest of
    it was made zeros."""

    bitmap: int
    table: int
    used: int
    zeroed: bool


@dataclass(frozen=True)
class Piece:
    """A run of a file's data that is written: blocks."""

    logical: int
    physical: int
    count: int


@dataclass(frozen=True)
class File:
    """A plain file with links. ``changed``: the later of mtime and ctime, seconds since the epoch. ``identity``:
    what is another when the file is: number, generation, size, times with nanoseconds, version. ``pieces``: what is
    written and lies below its end."""

    number: int
    mode: int
    size: int
    changed: int
    identity: bytes
    pieces: tuple[Piece, ...]


def read_superblock(read: Read, size: int) -> Superblock:
    """Of the volume of ``size`` bytes. `PeerProtocolError` also when it was not left cleanly."""
    data = read(1024, 1024)
    if len(data) != 1024 or _number(data, 0x38, "H") != _MAGIC:
        raise PeerProtocolError("ext: no superblock")
    compatible, incompatible, readable = struct.unpack_from("<III", data, 0x5C)
    is_old = _number(data, 0x4C, "I") == 0
    if is_old:
        compatible = incompatible = readable = 0
    if incompatible & _NEEDS_RECOVERY or _number(data, 0x3A, "H") & 7 != 1 or _number(data, 0xE8, "I"):
        raise PeerProtocolError("ext: it was not left cleanly")
    if incompatible & ~_COMPATIBLE or readable & ~_READABLE:
        raise PeerProtocolError(
            f"ext: with features that are not known here: {incompatible & ~_COMPATIBLE:#x},"
            f" {readable & ~_READABLE:#x}"
        )
    power = _number(data, 0x18, "I")
    if power > 6 or _number(data, 0x1C, "I") != power:
        raise PeerProtocolError("ext: its blocks have no size that is known")
    is_wide = bool(incompatible & _WIDE)
    blocks = _number(data, 4, "I") | (_number(data, 0x150, "I") << 32 if is_wide else 0)
    special = [_number(data, offset, "I") for offset in (0xE0, 0x180, 0x240, 0x244, 0x26C, 0x280)]
    found = Superblock(
        uuid=data[0x68:0x78],
        block=1024 << power,
        blocks=blocks,
        first_block=_number(data, 0x14, "I"),
        group_blocks=_number(data, 0x20, "I"),
        group_inodes=_number(data, 0x28, "I"),
        inode=128 if is_old else _number(data, 0x58, "H"),
        first_inode=11 if is_old else _number(data, 0x54, "I"),
        descriptor=_number(data, 0xFE, "H") if is_wide else 32,
        meta_groups_from=_number(data, 0x104, "I") if incompatible & _META_GROUPS else None,
        tables_unused=bool(readable & _TABLES_UNUSED),
        is_sparse=bool(readable & _SPARSE),
        copies=struct.unpack_from("<II", data, 0x24C) if compatible & _TWO_COPIES else None,
        special=frozenset(special),
        mounted=_number(data, 0x2C, "I") | data[0x275] << 32,
        written=_number(data, 0x30, "I") | data[0x274] << 32,
        checked=_number(data, 0x40, "I") | data[0x277] << 32,
        made=_number(data, 0x108, "I") | data[0x276] << 32,
    )
    _check(found, _number(data, 0, "I"), size)
    return found


def _check(found: Superblock, inodes: int, size: int) -> None:
    """Everything that follows is computed from these numbers."""
    bits = found.block * 8
    fits = (
        found.first_block == (1 if found.block == 1024 else 0)
        and found.first_block < found.blocks <= size // found.block
        and 1 <= found.group_blocks <= bits
        and 1 <= found.group_inodes <= bits
        and 128 <= found.inode <= found.block
        and found.inode & (found.inode - 1) == 0
        and 11 <= found.first_inode <= 1 << 31
        and 32 <= found.descriptor <= 1024
        and found.descriptor & (found.descriptor - 1) == 0
        and inodes == found.groups * found.group_inodes
        and inodes * found.inode <= size
        and found.groups * found.descriptor <= size
    )
    if not fits:
        raise PeerProtocolError("ext: a superblock whose numbers do not fit each other")


def read_groups(read: Read, about: Superblock) -> list[Group]:
    """All of them, in order."""
    per_block = about.block // about.descriptor
    found = []
    for first in range(0, about.groups, per_block):
        place = _descriptors_at(about, first // per_block)
        data = _blocks(read, about, place, 1)
        for number in range(first, min(first + per_block, about.groups)):
            offset = (number - first) * about.descriptor
            found.append(_group(about, data[offset : offset + about.descriptor]))
    return found


def _descriptors_at(about: Superblock, number: int) -> int:
    """The block with the descriptors of meta group ``number``."""
    if about.meta_groups_from is None or number < about.meta_groups_from:
        return about.first_block + 1 + number
    group = number * (about.block // about.descriptor)
    return about.first_block + group * about.group_blocks + _has_copy(about, group)


def _has_copy(about: Superblock, group: int) -> bool:
    """Whether a superblock lies at the begin of the group."""
    if group == 0:
        return True
    if about.copies is not None:
        return group in about.copies
    if not about.is_sparse or group == 1:
        return True
    return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def _group(about: Superblock, data: bytes) -> Group:
    bitmap, table, flags, unused = struct.unpack_from("<4xII6xH8xH", data)
    if about.descriptor >= 64:
        high, higher, more = struct.unpack_from("<4xII6xH", data, 0x20)
        bitmap, table, unused = bitmap | high << 32, table | higher << 32, unused | more << 16
    used = about.group_inodes
    if about.tables_unused:
        if unused > used:
            raise PeerProtocolError("ext: a group with more unused inodes than it has")
        used = 0 if flags & _GROUP_INODES_NOT_MADE else used - unused
    length = -(-about.group_inodes * about.inode // about.block)
    if not (about.first_block < bitmap < about.blocks and about.first_block < table <= about.blocks - length):
        raise PeerProtocolError("ext: a group whose inodes lie outside")
    return Group(bitmap, table, used, about.tables_unused and bool(flags & _GROUP_TABLE_ZEROED))


def read_files(read: Read, about: Superblock, groups: list[Group]) -> Iterator[File]:
    """Plain files with links, as they come. Not: what belongs to the file system itself."""
    walk = _Walk(read, about)
    for number, group in enumerate(groups):
        if not group.used:
            continue
        bits = _blocks(read, about, group.bitmap, 1)
        length = group.used * about.inode
        table = _blocks(read, about, group.table, -(-length // about.block))
        first = number * about.group_inodes + 1
        for index in range(group.used):
            offset = index * about.inode
            is_taken = bits[index >> 3] >> (index & 7) & 1
            if is_taken and table[offset + 1] & 0xF0 == _REGULAR >> 8:
                file = _file(walk, table, offset, first + index)
                if file is not None:
                    yield file


def _file(walk: "_Walk", table: bytes, offset: int, number: int) -> File | None:
    about = walk.about
    (mode, _, low, _, ctime, mtime, dtime, _, links, blocks, flags, version, content, generation, _, high, *_) = (
        _INODE.unpack_from(table, offset)
    )
    if not links or dtime or flags & _NOT_PLAIN or number < about.first_inode or number in about.special:
        return None
    ctime_more = mtime_more = made = made_more = version_more = 0
    if about.inode > 128:
        extra = _number(table, offset + 128, "H")
        if extra % 4 or extra > about.inode - 128:
            raise PeerProtocolError(f"ext: inode {number} is longer than its place")
        if extra >= _MORE.size:
            _, _, ctime_more, mtime_more, _, made, made_more, version_more = _MORE.unpack_from(table, offset + 128)
        elif extra >= 12:
            ctime_more, mtime_more = struct.unpack_from("<II", table, offset + 132)
    size = low | high << 32
    identity = _IDENTITY.pack(
        number, generation, mode, flags, size, blocks, ctime, ctime_more, mtime, mtime_more, made, made_more,
        version_more,
    ) + version  # fmt: skip
    pieces: tuple[Piece, ...] = ()
    if size and not flags & _INLINE:
        end = -(-size // about.block)
        pieces = tuple(walk.extents(content, end) if flags & _EXTENTS else walk.map(content, end))
    changed = max(_seconds(ctime, ctime_more), _seconds(mtime, mtime_more))
    return File(number, mode, size, changed, identity, pieces)


def _seconds(low: int, more: int) -> int:
    """A time of an inode: 32 bits with a sign, and two more above them."""
    return low - ((low & 0x80000000) << 1) + ((more & 3) << 32)


class _Walk:
    """Follows files to their blocks; all of them together have no more than the file system has."""

    def __init__(self, read: Read, about: Superblock) -> None:
        self._read, self.about = read, about
        self._left = about.blocks

    def extents(self, content: bytes, end: int) -> Iterator[Piece]:
        """By the extent tree in an inode; ``end``: blocks of the file."""
        found: list[Piece] = []
        self._node(content, None, found)
        position = 0
        for piece in found:
            if piece.logical < position:
                raise PeerProtocolError("ext: extents that are out of order")
            position = piece.logical + piece.count
            if piece.physical and piece.logical < end:
                yield Piece(piece.logical, piece.physical, min(piece.count, end - piece.logical))

    def _node(self, data: bytes, depth: int | None, found: list[Piece]) -> None:
        """Extents below one node; those that are not written yet with 0 as their place."""
        magic, count, limit, level, _ = _HEAD.unpack_from(data)
        room = len(data) // _EXTENT.size - 1
        if (
            magic != _EXTENT_MAGIC
            or count > limit
            or limit > room
            or level > _DEEPEST
            or depth not in (None, level)
        ):
            raise PeerProtocolError("ext: a node of an extent tree that is none")
        for index in range(1, count + 1):
            offset = index * _EXTENT.size
            if level:
                _, low, high, _ = struct.unpack_from("<IIHH", data, offset)
                self._node(self._metadata(low | high << 32), level - 1, found)
                continue
            logical, length, high, low = _EXTENT.unpack_from(data, offset)
            is_written = length <= _LONGEST
            length -= 0 if is_written else _LONGEST
            place = low | high << 32
            self._claim(place, length)
            found.append(Piece(logical, place if is_written else 0, length))

    def map(self, content: bytes, end: int) -> Iterator[Piece]:
        """By the fifteen numbers in an inode of ext2 and ext3."""
        numbers = struct.unpack("<15I", content)
        per_block = self.about.block // 4
        start = count = place = 0
        position = 0
        for depth, tree in ((0, numbers[:12]), (1, numbers[12:13]), (2, numbers[13:14]), (3, numbers[14:])):
            for root in tree:
                span = int(per_block**depth)
                if position >= end:
                    break
                for logical, physical, length in self._mapped(root, depth, position, end):
                    if count and logical == start + count and physical == place + count:
                        count += length
                        continue
                    if count:
                        yield Piece(start, place, count)
                    start, place, count = logical, physical, length
                position += span
        if count:
            yield Piece(start, place, count)

    def _mapped(self, root: int, depth: int, position: int, end: int) -> Iterator[tuple[int, int, int]]:
        if not root or position >= end:
            return
        if not depth:
            self._claim(root, 1)
            yield position, root, 1
            return
        entries = struct.unpack(f"<{self.about.block // 4}I", self._metadata(root))
        span = int((self.about.block // 4) ** (depth - 1))
        for index, entry in enumerate(entries):
            if entry:
                yield from self._mapped(entry, depth - 1, position + index * span, end)

    def _metadata(self, place: int) -> bytes:
        self._claim(place, 1)
        return _blocks(self._read, self.about, place, 1)

    def _claim(self, place: int, count: int) -> None:
        self._left -= count
        if count < 1 or not self.about.first_block < place <= self.about.blocks - count or self._left < 0:
            raise PeerProtocolError("ext: a file with blocks that are not there, or too many")


def _blocks(read: Read, about: Superblock, first: int, count: int) -> bytes:
    length = count * about.block
    data = read(first * about.block, length)
    if len(data) != length:
        raise PeerProtocolError("ext: it ends before its own end")
    return data


def _number(data: bytes, offset: int, kind: str) -> int:
    return int(struct.unpack_from(f"<{kind}", data, offset)[0])
