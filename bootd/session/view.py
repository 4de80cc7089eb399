"""What operators see: sessions, nodes, counters and phases as plain dicts, lists, strings and numbers.

Made for ``bootd state --json``, the watch and the API: sizes in bytes, rates in bytes per second, durations in
seconds, null where something has not happened yet. Keys are only ever added.
"""

from collections.abc import Callable
from typing import Any

from bootd.session import captures
from bootd.session.cards import view_lock
from bootd.session.coordinator import Coordinator
from bootd.session.effects import SessionRecord, Verdict
from bootd.session.hops import Hop, hops, slowest
from bootd.session.member import Member, Phases
from bootd.session.nodes import Node
from bootd.session.restart import outcome as past_outcome
from bootd.session.session import Session
from bootd.session.states import ENDED, LIVE, SessionState, Standing

_COUNTERS = ("written", "durable", "verified", "kept", "digested", "rate", "rate_out", "rate_disk", "sent")


def view(coordinator: Coordinator, now: float) -> dict[str, Any]:
    """Everything, oldest session first."""
    return {
        "default_label": coordinator.default_label,
        "sessions": [view_past(record) for record in coordinator.past.values()]
        + [view_session(session, coordinator.nodes.name, now) for session in coordinator.sessions.values()],
        "nodes": [view_node(coordinator, node, now) for node in coordinator.nodes],
        "backups": [
            captures.view(task, coordinator.nodes.name, now) for task in coordinator.captures.tasks.values()
        ],
    }


def view_session(session: Session, name: Callable[[str], str], now: float) -> dict[str, Any]:
    """One session of this run of the daemon. ``ended`` tells whether ``outcome`` is final."""
    outcome = session.outcome(name)
    plan, image = session.plan, session.image
    ready = sum(member.standing is Standing.READY for member in session.members.values())
    report = session.head.report
    found = {hop.node: hop for hop in hops(session)}
    return {
        "id": session.id,
        "name": plan.name,
        "state": session.state.value,
        "ended": session.ended,
        "reason": session.reason,
        "source": plan.source,
        "source_size": plan.source_size,
        "image_root": image.root if image else None,
        "chunk_size": image.chunk_size if image else None,
        "nodes": sorted(name(mac) for mac in plan.nodes) if plan.nodes is not None else "any",
        "selector": plan.disks,
        "label": plan.label,
        "after": plan.after,
        "expect": session.expect,
        "start_now": session.start_now,
        "fan_out": plan.fan_out,
        "order": plan.order,
        "compare": plan.compare,
        "zeros": plan.zeros,
        "keep_open": plan.keep_open,
        "delay": plan.delay,
        "start_at": plan.start_at or None,
        "parent": plan.parent or None,
        "phase": session.phase,
        "phases": image.phases if image else None,
        "joined": len(session.members),
        "ready": ready,
        "epoch": session.arrangement.epoch,
        "head": {
            "node": session.head.node,
            "state": report.state.value if report else None,
            "digested": (report.written if report and session.image is None else plan.source_size if image else 0),
            "sent": report.sent if report else 0,
        },
        "seconds": _session_seconds(session, now),
        "slowest_hop": _slowest_hop(list(found.values()), name),
        "members": [_member(session, member, found.get(mac), name, now) for mac, member in session.members.items()],
        "outcome": {
            "code": int(outcome.code) if session.ended else None,
            "nodes": [_verdict(verdict) for verdict in outcome.verdicts],
        },
    }


def view_past(record: SessionRecord) -> dict[str, Any]:
    """A session of an earlier run: what the journal kept. Counters and phases went with the daemon."""
    outcome = past_outcome(record)
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state,
        "ended": True,
        "reason": record.reason,
        "source": record.source,
        "source_size": record.source_size,
        "nodes": list(record.nodes) or "any",
        "selector": " and ".join([record.selector, *record.further]),
        "label": record.label,
        "after": record.after,
        "expect": record.expect,
        "members": [],
        "outcome": {"code": int(outcome.code), "nodes": [_verdict(verdict) for verdict in outcome.verdicts]},
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "node": verdict.node,
        "name": verdict.name,
        "ok": verdict.ok,
        "state": verdict.standing,
        "reason": verdict.reason,
    }


def _member(
    session: Session, member: Member, hop: Hop | None, name: Callable[[str], str], now: float
) -> dict[str, Any]:
    report, disk = member.report, member.disk
    waits = member.release_at if member.live and member.phases.finish is None else None
    place = member.arranged
    return {
        "node": member.node.mac,
        "name": name(member.node.mac),
        "state": member.standing.value,
        "reason": member.reason,
        "trouble": report.trouble if report else "",
        "disk": disk.name if disk else None,
        "serial": disk.serial if disk else None,
        "further": [{"name": one.name, "serial": one.serial} for one in member.further],
        "total": session.image.size if session.image else None,
        **{counter: member.counter(counter) for counter in _COUNTERS},
        "lag": hop.lag if hop and member.live else 0,
        "catch_up_seconds": round(hop.catch_up, 1)
        if hop and hop.is_receiving and hop.catch_up is not None
        else None,
        "attempts": member.attempts,
        "predecessor": place.predecessor_node if place else None,
        "aside": member.aside,
        "release_seconds": round(max(0.0, waits - now), 1) if waits is not None else None,
        "silent_seconds": round(now - member.heard, 1) if member.standing in LIVE else None,
        "seconds": _member_seconds(member.phases, now),
    }


