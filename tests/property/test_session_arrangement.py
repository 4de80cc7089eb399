"""Who follows whom, under any sequence of changes: always one tree, never wider than asked, few are disturbed."""

from collections.abc import Callable
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from bootd.session.arrangement import MAX_FOLLOWERS, Arrangement, in_order
from bootd.session.member import Member
from bootd.session.nodes import Node
from bootd.session.states import Standing
from bootd.wire.control import Address

HEAD = Address("10.0.0.254", 9000)
MOST = 40
changes = st.lists(
    st.tuples(st.sampled_from(["append", "append", "append", "remove", "aside", "last"]), st.integers(0, MOST - 1)),
    max_size=120,
)


def member(number: int) -> Member:
    mac = f"52:54:00:00:00:{number:02x}"
    own = Member(Node(mac, f"lab{number}", "aa"), Standing.RECEIVING, 0.0)
    own.address = Address(f"10.0.0.{number}", 4000 + number)
    return own


def depth(tree: Arrangement, own: Member) -> int:
    """1 for who follows the head; fails where there is a circle."""
    steps, source = 1, tree.source_of(own)
    while source is not None:
        steps, source = steps + 1, tree.source_of(source)
        assert steps <= len(tree)
    return steps


def check(tree: Arrangement, there: set[str]) -> None:
    members = list(tree)
    assert sorted(own.node.mac for own in members) == sorted(there), "everybody once, reachable from the head"
    followers = {own.node.mac: tree.followers_of(own) for own in members}
    followers[""] = [own for own in members if tree.source_of(own) is None]
    assert sum(len(own) for own in followers.values()) == len(members)
    for mac, behind in followers.items():
        ordinary = [own for own in behind if not own.aside]
        assert len(ordinary) <= tree.fan_out, mac
        assert len(behind) <= MAX_FOLLOWERS, mac
    for own in members:
        assert own in tree
        assert not (own.aside and followers[own.node.mac]), "nobody follows a member in a side lane"
        depth(tree, own)


@settings(max_examples=150, deadline=None)
@given(fan_out=st.integers(1, 4), steps=changes)
def test_always_one_tree(fan_out: int, steps: list[tuple[str, int]]) -> None:
    tree, pool = Arrangement(fan_out), [member(number) for number in range(MOST)]
    there: set[str] = set()
    for epoch, (action, number) in enumerate(steps, 1):
        own, mac = pool[number], pool[number].node.mac
        before = {other.node.mac: tree.source_of(other) for other in tree}
        behind = len(tree.followers_of(own)) if mac in there else 0
        match action:
            case "append":
                tree.append([own])
                there.add(mac)
            case "remove":
                tree.remove(own)
                there.discard(mac)
            case "aside":
                tree.set_aside(own)
            case "last":
                tree.move_last(own)
        check(tree, there)
        after = {other.node.mac: tree.source_of(other) for other in tree}
        changed = [other for other in before.keys() & after.keys() if before[other] is not after[other]]
        if action == "append":
            assert changed == []
        elif action == "remove":
            assert len(changed) <= behind
        else:
            assert len([other for other in changed if other != mac]) <= behind
        if action == "last" and mac in there and not own.aside and not own.is_slow:
            assert tree.followers_of(own) == []
        places = tree.arrange("s", "head-s", HEAD, 0.0)
        assert [place.epoch for _, place in places] == [epoch] * (len(there) + 1)
        told = dict(places)
        assert told.pop("head-s").predecessor is None
        for other in tree:
            source = after[other.node.mac]
            place = told[other.node.mac]
            assert place.predecessor == (HEAD if source is None else source.address)
            assert place.predecessor_node == ("head-s" if source is None else source.node.mac)


@settings(max_examples=60, deadline=None)
@given(fan_out=st.integers(1, 4), count=st.integers(1, MOST), gone=st.sets(st.integers(0, MOST - 1)))
def test_a_tree_is_filled_from_the_head(fan_out: int, count: int, gone: set[int]) -> None:
    tree, pool = Arrangement(fan_out), [member(number) for number in range(MOST)]
    tree.append(pool[:count])
    # As flat as a tree of this width can be: level k holds fan_out ** k.
    for number, own in enumerate(pool[:count]):
        level, held = 1, fan_out
        while number >= held:
            level += 1
            held += fan_out**level
        assert depth(tree, own) == level
    for number in gone:
        tree.remove(pool[number])
    late = member(MOST)
    room = [depth(tree, own) + 1 for own in tree if len(tree.followers_of(own)) < fan_out]
    if sum(tree.source_of(own) is None for own in tree) < fan_out:
        room.append(1)
    tree.append([late])
    assert depth(tree, late) == min(room)


def _by(key: Callable[[Member], object], members: list[Member]) -> bool:
    keys = [key(own) for own in members]
    return keys == sorted(keys)  # type: ignore[type-var]


@given(numbers=st.lists(st.integers(0, 255), unique=True, max_size=30), switches=st.lists(st.integers(0, 3)))
def test_orders(numbers: list[int], switches: list[int]) -> None:
    members = [member(number) for number in numbers]
    plugged = {
        own.node.mac: f"sw{switch}" if switch else "" for own, switch in zip(members, switches, strict=False)
    }

    def switch(mac: str) -> str:
        return plugged.get(mac, "")

    assert in_order(members, "given", switch) == members
    by_ip = in_order(members, "ip", switch)
    assert _by(lambda own: int(IPv4Address(own.address.host)) if own.address else -1, by_ip)
    by_switch = in_order(members, "switch", switch)
    assert (
        {own.node.mac for own in by_switch} == {own.node.mac for own in by_ip} == {own.node.mac for own in members}
    )
    names = [switch(own.node.mac) for own in by_switch]
    known = [name for name in names if name]
    assert names == sorted(known) + [""] * (len(names) - len(known)), "a switch at a time, the unknown last"
    for name in set(names):
        assert [own for own in by_switch if switch(own.node.mac) == name] == [
            own for own in by_ip if switch(own.node.mac) == name
        ]
