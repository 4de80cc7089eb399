"""What operators order of a session that is there: other nodes, another try, a later start. Sans-IO.

Like the coordinator's own methods: ``now`` is monotonic seconds, ``wall`` seconds since the epoch, what comes back
are effects to carry out in order, and `OperatorError` says what is wrong before anything has changed.
"""

from collections.abc import Iterable

from bootd.errors import Exit, OperatorError
from bootd.session import bindings, restart
from bootd.session.bindings import bound
from bootd.session.coordinator import Coordinator
from bootd.session.effects import AuditRecord, Effect, Persist, PolicyChanged, SessionRecord
from bootd.session.parts import choose_target
from bootd.session.request import SessionRequest
from bootd.session.selector import Refusal, parse
from bootd.session.session import Session
from bootd.session.states import ENDED, OPEN, SessionState, Standing
from bootd.wire.control import FILES, GROW

LATEST = 3600.0  # seconds after its time in which a session may still begin, when the daemon was down meanwhile
LONGEST = 366 * 86400.0  # seconds that a session may wait for its time


def check_time(start_at: float, wall: float) -> float:
    """``start_at``, if a session may wait for it; 0 = at once. Both in seconds since the epoch."""
    if start_at and not wall < start_at <= wall + LONGEST:
        what = "is over" if start_at <= wall else "is more than a year away"
        raise OperatorError(f"the time to start {what}", "say a time of the next 366 days", Exit.USAGE)
    return start_at


def open_due(coordinator: Coordinator, wall: float, now: float) -> list[Effect]:
    """Sessions whose time has come begin. One that is far too late ends: whoever wanted its nodes cloned at night
    does not want them cloned in the morning."""
    effects: list[Effect] = []
    for session in list(coordinator.sessions.values()):
        if session.state is not SessionState.SCHEDULED or wall < session.plan.start_at:
            continue
        late = wall - session.plan.start_at
        if late > LATEST:
            reason = f"it was to start {late / 3600:.1f} hours ago, when the daemon did not run"
            effects += coordinator.conclude(session.fail(reason, now), session, now)
        else:
            effects += coordinator.conclude(session.open_up(now), session, now)
    return effects


def add_nodes(coordinator: Coordinator, text: str, hosts: str, who: str, now: float) -> list[Effect]:
    """More nodes for a session; they may have been taken out of it before."""
    session = _changeable(coordinator, text)
    macs = _named(coordinator, hosts)
    if session.plan.nodes is None:
        known = {mac for mac, member in session.members.items() if member.standing is Standing.EJECTED}
        if not macs <= known:
            raise OperatorError(f"session {session.title} takes any node", "switch the node on", Exit.USAGE)
    for other in coordinator.sessions.values():
        both = sorted(macs & (other.plan.nodes or frozenset()))
        if both and not other.ended:
            text = f"{coordinator.nodes.name(both[0])} is in the open session {other.title}"
            hint = "wait for it, or eject the node there" if other is not session else "nothing is to be done"
            raise OperatorError(text, hint, Exit.BUSY)
    audit: list[Effect] = [
        *coordinator.admission.approve(sorted(macs)),
        Persist(AuditRecord(who, "add-nodes", f"{session.id} {' '.join(sorted(macs))}")),
    ]
    return coordinator.conclude(audit + session.add(macs, now), session, now)


def eject_nodes(coordinator: Coordinator, text: str, hosts: str, who: str, now: float) -> list[Effect]:
    """The session goes on without these nodes. One that has been written to keeps coming up in stage2."""
    session = _changeable(coordinator, text)
    macs = _named(coordinator, hosts)
    there = set(session.members) | (session.plan.nodes or frozenset())
    for mac in sorted(macs):
        if session.plan.nodes is not None and mac not in there:
            raise OperatorError(
                f"{coordinator.nodes.name(mac)} is not in session {session.title}", "see bootd state", Exit.USAGE
            )
    if session.plan.nodes is not None and not session.plan.nodes - macs:
        raise OperatorError(
            f"nobody would be left in session {session.title}", f"bootd session cancel {session.title}", Exit.USAGE
        )
    effects: list[Effect] = [Persist(AuditRecord(who, "eject-nodes", f"{session.id} {' '.join(sorted(macs))}"))]
    nodes = [coordinator.nodes.add(mac) for mac in sorted(macs)]
    effects += session.eject(nodes, f"taken out by {who}", now)
    for node in nodes:
        mac = node.mac
        if session.members[mac].is_written:
            node.automatic = session.plan.label
            effects += [PolicyChanged(mac, session.plan.label, "not cloned: taken out"), Persist(node.record())]
    return coordinator.conclude(effects, session, now)


def ended_record(coordinator: Coordinator, text: str) -> SessionRecord:
    """What is kept of an ended session, by id or name (the latest), also of an earlier run of the daemon."""
    try:
        session = coordinator.find_session(text)
    except OperatorError:
        for record in reversed(coordinator.past.values()):
            if text and text in (record.id, record.name):
                return record
        raise
    record = restart.record(session, coordinator.nodes.name)
    if SessionState(record.state) not in ENDED:
        hint = "its nodes are tried again by themselves; a parked one: bootd node unpark NODE"
        raise OperatorError(f"session {session.title} is {record.state}", hint, Exit.BUSY)
    return record


