"""Trees, orders, slow nodes, late nodes, phases, and what a plan says to a node that comes back."""

import sys
from typing import Any

import pytest

from bootd.errors import Exit, OperatorError
from bootd.session.deadlines import Remedy, find_stall
from bootd.session.effects import Event, Persist, SessionRecord
from bootd.session.member import Image
from bootd.wire.control import Address, Arrange, Finish, MemberState, Prepare
from tests.unit.session_room import ROOT, SIZE, Room, mac
from tests.unit.test_session_end import restarted


def sources(room: Room) -> dict[int, str]:
    """Whom each node follows, by the places last sent: "head", or "labN"."""
    names = {mac(number): f"lab{number}" for number in range(1, len(room.names) + 1)} | {
        f"head-{room.session}": "head"
    }
    return {
        number: names[room.place(number).predecessor_node]
        for number in range(1, len(room.names) + 1)
        if any(isinstance(message, Arrange) for message in room.inbox.get(mac(number), []))
    }


def prepares(room: Room, number: int) -> list[Prepare]:
    return [message for message in room.inbox[mac(number)] if isinstance(message, Prepare)]


# --- shape -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fan_out", "expected"),
    [
        (1, ["head", "lab1", "lab2", "lab3", "lab4", "lab5"]),
        (2, ["head", "head", "lab1", "lab1", "lab2", "lab2"]),
        (4, ["head", "head", "head", "head", "lab1", "lab1"]),
    ],
)
def test_shape(fan_out: int, expected: list[str]) -> None:
    room = Room(6).start(6, fan_out=fan_out)
    assert list(sources(room).values()) == expected


def test_a_node_lost_in_a_tree_disturbs_its_followers_only() -> None:
    room = Room(6).start(6, fan_out=2)
    room.report(1, MemberState.FAILED, reason="EIO")
    assert sources(room) | {1: "gone"} == {
        1: "gone",
        2: "head",
        3: "head",  # the first follower takes the place
        4: "lab3",  # the other one the free place nearest the head
        5: "lab2",
        6: "lab2",
    }


def test_order_by_switch_and_as_given() -> None:
    plugged = {mac(1): "b", mac(2): "a", mac(3): "b", mac(4): "a"}
    room = Room(5, switches=plugged).start(5, order="switch")
    assert sources(room) == {2: "head", 4: "lab2", 1: "lab4", 3: "lab1", 5: "lab3"}
    room = Room(3)
    room.create("lab[1-3]", order="given")
    room.head_ready()
    room.ready(3, 1, 2)
    assert sources(room) == {3: "head", 1: "lab3", 2: "lab1"}


@pytest.mark.parametrize(
    "request_", [{"fan_out": 0}, {"fan_out": 5}, {"order": "luck"}, {"zeros": "skip"}, {"keep_open": -1.0}]
)
def test_requests_that_make_no_sense(request_: dict[str, Any]) -> None:
    with pytest.raises(OperatorError) as caught:
        Room(1).create("lab1", **request_)
    assert caught.value.code is Exit.USAGE
    assert caught.value.hint


def test_expect_is_at_most_what_is_named() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    with pytest.raises(OperatorError, match="cannot expect 3 of 2 nodes"):
        room.coordinator.set_expect(room.session, 3, "root", room.now)


# --- slow nodes --------------------------------------------------------------------------------------------


def work(room: Room, done: dict[int, int], seconds: int, **more: dict[int, Any]) -> None:
    """So many seconds with these counters of durable bytes."""
    for _ in range(seconds):
        for number, durable in done.items():
            values = {key: by[number] for key, by in more.items() if number in by}
            room.report(number, MemberState.RECEIVING, written=durable, durable=durable, **values)
        room.wait(1)


def test_a_node_whose_disk_is_slow_goes_to_the_end_once() -> None:
    room = Room(4).start(4)
    work(room, dict.fromkeys((1, 2, 3, 4), 8 << 20), 4, blocked={2: 900})
    assert sources(room)[3] == "lab2", "not at once"
    work(room, dict.fromkeys((1, 2, 3, 4), 9 << 20), 3, blocked={2: 900})
    assert sources(room) == {1: "head", 3: "lab1", 4: "lab3", 2: "lab4"}
    epoch = room.place(1).epoch
    work(room, dict.fromkeys((1, 2, 3, 4), 10 << 20), 8, blocked={2: 900})
    assert room.place(1).epoch == epoch, "it holds nobody up where it is"
    assert [event.node for event in room.events("slow")] == [mac(2)]


