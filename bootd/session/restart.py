"""What becomes of the sessions of an earlier run of the daemon: they go on.

The journal keeps what a session needs: what was asked for, its tokens, what the head found in the source, and how
it stands for each member. A new head is started, which must find the same image. A member counts as there until its
deadline; when it is heard it is taken in with what it has, by a place of a higher epoch. Nothing counts as cloned
that was not before.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from bootd.session import selector
from bootd.session.effects import MemberRecord, Outcome, SessionRecord
from bootd.session.member import Image, Member, Phases
from bootd.session.nodes import Registry
from bootd.session.outcome import exit_code
from bootd.session.plan import Limits, SessionPlan
from bootd.session.session import Session
from bootd.session.states import ENDED, LIVE, SessionState, Standing


def resume(
    record: SessionRecord,
    members: Iterable[MemberRecord],
    nodes: Registry,
    *,
    head_host: str,
    limits: Limits,
    now: float,
    switch: Callable[[str], str],
) -> Session:
    """The session that ``record`` and the records of its members describe. ``now``: monotonic seconds."""
    plan = SessionPlan(
        id=record.id,
        name=record.name,
        source=record.source,
        source_size=record.source_size,
        nodes=frozenset(record.nodes) or None,
        selector=selector.parse(record.selector),
        label=record.label,
        after=record.after,
        join_token=record.join_token,
        head_token=record.head_token,
        fan_out=record.fan_out,
        order=record.order,
        compare=record.compare,
        zeros=record.zeros,
        keep_open=record.keep_open,
        flip_default=record.flip_default,
    )
    session = Session(
        plan,
        expect=record.expect,
        start_now=record.start_now,
        head_host=head_host,
        limits=limits,
        now=now,
        switch=switch,
    )
    session.state = SessionState(record.state)
    session.times[session.state] = now
    session.phase, session.arrangement.epoch = record.phase, record.epoch
    if record.image_root:
        session.image = Image(record.image_root, record.source_size, record.chunk_size, record.phases)
    for kept in members:
        session.members[kept.mac] = _member(kept, session, nodes, now)
    return session


def can_resume(record: SessionRecord) -> bool:
    """Whether the record holds all that is needed; one of an older bootd has no tokens."""
    return SessionState(record.state) not in ENDED and bool(record.join_token and record.head_token)


def settle(record: SessionRecord) -> SessionRecord:
    """``record`` itself if its session had ended; else its end, for it cannot go on."""
    if SessionState(record.state) in ENDED:
        return record
    reason = "the daemon restarted, and the journal of an older bootd does not hold what the session needs to go on"
    verdicts = tuple(
        verdict if verdict.ok else replace(verdict, standing=Standing.CANCELLED.value, reason=reason)
        for verdict in record.verdicts
    )
    state = SessionState.PARTLY if any(verdict.ok for verdict in verdicts) else SessionState.FAILED
    return replace(record, state=state.value, reason=reason, verdicts=verdicts)


def outcome(record: SessionRecord) -> Outcome:
    code = exit_code(SessionState(record.state), record.verdicts)
    return Outcome(record.id, record.state, record.reason, code, record.verdicts)


def _member(kept: MemberRecord, session: Session, nodes: Registry, now: float) -> Member:
    node = nodes.add(kept.mac)
    standing = Standing(kept.standing)
    member = Member(node, standing, now, disk=kept.disk, reason=kept.reason, attempts=kept.attempts)
    member.refusals, member.begun, member.moved = kept.refusals, kept.begun, now
    if standing in LIVE:
        member.phases = Phases(planned=now, arranged=now if kept.begun else None)
        node.session = session.id
        if session.state is SessionState.FINISHING:
            member.phases.finish = now
        else:
            member.standing, member.is_restored = Standing.PREPARING, True
    else:
        member.phases = Phases(ended=now, arranged=now if kept.begun else None)
        if standing is Standing.DONE:
            node.cloned = now
    return member
