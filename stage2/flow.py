"""What a node does about each message of the coordinator: a table and one pure decision.

Messages come again after every reconnection, so the same message twice must do nothing the second time. A decision
is a value; the agent carries it out.
"""

from dataclasses import dataclass
from enum import Enum

from bootd.wire.control import Arrange, Cancel, Capture, Finish, Message, Plan, Prepare, Wait


class Step(Enum):
    """Where this node is in its work."""

    IDLE = "idle"  # joined, no plan
    MEMBER = "member"  # the target is open, the member runs
    CAPTURING = "capturing"  # a disk of this node is read into an image
    ENDED = "ended"  # refused, failed, cancelled or finished: only a new plan changes anything
    LEAVING = "leaving"  # about to reboot: nothing counts any more


@dataclass(frozen=True)
class Situation:
    """What the decision is made on."""

    node: str
    step: Step = Step.IDLE
    prepare: Prepare | None = None  # the last plan that was taken up
    epoch: int = 0  # of the last arrangement that was taken up
    verified: bool = False
    task: str = ""  # of the last capture that was taken up


@dataclass(frozen=True)
class Ignore:
    reason: str


@dataclass(frozen=True)
class ShowWait:
    reason: str


@dataclass(frozen=True)
class TakeUp:
    """Check the plan, open the target, become a member."""

    prepare: Prepare


@dataclass(frozen=True)
class Refuse:
    """Not even look at the disks."""

    plan: Plan
    reason: str


@dataclass(frozen=True)
class ReadIn:
    """Read a disk into an image."""

    order: Capture


@dataclass(frozen=True)
class Place:
    arrange: Arrange


@dataclass(frozen=True)
class Leave:
    """The work is done: stop the member, then ``reboot`` or stay."""

    reboot: bool


@dataclass(frozen=True)
class Abandon:
    """Stop writing, close the target, show the reason."""

    reason: str


Decision = Ignore | ShowWait | TakeUp | Refuse | ReadIn | Place | Leave | Abandon


def decide(situation: Situation, message: Message) -> Decision:
    """What to do about one message in one situation."""
    if situation.step is Step.LEAVING:
        return Ignore("rebooting")
    match message:
        case Wait(reason=reason):
            return ShowWait(reason) if situation.step is Step.IDLE else Ignore("has a plan")
        case Prepare():
            return _prepare(situation, message)
        case Capture():
            return _capture(situation, message)
        case Arrange():
            return _arrange(situation, message)
        case Finish():
            return _finish(situation, message)
        case Cancel(session=session, reason=reason):
            if situation.step is Step.CAPTURING and session == situation.task:
                return Abandon(reason)
            if situation.step is Step.MEMBER and session == _session(situation):
                return Abandon(reason)
            return Ignore(f"not in session {session}")
    return Ignore(f"{type(message).__name__} is not for nodes")


def _session(situation: Situation) -> str:
    return situation.prepare.plan.session if situation.prepare else ""


def _prepare(situation: Situation, message: Prepare) -> Decision:
    plan = message.plan
    if plan == (situation.prepare.plan if situation.prepare else None):
        return Ignore("plan is known")
    if situation.step is Step.MEMBER:
        return Ignore(f"busy with session {_session(situation)}")
    if situation.step is Step.CAPTURING:
        return Ignore("busy with a backup")  # the plan comes again when this node joins again
    if plan.node != situation.node:
        return Refuse(plan, f"the plan is for node {plan.node}, this is {situation.node}")
    return TakeUp(message)


def _capture(situation: Situation, message: Capture) -> Decision:
    if message.task == situation.task:
        return Ignore("task is known")
    if situation.step in (Step.MEMBER, Step.CAPTURING):
        return Ignore("busy")
    return ReadIn(message)


def _arrange(situation: Situation, message: Arrange) -> Decision:
    if situation.step is not Step.MEMBER or message.session != _session(situation):
        return Ignore(f"not in session {message.session}")
    if message.epoch <= situation.epoch:
        return Ignore(f"epoch {message.epoch} is over or known")
    if message.predecessor is None:
        return Ignore("only the head has no predecessor")
    return Place(message)


def _finish(situation: Situation, message: Finish) -> Decision:
    if situation.step is not Step.MEMBER or message.session != _session(situation):
        return Ignore(f"not in session {message.session}")
    if not situation.verified:
        # A disk that is not known to be whole is not booted from, whoever asks for it.
        return Abandon("the session has ended before this disk was verified")
    return Leave(reboot=message.action == "reboot")
