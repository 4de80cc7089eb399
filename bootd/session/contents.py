"""What a session says of the places that it writes: wanted when it plans, writing when bytes may flow, installed
when every byte is verified and the node has confirmed the end."""

from bootd.session.effects import ContentRecord, Effect, Persist
from bootd.session.member import Image, Member
from bootd.session.plan import SessionPlan
from bootd.wire.control import Disk


def content_records(plan: SessionPlan, image: Image | None, member: Member, state: str) -> list[Effect]:
    """A record for each disk of ``member``, or one for each of its partitions."""
    if image is None:
        return []
    return [one for disk in member.disks for one in _records_of(disk, plan, image, member, state)]


def _records_of(disk: Disk, plan: SessionPlan, image: Image, member: Member, state: str) -> list[Effect]:
    identity = disk.serial or disk.wwn or disk.name
    places = [
        (target.partition.number, target.partition.partuuid, order.image or order.source, target.size)
        for target, order in zip(member.parts, plan.parts, strict=False)
    ] or [(0, "", plan.source, image.size)]
    if plan.layout:
        places = [(0, "", plan.layout, disk.size), *(place for place in places if place[0])]
    return [
        Persist(
            ContentRecord(
                mac=member.node.mac,
                disk=identity,
                partition=number,
                partuuid=partuuid,
                image=name,
                root=image.root,
                size=size,
                state=state,
                who=plan.who,
                session=plan.id,
            )
        )
        for number, partuuid, name, size in places
    ]
