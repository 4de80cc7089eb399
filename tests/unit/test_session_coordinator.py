"""Sessions in virtual time: nodes gather, the session starts, the chain is repaired."""

from typing import Any

import pytest

from bootd.errors import Exit, OperatorError
from bootd.session.effects import AuditRecord, DefaultLabel, NodeRecord, StartHead, StopHead
from bootd.session.member import Image
from bootd.session.plan import Limits
from bootd.wire.control import Address, Arrange, Cancel, Finish, MemberState, Prepare, Wait
from tests.unit.session_room import ROOT, SIZE, Room, disk, idle, mac


def running(nodes: int = 3, **request: Any) -> Room:
    return Room(nodes).start(nodes, **request)


def chain(room: Room) -> list[str]:
    """Predecessor of each node, in the order of node numbers, by the last place that each was given."""
    session = room.coordinator.sessions[room.session]
    return [member.arranged.predecessor_node for member in session.arrangement if member.arranged]


# --- gathering ---------------------------------------------------------------------------------------------


def test_whole_course_of_a_session() -> None:
    room = Room(2)
    room.create("lab[1-2]", name="demo")
    start = [effect for effect in room.effects if isinstance(effect, StartHead)]
    assert [(effect.source, effect.node) for effect in start] == [("/img", f"head-{room.session}")]
    assert room.coordinator.check_token(start[0].node, start[0].node_token)
    room.join(1)
    assert isinstance(room.last(1), Wait)
    assert "digests" in room.last(1).reason  # type: ignore[union-attr]
    room.head_ready()
    assert room.state == "waiting"
    plan = room.plan(1)
    assert (plan.session, plan.node, plan.image_root, plan.image_size) == (room.session, mac(1), ROOT, SIZE)
    assert plan.disk == disk()
    room.report(1, MemberState.READY)
    assert room.state == "waiting"
    room.ready(2)
    assert room.state == "running"
    head = f"head-{room.session}"
    assert room.inbox[head][-1] == Arrange(room.session, 1, None, "", followers=1)
    assert room.place(1) == Arrange(room.session, 1, Address("10.0.0.254", 9000), head, followers=1)
    assert room.place(2) == Arrange(room.session, 1, Address("10.0.0.1", 4001), mac(1))
    room.receiving(1, SIZE)
    room.verified(1)
    assert room.state == "running"
    assert not any(isinstance(message, Finish) for message in room.inbox[mac(1)])
    room.verified(2)
    assert room.state == "finishing"
    assert room.last(1) == room.last(2) == Finish(room.session, "reboot")
    assert room.inbox[head][-1] == Finish(room.session, "exit")
    assert StopHead(room.session) in room.effects
    assert room.coordinator.choice(mac(1)).label == "local"
    assert room.coordinator.default_label == "kamethod"
    room.rebooting(1)
    assert room.coordinator.outcome("demo") is None
    room.rebooting(2)
    assert room.state == "done"
    outcome = room.coordinator.outcome("demo")
    assert outcome is not None
    assert outcome.code is Exit.OK
    assert room.verdicts() == {"lab1": (True, "done"), "lab2": (True, "done")}
    assert room.coordinator.default_label == "local"
    assert DefaultLabel("local") in room.records()
    assert room.session_record().state == "done"
    nodes = [record for record in room.records() if isinstance(record, NodeRecord) and record.mac == mac(1)]
    assert nodes[-1].automatic == "local"


def test_nodes_already_waiting_in_stage2_are_taken_in() -> None:
    room = Room(2)
    room.join(1)
    room.join(2)
    assert room.last(1) == Wait("no session wants this node")
    room.create("lab1")
    assert "digests" in room.last(1).reason  # type: ignore[union-attr]
    assert room.last(2) == Wait("no session wants this node")
    room.head_ready()
    assert isinstance(room.last(1), Prepare)
    assert room.last(2) == Wait("no session wants this node")


def test_a_node_not_heard_of_is_not_taken_in_until_it_is() -> None:
    room = Room(1)
    room.join(1)
    room.now += 60
    room.create("lab1")
    room.head_ready()
    assert isinstance(room.last(1), Wait)
    room.run(room.coordinator.report(idle(1), room.now))
    assert isinstance(room.last(1), Prepare)


