"""States of a session and of a node in it: enums, and the table of what may follow what."""

from enum import Enum

from bootd.wire.control import MemberState
from bootd.wire.errors import LocalProtocolError


class SessionState(Enum):
    SCHEDULED = "scheduled"  # its time has not come: nobody is asked for anything
    PREPARING = "preparing"  # the head digests the source
    WAITING = "waiting"  # nodes gather
    RUNNING = "running"  # the chain is arranged, bytes flow
    FINISHING = "finishing"  # everybody left is verified and was told to finish
    DONE = "done"  # every node is cloned
    PARTLY = "partly"  # some nodes are cloned
    FAILED = "failed"  # none is
    CANCELLED = "cancelled"  # by an operator


_ENDED = {SessionState.DONE, SessionState.PARTLY, SessionState.FAILED, SessionState.CANCELLED}
_NEXT: dict[SessionState, set[SessionState]] = {
    SessionState.SCHEDULED: {SessionState.PREPARING, SessionState.FAILED, SessionState.CANCELLED},
    SessionState.PREPARING: {SessionState.WAITING, SessionState.FAILED, SessionState.CANCELLED},
    SessionState.WAITING: {SessionState.RUNNING, SessionState.FAILED, SessionState.CANCELLED},
    SessionState.RUNNING: {SessionState.FINISHING, SessionState.FAILED, SessionState.CANCELLED},
    SessionState.FINISHING: {SessionState.DONE, SessionState.PARTLY, SessionState.FAILED},
    SessionState.DONE: set(),
    SessionState.PARTLY: set(),
    SessionState.FAILED: set(),
    SessionState.CANCELLED: set(),
}

OPEN = frozenset({SessionState.PREPARING, SessionState.WAITING, SessionState.RUNNING})  # a node may still come
ENDED = frozenset(_ENDED)


def follow(now: SessionState, then: SessionState) -> SessionState:
    """``then``, if the table allows it after ``now``; else `LocalProtocolError`: the bug is ours."""
    if then not in _NEXT[now]:
        raise LocalProtocolError(f"session cannot go from {now.value} to {then.value}")
    return then


class Standing(Enum):
    """Where a node stands in a session, as the coordinator judges it. ``MemberState`` is what it says itself."""

    ABSENT = "absent"  # named by the operator, has not joined
    PREPARING = "preparing"
    READY = "ready"
    RECEIVING = "receiving"
    VERIFYING = "verifying"
    VERIFIED = "verified"
    FINISHING = "finishing"
    DONE = "done"  # verified, and finished as the session asked
    REFUSED = "refused"  # selector or gate said no: nothing was written
    FAILED = "failed"  # it said so itself, or contradicted itself
    LOST = "lost"  # silent past its deadline
    EVICTED = "evicted"  # talks, but the chain goes on without it
    PARKED = "parked"  # attempts used up: an operator must look
    CANCELLED = "cancelled"  # the session ended before the node was cloned
    EJECTED = "ejected"  # taken out by an operator: it does not come back by itself


LIVE = frozenset(
    {
        Standing.PREPARING,
        Standing.READY,
        Standing.RECEIVING,
        Standing.VERIFYING,
        Standing.VERIFIED,
        Standing.FINISHING,
    }
)
AT_WORK = frozenset({Standing.READY, Standing.RECEIVING, Standing.VERIFYING, Standing.VERIFIED})
RESUMABLE = frozenset({Standing.LOST, Standing.FAILED, Standing.EVICTED})  # welcome again while attempts last

OUTSIDE = frozenset({Standing.ABSENT, Standing.EJECTED})  # known to the session, but nobody to wait for

# What a member may say of itself, and where that puts it. WAITING and PREPARING say nothing new.
REPORTED: dict[MemberState, Standing] = {
    MemberState.READY: Standing.READY,
    MemberState.RECEIVING: Standing.RECEIVING,
    MemberState.VERIFYING: Standing.VERIFYING,
    MemberState.VERIFIED: Standing.VERIFIED,
    MemberState.FINISHING: Standing.FINISHING,
    MemberState.REBOOTING: Standing.DONE,
    MemberState.REFUSED: Standing.REFUSED,
    MemberState.FAILED: Standing.FAILED,
    MemberState.PARKED: Standing.PARKED,
}
