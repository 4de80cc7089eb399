"""What an operator orders, made ready for the coordinator: images are opened, measured and cut into parts."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bootd.drivers.source import Sources, sector_of
from bootd.errors import Exit, OperatorError
from bootd.session import selector, trees
from bootd.session.effects import FilesOrder, LayoutOrder, PartOrder, SessionRecord
from bootd.session.parts import Wish, disk_of, parse_wish
from bootd.wire import table
from bootd.wire.errors import PeerProtocolError
from bootd.wire.layout import MAX_GAP, digest, encode, gap_end
from bootd.wire.layout import decode as decode_layout
from bootd.wire.scheme.model import Scheme, SchemeError
from bootd.wire.scheme.text import parse as parse_layout
from bootd.wire.stored import IMAGE, SLICE
from bootd.wire.table import as_object

SFDISK_SECONDS = 30.0
SOURCE = "@source"  # as a layout: like that of the machine that the tree is from


@dataclass(frozen=True)
class Measured:
    """Sizes in bytes. ``disk``: the selector; ``source``: what is sent, as sessions and their journal write it."""

    source: str
    size: int
    sector: int
    disk: str
    parts: tuple[PartOrder, ...]
    layout: LayoutOrder | None = None
    files: FilesOrder | None = None


@dataclass(frozen=True)
class FilesWish:
    """What an operator says of a tree of files. ``scheme``: text of a layout (`bootd.wire.scheme`), or "@source";
    ``layout``: its name, for people."""

    scheme: str
    layout: str
    exclude: tuple[str, ...] = ()
    loader: str = "grub"
    modules: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()  # steps of customise
    boot_code: bytes = b""
    hooks: tuple[tuple[str, str], ...] = ()  # name and content of scripts
    erase: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()


def measure_files(image: str, disk: str, wish: FilesWish, looked: Sources, *, further: int = 0) -> Measured:
    """As `measure`, of an image of files. ``further``: how many disks are selected beside ``disk``."""
    if not disk:
        raise OperatorError("which disk is not said", "say --disk only, or --disk serial=…", Exit.USAGE)
    source = looked.resolve(image)
    tree = looked.tree(source)
    if tree is None:
        raise OperatorError(
            f"{image}: is an image of bytes, not of files",
            "its own table comes with it: leave --layout out; or a table for it: bootd init --layout",
            Exit.INPUT,
        )
    try:
        scheme = trees.scheme_of(tree) if wish.scheme == SOURCE else parse_layout(wish.scheme)
        _check_count(scheme, disk, further, wish.layout)
        if wish.boot_code:
            scheme = replace(scheme, boot_code=wish.boot_code)
        order = trees.make_order(
            tree,
            scheme,
            wish.layout,
            exclude=wish.exclude,
            loader=wish.loader,
            modules=wish.modules,
            skip=wish.skip,
            hooks=wish.hooks,
            erase=wish.erase,
            protect=wish.protect,
        )
    except (trees.TreeError, SchemeError) as error:
        raise OperatorError(f"{wish.layout}: {error}", "bootd layout check FILE", Exit.INPUT) from None
    return Measured(source, looked.size(source), 0, disk, (), None, order)


def _check_count(scheme: Scheme, disk: str, further: int, layout: str) -> None:
    """`OperatorError` unless the disks that are selected are as many as the layout has."""
    chosen = selector.parse(disk, several=True)
    if chosen.all_of:
        if further:
            raise OperatorError("all-of stands for all disks of a layout", "say --disk once", Exit.USAGE)
        if not trees.treats_alike(scheme):
            text = f"{layout}: its disks differ, and all-of does not say which is which"
            raise OperatorError(text, "say --disk for each of them, in the layout's order", Exit.USAGE)
    elif 1 + further != scheme.disks:
        text = f"{layout}: the layout is for {scheme.disks} disks, --disk names {1 + further}"
        raise OperatorError(text, "say --disk once for each, in the layout's order", Exit.USAGE)


def refuse_files(image: str, source: str, looked: Sources) -> None:
    """`OperatorError` when ``source`` is an image of files: as bytes it means nothing to a disk."""
    if looked.tree(source) is not None:
        raise OperatorError(
            f"{image}: is an image of files: a disk needs a layout for them",
            f"say: bootd deploy {image} NODES --disk SELECTOR --layout FILE (or --layout @source)",
            Exit.INPUT,
        )


def measure(
    image: str,
    disk: str,
    parts: Sequence[str],
    layout: str = "",
    *,
    erase: str = "",
    looked: Sources | None = None,
) -> Measured:
    """Look at everything that would be sent. Reads files: call it in a thread. `OperatorError`.

    ``parts``: see `bootd.session.parts`; () = the whole disk. ``layout``: file of the table that is written first;
    ``erase``: see `LayoutOrder`.
    """
    looked = looked or Sources()
    if layout:
        return _measure_layout(image, looked.resolve(layout), disk, parts, erase=erase, looked=looked)
    if not parts:
        if not disk:
            raise OperatorError("which disk is not said", "say --disk only, or --disk serial=…", Exit.USAGE)
        source = looked.resolve(image)
        refuse_files(image, source, looked)
        return Measured(source, looked.size(source), looked.sector(source), disk, ())
    wishes = [parse_wish(text) for text in parts]
    chosen = disk_of(wishes, disk)
    orders = tuple(_order(wish, image, looked) for wish in wishes)
    return Measured(orders[0].image, sum(order.size for order in orders), 0, chosen, orders)


def _measure_layout(
    image: str, path: str, disk: str, parts: Sequence[str], *, erase: str, looked: Sources
) -> Measured:
    """A table, and what goes onto its partitions: what ``parts`` say, else all that the disk image has there."""
    if not disk:
        raise OperatorError("which disk is not said", "say --disk only, or --disk serial=…", Exit.USAGE)
    data = layout_of(path, looked)
    found = decode_layout(data)
    if parts:
        wishes = [parse_wish(text) for text in parts]
        if any(wish.disk or not wish.image for wish in wishes):
            raise OperatorError("with a layout each --part is N=IMAGE", "say --part 5=IMAGE", Exit.USAGE)
        orders = [_order(wish, "", looked) for wish in wishes]
    elif found.start:
        wishes = [Wish("", entry.number, f"{path}#{entry.number}") for entry in found.table.contents]
        orders = [_order(wish, "", looked) for wish in wishes]
    else:
        raise OperatorError(
            f"{path}: is a table alone: nothing says what goes onto its partitions",
            "say --part 1=IMAGE, or name a disk image",
            Exit.USAGE,
        )
    placed = tuple(_placed(order, found.table, path) for order in orders)
    if len({order.number for order in placed}) != len(placed):
        raise OperatorError("a partition is named twice", "name each once", Exit.USAGE)
    table_order = LayoutOrder(path, digest(data), found.table.sector, found.table.least, erase)
    source = looked.resolve(image) if image else placed[0].image
    return Measured(source, sum(order.size for order in placed), found.table.sector, disk, placed, table_order)


def _placed(order: PartOrder, found: table.PartitionTable, path: str) -> PartOrder:
    entry = next((one for one in found.contents if one.number == order.number), None)
    if entry is None:
        there = ", ".join(str(one.number) for one in found.contents) or "none"
        raise OperatorError(f"{path}: has no partition {order.number}", f"there are: {there}", Exit.INPUT)
    room = entry.size * found.sector
    if order.size > room:
        raise OperatorError(
            f"{order.image}: has {order.size} bytes, partition {order.number} of the layout {room}",
            "name a smaller image, or another layout",
            Exit.INPUT,
        )
    return replace(order, start=entry.start * found.sector, room=room)


def layout_of(path: str, looked: Sources | None = None) -> bytes:
    """The encoded layout in the file or the image of the store ``path``: what ``sfdisk --json`` printed, or that of
    a disk image with its boot code and gap. `OperatorError`."""
    looked = looked or Sources()
    head = looked.head(path, MAX_GAP)
    is_text = head.lstrip()[:1] == b"{" and b"partitiontable" in head
    try:
        read = table.parse(head) if is_text else read_table(path, looked)
        data = encode(as_object(read), b"" if is_text else head[: gap_end(read)])
        decode_layout(data)
    except PeerProtocolError as error:
        raise OperatorError(
            f"{path}: {error}", "name a disk image, or what sfdisk --json printed", Exit.INPUT
        ) from None
    return data


def measure_again(record: SessionRecord, looked: Sources) -> tuple[int, int]:
    """Size and sector in bytes of what a session of before has sent, as it is now. `OperatorError`."""
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
    refuse_files(text, source, looked)
    size = looked.size(source)
    if looked.sector(source):
        raise OperatorError(
            f"{text}: is an image of a whole disk, with a GPT",
            f"say {text}#N for its partition N",
            Exit.INPUT,
        )
    return PartOrder(wish.number, source, size, source)


def partition_of(path: str, number: int, looked: Sources) -> tuple[int, int]:
    """Start and size in bytes of partition ``number`` of the disk image ``path``; `OperatorError`."""
    size = looked.size(path)
    read = read_table(path, looked)
    entry = read.entry(number)
    if entry is None or entry not in read.contents:
        there = ", ".join(str(one.number) for one in read.contents) or "none"
        raise OperatorError(f"{path}: has no partition {number}", f"there are: {there}", Exit.INPUT)
    if entry.end * read.sector > size:
        raise OperatorError(
            f"{path}: partition {number} ends behind the end of the file", "is the image whole?", Exit.INPUT
        )
    return entry.start * read.sector, entry.size * read.sector


def read_table(path: str, looked: Sources) -> table.PartitionTable:
    """The partition table of the disk image ``path``, as sfdisk reads it, or read it when the image was made;
    `OperatorError`."""
    if path.startswith(IMAGE):
        stored = looked.table(path)
        if stored is None:
            raise OperatorError(f"{path}: has no partition table", "name the image of a disk", Exit.INPUT)
        return _parsed(path, json.dumps({"partitiontable": stored}).encode())
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


def _parsed(path: str, text: bytes) -> table.PartitionTable:
    try:
        return table.parse(text)
    except PeerProtocolError as error:
        raise OperatorError(f"{path}: {error}", "name a disk image with a DOS table or a GPT", Exit.INPUT) from None
