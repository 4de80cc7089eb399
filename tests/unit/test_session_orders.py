"""Orders to a session that is there, in virtual time: other nodes, another try, a time, one by one."""

from dataclasses import fields, replace

import pytest

from bootd.errors import Exit, OperatorError
from bootd.session import orders
from bootd.session.effects import (
    AuditRecord,
    FilesOrder,
    LayoutOrder,
    MemberRecord,
    NodeRecord,
    PartOrder,
    StartHead,
    SwitchOn,
)
from bootd.session.member import Image
from bootd.session.plan import Limits, SessionPlan
from bootd.session.restart import record as record_of
from bootd.wire.control import Cancel, Finish, MemberState, Prepare
from tests.unit.session_room import ROOT, SIZE, Room, disk, idle, mac

WALL = 1_800_000_000.0


def add(room: Room, hosts: str) -> None:
    room.run(orders.add_nodes(room.coordinator, room.session, hosts, "root", room.now))


def eject(room: Room, hosts: str) -> None:
    room.run(orders.eject_nodes(room.coordinator, room.session, hosts, "root", room.now))


def restart(room: Room) -> None:
    """The daemon is killed; the next one has what was recorded."""
    records = room.records()
    nodes = {record.mac: record for record in records if isinstance(record, NodeRecord)}
    members = {record.mac: record for record in records if isinstance(record, MemberRecord)}
    kept = room.session_record()
    room.coordinator = room.make()
    room.run(room.coordinator.restore(nodes.values(), "", [kept], members.values(), room.now))


# --- add and eject -----------------------------------------------------------------------------------------


def test_a_node_added_while_waiting_is_waited_for() -> None:
    room = Room(3)
    room.create("lab[1-2]")
    room.head_ready()
    room.ready(1)
    room.join(3)
    add(room, "lab3")
    assert isinstance(room.last(3), Prepare), "it is up already, so it gets its plan at once"
    room.ready(2)
    assert room.state == "waiting"
    room.report(3, MemberState.READY)
    assert room.state == "running"
    assert room.session_record().expect == 3
    assert AuditRecord("root", "add-nodes", f"{room.session} {mac(3)}") in room.records()


def test_a_node_added_while_running_joins_behind() -> None:
    room = Room(3).start(2)
    add(room, "lab3")
    assert room.coordinator.choice(mac(3)).label == "kamethod"
    room.ready(3)
    assert room.place(3).predecessor_node == mac(2)
    room.verified(1, 2)
    assert room.state == "running"
    room.verified(3)
    room.rebooting(1, 2, 3)
    assert room.verdicts() == {f"lab{number}": (True, "done") for number in (1, 2, 3)}


def test_a_number_that_was_asked_for_stays() -> None:
    room = Room(3)
    room.create("lab[1-2]", expect=1)
    add(room, "lab3")
    assert room.session_record().expect == 1


def test_what_cannot_be_added() -> None:
    room = Room(4).start(2)
    first = room.session
    with pytest.raises(OperatorError, match="lab1 is in the open session"):
        add(room, "lab1")
    room.create("lab3")
    with pytest.raises(OperatorError, match="lab2 is in the open session") as caught:
        add(room, "lab2")
    assert caught.value.code is Exit.BUSY
    with pytest.raises(OperatorError, match="'any' is no node"):
        add(room, "any")
    room.session = first
    room.verified(1, 2)
    with pytest.raises(OperatorError, match="is finishing"):
        add(room, "lab4")
    room.rebooting(1, 2)
    with pytest.raises(OperatorError) as caught:
        add(room, "lab4")
    assert "retry" in caught.value.hint


def test_a_node_ejected_while_waiting_is_forgotten() -> None:
    room = Room(3)
    room.create("lab[1-3]")
    room.head_ready()
    room.ready(1, 2)
    eject(room, "lab2")
    assert room.last(2) == Cancel(room.session, "taken out by root")
    room.join(2)
    assert not isinstance(room.last(2), Prepare), "it does not come back by itself"
    assert room.coordinator.choice(mac(2)).why == "default"
    room.ready(3)
    assert room.state == "running"
    room.verified(1, 3)
    room.rebooting(1, 3)
    assert room.state == "done"
    assert room.verdicts() == {"lab1": (True, "done"), "lab3": (True, "done")}
    outcome = room.coordinator.outcome(room.session)
    assert outcome is not None
    assert outcome.code is Exit.OK


