"""The end for the members that are verified: told to finish at once, or one after the other. Pure.

With a delay a room does not come up all at once: less current, and fewer requests to the servers it starts from.
"""

from collections.abc import Iterable

from bootd.session.effects import Effect, Event, Persist, PolicyChanged, Send
from bootd.session.member import Member
from bootd.session.plan import SessionPlan
from bootd.session.policy import LOCAL
from bootd.wire.control import Finish


def schedule(members: Iterable[Member], delay: float, now: float) -> None:
    """Give each of ``members`` its turn, ``delay`` seconds apart, the first one now."""
    for number, member in enumerate(members):
        member.release_at = now + number * delay


def due(members: Iterable[Member], now: float) -> list[Member]:
    """Those whose turn it is, and who have not been told yet."""
    waiting = [member for member in members if member.live and member.phases.finish is None]
    return [member for member in waiting if member.release_at is not None and now >= member.release_at]


def let_go(member: Member, plan: SessionPlan, now: float) -> list[Effect]:
    """Tell ``member`` to finish: from now on it boots its disk."""
    node = member.node
    member.phases.finish = now
    node.automatic, node.once, node.once_until = LOCAL, "", 0.0
    if node.label == plan.label:
        node.label = ""  # set to have it cloned, which is done
    return [
        PolicyChanged(node.mac, LOCAL, f"cloned by session {plan.name or plan.id}"),
        Persist(node.record()),
        Event("released", node.mac, plan.id, f"told to finish: {plan.after}"),
        Send(node.mac, Finish(plan.id, plan.after)),
    ]
