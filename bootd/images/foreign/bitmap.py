"""Bitmaps of blocks in use: one bit per block, the lowest bit of a byte first."""

import re
from collections.abc import Iterable, Iterator

_SOME_SET = re.compile(rb"[^\x00]")
_SOME_CLEAR = re.compile(rb"[^\xff]")
_SLICE = 1 << 20  # bytes counted at once


def runs(bitmap: bytes | bytearray, count: int) -> Iterator[tuple[int, int]]:
    """First block and length of each run of set bits among the first ``count``; in order, none touching."""
    position = 0
    while (start := _next(bitmap, position, count, 0)) < count:
        position = _next(bitmap, start, count, 0xFF)
        yield start, position - start


def population(bitmap: bytes | bytearray, count: int) -> int:
    """How many of the first ``count`` bits are set."""
    whole, rest = divmod(count, 8)
    total = 0
    for begin in range(0, whole, _SLICE):
        total += int.from_bytes(bitmap[begin : min(whole, begin + _SLICE)], "little").bit_count()
    if rest:
        total += (bitmap[whole] & ((1 << rest) - 1)).bit_count()
    return total


def from_runs(blocks: Iterable[tuple[int, int]], count: int) -> bytearray:
    """The bitmap of ``count`` blocks in which the runs ``blocks`` (first, number) are set."""
    bitmap = bytearray(-(-count // 8))
    for first, number in blocks:
        end = first + number
        begin_byte, end_byte = -(-first // 8), end // 8
        if begin_byte > end_byte:  # within one byte
            bitmap[end_byte] |= ((1 << number) - 1) << (first & 7)
            continue
        if first & 7:
            bitmap[begin_byte - 1] |= 0xFF & (0xFF << (first & 7))
        bitmap[begin_byte:end_byte] = b"\xff" * (end_byte - begin_byte)
        if end & 7:
            bitmap[end_byte] |= (1 << (end & 7)) - 1
    return bitmap


def _next(bitmap: bytes | bytearray, position: int, count: int, flip: int) -> int:
    """The first bit from ``position`` on that is set (``flip`` 0) or clear (0xFF); ``count`` when there is none."""
    index, shift = divmod(position, 8)
    if position >= count:
        return count
    rest = (bitmap[index] ^ flip) >> shift << shift
    if not rest:
        match = (_SOME_CLEAR if flip else _SOME_SET).search(bitmap, index + 1)
        if match is None:
            return count
        index = match.start()
        rest = bitmap[index] ^ flip
    return min(count, index * 8 + (rest & -rest).bit_length() - 1)
