"""The bounded RAM window: chunks that have arrived, until they are written and newer ones need the room.

It is the queue of the writer and the fast path of the serving threads at once. Entries leave in the order in which
they came, and never before they are written; so what a successor does not find here is on the disk. A window that
is full of unwritten chunks makes the receiver wait: that is the back-pressure of a slow disk.
"""

import threading
from collections import deque
from dataclasses import dataclass, field

from bootd.member.buffers import Slot, SlotPool
from bootd.wire.frames import ChunkHeader


class WindowClosedError(Exception):
    """The member stops: nothing more goes in."""


@dataclass(eq=False)
class Entry:
    """A chunk in memory, checked against the manifest."""

    header: ChunkHeader  # as it goes out again
    payload: memoryview | bytes  # as it came, in the encoding of the header
    raw: memoryview
    slot: Slot | None  # what holds `raw`; None for a chunk of zeros
    written: bool = False
    readers: int = 0
    evicted: bool = False


@dataclass
class _State:
    order: deque[Entry] = field(default_factory=deque)
    unwritten: deque[Entry] = field(default_factory=deque)
    by_index: dict[int, Entry] = field(default_factory=dict)
    reserved: int = 0
    closed: bool = False


class Window:
    """``capacity`` chunks at most; slots of evicted entries go back to ``pool``."""

    def __init__(self, capacity: int, pool: SlotPool) -> None:
        self._capacity = capacity
        self._pool = pool
        self._state = _State()
        self._changed = threading.Condition()

    def reserve(self) -> None:
        """Room for one more chunk, to be used by `publish` or given up by `unreserve`; waits for the writer."""
        with self._changed:
            state = self._state
            while True:
                if state.closed:
                    raise WindowClosedError
                if len(state.order) + state.reserved < self._capacity:
                    state.reserved += 1
                    return
                if state.order and state.order[0].written:
                    self._evict(state.order.popleft())
                else:
                    self._changed.wait()

    def unreserve(self) -> None:
        with self._changed:
            self._state.reserved -= 1

    def publish(self, entry: Entry) -> None:
        """Puts a chunk in the place that was reserved: serving threads can borrow it, the writer waits for `queue`.

        Between the two the chunk is booked as held, so that nobody books it as written before.
        """
        with self._changed:
            self._state.reserved -= 1
            self._state.order.append(entry)
            self._state.by_index[entry.header.index] = entry

    def queue(self, entry: Entry) -> None:
        """Hands a published chunk to the writer."""
        with self._changed:
            self._state.unwritten.append(entry)
            self._changed.notify_all()

    def next_unwritten(self) -> Entry | None:
        """For the writer: the oldest chunk that is not on its way to the disk; None when the window is closed."""
        with self._changed:
            while not self._state.unwritten and not self._state.closed:
                self._changed.wait()
            if self._state.closed:
                return None
            return self._state.unwritten.popleft()

    def mark_written(self, entry: Entry) -> None:
        with self._changed:
            entry.written = True
            self._changed.notify_all()

    def borrow(self, index: int) -> Entry | None:
        """The chunk, kept alive until `give_back`; None when it is not in memory (any more)."""
        with self._changed:
            entry = self._state.by_index.get(index)
            if entry is not None:
                entry.readers += 1
            return entry

    def give_back(self, entry: Entry) -> None:
        with self._changed:
            entry.readers -= 1
            if entry.evicted and entry.readers == 0:
                self._recycle(entry)

    def close(self) -> None:
        """No more chunks go in or to the writer; what is here can still be borrowed."""
        with self._changed:
            self._state.closed = True
            self._changed.notify_all()

    def _evict(self, entry: Entry) -> None:
        entry.evicted = True
        if self._state.by_index.get(entry.header.index) is entry:
            del self._state.by_index[entry.header.index]
        if entry.readers == 0:
            self._recycle(entry)

    def _recycle(self, entry: Entry) -> None:
        if entry.slot is not None:
            self._pool.put(entry.slot)
            entry.slot = None
