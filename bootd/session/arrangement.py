"""Who follows whom: a tree of members below the head, a chain when everybody has one follower. Pure.

Members set aside are leaves that nobody follows; they come on top of the fan-out of whoever feeds them. Who follows
whom changes only here, and every change has an epoch of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address

from bootd.session.member import Member
from bootd.wire.control import Address, Arrange

MAX_FAN_OUT = 4
MAX_FOLLOWERS = 7  # those set aside included; a member lets in 8
_HEAD = ""  # stands for the head among MACs


class Arrangement:
    """``fan_out``: followers of each member and of the head, from 1."""

    def __init__(self, fan_out: int = 1) -> None:
        self.epoch = 0
        self.fan_out = fan_out
        self._members: dict[str, Member] = {}
        self._source: dict[str, str] = {}
        self._followers: dict[str, list[str]] = {_HEAD: []}

    def __iter__(self) -> Iterator[Member]:
        """From the head downwards, level by level."""
        return (self._members[mac] for mac in self._below(_HEAD))

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: Member) -> bool:
        return self._members.get(member.node.mac) is member

    def source_of(self, member: Member) -> Member | None:
        """Whom ``member`` follows; None for the head."""
        return self._members.get(self._source.get(member.node.mac, _HEAD))

    def followers_of(self, member: Member) -> list[Member]:
        return [self._members[mac] for mac in self._followers.get(member.node.mac, ())]

    # --- changes -----------------------------------------------------------------------------------------

    def append(self, members: Iterable[Member]) -> None:
        """Each at the first free place nearest the head."""
        places = [_HEAD, *self._below(_HEAD)]
        position = 0
        for member in members:
            if member in self:
                continue
            while not self._has_place(places[position]):
                position += 1
            mac = member.node.mac
            self._members[mac] = member
            self._followers[mac] = []
            self._attach(mac, places[position])
            places.append(mac)

    def remove(self, member: Member) -> None:
        """The first follower takes the place, the others the free places nearest the head."""
        if member in self:
            self._detach(member)
            del self._members[member.node.mac], self._followers[member.node.mac]
        member.arranged = None
        member.aside = False

    def set_aside(self, member: Member) -> None:
        """Fed by the head itself, or by whoever near it has room; nobody follows it any more."""
        if member in self and not (member.aside and self.source_of(member) is None):
            self._detach(member)
            member.aside = True
            self._place(member.node.mac)

    def move_last(self, member: Member) -> None:
        """To the far end, where it holds nobody up."""
        if member in self and not member.aside:
            self._detach(member)
            places = [_HEAD, *self._below(_HEAD)]
            self._attach(member.node.mac, next(mac for mac in reversed(places) if self._has_place(mac)))

    def below(self, member: Member) -> list[Member]:
        """Everybody who gets what ``member`` has, directly or through others."""
        return [self._members[mac] for mac in self._below(member.node.mac)]

    def arrange(
        self, session: str, head_node: str, head: Address, now: float, phase: int = 0
    ) -> list[tuple[str, Arrange]]:
        """The next epoch: a place for the head, then one for each member, each with whose it is.

        Everybody gets the new epoch, also where the predecessor stays the same: a link is fenced by its epoch,
        and a member whose predecessor has not changed keeps the link that it has.
        """
        self.epoch += 1
        places = [(head_node, Arrange(session, self.epoch, None, "", phase, len(self._followers[_HEAD])))]
        for member in self:
            source = self.source_of(member)
            node, address = (head_node, head) if source is None else (source.node.mac, source.address)
            followers = len(self._followers[member.node.mac])
            place = Arrange(session, self.epoch, address, node, phase, followers)
            before = member.arranged
            if before is None or (before.predecessor, before.predecessor_node) != (address, node):
                member.moved = now
            member.arranged = place
            if member.phases.arranged is None:
                member.phases.arranged = now
            places.append((member.node.mac, place))
        return places

    # --- inside ------------------------------------------------------------------------------------------

    def _below(self, root: str) -> list[str]:
        """Everybody below ``root``, level by level."""
        found = list(self._followers[root])
        for mac in found:
            found += self._followers[mac]
        return found

    def _lanes(self, mac: str) -> int:
        """How many side lanes ``mac`` feeds."""
        return sum(self._members[follower].aside for follower in self._followers[mac])

    def _is_open(self, mac: str) -> bool:
        """Whether anybody may follow ``mac``."""
        return mac == _HEAD or not self._members[mac].aside

    def _has_place(self, mac: str) -> bool:
        return self._is_open(mac) and len(self._followers[mac]) - self._lanes(mac) < self.fan_out

    def _has_lane(self, mac: str) -> bool:
        return self._is_open(mac) and self._lanes(mac) < MAX_FOLLOWERS - self.fan_out

    def _attach(self, mac: str, source: str) -> None:
        self._source[mac] = source
        self._followers[source].append(mac)

    def _detach(self, member: Member) -> None:
        """Take ``member`` out of the tree; its followers find other places."""
        mac = member.node.mac
        source = self._source.pop(mac)
        left, self._followers[mac] = self._followers[mac], []
        position = self._followers[source].index(mac)
        self._followers[source].pop(position)
        left.sort(key=lambda follower: self._members[follower].aside)  # those set aside last; else the order stays
        if left and not self._members[left[0]].aside:
            heir = left.pop(0)
            self._followers[source].insert(position, heir)
            self._source[heir] = source
        for follower in left:
            self._place(follower)

    def _place(self, mac: str) -> None:
        """A subtree whose source is gone finds the place nearest the head; it is not in the tree at this moment,
        so it can never be placed below itself. There always is a place; where all lanes are taken a member that
        was aside gets one too."""
        places = [_HEAD, *self._below(_HEAD)]
        member = self._members[mac]
        lane = next((place for place in places if self._has_lane(place)), None) if member.aside else None
        if lane is None:
            member.aside = False
            lane = next(place for place in places if self._has_place(place))
        self._attach(mac, lane)


def _numeric(member: Member) -> tuple[int, str]:
    host = member.address.host if member.address else "0.0.0.0"
    return int(IPv4Address(host)), member.node.mac


def in_order(members: Iterable[Member], order: str, switch: Callable[[str], str]) -> list[Member]:
    """The order in which members get their places.

    ``given``: as they joined; ``ip``: by IPv4 address as a number, for neighbours in a room are mostly neighbours
    on a switch; ``switch``: by the switch that ``switch(mac)`` names, then by address. Unknown switches come last.
    """
    members = list(members)
    if order == "given":
        return members
    if order == "switch":
        names = {member.node.mac: switch(member.node.mac) for member in members}
        return sorted(members, key=lambda own: (not names[own.node.mac], names[own.node.mac], *_numeric(own)))
    return sorted(members, key=_numeric)


ORDERS = ("ip", "given", "switch")
