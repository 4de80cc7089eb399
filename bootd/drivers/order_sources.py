"""What an operator orders, made ready for the coordinator: images are opened, measured and cut into parts."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootd.drivers import source
from bootd.errors import Exit, OperatorError
from bootd.session.effects import PartOrder, SessionRecord
from bootd.session.parts import Wish, disk_of, parse_wish
from bootd.wire import table
from bootd.wire.errors import PeerProtocolError

SFDISK_SECONDS = 30.0


@dataclass(frozen=True)
class Measured:
    """Sizes in bytes. ``disk``: the selector."""

    size: int
    sector: int
    disk: str
    parts: tuple[PartOrder, ...]


def measure(image: str, disk: str, parts: Sequence[str]) -> Measured:
    """Look at everything that would be sent. Reads files: call it in a thread. `OperatorError`.

    ``parts``: see `bootd.session.parts`; () = the whole disk.
    """
    if not parts:
        if not disk:
            raise OperatorError("which disk is not said", "say --disk only, or --disk serial=…", Exit.USAGE)
        return Measured(source.measure(image), source.sector_of(image), disk, ())
    wishes = [parse_wish(text) for text in parts]
    chosen = disk_of(wishes, disk)
    orders = tuple(_order(wish, image) for wish in wishes)
    return Measured(sum(order.size for order in orders), 0, chosen, orders)


def measure_again(record: SessionRecord) -> tuple[int, int]:
    """Size and sector in bytes of what a session of before has sent, as it is now. `OperatorError`."""
    if not record.parts:
        return source.measure(record.source), source.sector_of(record.source)
    found = [_order(Wish("", part.number, ""), part.image or part.source) for part in record.parts]
    for before, now in zip(record.parts, found, strict=True):
        if (before.source, before.size) != (now.source, now.size):
            text = f"{before.image or before.source} is not what it was: {now.size} bytes now, {before.size} then"
            raise OperatorError(text, "make a new session: bootd restore", Exit.REFUSED)
    return sum(part.size for part in found), 0


def _order(wish: Wish, image: str) -> PartOrder:
    text = wish.image or image
    path, separator, number = text.rpartition("#")
    if separator and number.isdigit() and not Path(text).exists():
        start, size = partition_of(path, int(number))
        return PartOrder(wish.number, f"slice:{start}:{size}:{path}", size, text)
    size = source.measure(text)
    if source.sector_of(text):
        raise OperatorError(
            f"{text}: is an image of a whole disk, with a GPT",
            f"say {text}#N for its partition N",
            Exit.INPUT,
        )
    return PartOrder(wish.number, text, size, text)


def partition_of(path: str, number: int) -> tuple[int, int]:
    """Start and size in bytes of partition ``number`` of the disk image at ``path``; `OperatorError`."""
    size = source.measure(path)
    read = read_table(path)
    entry = read.entry(number)
    if entry is None or entry not in read.contents:
        there = ", ".join(str(one.number) for one in read.contents) or "none"
        raise OperatorError(f"{path}: has no partition {number}", f"there are: {there}", Exit.INPUT)
    if entry.end * read.sector > size:
        raise OperatorError(
            f"{path}: partition {number} ends behind the end of the file", "is the image whole?", Exit.INPUT
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
    try:
        found = table.parse(done.stdout)
    except PeerProtocolError as error:
        raise OperatorError(f"{path}: {error}", "name a disk image with a DOS table or a GPT", Exit.INPUT) from None
    sector = source.sector_of(path)  # sfdisk takes every file for a disk with sectors of 512 bytes
    if sector not in (0, found.sector):
        text = f"{path}: a disk image with sectors of {sector} bytes"
        raise OperatorError(text, "partitions of such an image cannot be named yet", Exit.INPUT)
    return found
