"""Page-aligned buffers of one chunk each, as direct I/O wants them, made on demand and used again."""

import mmap
import threading


class Slot:
    """One buffer; ``memory`` begins at a page boundary."""

    __slots__ = ("memory",)

    def __init__(self, size: int) -> None:
        self.memory = memoryview(mmap.mmap(-1, size))


class SlotPool:
    """At most ``limit`` slots of ``size`` bytes."""

    def __init__(self, size: int, limit: int) -> None:
        self._size = size
        self._limit = limit
        self._made = 0
        self._free: list[Slot] = []
        self._returned = threading.Condition()

    def take(self) -> Slot:
        """A slot with undefined content; waits while all are out. Every holder gives back in bounded time."""
        with self._returned:
            while not self._free and self._made >= self._limit:
                self._returned.wait()
            if self._free:
                return self._free.pop()
            self._made += 1
        return Slot(self._size)

    def put(self, slot: Slot) -> None:
        with self._returned:
            self._free.append(slot)
            self._returned.notify()
