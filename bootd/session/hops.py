"""Where bytes queue up on their way: the links between members, and the slowest of them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from bootd.session.session import Session

CLEARLY = 10  # a lag grows when the predecessor is faster by more than one part in so many


@dataclass(frozen=True)
class Hop:
    """The link from ``source`` to ``node`` (MACs, or the head's name). Bytes, bytes per second, seconds."""

    source: str
    node: str
    lag: int  # durable at the source, not yet at the node; the head has everything
    rate: int  # at which the node receives
    source_rate: int  # at which the source itself receives; 0 when it has everything
    is_receiving: bool
    is_aside: bool  # in a side lane: nobody waits for it
    total: int = 0  # of the source
    taken: float = 0.0  # from its first place to its last durable byte; 0 until then

    @property
    def growth(self) -> int:
        """Bytes per second by which the lag grows."""
        return self.source_rate - self.rate

    @property
    def catch_up(self) -> float | None:
        """Seconds that the lag is worth at the present rate; None while nothing flows."""
        return self.lag / self.rate if self.rate else None


def hops(session: Session) -> list[Hop]:
    """One for each member that has, or had, a place."""
    found = []
    for member in session.members.values():
        place, phases = member.arranged, member.phases
        if place is None:
            continue
        source = session.members.get(place.predecessor_node)
        if source is not None:
            has, source_rate = source.counter("durable"), source.counter("rate")
        else:
            has, source_rate = (session.image.size if session.image else 0), 0
        taken = phases.durable - phases.arranged if phases.durable and phases.arranged else 0.0
        found.append(
            Hop(
                source=place.predecessor_node,
                node=member.node.mac,
                lag=max(0, has - member.counter("durable")),
                rate=member.counter("rate"),
                source_rate=source_rate,
                is_receiving=member.live and phases.durable is None,
                is_aside=member.aside,
                total=session.image.size if session.image else 0,
                taken=taken,
            )
        )
    return found


def slowest(candidates: Sequence[Hop]) -> Hop | None:
    """The hop that holds up the most; None when there is none.

    Members go on receiving whatever their followers do, so above the slowest hop bytes flow faster than below it:
    while they flow it is the hop whose lag grows fastest. Where no lag clearly grows everybody runs at one rate,
    which is that of the hop with most bytes waiting before it: mostly the one from the head. Once all is durable it
    is the hop that took longest. A node in a side lane holds nobody up, so it is named only when no other receives.
    """
    if not candidates:
        return None
    receiving = [hop for hop in candidates if hop.is_receiving]
    receiving = [hop for hop in receiving if not hop.is_aside] or receiving
    if not receiving:
        return max(candidates, key=lambda hop: hop.taken)
    worst = max(receiving, key=lambda hop: hop.growth)
    if worst.growth * CLEARLY > worst.source_rate:
        return worst
    return max(receiving, key=lambda hop: hop.lag)