def test_an_absent_node_ejected_lets_the_others_start() -> None:
    room = Room(3)
    room.create("lab[1-3]")
    room.head_ready()
    room.ready(1, 2)
    assert room.state == "waiting"
    eject(room, "lab3")
    assert room.state == "running"


def test_a_node_ejected_in_the_middle_is_named_and_not_booted() -> None:
    room = Room(3).start(3)
    for number in (1, 2, 3):
        room.receiving(number, 1 << 20)
    eject(room, "lab2")
    assert room.place(3).predecessor_node == mac(1), "the chain closes behind it"
    assert room.coordinator.choice(mac(2)).label == "kamethod"
    room.report(2, MemberState.RECEIVING, written=2 << 20)
    assert room.last(2) == Cancel(room.session, "taken out by root"), "told again if it has not heard"
    room.verified(1, 3)
    room.rebooting(1, 3)
    assert room.state == "partly"
    assert room.verdicts()["lab2"] == (False, "ejected")
    assert room.coordinator.choice(mac(2)).label == "kamethod", "its disk is half written"
    outcome = room.coordinator.outcome(room.session)
    assert outcome is not None
    assert outcome.code is Exit.PARTLY


def test_ejected_of_any_stays_out_until_it_is_added() -> None:
    room = Room(2)
    room.create("any", expect=1)
    eject(room, "lab2")
    room.head_ready()
    room.join(2)
    assert not isinstance(room.last(2), Prepare)
    restart(room)
    room.head()
    room.join(2)
    assert not isinstance(room.last(2), Prepare), "also for the next daemon"
    with pytest.raises(OperatorError, match="takes any node"):
        add(room, "lab1")
    add(room, "lab2")
    room.ready(2)
    assert room.state == "running"


def test_never_the_last_one() -> None:
    """A session without names would be restored as one that takes any node."""
    room = Room(2)
    room.create("lab[1-2]")
    with pytest.raises(OperatorError, match="nobody would be left"):
        eject(room, "lab[1-2]")
    eject(room, "lab1")
    with pytest.raises(OperatorError, match="nobody would be left"):
        eject(room, "lab2")
    with pytest.raises(OperatorError, match="is not in session"):
        eject(room, "52:54:00:00:00:99")
    restart(room)
    assert room.coordinator.sessions[room.session].plan.nodes == frozenset({mac(2)})


def test_several_are_ejected_before_anything_is_judged() -> None:
    """Without lab1 everybody that is left is verified: lab2, which goes too, must not be told to finish."""
    room = Room(3)
    room.create("lab[1-3]", expect=2)
    room.head_ready()
    room.ready(1, 2)
    room.receiving(1, 1 << 20)
    room.verified(2)
    eject(room, "lab[1-2]")
    assert not any(isinstance(message, Finish) for message in room.inbox[mac(2)])
    assert room.state == "running"
    room.ready(3)
    room.verified(3)
    room.rebooting(3)
    assert room.verdicts() == {"lab1": (False, "ejected"), "lab2": (False, "ejected"), "lab3": (True, "done")}


def test_all_that_run_ejected_ends_the_session() -> None:
    room = Room(2)
    room.create("lab[1-2]", expect=1)
    room.head_ready()
    room.ready(1)
    eject(room, "lab1")
    assert room.state == "running"
    room.wait(room.limits.rejoin + 1)
    assert room.state == "failed"


# --- start at a time ---------------------------------------------------------------------------------------


def due(room: Room, wall: float) -> None:
    room.run(orders.open_due(room.coordinator, wall, room.now))


