"""What becomes of the sessions of an earlier run of the daemon: they go on.

The journal keeps what a session needs: what was asked for, its tokens, what the head found in the source, and how
it stands for each member. A new head is started, which must find the same image. A member counts as there until its
deadline; when it is heard it is taken in with what it has, by a place of a higher epoch. Nothing counts as cloned
that was not before.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from bootd.session import release, selector
from bootd.session.arrangement import in_order
from bootd.session.effects import Effect, Event, MemberRecord, Outcome, Persist, SessionRecord
from bootd.session.member import Image, Member, Phases
from bootd.session.nodes import Registry
from bootd.session.outcome import exit_code
from bootd.session.plan import Limits, SessionPlan
from bootd.session.session import Session
from bootd.session.states import ENDED, LIVE, SessionState, Standing
from bootd.wire.control import Lock


def take_over(
    records: Iterable[SessionRecord],
    members: Sequence[MemberRecord],
    nodes: Registry,
    *,
    head_host: str,
    limits: Limits,
    now: float,
    switch: Callable[[str], str],
    locks: Callable[[str, float], tuple[Lock, ...]] = lambda *_: (),
) -> tuple[dict[str, Session], dict[str, SessionRecord], list[Effect]]:
    """Sessions that go on, by id; those that are over; and effects, which start the heads."""
    going: dict[str, Session] = {}
    past: dict[str, SessionRecord] = {}
    effects: list[Effect] = []
    for record in records:
        if not can_resume(record):
            past[record.id] = settle(record)
            if past[record.id] is not record:
                effects.append(Persist(past[record.id]))
            continue
        own = [member for member in members if member.session == record.id]
        session = resume(
            record, own, nodes, head_host=head_host, limits=limits, now=now, switch=switch, locks=locks
        )
        going[session.id] = session
        effects.append(Event("resumed", "", session.id, f"the daemon has restarted: {session.state.value}"))
        if session.state not in (SessionState.FINISHING, SessionState.SCHEDULED):
            effects += session.start_head(now)
    return going, past, effects


def resume(
    kept: SessionRecord,
    members: Iterable[MemberRecord],
    nodes: Registry,
    *,
    head_host: str,
    limits: Limits,
    now: float,
    switch: Callable[[str], str],
    locks: Callable[[str, float], tuple[Lock, ...]] = lambda *_: (),
) -> Session:
    """The session that ``kept`` and the records of its members describe. ``now``: monotonic seconds."""
    plan = SessionPlan(
        id=kept.id,
        name=kept.name,
        source=kept.source,
        source_size=kept.source_size,
        nodes=frozenset(kept.nodes) or None,
        selector=selector.parse(kept.selector, several=True),
        label=kept.label,
        after=kept.after,
        join_token=kept.join_token,
        head_token=kept.head_token,
        fan_out=kept.fan_out,
        order=kept.order,
        compare=kept.compare,
        zeros=kept.zeros,
        keep_open=kept.keep_open,
        flip_default=kept.flip_default,
        source_sector=kept.source_sector,
        parts=kept.parts,
        grow=kept.grow,
        who=kept.who,
        order_of_layout=kept.layout,
        delay=kept.delay,
        start_at=kept.start_at,
        wake=kept.wake,
        parent=kept.parent,
        image_root=kept.parent_root,
        bindings=dict(kept.bindings),
        without=frozenset(kept.without),
        files=kept.files,
        further=tuple(selector.parse(text) for text in kept.further),
    )
    session = Session(
        plan,
        expect=kept.expect,
        start_now=kept.start_now,
        head_host=head_host,
        limits=limits,
        now=now,
        switch=switch,
        locks=locks,
    )
    session.state = SessionState(kept.state)
    session.times[session.state] = now
    session.phase, session.arrangement.epoch = kept.phase, kept.epoch
    session.is_closing = kept.is_closing
    if kept.image_root:
        session.image = Image(kept.image_root, kept.source_size, kept.chunk_size, kept.phases)
    for member in members:
        session.members[member.mac] = _member(member, session, nodes, now)
    if session.state is SessionState.FINISHING:
        waiting = [one for one in session.members.values() if one.live and one.phases.finish is None]
        release.schedule(in_order(waiting, plan.order, switch), plan.delay, now)
    return session


def record(session: Session, name: Callable[[str], str]) -> SessionRecord:
    """What the journal keeps of ``session``. ``name`` gives the name of a MAC."""
    plan, image = session.plan, session.image
    return SessionRecord(
        id=session.id,
        name=plan.name,
        source=plan.source,
        source_size=plan.source_size,
        nodes=tuple(sorted(plan.nodes or ())),
        selector=plan.selector.text,
        expect=session.expect,
        label=plan.label,
        after=plan.after,
        state=session.state.value,
        reason=session.reason,
        verdicts=session.outcome(name).verdicts if session.ended else (),
        start_now=session.start_now,
        join_token="" if session.ended else plan.join_token,
        head_token="" if session.ended else plan.head_token,
        image_root=image.root if image else "",
        chunk_size=image.chunk_size if image else 0,
        phases=image.phases if image else 1,
        phase=session.phase,
        epoch=session.arrangement.epoch,
        fan_out=plan.fan_out,
        order=plan.order,
        compare=plan.compare,
        zeros=plan.zeros,
        keep_open=plan.keep_open,
        flip_default=plan.flip_default,
        source_sector=plan.source_sector,
        parts=plan.parts,
        grow=plan.grow,
        who=plan.who,
        layout=plan.order_of_layout,
        is_closing=session.is_closing,
        delay=plan.delay,
        start_at=plan.start_at,
        wake=plan.wake,
        parent=plan.parent,
        parent_root=plan.image_root,
        bindings=tuple(sorted(plan.bindings.items())),
        without=tuple(sorted(plan.without)),
        files=plan.files,
        further=tuple(one.text for one in plan.further),
    )


def member_record(session: str, member: Member) -> MemberRecord:
    """What the journal keeps of one member of the session with this id."""
    return MemberRecord(
        session=session,
        mac=member.node.mac,
        standing=member.standing.value,
        reason=member.reason,
        attempts=member.attempts,
        refusals=member.refusals,
        begun=member.is_written,
        disk=member.disk,
        compares=member.compares,
        locks=member.locks,
        parts=member.parts,
        is_released=member.phases.finish is not None,
        is_saved=member.is_saved,
        further=member.further,
        saved=() if member.is_saved else tuple(sorted(member.saved)),
    )


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
    member.locks, member.further, member.parts = kept.locks, kept.further, kept.parts
    member.saved = frozenset(range(len(member.disks)) if kept.is_saved else kept.saved)
    # A member's record is older than the start: whoever was there then may have been written to.
    begun = kept.begun or (standing in LIVE and session.state in (SessionState.RUNNING, SessionState.FINISHING))
    member.refusals, member.compares, member.begun, member.moved = kept.refusals, kept.compares, begun, now
    if standing in LIVE:
        member.phases = Phases(planned=now, arranged=now if begun else None)
        node.session = session.id
        if session.state is SessionState.FINISHING:
            member.phases.finish = now if kept.is_released else None
        else:
            member.standing, member.is_restored = Standing.PREPARING, True
    else:
        member.phases = Phases(ended=now, arranged=now if begun else None)
        if standing is Standing.DONE:
            node.cloned = now
    return member
