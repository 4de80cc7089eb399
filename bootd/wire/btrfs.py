"""Where a btrfs on one device keeps things twice: read from its chunk tree.

partclone 0.3.23 maps only the first copy of data that is kept twice (``mkfs.btrfs -d dup``). From
btrfs-dev-docs/on-disk-format; numbers are little-endian.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bootd.wire.errors import PeerProtocolError
from bootd.wire.used import Cutter, Range, union

Read = Callable[[int, int], bytes]

_SUPER = 65536
_MAGIC = b"_BHRfS_M"
_SYSTEM_CHUNKS = 811  # in the superblock
_KEY = struct.Struct("<QBQ")
_CHUNK_ITEM = 228
_CHUNK_TREE = 3
_HEADER = 101  # bytes of a node's header
_MAX_NODES = 1 << 16
_MAX_CHUNKS = 1 << 20


@dataclass(frozen=True)
class Chunk:
    """A piece of the address space. ``places``: where its copies begin on the device, bytes."""

    logical: int
    length: int
    places: tuple[int, ...]


def is_alone(read: Read) -> bool:
    """Whether the file system is on this one device only. False when that cannot be told."""
    block = read(_SUPER, 4096)
    return block[64:72] == _MAGIC and len(block) == 4096 and struct.unpack_from("<Q", block, 136)[0] == 1


def with_copies(ranges: Iterable[Range], chunks: Iterable[Chunk]) -> tuple[Range, ...]:
    """``ranges``, and for each that lies in one copy of a chunk the same part of the others."""
    ranges = union(ranges)
    found, cutter = list(ranges), Cutter(ranges)
    for chunk in chunks:
        if len(chunk.places) < 2:
            continue
        for place in chunk.places:
            for start, length in cutter.within(place, place + chunk.length):
                found += [(start - place + other, length) for other in chunk.places]
    return union(found)


def read_chunks(read: Read, size: int) -> list[Chunk]:
    """All chunks of the file system on a device of ``size`` bytes. `PeerProtocolError` when its chunk tree is not
    as it should be; OSError is passed on."""
    try:
        return list(_chunks(read, size))
    except (struct.error, IndexError):
        raise PeerProtocolError("btrfs: its chunk tree cannot be read") from None


def _chunks(read: Read, size: int) -> Iterator[Chunk]:
    block = read(_SUPER, 4096)
    root, node_size = struct.unpack_from("<Q", block, 88)[0], struct.unpack_from("<I", block, 148)[0]
    (length,) = struct.unpack_from("<I", block, 160)
    if block[64:72] != _MAGIC or node_size not in (4096, 8192, 16384, 32768, 65536) or length > 2048:
        raise PeerProtocolError("btrfs: no superblock")
    system = []
    position, end = _SYSTEM_CHUNKS, _SYSTEM_CHUNKS + length
    while position < end:
        _, kind, logical = _KEY.unpack_from(block, position)
        if kind != _CHUNK_ITEM:
            raise PeerProtocolError("btrfs: its superblock has something else than system chunks")
        chunk, used = _chunk(logical, block, position + _KEY.size, size)
        system.append(chunk)
        position += _KEY.size + used
    waiting, seen, count = [root], 0, 0
    while waiting:
        seen += 1
        address = waiting.pop()
        node = read(_physical(system, address), node_size)
        (bytenr,) = struct.unpack_from("<Q", node, 48)
        owner, items, level = struct.unpack_from("<QIB", node, 88)
        if bytenr != address or owner != _CHUNK_TREE or seen > _MAX_NODES or items > node_size // 25:
            raise PeerProtocolError("btrfs: a node of its chunk tree is not where it should be")
        for number in range(items):
            if level:
                waiting.append(struct.unpack_from("<Q", node, _HEADER + number * 33 + _KEY.size)[0])
                continue
            _, kind, logical = _KEY.unpack_from(node, _HEADER + number * 25)
            if kind == _CHUNK_ITEM:
                (offset,) = struct.unpack_from("<I", node, _HEADER + number * 25 + _KEY.size)
                yield _chunk(logical, node, _HEADER + offset, size)[0]
                count += 1
    if not count or count > _MAX_CHUNKS:
        raise PeerProtocolError(f"btrfs: {count} chunks")


def _chunk(logical: int, data: bytes, at: int, size: int) -> tuple[Chunk, int]:
    """The chunk item that begins there, and its bytes."""
    (length,) = struct.unpack_from("<Q", data, at)
    (count,) = struct.unpack_from("<H", data, at + 44)
    places = tuple(struct.unpack_from("<Q", data, at + 48 + number * 32 + 8)[0] for number in range(count))
    if not places or any(place + length > size for place in places):
        raise PeerProtocolError("btrfs: a chunk outside of the device")
    return Chunk(logical, length, places), 48 + count * 32


def _physical(chunks: Iterable[Chunk], address: int) -> int:
    for chunk in chunks:
        if chunk.logical <= address < chunk.logical + chunk.length:
            return chunk.places[0] + address - chunk.logical
    raise PeerProtocolError("btrfs: its chunk tree is in no system chunk")