def test_where_every_disk_is_slow_nobody_is_moved_for_ever() -> None:
    room = Room(4).start(4)
    everybody = (1, 2, 3, 4)
    for _ in range(10):
        work(room, dict.fromkeys(everybody, 8 << 20), 6, blocked=dict.fromkeys(everybody, 900))
    assert len({event.node for event in room.events("slow")}) <= 1
    assert room.place(1).epoch <= 3


def test_a_node_that_cannot_receive_from_one_source_twice_goes_itself() -> None:
    room = Room(2).start(2)
    room.verified(1)
    room.receiving(2, 1 << 20)
    session = room.coordinator.sessions[room.session]
    first, second = session.members[mac(1)], session.members[mac(2)]
    late = find_stall(second, session.members, room.limits, room.now + room.limits.stall)
    assert late is not None
    assert (late.member, late.remedy, late.accused) == (second, Remedy.FEED_BY_HEAD, first)
    first.accused_by.add(mac(2))
    late = find_stall(second, session.members, room.limits, room.now + room.limits.stall)
    assert late is not None
    assert (late.member, late.remedy) == (second, Remedy.DROP)


# --- late nodes --------------------------------------------------------------------------------------------


def test_a_node_that_comes_after_the_end_is_fed_by_one_that_is_done() -> None:
    room = Room(3)
    room.create("any", expect=2, keep_open=30.0)
    room.head_ready()
    room.ready(1, 2)
    room.verified(1, 2)
    room.wait(20, 1, 2)
    assert room.state == "running"
    room.ready(3)
    assert sources(room)[3] == "lab2"
    room.wait(20, 1, 2, 3)
    assert room.state == "running", "somebody still receives"
    room.verified(3)
    room.wait(29, 1, 2, 3)
    assert room.state == "running"
    room.wait(2, 1, 2, 3)
    assert room.state == "finishing"
    room.rebooting(1, 2, 3)
    assert room.verdicts() == {f"lab{number}": (True, "done") for number in (1, 2, 3)}


def test_closing_ends_at_once_what_waits_for_late_nodes_only() -> None:
    room = Room(2)
    room.create("any", expect=1, keep_open=3600.0)
    room.head_ready()
    room.ready(1)
    room.run(room.coordinator.close(room.session, "root", room.now))
    assert room.state == "running", "node 1 is not verified yet"
    room.join(2)
    assert not prepares(room, 2)
    assert room.session_record().is_closing
    room.verified(1)
    assert room.state == "finishing"
    with pytest.raises(OperatorError):
        room.coordinator.close(room.session, "root", room.now)


def test_closing_a_session_that_gathers() -> None:
    room = Room(3)
    room.create("lab[1-3]")
    room.head_ready()
    room.ready(1)
    room.run(room.coordinator.close(room.session, "root", room.now))
    assert room.state == "running", "with the one that is there"
    room.verified(1)
    room.rebooting(1)
    assert room.verdicts() == {"lab1": (True, "done"), "lab2": (False, "absent"), "lab3": (False, "absent")}
    room = Room(1)
    room.create("any", expect=1)
    room.run(room.coordinator.close(room.session, "root", room.now))
    room.head_ready()
    room.wait(1)
    assert room.coordinator.sessions[room.session].reason == "closed before any node had joined"


# --- a plan and a node that comes back ---------------------------------------------------------------------


def test_a_plan_stays_what_it_was_and_the_next_one_compares() -> None:
    room = Room(2).start(2)
    sent = prepares(room, 1)[-1]
    assert not sent.compare
    room.receiving(1, 5 << 20)
    assert room.coordinator.commands_for(mac(1))[0] == sent, "the node has it already: nothing new"
    after = restarted(room)
    assert after.coordinator.commands_for(mac(1))[0] == sent
    after.head_ready()
    after.join(1)
    assert prepares(after, 1)[-1].compare
    room.join(1)
    assert prepares(room, 1)[-1].compare


def test_delta_and_zeros_are_in_every_plan() -> None:
    room = Room(1).start(1, compare=True, zeros="discard")
    assert (prepares(room, 1)[-1].compare, prepares(room, 1)[-1].zeros) == (True, "discard")


def test_a_node_that_digests_is_late_by_lack_of_progress() -> None:
    room = Room(2)
    room.create("lab[1-2]", compare=True)
    room.head_ready()
    for number in (1, 2):
        room.join(number)
    for step in range(1, 5):
        room.report(1, MemberState.PREPARING, port=0, digested=step << 20)
        room.report(2, MemberState.PREPARING, port=0, digested=1 << 20)
        room.wait(25, 1, 2)
    assert (room.standing(1), room.standing(2)) == ("preparing", "evicted")


# --- head and daemon ---------------------------------------------------------------------------------------


