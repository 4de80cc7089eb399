"""What a session has to say to one of its nodes, from what it knows of it. Pure."""

from dataclasses import replace

from bootd.session import trees
from bootd.session.effects import Effect, Send
from bootd.session.member import Image, Member
from bootd.session.plan import SessionPlan
from bootd.session.states import Standing
from bootd.wire.control import Cancel, Disk, Finish, MemberState, Message, PartTarget, Plan, Prepare, Report

_WORKING = frozenset(
    {
        MemberState.PREPARING,
        MemberState.READY,
        MemberState.RECEIVING,
        MemberState.VERIFYING,
        MemberState.VERIFIED,
    }
)


def prepare(plan: SessionPlan, image: Image | None, member: Member) -> Prepare:
    """The plan of ``member``, the same each time it is sent. `LookupError` while image or disk are not known."""
    if image is None or member.disk is None:
        raise LookupError("a plan needs an image and a disk")
    disks = member.node.join.disks if member.node.join else ()
    eligible = sum(not other.excluded for other in disks)
    own = Plan(plan.id, member.node.mac, image.root, image.size, image.chunk_size, member.disk, eligible)
    own = replace(own, locks=member.locks, image_sector=plan.source_sector, parts=member.parts)
    if plan.order_of_layout is not None:
        order = plan.order_of_layout
        is_empty = not (order.erase or member.begun)
        own = replace(own, layout=order.digest, least=order.least, empty=is_empty)
    if plan.files is not None:
        may_erase = any(trees.identity(disk) in plan.files.erase for disk in member.disks) or member.begun
        own = replace(own, files=plan.files.digest, empty=not may_erase, name=member.node.name)
        own = replace(own, further=member.further)
    return Prepare(own, plan.join_token, member.compares, plan.zeros, plan.grow)


def describe(size: int, disk: Disk, parts: tuple[PartTarget, ...], further: tuple[Disk, ...] = ()) -> str:
    """What is written where, in an operator's words."""
    identity = f"(serial {disk.serial or 'unknown'})"
    if not parts:
        others = "".join(f" and {one.name} (serial {one.serial or 'unknown'})" for one in further)
        return f"{size} bytes to {disk.name} {identity}{others}"
    places = ", ".join(f"{part.size} bytes to partition {part.partition.number}" for part in parts)
    return f"{places} of {disk.name} {identity}"


def in_force(plan: SessionPlan, image: Image | None, member: Member, *, is_open: bool) -> list[Message]:
    """Everything that ``member`` must have been told by now, in order. ``is_open``: a node may still come."""
    if not member.live:
        if member.standing is Standing.DONE and plan.after == "stay":
            return [Finish(plan.id, plan.after)]  # whether it was ever told is not known
        quiet = member.standing is Standing.DONE or (member.standing is Standing.LOST and is_open)
        return [] if quiet else [Cancel(plan.id, member.reason)]
    if member.phases.finish is not None:
        return [Finish(plan.id, plan.after)]
    messages: list[Message] = []
    if member.disk is not None and image is not None:
        messages.append(prepare(plan, image, member))
    if member.arranged is not None:
        messages.append(member.arranged)
    return messages


def unsaved(member: Member) -> str:
    """Why a node that calls itself ready is not taken in."""
    missing = [disk.name for place, disk in enumerate(member.disks) if place not in member.saved]
    disk = " and ".join(missing) or "its disk"
    return f"it is ready, but the server holds no old partition table of {disk} from this attempt"


def answer_stranger(plan: SessionPlan, reason: str, report: Report, member: Member | None) -> list[Effect]:
    """A node that works for the session though it has no place in it is told to stop. ``reason``: the session's."""
    if report.state not in _WORKING or (member is not None and member.standing is Standing.DONE):
        return []
    why = (member.reason if member else "") or reason or "this session is over"
    return [Send(report.node, Cancel(plan.id, why))]
