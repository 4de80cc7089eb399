"""What a member has of the image: per chunk absent, held, written, durable or verified, and the sums in bytes."""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from bootd.wire.errors import LocalProtocolError
from bootd.wire.frames import ChunkRange
from bootd.wire.manifest import Manifest


class Level(IntEnum):
    ABSENT = 0
    HELD = 1  # in the window, checked against the manifest
    WRITTEN = 2  # accepted by the kernel
    DURABLE = 3  # after fdatasync
    VERIFIED = 4  # read back and matched


@dataclass(frozen=True)
class Sums:
    """Bytes that have reached at least each level."""

    held: int
    written: int
    durable: int
    verified: int


class Progress:
    """Shared by all threads of a member. ``complete``: the head, which has everything."""

    def __init__(self, manifest: Manifest, *, complete: bool = False) -> None:
        self._manifest = manifest
        count = manifest.count
        level = Level.VERIFIED if complete else Level.ABSENT
        self._level = bytearray([level]) * count
        self._available = bytearray([1 if complete else 0]) * count
        self._bytes = [0] * len(Level)
        self._bytes[level] = manifest.size
        self._unsynced: list[int] = []
        self._unsynced_bytes = 0
        self._void: set[int] = set()  # lost while a sync was under way: it does not count for them
        self._lacking = 0 if complete else count
        self._received = 0  # ever, with repetitions
        self._stopped = False
        self._changed = threading.Condition()

    def sums(self) -> Sums:
        with self._changed:
            totals = [sum(self._bytes[level:]) for level in Level]
        return Sums(totals[Level.HELD], totals[Level.WRITTEN], totals[Level.DURABLE], totals[Level.VERIFIED])

    @property
    def received(self) -> int:
        """Bytes of image that ever arrived, repetitions counted."""
        with self._changed:
            return self._received

    # --- changes ---

    def mark_held(self, index: int) -> None:
        """The chunk arrived, matches the manifest and is in the window."""
        with self._changed:
            self._expect(index, Level.ABSENT)
            self._raise(index, Level.HELD)
            self._available[index] = 1
            self._lacking -= 1
            self._received += self._manifest.length(index)
            self._changed.notify_all()

    def mark_written(self, index: int) -> None:
        with self._changed:
            self._expect(index, Level.HELD)
            self._raise(index, Level.WRITTEN)
            self._unsynced.append(index)
            self._unsynced_bytes += self._manifest.length(index)
            self._changed.notify_all()

    def mark_durable(self, indexes: Iterable[int]) -> None:
        """For chunks written before the fdatasync that has just returned."""
        with self._changed:
            for index in indexes:
                if self._level[index] == Level.WRITTEN and index not in self._void:
                    self._raise(index, Level.DURABLE)
            self._void.clear()
            self._changed.notify_all()

    def mark_verified(self, index: int) -> None:
        with self._changed:
            if self._level[index] == Level.DURABLE:
                self._raise(index, Level.VERIFIED)

    def mark_absent(self, index: int) -> None:
        """What the disk gives back is not what was written: the chunk has to come again."""
        with self._changed:
            if self._level[index] <= Level.HELD:
                return
            if self._level[index] == Level.WRITTEN:
                self._void.add(index)
            self._raise(index, Level.ABSENT)
            self._available[index] = 0
            self._lacking += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Every waiter returns."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Waiters look again: something outside of the chunks has changed."""
        with self._changed:
            self._changed.notify_all()

    # --- questions ---

    def level(self, index: int) -> Level:
        return Level(self._level[index])

    def lacking(self, limit: int) -> Sequence[ChunkRange]:
        """The first ``limit`` ranges of chunks that have not arrived."""
        ranges: list[ChunkRange] = []
        with self._changed:
            first = self._available.find(0)
            while first >= 0 and len(ranges) < limit:
                end = self._available.find(1, first)
                end = len(self._available) if end < 0 else end
                ranges.append(ChunkRange(first, end - first))
                first = self._available.find(0, end)
        return ranges

    def wait_lacking(self, timeout: float) -> bool:
        """True as soon as a chunk is lacking; False after ``timeout`` seconds or when stopped or woken."""
        with self._changed:
            if not self._lacking and not self._stopped:
                self._changed.wait(timeout)
            return self._lacking > 0 and not self._stopped

    def wait_available(self, pending: bytearray, start: int, timeout: float) -> int | None:
        """The next chunk at or after ``start`` that is marked in ``pending`` and is here, from 0 again if need be.

        None after ``timeout`` seconds without one, or when stopped.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._stopped:
                found = self._first_common(pending, start)
                if found < 0 and start:
                    found = self._first_common(pending, 0)
                if found >= 0:
                    return found
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._changed.wait(remaining):
                    return None
        return None

    def wait_unsynced(self, least: int, longest: float) -> list[int] | None:
        """Chunks to sync: after ``least`` bytes, ``longest`` seconds, or at once when nothing is lacking.

        None when stopped.
        """
        deadline = time.monotonic() + longest
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                complete = self._bytes[Level.ABSENT] == self._bytes[Level.HELD] == 0
                if self._unsynced and (self._unsynced_bytes >= least or complete or now >= deadline):
                    batch, self._unsynced, self._unsynced_bytes = self._unsynced, [], 0
                    return batch
                self._changed.wait(max(deadline - now, 0.01) if self._unsynced else None)
        return None

    def wait_all_durable(self) -> bool:
        """True once every chunk is durable and at least one is not verified; False when stopped."""
        with self._changed:
            while not self._stopped:
                behind = sum(self._bytes[: Level.DURABLE])
                if not behind and self._bytes[Level.DURABLE]:
                    return True
                self._changed.wait()
        return False

    def next_durable(self, start: int) -> int | None:
        """The first chunk at or after ``start`` that is durable and not verified; None without one, or stopped."""
        with self._changed:
            found = -1 if self._stopped else self._level.find(Level.DURABLE, start)
        return None if found < 0 else found

    @property
    def is_verified(self) -> bool:
        with self._changed:
            return self._bytes[Level.VERIFIED] == self._manifest.size

    def _expect(self, index: int, level: Level) -> None:
        if self._level[index] != level:
            raise LocalProtocolError(f"chunk {index} is {self.level(index).name}, not {level.name}")

    def _raise(self, index: int, level: Level) -> None:
        length = self._manifest.length(index)
        self._bytes[self._level[index]] -= length
        self._bytes[level] += length
        self._level[index] = level

    def _first_common(self, pending: bytearray, start: int) -> int:
        """Least index at or after ``start`` set in both ``pending`` and what is available; -1 without one."""
        index = start
        while True:
            index = pending.find(1, index)
            if index < 0 or self._available[index]:
                return index
            index = self._available.find(1, index)
            if index < 0 or pending[index]:
                return index
