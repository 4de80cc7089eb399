"""Locks of the nodes: what nobody may overwrite, who says so and why, until when. Sans-IO.

Decisions use monotonic time (``until``); the wall-clock time (``expires``) is for people and for the journal, since
a lock outlives the daemon. Which disk a lock holds is `bootd.wire.locks.holding`, the same rule as on the node.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from bootd.errors import Exit, OperatorError
from bootd.session.effects import LockRecord
from bootd.session.selector import Refusal, Selector, choose
from bootd.wire.control import Disk, Lock
from bootd.wire.locks import describe, holding, reason

MAX_LOCKS = 64  # of one node
MAX_TEXT = 500  # characters of an owner or a reason
MAX_SECONDS = 10 * 366 * 86400.0


@dataclass(frozen=True)
class Held:
    """A lock with its times: ``until`` in monotonic seconds, None = for good; ``expires`` since the epoch, 0."""

    lock: Lock
    until: float | None
    expires: float

    @property
    def place(self) -> str:
        """What tells it from the node's other locks."""
        return place(self.lock)

    def told(self, mac: str) -> str:
        """In the audit."""
        return f"{mac} {describe(self.lock)}, owner {self.lock.owner}: {self.lock.reason}"

    def record(self, mac: str) -> LockRecord:
        return LockRecord(mac, self.place, self.lock, self.expires)


def place(lock: Lock) -> str:
    """One word for what is locked: two locks of one place are one lock."""
    if lock.partuuid:
        return f"partuuid={lock.partuuid}"
    if lock.partition:
        return f"disk={lock.disk},partition={lock.partition}"
    return f"disk={lock.disk or '*'}"


class Locks:
    """The locks of all nodes, by MAC."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, Held]] = {}

    def of(self, mac: str) -> tuple[Held, ...]:
        """All of a node's locks, also one that expires at the next tick."""
        return tuple(self._nodes.get(mac, {}).values())

    def in_force(self, mac: str, now: float) -> tuple[Lock, ...]:
        return tuple(held.lock for held in self.of(mac) if held.until is None or now < held.until)

    def of_others(
        self, mac: str, same: Collection[str], wwns: Collection[str], now: float
    ) -> tuple[tuple[str, Held], ...]:
        """Locks in force of other nodes that hold for ``mac`` too: all of those in ``same``, and those that name
        one of ``wwns``. Each with its node's MAC."""
        return tuple(
            (other, held)
            for other, held in self
            if other != mac
            and (held.until is None or now < held.until)
            and (other in same or (held.lock.disk in wwns))
        )

    def __iter__(self) -> Iterator[tuple[str, Held]]:
        return iter([(mac, held) for mac in sorted(self._nodes) for held in self.of(mac)])

    def add(self, mac: str, held: Held) -> None:
        """Takes the place of an earlier lock of the same place; `OperatorError` beyond `MAX_LOCKS`."""
        known = self._nodes.setdefault(mac, {})
        if held.place not in known and len(known) >= MAX_LOCKS:
            raise OperatorError(f"{mac} has {MAX_LOCKS} locks", "lock the whole disk instead", Exit.USAGE)
        known[held.place] = held

    def remove(self, mac: str, place: str) -> Held | None:
        """The lock that was there; None when there was none."""
        known = self._nodes.get(mac, {})
        held = known.pop(place, None)
        if not known:
            self._nodes.pop(mac, None)
        return held

    def expired(self, now: float) -> list[tuple[str, Held]]:
        return [(mac, held) for mac, held in self if held.until is not None and now >= held.until]


def checked_lock(lock: Lock, disks: Sequence[Disk]) -> Lock:
    """``lock`` completed by what the node's ``disks`` tell of it; () = never seen. `OperatorError` in doubt.

    A partition given by number must be found on exactly one disk; one given by its PARTUUID may be unknown, for the
    disk may come back. A disk must have been seen, or the lock would protect nothing and nobody would notice.
    """
    for what, text in (("reason", lock.reason), ("owner", lock.owner)):
        if not text.strip() or len(text) > MAX_TEXT or not text.isprintable():
            raise OperatorError(f"a lock needs a {what} of 1 to {MAX_TEXT} characters", f"say --{what}", Exit.USAGE)
    partuuid = lock.partuuid.strip().lower()
    if not 0 <= lock.partition <= 256 or len(partuuid) > 64 or not partuuid.isprintable():
        raise OperatorError("that is no partition", "say its number or its PARTUUID", Exit.USAGE)
    named = [disk for disk in disks if lock.disk and lock.disk in (disk.serial, disk.wwn)]
    if lock.disk and not named:
        there = ", ".join(disk.serial or disk.wwn or f"{disk.name} (no serial)" for disk in disks)
        raise OperatorError(
            f"the node has shown no disk {lock.disk}; known: {there or 'none'}",
            "say the serial or WWN of bootd node list, or --disk alone for every disk",
            Exit.USAGE,
        )
    if not lock.partition and not partuuid:
        return lock
    found = [
        (disk, part)
        for disk in (named or disks)
        for part in disk.partitions
        if (part.partuuid == partuuid if partuuid else part.number == lock.partition)
    ]
    if partuuid and not found and not lock.disk:
        return Lock("", 0, partuuid, lock.owner, lock.reason)
    if len(found) != 1:
        seen = ", ".join(f"{disk.name} ({disk.serial or disk.wwn or 'no serial'})" for disk, _ in found) or "none"
        raise OperatorError(
            f"partition {partuuid or lock.partition} is on {len(found)} disks that the node has shown: {seen}",
            "say which with --disk SERIAL, or give the partition's PARTUUID",
            Exit.USAGE,
        )
    disk, part = found[0]
    identity = lock.disk or disk.serial or disk.wwn
    if not identity and not part.partuuid:
        raise OperatorError(
            f"partition {part.number} of {disk.name} can be told from no other: no serial, no WWN, no PARTUUID",
            "lock every disk of the node: --disk",
            Exit.USAGE,
        )
    return Lock(identity, part.number, part.partuuid, lock.owner, lock.reason)


def choose_unlocked(
    disks: Sequence[Disk], selector: Selector, image_size: int, locks: Sequence[Lock], sector: int = 0
) -> Disk | Refusal:
    """`selector.choose`, and a refusal when a lock holds that disk: a locked disk never makes way for another one.

    ``sector``: bytes of a sector that the image was made for, 0 = not known. A partition table of 512-byte sectors
    means nothing on a disk of 4096.
    """
    disk = unlocked(choose(disks, selector, image_size), disks, locks)
    if isinstance(disk, Refusal):
        return disk
    if sector and sector != disk.sector:
        return Refusal(f"{disk.name} has sectors of {disk.sector} bytes, the image was made for {sector}")
    return disk


def unlocked(disk: Disk | Refusal, disks: Sequence[Disk], locks: Sequence[Lock]) -> Disk | Refusal:
    """``disk``, which was chosen of ``disks``, unless a lock holds it."""
    lock = None if isinstance(disk, Refusal) else holding(locks, disk, disks)
    return disk if lock is None else Refusal(reason(lock))