def _member_seconds(phases: Phases, now: float) -> dict[str, float | None]:
    """How long each phase took, or has been going on: prepare (plan to ready), wait (for the others), transfer
    (to the last durable byte), verify (read back), settle (waiting for the others' end), finish."""
    marks = [
        ("prepare", phases.planned, phases.ready),
        ("wait", phases.ready, phases.arranged),
        ("transfer", phases.arranged, phases.durable),
        ("verify", phases.durable, phases.verified),
        ("settle", phases.verified, phases.finish),
        ("finish", phases.finish, phases.ended),
    ]
    seconds: dict[str, float | None] = {}
    for key, begin, end in marks:
        until = end if end is not None else phases.ended if phases.ended is not None else now
        seconds[key] = None if begin is None else round(max(0.0, until - begin), 3)
    return seconds


def _session_seconds(session: Session, now: float) -> dict[str, float | None]:
    """Durations of the session's phases: prepare (digest), waiting (nodes gather), transfer (to the last durable
    byte of the last node), verify (from there to the last verified node), finish."""
    times = session.times
    ended = next((times[state] for state in ENDED if state in times), None)
    running, finishing = times.get(SessionState.RUNNING), times.get(SessionState.FINISHING)
    durable = [member.phases.durable for member in session.members.values() if member.live or _done(member)]
    transferred = (
        max(mark for mark in durable if mark is not None)
        if durable and all(mark is not None for mark in durable)
        else None
    )
    marks = [
        ("prepare", times.get(SessionState.PREPARING), times.get(SessionState.WAITING)),
        ("waiting", times.get(SessionState.WAITING), running),
        ("transfer", running, transferred),
        ("verify", transferred if running is not None else None, finishing),
        ("finish", finishing, ended),
        ("total", session.created, ended),
    ]
    seconds: dict[str, float | None] = {}
    for key, begin, end in marks:
        until = end if end is not None else ended if ended is not None else now
        seconds[key] = None if begin is None else round(max(0.0, until - begin), 3)
    return seconds


def _slowest_hop(found: list[Hop], name: Callable[[str], str]) -> dict[str, Any] | None:
    hop = slowest(found)
    if hop is None:
        return None
    return {
        "from": hop.source if hop.source.startswith("head-") else name(hop.source),
        "to": name(hop.node),
        "waiting": hop.lag if hop.is_receiving else 0,
        "rate": int(hop.total / hop.taken) if hop.taken else hop.rate,
        "growth": hop.growth if hop.is_receiving and hop.source_rate else 0,
    }


def _done(member: Member) -> bool:
    return member.standing is Standing.DONE


def view_node(coordinator: Coordinator, node: Node, now: float) -> dict[str, Any]:
    """One machine, in short; `bootd.session.inventory` has all that it tells."""
    choice = coordinator.choice(node.mac)
    join = node.join
    return {
        "mac": node.mac,
        "name": node.name,
        "next_label": choice.label,
        "why": choice.why,
        "label": node.label or None,
        "once": node.once or None,
        "automatic": node.automatic or None,
        "parked": node.parked or None,
        "attempts": node.attempts,
        "present": node.present(now, coordinator.limits.silence),
        "known": coordinator.admission.is_known(node),
        "number": coordinator.nodes.number(node.mac),
        "own_number": coordinator.nodes.own_number(node.mac),
        "reserved": coordinator.nodes.reserved(node.mac) or None,
        "switch": coordinator.switch_of(node.mac) or None,
        "groups": list(coordinator.nodes.groups.of(node.mac)),
        "warnings": list(coordinator.admission.warnings(node)),
        "locks": [view_lock(held) for held in coordinator.locks.of(node.mac)],
        "seen_seconds": round(now - node.seen, 1) if node.seen is not None else None,
        "waiting": (node.told or None) if not node.session else None,
        "session": node.session or None,
        "uuid": (join.uuid or None) if join else None,
        "address": join.address if join else None,
        "firmware": join.firmware if join else None,
        "arch": join.arch if join else None,
        "memory": join.memory if join else None,
        "disks": [
            {
                "name": disk.name,
                "size": disk.size,
                "serial": disk.serial,
                "wwn": disk.wwn,
                "model": disk.model,
                "transport": disk.transport,
                "excluded": disk.excluded or None,
            }
            for disk in (join.disks if join else ())
        ],
    }