def test_a_scheduled_session_leaves_everybody_alone_until_its_time() -> None:
    room = Room(2)
    room.create("lab[1-2]", start_at=WALL + 3600, start_now=True)
    room.join(1)
    room.wait(30, head=False)
    room.run(room.coordinator.report(idle(1), room.now))
    due(room, WALL + 3599)
    assert room.state == "scheduled"
    assert not [effect for effect in room.effects if isinstance(effect, StartHead)]
    assert room.coordinator.choice(mac(2)).why == "default"
    due(room, WALL + 3600)
    assert room.state == "preparing"
    assert room.coordinator.choice(mac(2)).why.startswith("session")
    assert len([effect for effect in room.effects if isinstance(effect, StartHead)]) == 1
    room.head_ready()
    room.report(1, MemberState.READY)
    assert room.state == "running"
    due(room, WALL + 3700)
    assert room.state == "running"


def test_a_restart_keeps_the_time() -> None:
    room = Room(1)
    room.create("lab1", start_at=WALL + 60)
    restart(room)
    room.wait(100, head=False)
    assert room.state == "scheduled"
    assert not [effect for effect in room.effects if isinstance(effect, StartHead)]
    due(room, WALL + 61)
    room.head_ready()
    room.ready(1)
    assert room.state == "running"


def test_a_daemon_that_was_down_at_the_time() -> None:
    for late, state in ((orders.LATEST, "preparing"), (orders.LATEST + 1, "failed")):
        room = Room(1)
        room.create("lab1", start_at=WALL)
        restart(room)
        due(room, WALL + late)
        assert room.state == state
    assert "1.0 hours ago, when the daemon did not run" in room.session_record().reason


def test_scheduled_can_be_started_changed_and_cancelled() -> None:
    room = Room(3)
    room.create("lab[1-2]", start_at=WALL + 60)
    with pytest.raises(OperatorError, match="is in the open session"):
        room.create("lab1")
    add(room, "lab3")
    eject(room, "lab1")
    room.run(room.coordinator.start_now(room.session, "root", room.now))
    assert room.state == "preparing"
    room.run(room.coordinator.cancel(room.session, "", "root", room.now))
    room.create("lab1", start_at=WALL + 60)
    room.run(room.coordinator.cancel(room.session, "", "root", room.now))
    assert room.state == "cancelled"


def test_nodes_are_woken_at_the_time() -> None:
    room = Room(2)
    room.create("lab[1-2]", start_at=WALL, wake=True)
    restart(room)
    assert not [effect for effect in room.effects if isinstance(effect, SwitchOn)]
    due(room, WALL)
    due(room, WALL + 1)
    woken = [effect for effect in room.effects if isinstance(effect, SwitchOn)]
    assert woken == [SwitchOn(room.session, (mac(1), mac(2)))]
    for request in ({"nodes": "any", "start_at": WALL, "expect": 1}, {"nodes": "lab1"}):
        with pytest.raises(OperatorError, match="cannot wake"):
            Room(1).create(wake=True, **request)


@pytest.mark.parametrize(
    ("wall", "good"), [(WALL + 1, True), (WALL, False), (WALL + 367 * 86400, False), (0, True)]
)
def test_times(wall: float, good: bool) -> None:
    if good:
        assert orders.check_time(wall, WALL) == wall
        return
    with pytest.raises(OperatorError):
        orders.check_time(wall, WALL)


# --- retry -------------------------------------------------------------------------------------------------


def half_done(limits: Limits | None = None) -> Room:
    """lab1 is cloned, lab2 half written and parked, lab3 never came."""
    room = Room(3, limits or Limits(attempts=1))
    room.create("lab[1-3]", name="demo", expect=2)
    room.head_ready()
    room.ready(1, 2)
    room.receiving(2, 1 << 20)
    room.report(2, MemberState.FAILED, reason="input/output error")
    room.verified(1)
    room.rebooting(1)
    if room.state != "partly":
        raise LookupError(room.state)
    room.now += 60  # nobody is heard meanwhile
    return room


