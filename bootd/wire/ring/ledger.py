"""What a member has of the image: per chunk absent, held, written, durable or verified, and the sums in bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from bootd.wire.errors import LocalProtocolError
from bootd.wire.frames import ChunkRange
from bootd.wire.manifest import Manifest

SYNC_BYTES = 64 << 20
SYNC_SECONDS = 1.0


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


class Ledger:
    """The book of all chunks. ``complete``: the head, which has everything.

    Only the phases up to `opened` are wanted; later ones are as if they were not there.
    """

    def __init__(self, manifest: Manifest, *, complete: bool = False) -> None:
        self._manifest = manifest
        level = Level.VERIFIED if complete else Level.ABSENT
        self._level = bytearray([level]) * manifest.count
        self._available = bytearray([1 if complete else 0]) * manifest.count
        self._bytes = [0] * len(Level)
        self._bytes[level] = manifest.size
        self._counts = [[0] * len(Level) for _ in range(manifest.phases)]  # chunks, by phase and level
        first = 0
        for phase, counts in enumerate(self._counts):
            counts[level] = manifest.phase_end(phase) - first
            first = manifest.phase_end(phase)
        self._unsynced: list[int] = []
        self._unsynced_bytes = 0
        self._unsynced_since = 0.0
        self._void: set[int] = set()  # lost while a sync was under way: it does not count for them
        self.opened = 0
        self.received = 0  # bytes of image that ever arrived, repetitions counted
        self.kept = 0  # bytes that were on the target before and matched

    # --- changes -----------------------------------------------------------------------------------------

    def open(self, phase: int) -> bool:
        """Want everything up to ``phase``; False when it was open before."""
        if phase <= self.opened:
            return False
        self.opened = min(phase, self._manifest.phases - 1)
        return True

    def keep(self, index: int) -> None:
        """The target had this chunk already, and it was read past the page cache."""
        self._expect(index, Level.ABSENT)
        self._move(index, Level.VERIFIED)
        self._available[index] = 1
        self.kept += self._manifest.length(index)

    def hold(self, index: int) -> None:
        """The chunk arrived, matches the manifest and is in the window."""
        self._expect(index, Level.ABSENT)
        self._move(index, Level.HELD)
        self._available[index] = 1
        self.received += self._manifest.length(index)

    def write(self, index: int, now: float) -> None:
        """The kernel has the chunk."""
        self._expect(index, Level.HELD)
        self._move(index, Level.WRITTEN)
        if not self._unsynced:
            self._unsynced_since = now
        self._unsynced.append(index)
        self._unsynced_bytes += self._manifest.length(index)

    def sync(self, indexes: Iterable[int]) -> None:
        """For chunks written before the fdatasync that has just returned."""
        for index in indexes:
            if self._level[index] == Level.WRITTEN and index not in self._void:
                self._move(index, Level.DURABLE)
        self._void.clear()

    def verify(self, index: int) -> None:
        """The chunk was read back and matches; nothing when it was lost meanwhile."""
        if self._level[index] == Level.DURABLE:
            self._move(index, Level.VERIFIED)

    def lose(self, index: int) -> bool:
        """What the disk gives back is not what was written: the chunk has to come again. False when it has to
        anyway."""
        if self._level[index] <= Level.HELD:
            return False
        if index in self._unsynced:
            self._unsynced.remove(index)  # else the next sync would be taken for one of what is written anew
            self._unsynced_bytes -= self._manifest.length(index)
        elif self._level[index] == Level.WRITTEN:
            self._void.add(index)
        self._move(index, Level.ABSENT)
        self._available[index] = 0
        return True

    def take_unsynced(self, now: float) -> list[int] | None:
        """Chunks to sync: after `SYNC_BYTES`, after `SYNC_SECONDS`, or at once when no more are to be written."""
        if not self._unsynced or not (now >= self._unsynced_since + SYNC_SECONDS or self.is_sync_due):
            return None
        batch, self._unsynced, self._unsynced_bytes = self._unsynced, [], 0
        return batch

    # --- questions ---------------------------------------------------------------------------------------

    def sums(self) -> Sums:
        _, held, written, durable, verified = self._bytes
        durable += verified
        written += durable
        return Sums(held + written, written, durable, verified)

    def level(self, index: int) -> Level:
        return Level(self._level[index])

    @property
    def sync_due(self) -> float | None:
        """When the next sync is due at the latest, in the time of `write`; None while there is nothing to sync."""
        return self._unsynced_since + SYNC_SECONDS if self._unsynced else None

    @property
    def is_sync_due(self) -> bool:
        """Whether there is enough to sync, or no more to be written."""
        return self._unsynced_bytes >= SYNC_BYTES or not self._behind(Level.WRITTEN)

    @property
    def is_lacking(self) -> bool:
        """Whether a chunk of the open phases has not arrived."""
        return self._available.find(0, 0, self._manifest.phase_end(self.opened)) >= 0

    def lacking(self, limit: int) -> tuple[ChunkRange, ...]:
        """The first ``limit`` ranges of chunks of the open phases that have not arrived."""
        ranges: list[ChunkRange] = []
        stop = self._manifest.phase_end(self.opened)
        first = self._available.find(0, 0, stop)
        while first >= 0 and len(ranges) < limit:
            end = self._available.find(1, first, stop)
            end = stop if end < 0 else end
            ranges.append(ChunkRange(first, end - first))
            first = self._available.find(0, end, stop)
        return tuple(ranges)

    def first_available(self, pending: bytearray, start: int) -> int | None:
        """The next chunk at or after ``start`` that is marked in ``pending`` and is here, else the first."""
        found = self._first_common(pending, start)
        if found < 0 and start:
            found = self._first_common(pending, 0)
        return None if found < 0 else found

    def next_durable(self, start: int) -> int | None:
        """The first chunk at or after ``start`` that is durable and not verified."""
        found = self._level.find(Level.DURABLE, start)
        return None if found < 0 else found

    @property
    def is_durable(self) -> bool:
        """Whether everything of the open phases is on stable storage."""
        return not self._behind(Level.DURABLE)

    @property
    def is_verified(self) -> bool:
        """Whether everything of the open phases was read back and matched."""
        return not self._behind(Level.VERIFIED)

    @property
    def phases_done(self) -> int:
        """How many phases, from the first on, are verified to the last byte."""
        done = 0
        for counts in self._counts:
            if sum(counts[: Level.VERIFIED]):
                break
            done += 1
        return done

    def _behind(self, level: Level) -> int:
        """Chunks of the open phases below ``level``."""
        return sum(sum(counts[:level]) for counts in self._counts[: self.opened + 1])

    def _expect(self, index: int, level: Level) -> None:
        if self._level[index] != level:
            raise LocalProtocolError(f"chunk {index} is {self.level(index).name}, not {level.name}")

    def _move(self, index: int, level: Level) -> None:
        length, counts = self._manifest.length(index), self._counts[self._manifest.phase(index)]
        before = self._level[index]
        self._bytes[before] -= length
        self._bytes[level] += length
        counts[before] -= 1
        counts[level] += 1
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