def test_unwanted_nodes_wait_and_are_never_given_a_plan() -> None:
    room = Room(4)
    room.create("lab[1-2]")
    room.head_ready()
    room.join(3)
    room.join(1, session="other")
    assert room.last(3) == Wait("no session wants this node")
    assert room.last(1) == Wait("no session named other is open")
    room.join(2, session=room.session)
    assert isinstance(room.last(2), Prepare)


def test_kaopt_chooses_between_sessions() -> None:
    room = Room(3)
    first = room.create("any", name="one", expect=1)
    room.head_ready()
    second = room.create("any", name="two", expect=1)
    room.head_ready()
    room.join(1)
    assert "2 sessions want this node: one, two" in room.last(1).reason  # type: ignore[union-attr]
    room.join(1, session="two")
    room.join(2, session=first)
    assert room.plan(1).session == second
    assert room.plan(2).session == first


def test_named_session_goes_before_any() -> None:
    room = Room(3)
    room.create("any", expect=2)
    room.head_ready()
    named = room.create("lab1")
    room.head_ready()
    room.join(1)
    assert room.plan(1).session == named


def test_refused_node_is_a_result_and_the_others_go_on() -> None:
    room = Room(3)
    room.create("lab[1-3]")
    room.head_ready()
    room.join(1, (disk("vda"), disk("vdb", serial="S2")))
    assert room.standing(1) == "refused"
    assert "2 disks match" in room.last(1).reason  # type: ignore[union-attr]
    assert not any(isinstance(message, Prepare) for message in room.inbox[mac(1)])
    room.ready(2, 3)
    assert room.state == "running"
    room.verified(2, 3)
    room.rebooting(2, 3)
    assert room.state == "partly"
    outcome = room.coordinator.outcome(room.session)
    assert outcome is not None
    assert outcome.code is Exit.PARTLY
    assert room.coordinator.nodes.add(mac(1)).automatic == ""  # nothing was written: its policy is not touched


def test_refused_node_is_judged_again_when_its_disks_changed() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    room.head_ready()
    two = (disk("vda"), disk("vdb", serial="S2"))
    room.join(1, two)
    room.join(1, two)
    assert len(room.events("refused")) == 1
    room.join(1)
    assert isinstance(room.last(1), Prepare)


def test_gate_refusal_is_final_for_the_same_disk_and_bounded_at_boot() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    room.head_ready()
    room.run(room.coordinator.set_default_label("local", "root"))
    assert room.coordinator.choice(mac(1)).label == "kamethod"
    room.join(1)
    room.report(1, MemberState.REFUSED, reason="partition table changed")
    for _ in range(4):
        assert room.coordinator.choice(mac(1)).label == "kamethod"
        room.join(1)
        assert room.standing(1) == "refused"
        assert "partition table changed" in room.last(1).reason  # type: ignore[union-attr]
    assert room.coordinator.choice(mac(1)).label == "local"
    assert sum(isinstance(message, Prepare) for message in room.inbox[mac(1)]) == 1


def test_all_refused_ends_the_session_with_its_own_exit_code() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    room.head_ready()
    room.join(1, ())
    room.join(2, (disk(size=SIZE - 512),))
    assert room.state == "failed"
    outcome = room.coordinator.outcome(room.session)
    assert outcome is not None
    assert outcome.code is Exit.REFUSED
    assert {verdict.standing for verdict in outcome.verdicts} == {"refused"}


def test_join_repeated_by_the_same_process_costs_nothing() -> None:
    room = Room(1)
    room.create("lab1")
    room.head_ready()
    room.join(1)
    room.join(1)
    member = room.coordinator.sessions[room.session].members[mac(1)]
    assert member.attempts == 0
    assert [type(message) for message in room.inbox[mac(1)]].count(Prepare) == 2


def test_join_again_with_other_disks_is_judged_by_them() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    room.head_ready()
    room.join(1, (disk("vda", serial="OLD"),))
    room.join(1, (disk("vda", serial="NEW"),))
    assert room.plan(1).disk.serial == "NEW"
    room.join(1, (disk("vda", serial="A"), disk("vdb", serial="B")))
    assert room.standing(1) == "refused"
    assert room.coordinator.commands_for(mac(1)) == [room.last(1)]


