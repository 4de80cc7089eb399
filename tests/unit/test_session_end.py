"""The end of a session, the boot policy after it, operators, peers and restarts, in virtual time."""

from dataclasses import replace
from typing import Any

import pytest

from bootd.errors import Exit, OperatorError
from bootd.session.effects import DefaultLabel, MemberRecord, NodeRecord, Persist, StartHead
from bootd.session.member import Image
from bootd.session.plan import Limits
from bootd.wire.control import Address, Arrange, Cancel, Finish, MemberState, Prepare, Wait
from bootd.wire.errors import PeerProtocolError
from tests.unit.session_room import ROOT, SIZE, Room, idle, mac


def running(nodes: int = 3, **request: Any) -> Room:
    return Room(nodes).start(nodes, **request)


# --- the end -----------------------------------------------------------------------------------------------


def test_verified_then_silent_is_not_called_cloned() -> None:
    room = running(2)
    room.verified(1)
    room.receiving(2, 1)
    room.wait(10, 2)
    assert room.standing(1) == "lost"
    assert room.reason(1) == "verified, then silent for 8 s"


def test_end_that_is_never_confirmed() -> None:
    room = running(3)
    room.verified(1, 2, 3)
    room.rebooting(1)
    room.report(2, MemberState.FINISHING)
    assert room.coordinator.choice(mac(3)).label == "local"
    room.wait(62)
    assert room.state == "partly"
    assert room.verdicts() == {"lab1": (True, "done"), "lab2": (True, "done"), "lab3": (False, "lost")}
    assert "reboot was not reported" in room.reason(2)
    assert room.coordinator.choice(mac(3)).label == "kamethod"
    assert room.coordinator.default_label == "local"


def test_failure_while_making_the_disk_bootable_takes_the_flip_back() -> None:
    room = running(2)
    room.verified(1, 2)
    assert room.coordinator.choice(mac(1)).label == "local"
    room.report(1, MemberState.FAILED, reason="no boot loader")
    assert room.state == "finishing"
    assert room.coordinator.choice(mac(1)).label == "kamethod"
    room.rebooting(2)
    assert room.state == "partly"
    assert room.coordinator.choice(mac(1)).label == "kamethod"
    assert room.coordinator.choice(mac(2)).label == "local"


def test_after_stay_needs_no_reboot() -> None:
    room = running(1, after="stay")
    room.verified(1)
    assert room.last(1) == Finish(room.session, "stay")
    room.verified(1)
    assert room.state == "done"


def test_remark_of_a_node_on_its_end_is_shown() -> None:
    room = running(1)
    room.verified(1)
    room.report(1, MemberState.REBOOTING, reason="no boot entry: efivarfs is read-only")
    assert room.standing(1) == "done"
    assert room.reason(1) == "verified, then rebooted (no boot entry: efivarfs is read-only)"


def test_absent_nodes_have_a_verdict() -> None:
    room = Room(3)
    room.create("lab[1-3]", start_now=True)
    room.head_ready()
    room.ready(2)
    assert room.state == "running"
    room.verified(2)
    room.rebooting(2)
    assert room.state == "partly"
    assert room.verdicts() == {"lab1": (False, "absent"), "lab2": (True, "done"), "lab3": (False, "absent")}


def test_default_label_stays_when_asked_or_when_it_is_another() -> None:
    room = running(1, flip_default=False)
    room.verified(1)
    room.rebooting(1)
    assert room.coordinator.default_label == "kamethod"
    room = Room(1, default="dolly")
    room.create("lab1")
    room.head_ready()
    room.ready(1)
    room.verified(1)
    room.rebooting(1)
    assert room.state == "done"
    assert room.coordinator.default_label == "dolly"


