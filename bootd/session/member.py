"""What a session knows about each of its members."""

from dataclasses import dataclass, field

from bootd.session.nodes import Node
from bootd.session.states import LIVE, Standing
from bootd.wire.control import Address, Arrange, Disk, Lock, MemberState, PartTarget, Report

ECHO_SECONDS = 3.0


@dataclass(frozen=True)
class Image:
    """What the head found in the source. Sizes in bytes."""

    root: str  # hex, the image's identity
    size: int
    chunk_size: int
    phases: int = 1


@dataclass
class Phases:
    """When a member reached each phase, monotonic seconds; None = not yet."""

    planned: float | None = None  # Prepare sent
    ready: float | None = None
    arranged: float | None = None
    durable: float | None = None  # every byte
    verified: float | None = None
    finish: float | None = None  # Finish sent
    ended: float | None = None  # done or gone


@dataclass
class Member:
    """One node in one session."""

    node: Node
    standing: Standing
    heard: float  # monotonic seconds
    disk: Disk | None = None
    further: tuple[Disk, ...] = ()  # disks that are written beside it, in the order of the layout
    parts: tuple[PartTarget, ...] = ()  # of that disk, which alone are written; () = the disk
    locks: tuple[Lock, ...] = ()  # of the node, that its plan carries
    address: Address | None = None  # where successors dial, once READY
    reason: str = ""
    attempts: int = 0  # failed ones
    refusals: int = 0  # joins that ended in a refusal
    report: Report | None = None  # the last one of this attempt
    former: Report | None = None  # the last one of the attempt before
    arranged: Arrange | None = None  # the place in force; None = not in the chain
    aside: bool = False  # fed by the head, nobody behind it
    is_slow: bool = False  # it held up others and was moved to the end
    moved: float = 0.0  # when its bytes last grew, or its place changed
    compares: bool = False  # its plan says to digest the target first
    saved: frozenset[int] = frozenset()  # of ``disks``: the server holds old table and both ends, of this attempt
    begun: bool = False  # has written to its target in this session, maybe in an earlier attempt
    release_at: float | None = None  # when it is its turn to be told to finish
    is_restored: bool = False  # known from the journal only: not heard of since the daemon started
    slow_since: float | None = None  # since when it holds others up
    troubles: set[str] = field(default_factory=set)  # what it has said about neighbours, each told once
    accused_by: set[str] = field(default_factory=set)  # members that could not receive from it
    phases: Phases = field(default_factory=Phases)

    @property
    def live(self) -> bool:
        return self.standing in LIVE

    @property
    def disks(self) -> tuple[Disk, ...]:
        """All that its plan names."""
        return (self.disk, *self.further) if self.disk is not None else ()

    @property
    def is_saved(self) -> bool:
        """Whether the server holds the way back for each of its disks: before that a node writes to none."""
        return self.disk is not None and self.saved >= set(range(len(self.disks)))

    @property
    def is_written(self) -> bool:
        """Whether its disk may hold bytes of this session."""
        return self.begun or self.phases.arranged is not None

    @property
    def counts(self) -> bool:
        """Whether the session has to answer for it: not for one that was taken out before anything was written."""
        return self.is_written or self.standing is not Standing.EJECTED

    def begin(self, now: float) -> None:
        """A new attempt: of the one before only what is on the disk counts."""
        self.standing, self.heard, self.reason = Standing.PREPARING, now, ""
        self.former, self.report = self.report, None
        self.saved = frozenset()
        self.address, self.arranged, self.aside = None, None, False
        self.accused_by.clear()
        self.phases, self.moved = Phases(planned=now), now
        self.is_restored, self.is_slow, self.slow_since = False, False, None

    def is_echo(self, report: Report, now: float) -> bool:
        """Whether the report still tells of the end of the last attempt: heartbeats and joins are requests of their
        own, so a heartbeat may overtake the join that began the new attempt. One that goes on counts."""
        planned = self.phases.planned
        is_fresh = self.report is None and planned is not None and now - planned < ECHO_SECONDS
        return is_fresh and report.state in (MemberState.FAILED, MemberState.REFUSED) and report == self.former

    def counter(self, name: str) -> int:
        """A number of the last report, by the name of its field; 0 before the first."""
        return int(getattr(self.report, name)) if self.report else 0