def retry(room: Room, hosts: str = "", size: int = SIZE) -> str:
    id_, effects = orders.retry(room.coordinator, "demo", hosts, "root", room.now, size=size)
    room.session = id_
    room.run(effects)
    return id_


def test_retry_takes_those_that_are_not_cloned() -> None:
    room = half_done()
    parent = room.session
    assert room.coordinator.nodes.add(mac(2)).parked
    child = room.coordinator.sessions[retry(room)]
    assert (child.plan.nodes, child.plan.parent, child.plan.image_root) == (
        frozenset({mac(2), mac(3)}),
        parent,
        ROOT,
    )
    assert child.id != parent
    assert not room.coordinator.nodes.add(mac(2)).parked, "an operator has decided"
    room.head_ready()
    room.join(2, (replace(disk(), table_digest="ee" * 32),))
    prepared = room.last(2)
    assert isinstance(prepared, Prepare)
    assert prepared.compare, "what it had is not sent again"
    room.report(2, MemberState.READY)
    room.ready(3)
    room.verified(2, 3)
    room.rebooting(2, 3)
    assert room.verdicts() == {"lab2": (True, "done"), "lab3": (True, "done")}
    with pytest.raises(OperatorError, match="no node failed"):
        retry(room)


def test_retry_of_an_earlier_run_of_the_daemon() -> None:
    room = half_done()
    restart(room)
    assert room.session in room.coordinator.past
    child = room.coordinator.sessions[retry(room, "lab2")]
    assert child.plan.nodes == frozenset({mac(2)})
    assert child.plan.bindings[mac(2)].begun


def test_retry_writes_the_same_disk_or_none() -> None:
    room = half_done()
    room.join(2, (disk(serial="OTHER"),))
    with pytest.raises(
        OperatorError, match=r"lab2: vda \(OTHER, .*is not the disk that was planned before"
    ) as caught:
        retry(room)
    assert caught.value.code is Exit.REFUSED
    room = half_done()
    retry(room)
    room.head_ready()
    room.join(2, (disk(serial="OTHER"),))
    assert room.standing(2) == "refused"
    assert "not the disk that was planned before" in room.reason(2)
    room.join(3, (disk(serial="WHATEVER"),))
    assert isinstance(room.last(3), Prepare), "it had none before"
    restart(room)
    room.head()
    room.join(2, (disk(serial="THIRD"),))
    assert room.standing(2) == "refused", "the next daemon knows the binding"


def test_retry_of_another_image_is_refused() -> None:
    room = half_done()
    with pytest.raises(OperatorError, match="bytes now") as caught:
        retry(room, size=SIZE + 1)
    assert caught.value.code is Exit.REFUSED
    retry(room)
    room.head(MemberState.PREPARING, port=0)
    room.run(room.coordinator.manifest(room.session, Image("ef" * 32, SIZE, 1 << 20), room.now))
    assert room.state == "failed"
    assert "not what it was in session" in room.session_record().reason


def test_what_cannot_be_retried() -> None:
    room = half_done()
    with pytest.raises(OperatorError, match="lab1 did not fail"):
        retry(room, "lab1")
    retry(room, "lab2")
    with pytest.raises(OperatorError, match="is preparing") as caught:
        retry(room)
    assert caught.value.code is Exit.BUSY
    with pytest.raises(OperatorError, match="no session"):
        orders.retry(room.coordinator, "nope", "", "root", room.now, size=SIZE)


# --- one after the other -----------------------------------------------------------------------------------


def told(room: Room) -> list[int]:
    return [n for n in (1, 2, 3) if any(isinstance(m, Finish) for m in room.inbox.get(mac(n), []))]


def test_delay_between_the_reboots() -> None:
    room = Room(3).start(3, delay=20.0)
    room.verified(1, 2, 3)
    assert (room.state, told(room)) == ("finishing", [1])
    assert room.coordinator.choice(mac(1)).label == "local"
    room.rebooting(1)
    room.wait(19.5)
    assert told(room) == [1]
    room.wait(0.5)
    assert told(room) == [1, 2], "though it has been silent: its turn comes all the same"
    room.rebooting(2)
    restart(room)
    assert [member.standing.value for member in room.coordinator.sessions[room.session].members.values()] == [
        "done",
        "done",
        "verified",
    ]
    room.wait(0.5)
    assert told(room) == [1, 2, 3], "the first of those that are left, for the next daemon"
    room.rebooting(3)
    assert room.state == "done"


