"""Partitions as targets of a session: how an operator names them, and which ones a node's disks make of that.

Grammar of ``--part``: ``sda5`` (or ``nvme0n1p5``), or ``5`` beside a ``--disk``; ``=IMAGE`` behind it when it gets
an image of its own. All partitions of one session are on one disk, and are written in the order given.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bootd.errors import Exit, OperatorError
from bootd.session import trees
from bootd.session.effects import FilesOrder, LayoutOrder, PartOrder
from bootd.session.locks import choose_unlocked
from bootd.session.selector import Refusal, Selector, choose
from bootd.wire.control import DISKS, FILES, GROW, LAYOUT, PARTITIONS, Disk, Join, Lock, Partition, PartTarget
from bootd.wire.targets import content, exclusion, find, partition_name, problem

ANY_DISK = "*"  # of `LayoutOrder.erase`: only for a look at what would be erased
MAX_PARTS = 64  # of one session
_NAME = re.compile(r"(?:/dev/)?(?:([a-z]*[a-z])|([a-z][a-z0-9]*\d)p)?([1-9]\d{0,2})\Z")
_HINT = "say sda5, nvme0n1p5, or 5 with --disk; sda6=IMAGE for an image of its own"
_WORDS = {
    PARTITIONS: "partitions",
    LAYOUT: "layouts",
    GROW: "growth",
    FILES: "files",
    DISKS: "layouts of several disks",
}


@dataclass(frozen=True)
class Wish:
    """One ``--part``. ``disk`` and ``image`` may be ""."""

    disk: str  # kernel name
    number: int
    image: str


@dataclass(frozen=True)
class Choice:
    """What would be written on a node: a disk, or these partitions of it, or ``further`` disks besides."""

    disk: Disk
    parts: tuple[PartTarget, ...] = ()
    further: tuple[Disk, ...] = ()

    @property
    def disks(self) -> tuple[Disk, ...]:
        return self.disk, *self.further


def parse_wish(text: str) -> Wish:
    """One ``--part``; `OperatorError` (USAGE) when it names no partition."""
    name, _, image = text.partition("=")
    match = _NAME.match(name.strip())
    if match is None or ("=" in text and not image.strip()):
        raise OperatorError(f"--part {text!r} names no partition", _HINT, Exit.USAGE)
    return Wish(match[1] or match[2] or "", int(match[3]), image.strip())


def disk_of(wishes: Sequence[Wish], disk: str) -> str:
    """The disk selector that ``wishes`` and a ``--disk`` (may be "") mean together; `OperatorError` in doubt."""
    names = {wish.disk for wish in wishes}
    if len(wishes) > MAX_PARTS:
        raise OperatorError(f"{len(wishes)} partitions", f"say at most {MAX_PARTS} at once", Exit.USAGE)
    if len(names) > 1:
        raise OperatorError(
            "these partitions are on several disks", "one command for each disk: one session, one disk", Exit.USAGE
        )
    if len({wish.number for wish in wishes}) != len(wishes):
        raise OperatorError("a partition is named twice", "name each once", Exit.USAGE)
    (name,) = names or {""}
    if name and disk and disk != f"name={name}":
        raise OperatorError(
            f"--part names the disk {name}, --disk {disk}", "with --disk say the number alone", Exit.USAGE
        )
    if not name and not disk:
        raise OperatorError("which disk is not said", "say --part sda5, or --disk beside --part 5", Exit.USAGE)
    return disk or f"name={name}"


def choose_target(
    join: Join,
    selector: Selector,
    size: int,
    locks: Sequence[Lock],
    *,
    sector: int = 0,
    orders: Sequence[PartOrder] = (),
    needs: Sequence[str] = (),
    layout: LayoutOrder | None = None,
    is_written: bool = False,
    files: FilesOrder | None = None,
    written: Sequence[Disk] = (),
    further: Sequence[Selector] = (),
) -> Choice | Refusal:
    """What a session writes on the node that has joined so. There is no second choice.

    ``size``: bytes of the image; ``needs``: what its stage2 must know beside whole disks; ``layout``: the table
    that the disk gets first, only if it is empty, named there, or ``is_written`` by this session already.
    ``files``: likewise a layout and a tree; ``written``: disks that this session has begun to write;
    ``further``: selectors of the layout's other disks.
    """
    several = [DISKS] if further or selector.all_of else []
    wanted = [*needs, *several, *([PARTITIONS] if orders else []), *([LAYOUT] if layout else [])]
    missing = [_WORDS.get(need, need) for need in wanted if need not in join.abilities]
    if missing:
        return Refusal(f"its stage2 is older than this bootd and knows no {', '.join(missing)}: bootd stage build")
    if files is not None:
        chosen = trees.choose_disks(join, (selector, *further), files, locks, size=size, written=written)
        return chosen if isinstance(chosen, Refusal) else Choice(chosen[0], (), chosen[1:])
    if not orders:
        disk = choose_unlocked(join.disks, selector, size, locks, sector)
        return disk if isinstance(disk, Refusal) else Choice(disk)
    if layout is not None:
        return _choose_place(join.disks, selector, orders, locks, layout=layout, is_written=is_written)
    return _choose_parts(join.disks, selector, orders, locks)


def _choose_place(
    disks: Sequence[Disk],
    selector: Selector,
    orders: Sequence[PartOrder],
    locks: Sequence[Lock],
    *,
    layout: LayoutOrder,
    is_written: bool,
) -> Choice | Refusal:
    """The disk that gets the layout, and the partitions that there will be then."""
    disk = choose_unlocked(disks, selector, layout.least, locks, layout.sector)
    if isinstance(disk, Refusal):
        return disk
    what = content(disk)
    may_erase = is_written or layout.erase in (ANY_DISK, disk.serial or disk.wwn or disk.name)
    if what and not may_erase:
        return Refusal(f"{disk.name} is not empty: {what}; it is erased only when that is confirmed in words")
    places = [Partition(order.number, order.room, "", "", "", order.start) for order in orders]
    targets = zip(places, orders, strict=True)
    return Choice(disk, tuple(PartTarget(place, order.size) for place, order in targets))


def _choose_parts(
    disks: Sequence[Disk], selector: Selector, orders: Sequence[PartOrder], locks: Sequence[Lock]
) -> Choice | Refusal:
    """The disk that ``selector`` means, and on it every partition of ``orders``: all of them or none."""
    judged = [replace(disk, excluded=exclusion(disk)) for disk in disks]
    chosen = choose(judged, selector, 0)
    if isinstance(chosen, Refusal):
        return chosen
    disk = disks[next(index for index, one in enumerate(judged) if one is chosen)]
    parts = []
    for order in orders:
        partition = find(disk, order.number)
        if partition is None:
            there = ", ".join(str(other.number) for other in disk.partitions) or "none"
            return Refusal(f"{disk.name} has no partition {order.number}; there are: {there}")
        target = PartTarget(partition, order.size)
        why_not = problem(target, disk, disks, locks)
        if why_not:
            return Refusal(why_not)
        if partition.used and not selector.names_one:
            name = partition_name(disk.name, partition.number)
            return Refusal(f"{name} holds something of another system ({partition.used}): name its disk by serial")
        parts.append(target)
    return Choice(disk, tuple(parts))