def test_expect_changes_while_waiting_and_start_now() -> None:
    room = Room(4)
    room.create("lab[1-4]")
    room.head_ready()
    room.ready(1, 2)
    assert room.state == "waiting"
    room.run(room.coordinator.set_expect(room.session, 2, "root", room.now))
    assert room.state == "running"
    with pytest.raises(OperatorError, match="only while it waits"):
        room.coordinator.set_expect(room.session, 3, "root", room.now)
    other = Room(4)
    other.create("lab[1-4]")
    other.head_ready()
    other.ready(1)
    other.join(2)
    other.run(other.coordinator.start_now(other.session, "root", other.now))
    assert other.state == "waiting"  # lab2 has its plan and is about to be ready
    other.report(2, MemberState.READY)
    assert other.state == "running"
    assert AuditRecord("root", "start-now", other.session) in other.records()


def test_chain_is_in_numeric_order_of_addresses() -> None:
    room = Room(12)
    room.create("lab[2,10,1,11]")
    room.head_ready()
    room.ready(11, 2, 10, 1)
    assert chain(room) == [f"head-{room.session}", mac(1), mac(2), mac(10)]


# --- running -----------------------------------------------------------------------------------------------


def test_silent_member_is_lost_and_its_successor_moves_up() -> None:
    room = running(4)
    for number in (1, 2, 3, 4):
        room.receiving(number, 1 << 20)
    assert room.place(3).predecessor_node == mac(2)
    room.wait(10, 1, 3, 4)
    assert room.standing(2) == "lost"
    assert room.reason(2) == "silent for 8 s"
    head = f"head-{room.session}"
    assert room.place(3) == Arrange(room.session, 2, Address("10.0.0.1", 4001), mac(1), followers=1)
    assert room.place(1) == Arrange(room.session, 2, Address("10.0.0.254", 9000), head, followers=1)
    assert room.place(4).epoch == 2
    assert room.inbox[head][-1] == Arrange(room.session, 2, None, "", followers=1)
    assert not [message for message in room.inbox[mac(2)] if isinstance(message, Arrange) and message.epoch > 1]
    room.verified(1, 3, 4)
    room.rebooting(1, 3, 4)
    assert room.state == "partly"
    assert room.verdicts()["lab2"] == (False, "lost")


@pytest.mark.parametrize("state", [MemberState.FAILED, MemberState.REFUSED, MemberState.PARKED])
def test_member_that_gives_up_is_left_out_at_once(state: MemberState) -> None:
    room = running(3)
    room.report(1, state, reason="write error: EIO")
    assert room.standing(1) == state.value
    assert room.reason(1) == "write error: EIO"
    head = f"head-{room.session}"
    assert room.place(2) == Arrange(room.session, 2, Address("10.0.0.254", 9000), head, followers=1)


def test_two_adjacent_and_all_but_one() -> None:
    room = running(5)
    room.report(2, MemberState.FAILED, reason="a")
    room.report(3, MemberState.FAILED, reason="b")
    assert room.place(4).predecessor_node == mac(1)
    assert room.place(4).epoch == 3
    room.report(1, MemberState.FAILED, reason="c")
    room.report(4, MemberState.FAILED, reason="d")
    assert room.place(5).predecessor_node == f"head-{room.session}"
    room.verified(5)
    room.rebooting(5)
    assert room.verdicts()["lab5"] == (True, "done")
    assert room.state == "partly"


def test_late_node_becomes_the_tail() -> None:
    room = Room(3)
    room.create("lab[1-3]", expect=2)
    room.head_ready()
    room.ready(1, 3)
    room.ready(2)
    assert room.place(2) == Arrange(room.session, 2, Address("10.0.0.3", 4003), mac(3))
    assert room.place(3).predecessor_node == mac(1)
    room.verified(1, 3)
    assert room.state == "running"
    room.verified(2)
    assert room.state == "finishing"


def test_restarted_node_resumes_until_its_attempts_are_used_up_then_it_is_parked() -> None:
    room = running(2)
    for attempt in range(1, 5):
        room.ready(1)
        assert room.standing(1) == "ready"
        assert room.coordinator.nodes.add(mac(1)).attempts == attempt
        assert room.place(1).predecessor_node == mac(2)
    room.join(1)
    assert room.standing(1) == "parked"
    assert "5 attempts failed" in room.reason(1)
    assert room.coordinator.choice(mac(1)).label == "rescue"
    assert "parked" in room.last(1).reason  # type: ignore[union-attr]
    room.join(1)
    assert sum(isinstance(message, Prepare) for message in room.inbox[mac(1)]) == 5
    room.verified(2)
    room.rebooting(2)
    assert room.verdicts() == {"lab1": (False, "parked"), "lab2": (True, "done")}
    room.run(room.coordinator.unpark("lab1", "root", room.now))
    assert room.coordinator.choice(mac(1)).label == "kamethod"  # its disk may be half written: stage2, not local


