"""CloneSys's file of one host, in and out: what is on each partition, and who has locked it.

A line for each partition, seven fields, each ended by a colon::

    partition:path:image:cloned:user:lockedby:reason:

CloneSys locks a partition; here a lock holds the disk that the partition is on (`bootd.wire.locks`). A partition
that cannot be found on the disks that the node has shown locks more rather than less: its disk, or all of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bootd.errors import Exit, OperatorError
from bootd.session.effects import HostFileLine
from bootd.session.locks import Held, place
from bootd.wire.control import Disk, Lock

HEADER = "partition:path:image:cloned:user:lockedby:reason:"
FIELDS = 7
MAX_LINES = 256
EVERY = "*"  # as a partition: every disk of the node

_PARTITION = re.compile(r"(nvme\d+n\d+|mmcblk\d+|nbd\d+|loop\d+)p(\d{1,3})\Z|([a-z]+)(\d{1,3})\Z")
_NAME = re.compile(r"[a-z0-9]{1,32}\Z|\*\Z")


def parse(text: str) -> tuple[HostFileLine, ...]:
    """The lines of a file; `OperatorError` (INPUT) names the line that is wrong. Blank lines and ``#``: skipped."""
    lines: list[HostFileLine] = []
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith("#") or bare.startswith("partition:"):
            continue
        fields = bare.split(":")
        if len(fields) == FIELDS + 1 and not fields[-1]:
            fields.pop()
        if len(fields) != FIELDS or not _NAME.match(fields[0]) or not bare.isprintable() or len(bare) > 4096:
            raise OperatorError(
                f"line {number}: {bare[:80]!r} is not {HEADER}", "mend it, or leave it out", Exit.INPUT
            )
        if any(fields[0] == known.partition for known in lines):
            raise OperatorError(f"line {number}: {fields[0]} stands twice", "one line for each", Exit.INPUT)
        lines.append(HostFileLine(*(field.strip() for field in fields)))
    if len(lines) > MAX_LINES:
        raise OperatorError(f"{len(lines)} partitions", f"at most {MAX_LINES}", Exit.INPUT)
    return tuple(lines)


def render(lines: Sequence[HostFileLine]) -> str:
    """The file; a field cannot hold a colon, and gets ``_`` for it."""
    rows = [HEADER]
    for line in lines:
        fields = (line.partition, line.path, line.image, line.cloned, line.user, line.locked_by, line.reason)
        rows.append("".join(field.replace(":", "_") + ":" for field in fields))
    return "\n".join(rows) + "\n"


def lock_of(line: HostFileLine, disks: Sequence[Disk]) -> Lock | None:
    """The lock that a line means on a node that has shown ``disks``; None when it locks nothing."""
    if not line.locked_by:
        return None
    reason = line.reason or "locked in CloneSys"
    name, number = _split(line.partition)
    targets = [disk for disk in disks if disk.name == name]
    if not targets and line.partition != EVERY:
        # Its kernel has another name for the disk now: no question where there is only one.
        targets = [disk for disk in disks if not disk.excluded]
    identity = (targets[0].serial or targets[0].wwn) if len(targets) == 1 else ""
    if not identity:
        return Lock("", 0, "", line.locked_by, reason)
    partition = next((part for part in targets[0].partitions if part.number == number), None)
    if partition is None:
        return Lock(identity, 0, "", line.locked_by, reason)
    return Lock(identity, number, partition.partuuid, line.locked_by, reason)


@dataclass(frozen=True)
class Written:
    """What bootd itself has written to a disk ("sda") or a partition ("sda5"), and proven.

    ``image`` "": something was begun there, or part of it changed since: nobody knows what it holds.
    """

    partition: str
    path: str
    image: str
    cloned: str  # a day, as CloneSys writes it: "05/21/99"
    user: str


def with_written(lines: Sequence[HostFileLine], written: Sequence[Written]) -> tuple[HostFileLine, ...]:
    """``lines`` with what was written since, and a line for each place that is new.

    What was known of the partitions of a disk ends when the whole disk is written.
    """
    result = {line.partition: line for line in lines}
    for one in sorted(written, key=lambda one: one.partition):
        for name, line in result.items():
            if name != one.partition and _split(name)[0] == one.partition:
                result[name] = replace(line, path="", image="", cloned="", user="")
    for one in written:
        known = result.get(one.partition, HostFileLine(one.partition, "", "", "", "", "", ""))
        path, cloned, user = (one.path, one.cloned, one.user) if one.image else ("", "", "")
        result[one.partition] = replace(known, path=path, image=one.image, cloned=cloned, user=user)
    return tuple(result.values())


def current(lines: Sequence[HostFileLine], held: Sequence[Held], disks: Sequence[Disk]) -> tuple[HostFileLine, ...]:
    """``lines`` with the locks as they are now, and a line for each lock that none of them stands for."""
    by_place = {one.place: one.lock for one in held}
    result = [_with_lock(line, by_place.get(line.place), disks) for line in lines]
    told = {line.place for line in lines if line.place}
    for lock in (one.lock for one in held if one.place not in told):
        for name in _names(lock, disks):
            known = next((index for index, line in enumerate(result) if line.partition == name), None)
            user, reason = lock.owner, _word(lock.reason)
            if known is None:
                result.append(HostFileLine(name, "", "", "", "", user, reason, place(lock)))
            elif not result[known].locked_by:
                result[known] = replace(result[known], locked_by=user, reason=reason)
    return tuple(result)


def _with_lock(line: HostFileLine, lock: Lock | None, disks: Sequence[Disk]) -> HostFileLine:
    if lock is None:
        return replace(line, locked_by="", reason="", place="")
    made = lock_of(line, disks)
    if line.locked_by and (made is None or (made.owner, made.reason) == (lock.owner, lock.reason)):
        return line
    if line.locked_by and not (lock.disk or lock.partuuid):
        return line  # several lines became one lock of every disk: each keeps its own words
    return replace(line, locked_by=lock.owner, reason=_word(lock.reason))


def _names(lock: Lock, disks: Sequence[Disk]) -> list[str]:
    """What a lock holds, in CloneSys's words."""
    if not lock.disk and not lock.partuuid:
        return [EVERY]
    for disk in disks:
        if lock.disk and lock.disk not in (disk.serial, disk.wwn):
            continue
        for part in disk.partitions:
            if lock.partuuid == part.partuuid if lock.partuuid else part.number == lock.partition:
                return [f"{disk.name}{'p' if disk.name[-1:].isdigit() else ''}{part.number}"]
        if lock.disk:
            return [disk.name]
    return [EVERY]


def _split(name: str) -> tuple[str, int]:
    """``sda5`` is disk sda, partition 5; ``sda`` is disk sda, 0."""
    match = _PARTITION.match(name)
    if match is None:
        return name, 0
    return match.group(1) or match.group(3), int(match.group(2) or match.group(4))


def _word(text: str) -> str:
    """CloneSys wants a reason of one word."""
    return re.sub(r"[\s:]+", "_", text.strip())
