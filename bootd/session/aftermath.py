"""What follows from a decision beside it: boot policy at the end of a session, records of members. Pure."""

from collections.abc import Iterable, Mapping

from bootd.session import restart
from bootd.session.effects import DefaultLabel, Effect, Event, Persist, PolicyChanged
from bootd.session.policy import LOCAL
from bootd.session.session import Session
from bootd.session.states import Standing


def policy_after(session: Session, default_label: str) -> tuple[str, list[Effect]]:
    """Boot policy at the end of ``session``: the default label from now on, and effects.

    When it cloned at least one node and the default label still is its own, the default becomes ``local``. A node
    whose disk it may have left half written does not follow: it keeps coming up in stage2, where it waits and shows
    why, until it is cloned or an operator decides.
    """
    plan, effects = session.plan, list[Effect]()
    for member in session.members.values():
        if member.is_written and member.standing not in (Standing.DONE, Standing.REFUSED):
            member.node.automatic = plan.label
            effects += [
                PolicyChanged(member.node.mac, plan.label, f"not cloned: {member.reason}"),
                Persist(member.node.record()),
            ]
    is_done = any(member.standing is Standing.DONE for member in session.members.values())
    if not (is_done and plan.flip_default and default_label == plan.label):
        return default_label, effects
    why = f"session {session.title} has ended"
    return LOCAL, [*effects, Persist(DefaultLabel(LOCAL)), PolicyChanged("", LOCAL, why)]


def members_noted(effects: Iterable[Effect], sessions: Mapping[str, Session]) -> list[Effect]:
    """Records of the members of open sessions that ``effects`` tell something of."""
    noted = {(effect.session, effect.node) for effect in effects if isinstance(effect, Event) and effect.node}
    records: list[Effect] = []
    for id_, mac in sorted(noted):
        session = sessions.get(id_)
        member = session.members.get(mac) if session is not None and not session.ended else None
        if member is not None:
            records.append(Persist(restart.member_record(id_, member)))
    return records