def test_last_heartbeat_of_a_failed_attempt_does_not_end_the_next_one() -> None:
    room = running(2)
    room.report(1, MemberState.FAILED, reason="EIO")
    room.report(1, MemberState.FAILED, reason="EIO")
    room.join(1)
    room.report(1, MemberState.FAILED, reason="EIO")  # sent before the join, arrived after it
    assert room.standing(1) == "preparing"
    room.report(1, MemberState.FAILED, reason="EIO on another sector")
    assert room.standing(1) == "failed"
    room.join(1)
    room.now += 4
    room.report(1, MemberState.FAILED, reason="EIO on another sector")  # it goes on: it failed again
    assert room.standing(1) == "failed"
    assert room.coordinator.nodes.add(mac(1)).attempts == 3


def test_lost_member_that_is_heard_again_goes_to_the_tail() -> None:
    room = running(3)
    room.receiving(1, 5 << 20)
    room.wait(10, 2, 3)
    assert room.standing(1) == "lost"
    room.receiving(1, 5 << 20)
    assert room.standing(1) == "receiving"
    assert room.place(1).predecessor_node == mac(3)
    assert room.place(1).epoch == 3
    assert not any(isinstance(message, Cancel) for message in room.inbox[mac(1)])


def test_false_claims_of_verification_are_failures() -> None:
    claims: tuple[dict[str, Any], ...] = (
        {"verified": SIZE - 1, "durable": SIZE},
        {"verified": SIZE, "total": SIZE - 512},
        {"verified": SIZE * 2, "total": SIZE * 2},
        {},
    )
    for values in claims:
        room = running(2)
        room.report(1, MemberState.VERIFIED, **values)
        assert room.standing(1) == "failed"
        assert "calls itself verified" in room.reason(1)


def test_node_that_leaves_by_itself_is_not_done() -> None:
    room = running(2)
    room.rebooting(1)
    assert room.standing(1) == "failed"
    early = Room(1)
    early.create("lab1")
    early.head_ready()
    early.join(1)
    early.verified(1)
    assert early.standing(1) == "failed"


def test_head_is_started_again_and_members_keep_their_places() -> None:
    room = running(2)
    room.receiving(1, 1 << 20)
    before = room.place(2)
    room.run(room.coordinator.head_ended(room.session, "the head ended with status 9", room.now))
    assert room.state == "running"
    assert [effect for effect in room.effects if isinstance(effect, StartHead)][-1].node == f"head-{room.session}"
    room.wait(30, 1, 2, head=False)
    room.head(MemberState.PREPARING, port=0)
    assert room.place(2) == before
    room.run(room.coordinator.manifest(room.session, Image(ROOT, SIZE, 1 << 20), room.now))
    room.head(port=9001)
    assert (room.place(1).epoch, room.place(1).predecessor) == (before.epoch + 1, Address("10.0.0.254", 9001))
    assert (room.place(2).epoch, room.place(2).predecessor) == (before.epoch + 1, before.predecessor)
    assert room.standing(1) == "receiving"


def test_head_that_comes_back_with_another_image_ends_the_session() -> None:
    room = running(1)
    room.run(room.coordinator.head_ended(room.session, "the head ended with status 9", room.now))
    room.run(room.coordinator.manifest(room.session, Image("00" * 32, SIZE, 1 << 20), room.now))
    assert room.state == "failed"
    assert "digest has changed" in room.coordinator.sessions[room.session].reason


def test_head_lost_too_often_fails_everybody() -> None:
    room = running(2)
    room.verified(1)
    room.wait(10, 1, 2, head=False)
    assert room.state == "running"
    room.wait(2 * (room.limits.ready + room.limits.silence + 1), 1, 2, head=False)
    assert room.state == "failed"
    assert "head: silent" in room.coordinator.sessions[room.session].reason
    assert isinstance(room.last(1), Cancel)
    assert isinstance(room.last(2), Cancel)
    assert room.verdicts() == {"lab1": (False, "cancelled"), "lab2": (False, "cancelled")}
    assert room.coordinator.default_label == "kamethod"
    assert StopHead(room.session) in room.effects