def test_a_label_set_to_have_a_node_cloned_is_used_up_by_the_clone() -> None:
    room = Room(2, default="local")
    room.coordinator = room.make("local", {mac(2): "kamethod"})
    room.run(room.coordinator.set_label("lab1", "kamethod", False, "root"))
    room.create("lab[1-2]")
    room.head_ready()
    room.ready(1, 2)
    room.verified(1, 2)
    room.rebooting(1, 2)
    assert room.coordinator.choice(mac(1)).label == "local"
    assert room.coordinator.choice(mac(2)).label == "local"


def test_cloned_nodes_are_wanted_again_by_a_new_session_only() -> None:
    room = Room(1)
    room.create("any", expect=1)
    room.head_ready()
    room.ready(1)
    room.now += 1
    other = room.create("any", expect=1, name="open-since-before-the-end")
    room.session = next(iter(room.coordinator.sessions))
    room.now += 1
    room.head()
    room.verified(1)
    room.rebooting(1)
    assert room.state == "done"
    assert room.coordinator.choice(mac(1)).label == "local"
    room.now += 1
    room.run(room.coordinator.cancel(other, "", "root", room.now))
    room.create("any", expect=1)
    assert room.coordinator.choice(mac(1)).label == "kamethod"


def test_label_of_an_operator_protects_a_node_from_any() -> None:
    room = Room(2)
    room.run(room.coordinator.set_label("lab1", "local", False, "root"))
    room.create("any", expect=1)
    assert room.coordinator.choice(mac(1)).label == "local"
    assert room.coordinator.choice(mac(2)).label == "kamethod"


# --- operators ---------------------------------------------------------------------------------------------


def test_cancel() -> None:
    room = running(2)
    room.run(room.coordinator.cancel(room.session, "", "alice", room.now))
    assert room.state == "cancelled"
    assert room.last(1) == Cancel(room.session, "cancelled by alice")
    outcome = room.coordinator.outcome(room.session)
    assert outcome is not None
    assert outcome.code is Exit.ERROR
    room.receiving(1, 5)
    assert isinstance(room.last(1), Cancel)
    with pytest.raises(OperatorError, match="cancelled"):
        room.coordinator.cancel(room.session, "", "alice", room.now)
    room.create("lab[1-2]")
    room.head_ready()
    assert isinstance(room.last(2), Prepare)


@pytest.mark.parametrize(
    "request_",
    [
        {"nodes": "lab9"},
        {"nodes": "any"},
        {"nodes": ""},
        {"nodes": "lab1", "expect": 2},
        {"nodes": "lab1", "expect": -1},
        {"nodes": "lab1", "disk": "first"},
        {"nodes": "lab1", "label": "gone"},
        {"nodes": "lab1", "after": "explode"},
        {"nodes": "lab1", "name": "a b"},
        {"nodes": "lab1", "source_size": 0},
    ],
)
def test_requests_that_make_no_sense(request_: dict[str, Any]) -> None:
    room = Room(3)
    with pytest.raises(OperatorError) as caught:
        room.create(**request_)
    assert caught.value.hint
    assert caught.value.code in (Exit.USAGE, Exit.INPUT)
    assert room.effects == []


def test_a_node_is_in_one_open_session_at_most() -> None:
    room = Room(3)
    room.create("lab[1-2]", name="one")
    with pytest.raises(OperatorError, match="lab2 is in the open session one") as caught:
        room.create("lab[2-3]")
    assert caught.value.code is Exit.BUSY
    with pytest.raises(OperatorError, match="a session one is open"):
        room.create("lab3", name="one")


def test_unknown_session_and_unpark() -> None:
    room = Room(1)
    for call in (
        lambda: room.coordinator.cancel("nope", "", "root", 0.0),
        lambda: room.coordinator.outcome("nope"),
        lambda: room.coordinator.start_now("", "root", 0.0),
        lambda: room.coordinator.unpark("lab1", "root", 0.0),
    ):
        with pytest.raises(OperatorError):
            call()


# --- peers -------------------------------------------------------------------------------------------------


