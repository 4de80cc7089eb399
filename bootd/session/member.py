"""What a session knows about each of its members, and the order in which bytes pass through them."""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bootd.session.nodes import Node
from bootd.session.states import LIVE, Standing
from bootd.wire.control import Address, Arrange, Disk, Report


@dataclass(frozen=True)
class Image:
    """What the head found in the source. Sizes in bytes."""

    root: str  # hex, the image's identity
    size: int
    chunk_size: int


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
    address: Address | None = None  # where successors dial, once READY
    reason: str = ""
    attempts: int = 0  # failed ones
    refusals: int = 0  # joins that ended in a refusal
    report: Report | None = None  # the last one of this attempt
    former: Report | None = None  # the last one of the attempt before
    arranged: Arrange | None = None  # the place in force; None = not in the chain
    aside: bool = False  # fed by the head directly, nobody behind it
    moved: float = 0.0  # when its bytes last grew, or its place changed
    accused_by: set[str] = field(default_factory=set)  # members that could not receive from it
    phases: Phases = field(default_factory=Phases)

    @property
    def live(self) -> bool:
        return self.standing in LIVE

    def counter(self, name: str) -> int:
        """``written``, ``durable``, ``verified``, ``rate`` or ``sent`` of the last report, else 0."""
        return int(getattr(self.report, name)) if self.report else 0


def by_address(members: Iterable[Member]) -> list[Member]:
    """In the order of their IPv4 addresses as numbers: neighbours in a room are mostly neighbours on a switch."""

    def key(member: Member) -> tuple[int, str]:
        host = member.address.host if member.address else "0.0.0.0"
        return int(ipaddress.IPv4Address(host)), member.node.mac

    return sorted(members, key=key)


class Chain:
    """The order head -> first -> ... -> tail, and the members set aside, which the head feeds directly.

    Holds members, not links: who follows whom changes only by `arrange`, and every change has an epoch of its own.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._line: list[Member] = []

    def __iter__(self) -> Iterator[Member]:
        return iter(self._line)

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, member: Member) -> bool:
        return any(own is member for own in self._line)

    def append(self, members: Iterable[Member]) -> None:
        self._line += [member for member in members if member not in self]

    def remove(self, member: Member) -> None:
        self._line = [own for own in self._line if own is not member]
        member.arranged = None

    def arrange(self, session: str, head_node: str, head: Address, now: float) -> list[Arrange]:
        """The next epoch: a place for the head, then one for each member, in the order of the chain.

        Everybody gets the new epoch, also where the predecessor stays the same: a link is fenced by its epoch,
        and a member whose predecessor has not changed keeps the link that it has.
        """
        self.epoch += 1
        places = [Arrange(session, self.epoch, None, "")]
        previous_node, previous = head_node, head
        for member in self._line:
            source_node, source = (head_node, head) if member.aside else (previous_node, previous)
            place = Arrange(session, self.epoch, source, source_node)
            before = member.arranged
            if before is None or (before.predecessor, before.predecessor_node) != (source, source_node):
                member.moved = now
            member.arranged = place
            if member.phases.arranged is None:
                member.phases.arranged = now
            places.append(place)
            if not member.aside and member.address is not None:
                previous_node, previous = member.node.mac, member.address
        return places
