"""Whether the log of an XFS is clean: its last record is the one that unmounting writes.

From "XFS Algorithms & Data Structures", chapters on the superblock and on the log. The log is a ring of basic
blocks of 512 bytes; each carries the number of its turn (cycle) in its first word, or in the second of a record's
header. The end of the log is where that number changes. All numbers are big-endian.
"""

import struct
from collections.abc import Callable

BASIC = 512
RECORD_MAGIC = 0xFEEDBABE
UNMOUNT = 0x20  # flag of an operation
HEADER_COVERS = 32 << 10  # bytes of a record for which one header block holds the first words
MAX_RECORD = 256 << 10
DIRTY = "its log has changes that are not in place yet (it is in use, or was not unmounted)"
_ODD = "its log is not what it should be"


def unclean(read: Callable[[int, int], bytes]) -> str:
    """Why not, "" when it is clean. ``read`` (offset, length) gives bytes of the volume."""
    block = read(0, 512)
    if block[:4] != b"XFSB":
        return "xfs: no superblock"
    (start,) = struct.unpack_from(">Q", block, 48)
    (size,) = struct.unpack_from(">I", block, 4)
    (per_group,) = struct.unpack_from(">I", block, 84)
    (blocks,) = struct.unpack_from(">I", block, 96)
    group_bits = block[124]
    if block[126]:
        return "it was not made to its end"
    if not start:
        return "its log is on another device"
    if size not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536) or not blocks or group_bits > 32:
        return "xfs: no superblock"
    begin = ((start >> group_bits) * per_group + (start & ((1 << group_bits) - 1))) * size
    return _judge(lambda number, count: read(begin + number * BASIC, count * BASIC), blocks * size // BASIC)


def _judge(read: Callable[[int, int], bytes], blocks: int) -> str:
    first, last = _cycle(read, 0), _cycle(read, blocks - 1)
    if not first:
        return "" if not last else _ODD  # never written
    if not last:
        end = _search(read, blocks, lambda cycle: not cycle)
    elif first == last:
        end = blocks
    elif first == last + 1:
        end = _search(read, blocks, lambda cycle: cycle != first)
    else:
        return _ODD
    begin, header = _last_header(read, end, blocks, is_full=bool(last))
    if not header:
        return _ODD
    version, length = struct.unpack_from(">II", header, 8)
    (operations,) = struct.unpack_from(">I", header, 40)
    (record_size,) = struct.unpack_from(">I", header, 320)
    headers = max(1, -(-record_size // HEADER_COVERS)) if version & 2 else 1
    if length > MAX_RECORD or headers > MAX_RECORD // HEADER_COVERS:
        return _ODD
    if (begin + headers + -(-length // BASIC) - end) % blocks or operations != 1:
        return DIRTY
    return "" if read((begin + headers) % blocks, 1)[9] & UNMOUNT else DIRTY


def _cycle(read: Callable[[int, int], bytes], number: int) -> int:
    words = struct.unpack_from(">II", read(number, 1))
    return int(words[1] if words[0] == RECORD_MAGIC else words[0])


def _search(read: Callable[[int, int], bytes], blocks: int, is_behind: Callable[[int], bool]) -> int:
    """The first block whose cycle ``is_behind`` is true of: it is of the last block and not of the first."""
    low, high = 0, blocks - 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_behind(_cycle(read, middle)):
            high = middle
        else:
            low = middle
    return high


def _last_header(read: Callable[[int, int], bytes], end: int, blocks: int, *, is_full: bool) -> tuple[int, bytes]:
    """Number and bytes of the block where the last record before ``end`` begins; no bytes when there is none.

    ``is_full``: the log has been written once around, so a record may begin before its seam and end behind it.
    """
    reach = min(blocks, (MAX_RECORD // BASIC) + MAX_RECORD // HEADER_COVERS)
    first = end - reach if is_full else max(0, end - reach)
    data = read(first % blocks, -first) if first < 0 else b""
    data += read(max(0, first), end - max(0, first))
    for number in range(len(data) // BASIC - 1, -1, -1):
        block = data[number * BASIC : (number + 1) * BASIC]
        if struct.unpack_from(">I", block)[0] == RECORD_MAGIC:
            return (first + number) % blocks, block
    return 0, b""