def test_nonsense_of_peers_changes_nothing() -> None:
    room = Room(1)
    good = room.join(1)
    assert good
    joined = room.coordinator.nodes.add(mac(1)).join
    assert joined is not None
    bad: tuple[dict[str, Any], ...] = (
        {"node": "lab1"},
        {"node": "AA:bb:cc:dd:ee:ff"},
        {"address": "10.0.0"},
        {"address": "0.0.0.0"},
    )
    for values in bad:
        with pytest.raises(PeerProtocolError):
            room.coordinator.join(replace(joined, **values), room.now)
    assert len(room.coordinator.nodes) == 1


def test_reports_for_sessions_that_are_not_there() -> None:
    room = Room(1)
    room.join(1)
    room.session = "feedbeef"
    room.receiving(1, 5)
    assert room.last(1) == Cancel("feedbeef", "no such session here")
    before = len(room.inbox[mac(1)])
    room.rebooting(1)
    room.report(1, MemberState.PARKED, reason="x")
    assert len(room.inbox[mac(1)]) == before
    assert room.run(room.coordinator.report(replace(idle(1), node=mac(99)), room.now))  # an event, no more


def test_node_that_parks_itself_before_any_session() -> None:
    room = Room(1)
    parked = replace(idle(1), state=MemberState.PARKED, reason="Can't reach a valid KA server")
    room.run(room.coordinator.boot_choice(mac(1), room.now)[1])
    room.run(room.coordinator.report(parked, room.now))
    assert room.coordinator.choice(mac(1)).label == "rescue"
    assert len(room.events("parked")) == 1
    room.run(room.coordinator.report(parked, room.now))
    assert len(room.events("parked")) == 1
    room.run(room.coordinator.unpark("lab1", "root", room.now))
    assert room.coordinator.choice(mac(1)).label == "kamethod"


def test_everything_in_force_is_sent_to_who_connects() -> None:
    room = Room(2)
    command = room.coordinator.commands_for
    room.join(1)
    assert command(mac(1)) == [Wait("no session wants this node")]
    room.create("lab[1-2]")
    head = f"head-{room.session}"
    assert command(head) == []
    room.head_ready()
    assert [type(message) for message in command(mac(1))] == [Prepare]
    room.ready(1, 2)
    assert command(mac(2)) == [
        Prepare(room.plan(2), room.coordinator.sessions[room.session].plan.join_token),
        room.place(2),
    ]
    assert command(head) == [Arrange(room.session, 1, None, "")]
    room.report(1, MemberState.FAILED, reason="EIO")
    assert command(mac(1)) == [Cancel(room.session, "EIO")]
    room.verified(2)
    assert command(mac(2)) == [Finish(room.session, "reboot")]
    assert command(head) == [Finish(room.session, "exit")]
    room.rebooting(2)
    assert command(mac(2)) == []
    assert command("head-unknown") == [Finish("unknown", "exit")]
    assert isinstance(command(mac(200))[0], Wait)


# --- restart -----------------------------------------------------------------------------------------------


def restarted(room: Room) -> Room:
    """The same room with a coordinator that knows only what was persisted."""
    nodes = {record.mac: record for record in room.records() if isinstance(record, NodeRecord)}
    members = {record.mac: record for record in room.records() if isinstance(record, MemberRecord)}
    labels = [record.label for record in room.records() if isinstance(record, DefaultLabel)]
    after = Room(len(room.names), room.limits, default="local")
    after.session, after.now = room.session, 5.0  # another clock: the machine was restarted too
    label = labels[-1] if labels else ""
    record = room.session_record()
    after.run(after.coordinator.restore(nodes.values(), label, [record], members.values(), after.now))
    return after