def test_head_process_that_dies_each_time_fails_the_session_but_not_after_the_end() -> None:
    room = running(1)
    for _ in range(3):
        assert room.state == "running"
        room.run(room.coordinator.head_ended(room.session, "ended with status 1", room.now))
    assert room.state == "failed"
    room = running(1)
    room.verified(1)
    room.run(room.coordinator.head_ended(room.session, "ended with status 0", room.now))
    assert room.state == "finishing"


def test_head_reports_failure_and_changed_source() -> None:
    room = running(1)
    room.head(MemberState.FAILED, reason="image changed while it was being sent")
    assert room.coordinator.sessions[room.session].reason == "head: image changed while it was being sent"
    room = Room(1)
    room.create("lab1")
    room.head(MemberState.PREPARING)
    room.run(room.coordinator.manifest(room.session, Image(ROOT, SIZE + 512, 1 << 20), room.now))
    assert room.state == "failed"


def test_head_that_never_starts() -> None:
    room = Room(1)
    room.create("lab1")
    room.wait(3 * (room.limits.ready + room.limits.silence + 1), head=False)
    assert room.state == "failed"


def test_node_that_is_not_ready_in_time_is_left_out() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    room.head_ready()
    room.ready(1)
    room.join(2)
    room.report(2, MemberState.PREPARING)
    room.wait(62, 1, 2)
    assert room.standing(2) == "evicted"
    assert room.reason(2) == "not ready within 60 s"
    assert room.state == "running"


def test_stalled_member_goes_last_then_is_fed_by_the_head_then_evicted() -> None:
    room = running(3)
    room.receiving(1, 20 << 20)
    room.receiving(2, 1 << 20)
    room.report(2, MemberState.RECEIVING, durable=1 << 20, trouble="predecessor: reset")
    room.receiving(3, 1 << 20)
    room.verified(1)
    room.wait(6, 1, 2, 3)
    assert room.place(2).predecessor_node == mac(3)
    assert room.place(3).predecessor_node == mac(1)
    room.receiving(3, 30 << 20)
    room.wait(61, 1, 2, 3)
    assert room.standing(2) == "receiving"
    assert room.place(2).predecessor_node == f"head-{room.session}"
    room.verified(3)
    room.wait(61, 1, 2, 3)
    assert room.standing(2) == "evicted"
    assert "predecessor: reset" in room.reason(2)
    assert room.state == "finishing"


def test_predecessor_that_two_members_cannot_receive_from_is_evicted_itself() -> None:
    room = Room(3, Limits(slow=1e9)).start(3)
    room.verified(1)
    room.receiving(2, 1 << 20)
    room.receiving(3, 1 << 20)
    room.wait(61, 1, 2, 3)
    room.receiving(2, 20 << 20)
    room.receiving(2, SIZE)
    room.wait(61, 1, 2, 3)
    assert room.standing(1) == "evicted"
    assert room.reason(1) == "two members could not receive from it"
    assert room.standing(3) == "receiving"
    assert room.place(3).predecessor_node == f"head-{room.session}" or room.place(3).predecessor_node == mac(2)


def test_member_behind_a_stalled_one_is_not_blamed() -> None:
    room = running(3)
    for number in (1, 2, 3):
        room.receiving(number, 1 << 20)
    room.wait(61, 1, 2, 3)
    assert room.standing(1) == "evicted"  # the head has more for it and feeds it directly: its own fault
    assert room.standing(2) == room.standing(3) == "receiving"


def test_a_session_that_nobody_is_left_in_waits_a_while_and_ends() -> None:
    room = running(2)
    room.report(1, MemberState.FAILED, reason="EIO")
    room.report(2, MemberState.FAILED, reason="EIO")
    room.wait(50)
    assert room.state == "running"
    room.ready(1)
    room.wait(25, 1)
    assert room.state == "running"
    room.report(1, MemberState.FAILED, reason="EIO again")
    room.wait(62)
    assert room.state == "failed"
    assert room.verdicts() == {"lab1": (False, "failed"), "lab2": (False, "failed")}