def test_a_node_that_was_told_before_the_restart_may_leave_at_once() -> None:
    room = Room(2).start(2, delay=60.0)
    room.verified(1, 2)
    restart(room)
    room.report(1, MemberState.FINISHING)
    room.rebooting(1)
    assert room.standing(1) == "done"
    assert room.standing(2) == "verified"


def test_a_node_that_dies_before_its_turn_is_not_called_cloned() -> None:
    room = Room(2).start(2, delay=10.0)
    room.verified(1, 2)
    room.rebooting(1)
    room.wait(10 + room.limits.finish + 1)
    assert room.standing(2) == "lost"
    assert room.state == "partly"


def test_a_delay_has_bounds() -> None:
    room = Room(1)
    for delay in (-1.0, 601.0):
        with pytest.raises(OperatorError, match="delay of"):
            room.create("lab1", delay=delay)


# --- a retry forgets nothing -------------------------------------------------------------------------------

ITS_OWN = {"id", "nodes", "join_token", "head_token", "without", "who"}
SAID_ONCE = {"start_at", "wake", "parent", "image_root", "bindings"}


def test_retry_keeps_every_option() -> None:
    """An option that a retry forgot would be another plan: a whole disk in place of a partition, at the worst."""
    room = half_done()
    layout = LayoutOrder("/layout", "cd" * 32, 512, 1 << 20, "S1")
    parts = (PartOrder(5, "/root", SIZE, "vda5"),)
    record = replace(
        orders.ended_record(room.coordinator, "demo"),
        label="dolly",
        after="stay",
        fan_out=3,
        order="given",
        compare=True,
        zeros="discard",
        keep_open=7.0,
        flip_default=False,
        delay=5.0,
        source_sector=512,
        parts=parts,
        grow=True,
        layout=layout,
        verdicts=tuple(
            replace(verdict, binding=None) for verdict in orders.ended_record(room.coordinator, "demo").verdicts
        ),
    )
    room.coordinator = room.make()
    room.run(room.coordinator.restore([], "", [record], (), room.now))
    id_, _ = orders.retry(room.coordinator, "demo", "", "root", room.now, size=SIZE, sector=512)
    plan = room.coordinator.sessions[id_].plan
    assert (plan.parts, plan.grow, plan.order_of_layout) == (parts, True, layout)
    kept = {item.name for item in fields(SessionPlan)} - ITS_OWN - SAID_ONCE
    names = {"order_of_layout": "layout"}
    for name in sorted(kept - {"selector"}):
        assert getattr(plan, name) == getattr(record, names.get(name, name)), name
    assert plan.selector.text == record.selector
    default = SessionPlan("", "", "", 0, None, plan.selector, "", "", "", "")
    unset = {name for name in kept - {"name"} if getattr(plan, name) == getattr(default, name)}
    assert unset <= {"selector", "files", "further"}, "this test gives every option a value of its own"


def test_retry_of_files_is_of_files() -> None:
    """The archive must never be written as bytes: a retry without its order would do that to a whole disk."""
    room = half_done()
    files = FilesOrder("document", "ab" * 32, "desc", ("S1",), ("S2",))
    record = replace(orders.ended_record(room.coordinator, "demo"), files=files)
    record = replace(record, verdicts=tuple(replace(verdict, binding=None) for verdict in record.verdicts))
    room.coordinator = room.make()
    room.run(room.coordinator.restore([], "", [record], (), room.now))
    id_, _ = orders.retry(room.coordinator, "demo", "", "root", room.now, size=SIZE, sector=0)
    session = room.coordinator.sessions[id_]
    assert session.plan.files == files
    assert record_of(session, str).files == files
