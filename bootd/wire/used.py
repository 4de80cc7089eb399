"""Which bytes of a volume are in use: ranges of bytes, and partclone's domain log, which says so of a file system.

Ranges are (offset, length) in bytes, rising and without overlap. What is not certain counts as in use.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from bootd.wire.errors import PeerProtocolError

Range = tuple[int, int]

MAX_RANGES = 1 << 17  # of a description that is sent
MAX_FINE = 1 << 20  # of what is read by
BLOCK = 4096  # bytes: of most file systems
MAX_LINES = 1 << 24  # of a domain log
SMALL_GAP = 64 << 10  # bytes: reading over it is faster than seeking, and it makes the list short


def parse_domain_log(lines: Iterable[bytes], size: int) -> tuple[Range, ...]:
    """What is in use of a volume of ``size`` bytes, by the log that ``partclone.FILESYSTEM --domain`` writes.

    The format is GNU ddrescue's mapfile: comments, one line of status, then ``POSITION SIZE STATUS`` without a
    gap, ``+`` for blocks in use and ``?`` for free ones. What lies behind the last line, since the file system is
    smaller than its partition, counts as in use. `PeerProtocolError` for all that is not such a log.
    """
    used: list[Range] = []
    position = 0
    is_begun = False
    for number, raw in enumerate(lines, 1):
        if number > MAX_LINES:
            raise PeerProtocolError(f"domain log of more than {MAX_LINES} lines")
        words = raw.split()
        if not words or words[0].startswith(b"#"):
            continue
        if not is_begun:
            is_begun = True  # current_pos and current_status, of no use here
            continue
        if len(words) != 3 or words[2] not in (b"+", b"?"):
            raise PeerProtocolError(f"domain log, line {number}: {raw[:60]!r} is no range")
        start, length = _number(words[0], number), _number(words[1], number)
        if start != position or length < 1 or start + length > size:
            raise PeerProtocolError(
                f"domain log, line {number}: {length} bytes from {start}, but {position} of {size} were told before"
            )
        position += length
        if words[2] == b"+":
            _append(used, start, length)
    if not position:
        raise PeerProtocolError("domain log without a range")
    if position < size:
        _append(used, position, size - position)
    return tuple(used)


def _number(word: bytes, line: int) -> int:
    try:
        if not word.startswith(b"0x") or b"_" in word:
            raise ValueError  # noqa: TRY301 - one refusal for both
        return int(word, 16)
    except ValueError:
        raise PeerProtocolError(f"domain log, line {line}: {word[:30]!r} is no hexadecimal number") from None


def _append(ranges: list[Range], start: int, length: int) -> None:
    if ranges and sum(ranges[-1]) == start:
        ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
    else:
        ranges.append((start, length))


def union(ranges: Iterable[Range], gap: int = 0) -> tuple[Range, ...]:
    """``ranges`` in order, those joined that overlap or lie at most ``gap`` bytes apart."""
    joined: list[Range] = []
    for start, length in sorted(ranges):
        if length < 1:
            continue
        if joined and start <= sum(joined[-1]) + gap:
            first = joined[-1][0]
            joined[-1] = (first, max(sum(joined[-1]), start + length) - first)
        else:
            joined.append((start, length))
    return tuple(joined)


def outside(ranges: Iterable[Range], size: int) -> tuple[Range, ...]:
    """What of the ``size`` bytes is in none of ``ranges``."""
    free: list[Range] = []
    position = 0
    for start, length in union(ranges):
        if start > position:
            free.append((position, min(start, size) - position))
        position = max(position, start + length)
        if position >= size:
            break
    if position < size:
        free.append((position, size - position))
    return tuple(free)


def shortened(ranges: Iterable[Range], limit: int = MAX_RANGES, gap: int = SMALL_GAP) -> tuple[Range, ...]:
    """``ranges`` with gaps of at most ``gap`` bytes closed, and larger ones until at most ``limit`` are left."""
    joined = union(ranges, gap)
    while len(joined) > limit:
        gap = max(gap * 2, BLOCK)
        joined = union(joined, gap)
    return joined


def total(ranges: Iterable[Range]) -> int:
    """How many bytes they are."""
    return sum(length for _, length in ranges)


class Cutter:
    """Cuts pieces out of ``ranges``, quickly."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = ranges
        self._starts = [start for start, _ in ranges]

    def within(self, begin: int, end: int) -> Iterator[Range]:
        """The parts of the ranges from ``begin`` up to ``end``."""
        index = max(0, bisect_right(self._starts, begin) - 1)
        while index < len(self._ranges) and self._starts[index] < end:
            start, length = self._ranges[index]
            first, last = max(begin, start), min(end, start + length)
            if first < last:
                yield first, last - first
            index += 1