def test_the_chain_closes_also_while_the_head_is_away() -> None:
    room = Room(3).start(3)
    room.run(room.coordinator.head_ended(room.session, "the head was killed by signal 9", room.now))
    room.report(2, MemberState.FAILED, reason="EIO")
    assert sources(room)[3] == "lab1"
    assert room.place(1).predecessor == Address("10.0.0.254", 9000)
    room.run(room.coordinator.manifest(room.session, Image(ROOT, SIZE, 1 << 20), room.now))
    room.head(port=9001)
    assert room.place(1).predecessor == Address("10.0.0.254", 9001)


def test_a_stall_that_is_the_heads_evicts_nobody() -> None:
    room = Room(2).start(2)
    room.receiving(1, 5 << 20)
    room.receiving(2, 5 << 20)
    room.run(room.coordinator.head_ended(room.session, "the head was killed by signal 9", room.now))
    for _ in range(7):
        room.head(MemberState.PREPARING, port=0)
        room.wait(7, 1, 2, head=False)
        room.head(MemberState.PREPARING, port=0)
        room.wait(7, 1, 2, head=False)
    assert (room.standing(1), room.standing(2)) == ("receiving", "receiving")


def test_epochs_of_a_node_that_talks_nonsense_are_not_taken_over() -> None:
    room = Room(2).start(2)
    room.receiving(1, 1 << 20)
    room.wait(9, 1)
    assert room.standing(2) == "lost"
    room.report(2, MemberState.RECEIVING, epoch=1 << 60)
    assert room.place(2).epoch < 10


def test_records_come_first() -> None:
    room = Room(2).start(2)
    effects = room.report(1, MemberState.FAILED, reason="EIO")
    kinds = [isinstance(effect, Persist) for effect in effects]
    assert kinds == sorted(kinds, reverse=True)
    (record,) = [e.record for e in effects if isinstance(e, Persist) and isinstance(e.record, SessionRecord)]
    assert record.epoch == room.place(2).epoch


def test_a_node_that_stays_is_told_the_end_again_after_a_restart() -> None:
    room = Room(2).start(2, after="stay")
    room.verified(1, 2)
    assert room.state == "finishing"
    after = restarted(room)
    after.verified(1)  # it has not heard the end: its report comes before its stream is back
    assert after.coordinator.commands_for(mac(1)) == [Finish(room.session, "stay")]


# --- phases ------------------------------------------------------------------------------------------------


def test_a_phase_opens_when_everybody_has_the_one_before() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    room.head(MemberState.PREPARING, port=0)
    room.run(room.coordinator.manifest(room.session, Image(ROOT, SIZE, 1 << 20, phases=3), room.now))
    room.head()
    room.ready(1, 2)
    first = room.place(2)
    assert first.phase == 0
    room.report(1, MemberState.RECEIVING, durable=9 << 20, phases=1)
    assert room.place(2) == first
    room.report(2, MemberState.RECEIVING, durable=9 << 20, phases=1)
    second = room.place(2)
    assert (second.phase, second.epoch) == (1, first.epoch + 1)
    assert (second.predecessor, second.predecessor_node) == (first.predecessor, first.predecessor_node)
    room.report(1, MemberState.RECEIVING, durable=19 << 20, phases=2)
    room.report(2, MemberState.FAILED, reason="EIO")  # who does not come any more is not waited for
    room.report(1, MemberState.RECEIVING, durable=19 << 20, phases=2)
    assert room.place(1).phase == 2
    assert room.session_record().phase == 2


# --- size --------------------------------------------------------------------------------------------------


def calls_of_a_tick(nodes: int) -> int:
    """Function calls of a tick with so many nodes that receive: a count, so that a busy machine does not matter."""
    room = Room(nodes)
    room.create("any", expect=nodes, fan_out=2)
    room.head_ready()
    room.ready(*range(1, nodes + 1))
    for number in range(1, nodes + 1):
        room.report(number, MemberState.RECEIVING, written=8 << 20, durable=8 << 20, blocked=900)
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        effects = room.coordinator.tick(room.now)
    finally:
        sys.setprofile(None)
    assert not [effect for effect in effects if isinstance(effect, Event)]
    return count


def test_a_tick_is_linear() -> None:
    few, many = calls_of_a_tick(100), calls_of_a_tick(800)
    assert few > 100
    assert many < 8.5 * few


def test_what_a_member_says_about_a_neighbour_is_told_once() -> None:
    room = Room(2).start(2)
    words = f"predecessor {mac(1)}: chunk 7 arrived damaged"
    for _ in range(3):
        room.report(2, MemberState.RECEIVING, written=1 << 20, trouble=words)
    room.report(2, MemberState.RECEIVING, written=2 << 20)
    assert [(event.node, event.text) for event in room.events("trouble")] == [(mac(2), words)]