def retry(
    coordinator: Coordinator, text: str, hosts: str, who: str, now: float, *, size: int, sector: int = 0
) -> tuple[str, list[Effect]]:
    """A child of an ended session for its nodes that are not cloned; ``hosts`` "": all but those taken out.

    Same source, same image, same options; each node that had a disk planned gets that disk or none. ``size`` and
    ``sector`` are those of the source now. Refused when the plan does not hold any more, as far as that is known.
    """
    record = ended_record(coordinator, text)
    title = record.name or record.id
    failed = {verdict.node: verdict for verdict in record.verdicts if not verdict.ok}
    chosen = [mac for mac, verdict in failed.items() if verdict.standing != Standing.EJECTED.value]
    if hosts:
        chosen = sorted(_named(coordinator, hosts))
        for mac in chosen:
            if mac not in failed:
                name = coordinator.nodes.name(mac)
                raise OperatorError(f"{name} did not fail in session {title}", "see bootd state", Exit.USAGE)
    if not chosen:
        raise OperatorError(f"no node failed in session {title}", "there is nothing to be tried again", Exit.USAGE)
    if size != record.source_size:
        text = f"{record.source} has {size} bytes now, it had {record.source_size} in session {title}"
        raise OperatorError(text, "make a new session: bootd deploy", Exit.REFUSED)
    if sector != record.source_sector:
        text = f"{record.source} is for sectors of {sector} bytes now, it was for {record.source_sector}"
        raise OperatorError(text, "make a new session: bootd deploy", Exit.REFUSED)
    bound_before = dict(record.bindings)
    found = {mac: failed[mac].binding or bound_before.get(mac) for mac in chosen}
    bindings = {mac: binding for mac, binding in found.items() if binding is not None}
    request = SessionRequest(
        source=record.source,
        source_size=record.source_size,
        nodes=",".join(chosen),
        disk=record.selector,
        label=record.label,
        name=record.name,
        after=record.after,
        fan_out=record.fan_out,
        order=record.order,
        compare=record.compare,
        zeros=record.zeros,
        keep_open=record.keep_open,
        source_sector=record.source_sector,
        flip_default=record.flip_default,
        delay=record.delay,
        parent=record.id,
        image_root=record.image_root or record.parent_root,
        bindings=bindings,
        parts=record.parts,
        grow=record.grow,
        layout=record.layout,
        files=record.files,
        further=record.further,
    )
    _refuse_changed(coordinator, request, chosen, now)
    id_, effects = coordinator.create(request, who, now)
    for mac in chosen:
        node = coordinator.nodes.get(mac)
        if node is not None and node.parked:
            effects += coordinator.unpark(mac, who, now)
    return id_, effects


def _refuse_changed(coordinator: Coordinator, request: SessionRequest, macs: Iterable[str], now: float) -> None:
    """`OperatorError` (REFUSED) when what a node has shown of its disks since does not fit the plan any more."""
    selector, troubles = parse(request.disk, several=True), []
    further = tuple(parse(text) for text in request.further)
    for mac in macs:
        node, binding = coordinator.nodes.get(mac), request.bindings.get(mac)
        if node is None or node.join is None or binding is None:
            continue
        choice = choose_target(
            node.join,
            selector,
            request.source_size,
            coordinator.admission.locks_for(mac, now),
            sector=request.source_sector,
            orders=request.parts,
            layout=request.layout,
            files=request.files,
            needs=(FILES,) if request.files else (GROW,) if request.grow else (),
            is_written=True,
            written=bindings.find(node.join.disks, binding),
            further=further,
        )
        refused = choice if isinstance(choice, Refusal) else bound(choice.disks, binding)
        if node.changed:
            refused = Refusal(coordinator.admission.veto(mac, is_any=False))
        if isinstance(refused, Refusal):
            troubles.append(f"{node.name}: {refused.reason}")
    if troubles:
        raise OperatorError(
            f"the plan does not hold any more: {'; '.join(troubles)}",
            "name the other nodes, or make a new session: bootd deploy",
            Exit.REFUSED,
        )


def _named(coordinator: Coordinator, hosts: str) -> frozenset[str]:
    macs = coordinator.nodes.host_set(hosts).macs
    if not macs:
        raise OperatorError("'any' is no node", "name the nodes", Exit.USAGE)
    return macs


def _changeable(coordinator: Coordinator, text: str) -> Session:
    session = coordinator.find_session(text)
    if session.state not in OPEN | {SessionState.SCHEDULED} or session.is_closing:
        what = "closing" if session.is_closing and not session.ended else session.state.value
        hint = f"bootd session retry {session.title}" if session.ended else "wait for its end"
        raise OperatorError(f"session {session.title} is {what}", hint, Exit.BUSY)
    return session
