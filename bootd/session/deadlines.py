"""Which member is late, and whose fault it is: pure decisions on the state of a chain."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bootd.session.arrangement import Arrangement
from bootd.session.member import Member
from bootd.session.plan import Limits
from bootd.session.states import Standing

BLOCKED = 500  # milliseconds of a second in which a member waits for its own disk
LAG_SECONDS = 3.0  # of its own rate that a slow member is behind its predecessor
LEAST_LAG = 8 << 20  # bytes


class Remedy(Enum):
    DROP = "drop"  # the session goes on without the member
    CONFIRM = "confirm"  # counts as done
    FEED_BY_HEAD = "feed by head"  # it could not receive from its predecessor
    MOVE_LAST = "move last"  # to the end, where it holds nobody up


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
    if member.release_at is not None:
        return None  # verified, and its turn to finish has not come: then it has a deadline
    if now - member.heard > limits.silence:
        before = "verified, then " if member.standing is Standing.VERIFIED else ""
        return Late(member, Remedy.DROP, Standing.LOST, f"{before}silent for {limits.silence:g} s")
    if member.standing is Standing.PREPARING and now - member.moved > limits.ready:
        return Late(member, Remedy.DROP, Standing.EVICTED, f"not ready within {limits.ready:g} s")
    return None


def find_slow(arrangement: Arrangement, limits: Limits, now: float) -> Late | None:
    """Whether a member has held up those behind it for too long; it is to go to the end.

    It holds them up while its own disk keeps it from receiving, or its predecessor has much more than it takes, and
    its followers have all that it can give them. Where every disk is equally slow the next one would be found slow
    after it: so at most a quarter of all are moved, and never one behind which all are slow.
    """
    members = list(arrangement)
    moved = sum(member.is_slow for member in members)
    found = None
    for member in members:
        if not _holds_up(member, arrangement):
            member.slow_since = None
        elif member.slow_since is None:
            member.slow_since = now
        elif found is None and now - member.slow_since >= limits.slow:
            found = member
    if found is None or (not found.is_slow and moved >= max(1, len(members) // 4)):
        return None
    if all(member.is_slow for member in arrangement.below(found)):
        return None
    return Late(found, Remedy.MOVE_LAST, found.standing, f"it has held up others for {limits.slow:g} s")


def _holds_up(member: Member, arrangement: Arrangement) -> bool:
    report, followers = member.report, arrangement.followers_of(member)
    if report is None or member.aside or not followers or member.standing is not Standing.RECEIVING:
        return False
    if member.phases.durable is not None:
        return False
    source = arrangement.source_of(member)
    behind = source.counter("written") - report.written if source is not None else 0
    is_full = report.blocked >= BLOCKED
    if not is_full and behind < max(LEAST_LAG, int(LAG_SECONDS * report.rate)):
        return False
    return all(own.counter("written") + LEAST_LAG >= report.written for own in followers if not own.aside)


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
    if source.accused_by:
        return Late(member, Remedy.DROP, Standing.EVICTED, reason)
    return Late(member, Remedy.FEED_BY_HEAD, member.standing, reason, source)
