"""What an operator orders, made ready for the coordinator: images are opened, measured and cut into parts."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootd.drivers.source import Sources, sector_of
from bootd.errors import Exit, OperatorError
from bootd.session.effects import PartOrder, SessionRecord
from bootd.session.parts import Wish, disk_of, parse_wish
from bootd.wire import table
from bootd.wire.errors import PeerProtocolError
from bootd.wire.stored import SLICE

SFDISK_SECONDS = 30.0


@dataclass(frozen=True)
class Measured:
    """Sizes in bytes. ``disk``: the selector; ``source``: what is sent, as sessions and their journal write it."""

    source: str
    size: int
    sector: int
    disk: str
    parts: tuple[PartOrder, ...]


def measure(image: str, disk: str, parts: Sequence[str], sources: Sources | None = None) -> Measured:
    """Look at everything that would be sent. Reads files: call it in a thread. `OperatorError`.

    ``parts``: see `bootd.session.parts`; () = the whole disk.
    """
    looked = sources or Sources()
    if not parts:
        if not disk:
            raise OperatorError("which disk is not said", "say --disk only, or --disk serial=…", Exit.USAGE)
        source = looked.resolve(image)
        return Measured(source, looked.size(source), looked.sector(source), disk, ())
    wishes = [parse_wish(text) for text in parts]
    chosen = disk_of(wishes, disk)
    orders = tuple(_order(wish, image, looked) for wish in wishes)
    return Measured(orders[0].image, sum(order.size for order in orders), 0, chosen, orders)


def measure_again(record: SessionRecord, sources: Sources | None = None) -> tuple[int, int]:
    """Size and sector in bytes of what a session of before has sent, as it is now. `OperatorError`."""
    looked = sources or Sources()
    if not record.parts:
        source = looked.resolve(record.source)
        return looked.size(source), looked.sector(source)
    found = [_order(Wish("", part.number, ""), part.image or part.source, looked) for part in record.parts]
    for before, now in zip(record.parts, found, strict=True):
        if (before.source, before.size) != (now.source, now.size):
            text = f"{before.image or before.source} is not what it was: {now.size} bytes now, {before.size} then"
            raise OperatorError(text, "make a new session: bootd restore", Exit.REFUSED)
    return sum(part.size for part in found), 0


def _order(wish: Wish, image: str, looked: Sources) -> PartOrder:
    text = wish.image or image
    path, separator, number = text.rpartition("#")
    if separator and number.isdigit() and not Path(text).exists():
        source = looked.resolve(path)
        start, size = partition_of(source, int(number), looked)
        return PartOrder(wish.number, f"{SLICE}{start}:{size}:{source}", size, f"{source}#{number}")
    source = looked.resolve(text)
    size = looked.size(source)
    if looked.sector(source):
        raise OperatorError(
            f"{text}: is an image of a whole disk, with a GPT",
            f"say {text}#N for its partition N",
            Exit.INPUT,
        )
    return PartOrder(wish.number, source, size, source)


def partition_of(source: str, number: int, looked: Sources | None = None) -> tuple[int, int]:
    """Start and size in bytes of partition ``number`` of the disk image ``source``; `OperatorError`."""
    looked = looked or Sources()
    size = looked.size(source)
    stored = looked.table(source)
    read = (
        read_table(source) if stored is None else _parsed(source, json.dumps({"partitiontable": stored}).encode())
    )
    entry = read.entry(number)
    if entry is None or entry not in read.contents:
        there = ", ".join(str(one.number) for one in read.contents) or "none"
        raise OperatorError(f"{source}: has no partition {number}", f"there are: {there}", Exit.INPUT)
    if entry.end * read.sector > size:
        raise OperatorError(
            f"{source}: partition {number} ends behind the end of it", "is the image whole?", Exit.INPUT
        )
    return entry.start * read.sector, entry.size * read.sector


def read_table(path: str) -> table.PartitionTable:
    """The partition table of the disk image at ``path``, as sfdisk reads it; `OperatorError`."""
    command = ["sfdisk", "--json", path]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SFDISK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperatorError(f"sfdisk: {error}", "install the package fdisk", Exit.ERROR) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise OperatorError(
            f"{path}: {said[-1] if said else 'sfdisk reads it not'}", "name a disk image", Exit.INPUT
        )
    found = _parsed(path, done.stdout)
    sector = sector_of(path)  # sfdisk takes every file for a disk with sectors of 512 bytes
    if sector not in (0, found.sector):
        text = f"{path}: a disk image with sectors of {sector} bytes"
        raise OperatorError(text, "partitions of such an image cannot be named yet", Exit.INPUT)
    return found


def _parsed(source: str, text: bytes) -> table.PartitionTable:
    try:
        return table.parse(text)
    except PeerProtocolError as error:
        raise OperatorError(
            f"{source}: {error}", "name a disk image with a DOS table or a GPT", Exit.INPUT
        ) from None