def test_running_session_goes_on_after_a_restart() -> None:
    room = running(2)
    room.run(room.coordinator.set_default_label("dolly", "root"))
    token = room.coordinator.nodes.add(mac(1)).token
    room.receiving(1, 5 << 20)
    epoch = room.place(1).epoch
    after = restarted(room)
    assert after.coordinator.check_token(mac(1), token)
    assert after.coordinator.default_label == "dolly"
    assert after.coordinator.outcome(room.session) is None
    start = [effect for effect in after.effects if isinstance(effect, StartHead)][-1]
    assert (start.session, start.source) == (room.session, "/img")
    assert after.coordinator.check_token(f"head-{room.session}", start.node_token)
    after.report(1, MemberState.RECEIVING, written=9 << 20, durable=8 << 20, epoch=epoch)
    after.report(2, MemberState.READY, epoch=epoch)
    assert (after.standing(1), after.standing(2)) == ("receiving", "ready")
    after.run(after.coordinator.manifest(after.session, Image(ROOT, SIZE, 1 << 20), after.now))
    after.head(port=9001)
    assert after.place(1).epoch > epoch
    assert after.place(1).predecessor == Address("10.0.0.254", 9001)
    assert after.place(2).predecessor_node == mac(1)
    after.verified(1, 2)
    after.rebooting(1, 2)
    assert after.verdicts() == {"lab1": (True, "done"), "lab2": (True, "done")}


def test_member_not_heard_of_after_a_restart_is_lost_and_the_others_are_cloned() -> None:
    after = restarted(running(2))
    after.head_ready()
    after.report(1, MemberState.RECEIVING)
    after.wait(9, 1)
    assert after.standing(2) == "lost"
    assert after.reason(2) == "silent for 8 s"
    after.verified(1)
    after.rebooting(1)
    assert after.verdicts() == {"lab1": (True, "done"), "lab2": (False, "lost")}


def test_another_image_after_a_restart_ends_the_session() -> None:
    after = restarted(running(1))
    after.run(after.coordinator.manifest(after.session, Image("00" * 32, SIZE, 1 << 20), after.now))
    assert after.state == "failed"
    after.report(1, MemberState.RECEIVING)
    assert isinstance(after.last(1), Cancel)


def test_waiting_session_goes_on_gathering_after_a_restart() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    room.head_ready()
    room.ready(1)
    after = restarted(room)
    after.head_ready()
    assert after.state == "waiting"
    after.report(1, MemberState.READY)
    after.ready(2)
    assert after.state == "running"


def test_restart_in_the_middle_of_the_end_keeps_what_was_confirmed() -> None:
    room = running(2)
    room.verified(1, 2)
    room.rebooting(1)
    after = restarted(room)
    assert (after.state, after.standing(1)) == ("finishing", "done")
    assert not [effect for effect in after.effects if isinstance(effect, StartHead)]
    assert after.coordinator.commands_for(mac(2)) == [Finish(room.session, "reboot")]
    after.rebooting(2)
    assert after.verdicts() == {"lab1": (True, "done"), "lab2": (True, "done")}
    assert after.coordinator.choice(mac(2)).label == "local"


def test_open_session_of_an_older_journal_has_an_end() -> None:
    room = running(1)
    record = replace(room.session_record(), join_token="", head_token="")
    after = Room(1)
    effects = after.run(after.coordinator.restore([], "", [record]))
    outcome = after.coordinator.outcome(room.session)
    assert outcome is not None
    assert (outcome.state, outcome.code) == ("failed", Exit.ERROR)
    assert [effect.record for effect in effects if isinstance(effect, Persist)] == [
        after.coordinator.past[room.session]
    ]


def test_parked_and_policies_survive() -> None:
    room = Room(3, Limits(attempts=1))
    room.create("lab[1-3]", expect=2)
    room.head_ready()
    room.ready(1, 2)
    room.report(1, MemberState.FAILED, reason="EIO")
    room.run(room.coordinator.set_label("lab3", "dolly", False, "root"))
    room.run(room.coordinator.set_label("lab2", "rescue", True, "root"))
    after = restarted(room)
    assert after.coordinator.choice(mac(1)).label == "rescue"
    assert after.coordinator.nodes.add(mac(1)).parked.startswith("1 attempts failed")
    assert after.coordinator.choice(mac(3)).label == "dolly"
    assert after.coordinator.choice(mac(2)).label == "rescue"
