"""Which chunks of a source need not be read: those that have the marks (`bootd.wire.marks`) of the last backup.

Some of them, drawn at random, are read all the same. One that differs, and nothing is taken over any more. A backup
that reads everything tells its marks, too, for the one that follows it.
"""

import random
from collections.abc import Callable

from bootd.wire.captured import CHUNK
from bootd.wire.control import Capture
from bootd.wire.marks import MARKED, NONE, Question
from stage2.marking import Owned, find_owners
from stage2.source import Source
from stage2.upload import Uploader

SAMPLE = 100  # one of so many chunks that need not be read is read all the same
MIN_SAMPLE = 16  # chunks
_DRAW = random.SystemRandom()


class MarksLieError(Exception):
    """A chunk is not what its mark says: what marks are trusted for does not hold on this disk."""


class Quick:
    """Of one source. ``known``: digests of chunks that are not read, by index."""

    def __init__(self, order: Capture, source: Source, uploader: Uploader, note: Callable[[str], None]) -> None:
        """``note`` is told what an operator should know."""
        self._source, self._uploader, self._note = source, uploader, note
        self._is_quick = order.quick
        self._owned: Owned | None = None
        self._marks: list[bytes] = []  # of the chunks from the first on
        self._drawn: dict[int, bytes] = {}  # digests of chunks that need not be read, and are
        self.known: dict[int, bytes] = {}
        if order.marks and source.identity:
            self._owned = find_owners(source.description.volumes, self._read)
            for text in self._owned.notes if order.quick else ():
                note(text)
        elif order.quick:
            note("everything is read: the disk tells neither a serial nor a WWN")

    def begin(self, check: Callable[[], None], *, is_begun: bool) -> None:
        """Tell the marks, and hear what need not be read. ``check`` is called often, and may raise; ``is_begun``:
        what is read and what not was decided before."""
        if not self._is_quick or self._owned is None:
            return
        for index in range(len(self._marks), self._source.description.chunks):
            check()
            ranges = self._source.ranges_of(index)
            self._marks.append(self._owned.marker.mark(index, ranges, self._source.read_directly))
        known = self._tell(self._owned)
        if is_begun:
            return
        count = min(len(known), max(MIN_SAMPLE, -(-len(known) // SAMPLE)))
        self._drawn = {index: known.pop(index) for index in _DRAW.sample(sorted(known), count)}
        self.known = known

    def end(self) -> None:
        """All is read: tell the marks of a run that has not told them at its begin."""
        if not self._is_quick and self._owned is not None:
            self._tell(self._owned)

    def mark(self, index: int, chunk: bytearray) -> bytes:
        """Of a chunk that is read, by its bytes; kept by `keep` when it is told."""
        if self._is_quick or self._owned is None or not chunk:
            return NONE
        begin, view = index * CHUNK, memoryview(chunk)

        def read(offset: int, length: int) -> memoryview:
            return view[offset - begin : offset - begin + length]

        return self._owned.marker.mark(index, self._source.ranges_of(index), read)

    def keep(self, marks: list[bytes]) -> None:
        """Of the chunks that were told last."""
        if not self._is_quick:
            self._marks += marks

    def check(self, index: int, found: bytes) -> None:
        """Chunk ``index`` was read, and has the digest ``found``; `MarksLieError` when it was to have another."""
        if found != self._drawn.get(index, self.known.get(index, found)):
            raise MarksLieError(
                f"MiB {index} of {self._source.name} has changed, its files by their times have not"
            )

    def distrust(self, why: str) -> None:
        """From here on nothing is taken over."""
        self._is_quick = False
        self._marks, self._drawn, self.known = [], {}, {}
        self._note(f"everything is read: {why}")

    def _tell(self, owned: Owned) -> dict[int, bytes]:
        known: dict[int, bytes] = {}
        for first in range(0, len(self._marks), MARKED):
            part = tuple(self._marks[first : first + MARKED])
            answer = self._uploader.ask_marks(Question(first, self._source.identity, owned.clocks, part))
            for index, (mark, found) in enumerate(zip(part, answer, strict=True), first):
                if found is not None and mark != NONE:
                    known[index] = found
        return known

    def _read(self, offset: int, length: int) -> bytes:
        return bytes(self._source.read_directly(offset, length))
