"""What a session is asked to do, and the deadlines it works under."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bootd.session.effects import Binding, FilesOrder, LayoutOrder, PartOrder
from bootd.session.selector import Selector
from bootd.wire.control import FILES, GROW, LAYOUT


@dataclass(frozen=True)
class Limits:
    """Deadlines in seconds, how often a node may fail, and what is asked of it before it may write."""

    silence: float = 8.0  # a member or head not heard of for so long is lost
    ready: float = 60.0  # from plan to READY; from start of the head to its first report
    stall: float = 60.0  # no byte written for so long, though the predecessor has some to give
    finish: float = 60.0  # from Finish to the report of the reboot
    rejoin: float = 60.0  # a session without a live member waits so long for one to come back
    once: float = 120.0  # a boot that uses a one-shot label may ask for it again so long (loaders ask twice)
    slow: float = 5.0  # a member that holds others up for so long goes to a side lane
    head_starts: int = 3  # processes of a head in one session
    attempts: int = 5  # failed attempts of a node before it is parked
    saves: bool = True  # no node is ready before the server holds the old table of its disk


@dataclass(frozen=True)
class SessionPlan:
    """What an operator asked for, checked."""

    id: str  # 8 hex digits
    name: str
    source: str  # path
    source_size: int  # bytes
    nodes: frozenset[str] | None  # MACs; None = any
    selector: Selector
    label: str
    after: str  # "reboot" or "stay"
    join_token: str  # hex
    head_token: str  # hex
    fan_out: int = 1  # followers of each member: 1 is a chain, up to 4 a tree
    order: str = "ip"  # of the members: see `arrangement.in_order`
    compare: bool = False  # targets are digested first, and only what differs is sent
    zeros: str = "write"  # or "discard": how chunks of zeros reach the target
    keep_open: float = 0.0  # seconds after the last node is verified in which another may still join
    source_sector: int = 0  # bytes of a sector that the source was made for; 0 = not known
    without: frozenset[str] = frozenset()  # MACs that ``any`` leaves out
    flip_default: bool = True  # a default label that is the session's becomes "local" when it has cloned
    who: str = ""  # who ordered it
    parts: tuple[PartOrder, ...] = ()  # only these partitions are written, in this order; () = the disk
    grow: bool = False  # the last partition fills a larger disk afterwards
    order_of_layout: LayoutOrder | None = None  # the table that is written first; None = that of the disk stays
    delay: float = 0.0  # seconds between two nodes that are told to finish
    start_at: float = 0.0  # seconds since the epoch; 0 = at once
    wake: bool = False  # its nodes are switched on at that time
    parent: str = ""  # id of the session whose plan this one carries out again
    image_root: str = ""  # of the parent: the source must still hold this image; "" = any
    bindings: Mapping[str, Binding] = field(default_factory=dict)  # by MAC: the disk that the parent had planned
    files: FilesOrder | None = None  # the source is an archive, unpacked onto a disk with this scheme
    further: tuple[Selector, ...] = ()  # of the scheme's other disks

    @property
    def disks(self) -> str:
        """The selectors, as an operator reads them."""
        return " and ".join(one.text for one in (self.selector, *self.further))

    @property
    def sources(self) -> tuple[str, ...]:
        """What the head opens, in order."""
        return tuple(part.source for part in self.parts) or (self.source,)

    @property
    def needs(self) -> tuple[str, ...]:
        """What a node's stage2 must know of plans."""
        wanted = {GROW: self.grow, LAYOUT: self.order_of_layout, FILES: self.files}
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)

    @property
    def layout(self) -> str:
        """Path of the layout, "" for none."""
        return self.order_of_layout.source if self.order_of_layout else ""

    @property
    def layout_digest(self) -> str:
        return self.order_of_layout.digest if self.order_of_layout else ""
