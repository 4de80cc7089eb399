"""The bounded RAM window: chunks that have arrived, until they are written and newer ones need the room.

It is the queue of the writer and the fast path of the successors at once. Entries leave in the order in which they
came, and never before they are written; so what a successor does not find here is on the disk. A window that is
full of unwritten chunks makes the receiver wait: that is the back-pressure of a slow disk.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from bootd.wire.frames import ChunkHeader


@dataclass(eq=False)
class Entry:
    """A chunk in memory, checked against the manifest."""

    header: ChunkHeader  # as it goes out again
    payload: memoryview | bytes  # as it came, in the encoding of the header
    raw: memoryview | bytes
    slot: Any = None  # the buffer that holds `raw`, as its owner knows it; None for a chunk of zeros
    is_written: bool = False
    readers: int = 0
    is_evicted: bool = False


class Window:
    """``capacity`` chunks at most. Buffers that are free again are handed back in `freed`."""

    def __init__(self, capacity: int) -> None:
        self.freed: list[Any] = []
        self.is_closed = False
        self._capacity = capacity
        self._order: deque[Entry] = deque()
        self._unwritten: deque[Entry] = deque()
        self._by_index: dict[int, Entry] = {}
        self._reserved = 0

    def reserve(self) -> bool:
        """Room for one more chunk, to be used by `put` or given up by `unreserve`; False while there is none."""
        if len(self._order) + self._reserved >= self._capacity:
            if not self._order or not self._order[0].is_written:
                return False
            self._evict(self._order.popleft())
        self._reserved += 1
        return True

    def unreserve(self) -> None:
        self._reserved -= 1

    def put(self, entry: Entry) -> None:
        """A chunk in the place that was reserved; to be written unless it says otherwise."""
        self._reserved -= 1
        self._order.append(entry)
        self._by_index[entry.header.index] = entry
        if not entry.is_written:
            self._unwritten.append(entry)

    def take_unwritten(self) -> Entry | None:
        """The oldest chunk that is not on its way to the disk."""
        return self._unwritten.popleft() if self._unwritten and not self.is_closed else None

    def borrow(self, index: int) -> Entry | None:
        """The chunk, kept alive until `give_back`; None when it is not in memory (any more)."""
        entry = self._by_index.get(index)
        if entry is not None:
            entry.readers += 1
        return entry

    def give_back(self, entry: Entry) -> None:
        entry.readers -= 1
        if entry.is_evicted and entry.readers == 0:
            self._free(entry)

    def _evict(self, entry: Entry) -> None:
        entry.is_evicted = True
        if self._by_index.get(entry.header.index) is entry:
            del self._by_index[entry.header.index]
        if entry.readers == 0:
            self._free(entry)

    def _free(self, entry: Entry) -> None:
        if entry.slot is not None:
            self.freed.append(entry.slot)
            entry.slot = None
