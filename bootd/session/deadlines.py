"""Which member is late, and whose fault it is: pure decisions on the state of a chain."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bootd.session.member import Member
from bootd.session.plan import Limits
from bootd.session.states import Standing


class Remedy(Enum):
    DROP = "drop"  # the session goes on without the member
    CONFIRM = "confirm"  # counts as done
    SET_ASIDE = "set aside"  # the head feeds it directly


@dataclass(frozen=True)
class Late:
    """``member`` is late. ``standing`` and ``reason`` are those it gets."""

    member: Member
    remedy: Remedy
    standing: Standing
    reason: str
    accused: Member | None = None  # from whom it could not receive


def find_late(member: Member, limits: Limits, now: float) -> Late | None:
    """Whether a live ``member`` has missed a deadline of its own: silence, READY, or the end."""
    finish = member.phases.finish
    if finish is not None:
        if now - finish <= limits.finish:
            return None
        if member.standing is Standing.FINISHING:
            reason = "verified and finished; its reboot was not reported"
            return Late(member, Remedy.CONFIRM, Standing.DONE, reason)
        return Late(member, Remedy.DROP, Standing.LOST, "verified, but it never confirmed the end")
    if now - member.heard > limits.silence:
        before = "verified, then " if member.standing is Standing.VERIFIED else ""
        return Late(member, Remedy.DROP, Standing.LOST, f"{before}silent for {limits.silence:g} s")
    planned = member.phases.planned
    if member.standing is Standing.PREPARING and planned is not None and now - planned > limits.ready:
        return Late(member, Remedy.DROP, Standing.EVICTED, f"not ready within {limits.ready:g} s")
    return None


def find_stall(member: Member, members: Mapping[str, Member], limits: Limits, now: float) -> Late | None:
    """Whether ``member`` gets nothing although its predecessor has something to give, and who is to go.

    First the head feeds it directly, so that it holds nobody up; if that does not help it is evicted. A
    predecessor from which two different members could not receive is evicted itself.
    """
    place = member.arranged
    if (
        place is None
        or member.standing not in (Standing.READY, Standing.RECEIVING)
        or member.phases.durable is not None
        or now - member.moved < limits.stall
    ):
        return None
    trouble = member.report.trouble if member.report else ""
    reason = f"no progress for {limits.stall:g} s{': ' + trouble if trouble else ''}"
    source = members.get(place.predecessor_node)
    if source is None:
        return Late(member, Remedy.DROP, Standing.EVICTED, reason)
    if source.counter("durable") <= member.counter("durable"):
        return None
    if source.accused_by - {member.node.mac}:
        return Late(source, Remedy.DROP, Standing.EVICTED, "two members could not receive from it")
    return Late(member, Remedy.SET_ASIDE, member.standing, reason, source)
