"""What becomes of the sessions of an earlier run of the daemon."""

from dataclasses import replace

from bootd.session.effects import Effect, Outcome, Persist, PolicyChanged, SessionRecord
from bootd.session.nodes import Registry
from bootd.session.outcome import exit_code
from bootd.session.policy import LOCAL
from bootd.session.states import ENDED, SessionState, Standing

REASON = "the daemon restarted while it ran"


def settle(record: SessionRecord) -> SessionRecord:
    """``record`` itself if its session had ended; else the end that the restart put to it.

    Its head and its tokens went with the daemon that ran it, so no node can be cloned by it any more. Nodes that
    had confirmed the end stay cloned.
    """
    if SessionState(record.state) in ENDED:
        return record
    verdicts = tuple(
        verdict if verdict.ok else replace(verdict, standing=Standing.CANCELLED.value, reason=REASON)
        for verdict in record.verdicts
    )
    state = SessionState.PARTLY if any(verdict.ok for verdict in verdicts) else SessionState.FAILED
    return replace(record, state=state.value, reason=REASON, verdicts=verdicts)


def unfinished(record: SessionRecord, nodes: Registry) -> list[Effect]:
    """Nodes of a broken session that were set to boot from their disks but had not confirmed the end: they come
    back to its label, where they wait in stage2."""
    effects: list[Effect] = []
    for verdict in record.verdicts:
        node = nodes.get(verdict.node)
        if node is not None and not verdict.ok and node.automatic == LOCAL:
            node.automatic = record.label
            effects += [PolicyChanged(node.mac, record.label, record.reason), Persist(node.record())]
    return effects


def outcome(record: SessionRecord) -> Outcome:
    code = exit_code(SessionState(record.state), record.verdicts)
    return Outcome(record.id, record.state, record.reason, code, record.verdicts)
