"""What of a disk or partition is in use: asks sfdisk, blkid and partclone, and judges what they say.

A file system that was not left cleanly, or is encrypted, is refused unless it is asked for; then all of it counts
as in use, as everything does that no tool knows. Nothing is written.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bootd.wire import btrfs, used, volumes
from bootd.wire.captured import MAX_WORD, Volume
from bootd.wire.errors import PeerProtocolError
from bootd.wire.used import Range
from bootd.wire.volumes import Read

TOOL_SECONDS = 60.0  # a dying disk may hold them up
MAP_SECONDS = 3600.0  # the map of a large and full disk takes minutes
MAX_ANSWER = 1 << 20  # bytes
EXTENDED = ("5", "f", "85")  # types of a DOS table: containers of logical partitions


class RefusedError(Exception):
    """The source is not read; the text says why and what to do."""


@dataclass(frozen=True)
class Place:
    """Where a volume may be: a partition, or a whole device without a table."""

    name: str  # "sda5"
    start: int  # bytes
    size: int  # bytes
    device: str  # path; "" when the kernel has none for it


@dataclass(frozen=True)
class Order:
    """What is allowed."""

    dirty: bool
    raw: bool


def read_table(path: str) -> dict[str, Any] | None:
    """The "partitiontable" of ``sfdisk --json``; None when it knows none on the device."""
    done = run(["sfdisk", "--json", path])
    if done.returncode != 0:
        return None
    try:
        table = json.loads(done.stdout)["partitiontable"]
        return table if isinstance(table, dict) and len(done.stdout) <= MAX_ANSWER else None
    except (ValueError, TypeError, KeyError):
        return None


def places_of(table: dict[str, Any], name: str, sector: int, device: Callable[[int], str]) -> list[Place]:
    """The partitions of a table of disk ``name`` but the containers; `RefusedError` when it makes no sense.

    ``device`` gives the path of the partition with a number.
    """
    found = []
    for part in table.get("partitions", ()):
        try:
            start, size, node = int(part["start"]) * sector, int(part["size"]) * sector, str(part["node"])
        except (TypeError, ValueError, KeyError):
            raise RefusedError(f"the partition table of {name} cannot be read: see sfdisk --dump") from None
        if table.get("label") == "dos" and str(part.get("type", "")).lower() in EXTENDED:
            continue
        number = node[len(node.rstrip("0123456789")) :]
        separator = "p" if name[-1].isdigit() else ""
        found.append(Place(f"{name}{separator}{number}", start, size, device(int(number or 0))))
    return found


def examine(
    places: Sequence[Place], size: int, path: str, read: Read, order: Order
) -> tuple[tuple[Volume, ...], tuple[Range, ...], list[str]]:
    """What lies in ``places`` of the ``size`` bytes behind ``path``, which bytes are in use, and notes for people.

    What is in no place (boot loaders, the table and its copy) is in use. `RefusedError`; OSError while reading.
    """
    found, notes = [], []
    ranges = list(used.outside(((place.start, place.size) for place in places), size))
    for place in places:
        if place.start < 0 or place.size < 1 or place.start + place.size > size:
            raise RefusedError(f"{place.name} ends outside of its disk: correct the partition table first")
        facts = probe(path, place)
        kind = facts.get("TYPE", "")
        own = _reader(read, place)
        inside, note = ranges_in_use(place, kind, own, order)
        ranges += [(place.start + start, length) for start, length in inside]
        if kind:
            label, uuid = (_printable(facts.get(key, "")) for key in ("LABEL", "UUID"))
            found.append(Volume(place.start, place.size, _printable(kind), label, uuid))
        if note:
            notes.append(f"{place.name}: {note}")
    return tuple(found), used.union(ranges), notes


def ranges_in_use(place: Place, kind: str, read: Read, order: Order) -> tuple[Sequence[Range], str]:
    """Of one volume, from its begin; with a note where all of it counts as in use."""
    everything = [(0, place.size)]
    if kind in volumes.ENCRYPTED:
        if not order.raw:
            raise RefusedError(
                f"{place.name} is encrypted ({kind}): unlock or decrypt it in its own system, or say --raw to keep"
                " every block of it as it is"
            )
        return everything, f"{kind}, all of it"
    why = volumes.unclean(kind, read) or _hibernated(place, kind)
    if why and not order.dirty:
        raise RefusedError(
            f"{place.name} ({kind}) is not clean: {why}. Start its system and shut it down properly, or say --dirty"
            " to keep every block of it as it is"
        )
    if why:
        return everything, f"{kind}, all of it, since it is not clean: {why}"
    if kind == volumes.SWAP:
        return [(0, min(volumes.SWAP_HEADER, place.size))], ""
    if kind == "btrfs" and not btrfs.is_alone(read):
        return everything, "one of several devices of a btrfs, all of it"
    if kind not in volumes.PARTCLONE:
        return everything, f"{kind or 'content of no known type'}, all of it"
    if not place.device:
        return everything, f"{kind}, all of it, since the kernel shows no device of this partition"
    try:
        ranges = partclone(volumes.PARTCLONE[kind], place.device, place.size)
        if kind == "btrfs":
            ranges = btrfs.with_copies(ranges, btrfs.read_chunks(read, place.size))
    except PeerProtocolError as error:
        return everything, f"{kind}, all of it, since there is no map of it: {error}"
    return ranges, ""


def partclone(program: str, device: str, size: int) -> tuple[Range, ...]:
    """What ``partclone.PROGRAM`` says is in use; `PeerProtocolError` when it says nothing that can be believed."""
    command = [f"partclone.{program}", "--domain", "--source", device, "--output", "-", "--logfile", "/dev/null"]
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                [*command, "--quiet"], stdin=subprocess.DEVNULL, stdout=log, stderr=errors, timeout=MAP_SECONDS
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerProtocolError(str(error)) from None
        if done.returncode != 0:
            errors.seek(0)
            words = errors.read(1 << 16).decode("ascii", "replace").replace("\r", "\n").split("\n")
            said = [line.strip() for line in words if line.strip() and "artclone" not in line]
            raise PeerProtocolError(_printable(said[-1] if said else f"status {done.returncode}"))
        log.seek(0)
        return used.parse_domain_log(log, size)


def probe(path: str, place: Place) -> dict[str, str]:
    """What blkid reads there, by its own names; {} when it finds nothing, or cannot decide."""
    where = ["--offset", str(place.start), "--size", str(place.size)]
    done = run(["blkid", "--probe", "--output", "export", *where, path])
    if done.returncode != 0:
        return {}
    lines = done.stdout[:MAX_ANSWER].decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _hibernated(place: Place, kind: str) -> str:
    """Why an NTFS must be left to the Windows that sleeps in it. ntfscat opens it for reading only."""
    if kind != "ntfs" or not place.device:
        return ""
    command = ["ntfscat", place.device, volumes.HIBERNATION_FILE]
    environment = {**os.environ, "LC_ALL": "C"}  # what it says is read here
    try:
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment
            ) as process,
        ):
            head = process.stdout.read(16) if process.stdout is not None else b""
            if head:
                process.kill()  # it may be as large as the memory
            elif process.wait(TOOL_SECONDS) != 0:
                errors.seek(0)
                said = errors.read(4096).decode("ascii", "replace")
                if "open inode: No such file" not in said:
                    return f"whether Windows is hibernated cannot be told: ntfscat: {_printable(said)}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"whether Windows is hibernated cannot be told: ntfscat: {error}"
    return "Windows is hibernated in it (fast startup counts, too)" if volumes.is_hibernation(head) else ""


def _reader(read: Read, place: Place) -> Read:
    def inside(offset: int, length: int) -> bytes:
        if offset < 0 or offset >= place.size:
            return b""
        return read(place.start + offset, min(length, place.size - offset))

    return inside


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:MAX_WORD]


def run(command: list[str]) -> "subprocess.CompletedProcess[bytes]":
    """A tool that answers at once; `RefusedError` when it cannot."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TOOL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError(f"{command[0]} does not answer: {error}") from None
