"""Whether a session has whom it needs: to start, to go on, to wait for. Pure."""

from collections.abc import Iterable

from bootd.session.member import Member
from bootd.session.states import OUTSIDE, RESUMABLE, Standing


def starters(members: Iterable[Member], expect: int, *, start_now: bool) -> list[Member]:
    """Those that a waiting session starts with; [] while it must wait.

    Nodes that were refused, failed or were lost count towards ``expect``; those outside count for nothing. With
    ``start_now`` whoever is ready is enough, once nobody is being prepared.
    """
    inside = [member for member in members if member.standing not in OUTSIDE]
    ready = [member for member in inside if member.standing is Standing.READY]
    settled = sum(not member.live for member in inside)
    is_preparing = any(member.standing is Standing.PREPARING for member in inside)
    is_enough = len(ready) + settled >= expect or (start_now and not is_preparing)
    return ready if is_enough else []


def is_deserted(members: Iterable[Member], expect: int, *, is_begun: bool) -> bool:
    """Whether all of those that had come are gone. ``is_begun``: more need not come."""
    there = list(members)
    return bool(there) and not any(member.live for member in there) and (is_begun or len(there) >= max(1, expect))


def is_hopeful(members: Iterable[Member]) -> bool:
    """Whether one of them may come back."""
    return any(member.standing in RESUMABLE | OUTSIDE for member in members)
