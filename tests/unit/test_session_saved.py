"""No node is ready before the server holds the old table of its disk."""

from dataclasses import replace

from bootd.session.effects import Event, MemberRecord, NodeRecord
from bootd.wire.control import Arrange, Cancel, MemberState
from tests.unit.session_room import Room, disk, mac


def test_ready_without_a_saved_table_is_refused() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    room.head_ready()
    room.ready(1)
    room.join(2)
    room.report(2, MemberState.READY, saves=False)
    assert room.standing(2) == "failed"
    assert room.reason(2) == "it is ready, but the server holds no old partition table of vda from this attempt"
    assert room.last(2) == Cancel(room.session, room.reason(2))
    assert not any(isinstance(message, Arrange) for message in room.inbox[mac(2)])
    assert room.state == "running", "it goes on without that node, which counts as settled"


def test_each_attempt_needs_its_own() -> None:
    room = Room(1)
    room.create("lab1")
    room.head_ready()
    room.ready(1)
    room.receiving(1, 1 << 20)
    room.report(1, MemberState.FAILED, reason="its disk has failed")
    room.join(1, (replace(disk(), table_digest="ee" * 32),))
    room.report(1, MemberState.READY, saves=False)
    assert room.standing(1) == "failed"
    assert "no old partition table" in room.reason(1)


def test_a_restarted_daemon_knows_what_it_holds() -> None:
    room = Room(1)
    room.create("lab1")
    room.head_ready()
    room.join(1)
    room.run(room.coordinator.table_saved(mac(1), room.session, "vda, 20260101T000000Z,"))
    (told,) = room.events("saved")
    assert told == Event("saved", mac(1), room.session, "old partition table of vda, 20260101T000000Z, is kept")
    members = {record.mac: record for record in room.records() if isinstance(record, MemberRecord)}
    nodes = [record for record in room.records() if isinstance(record, NodeRecord)]
    assert members[mac(1)].is_saved
    for is_saved, standing in ((True, "ready"), (False, "failed")):
        room.coordinator = room.make()
        kept = [replace(members[mac(1)], is_saved=is_saved)]
        room.run(room.coordinator.restore(nodes, "", [room.session_record()], kept, room.now))
        room.report(1, MemberState.READY, saves=False)
        assert room.standing(1) == standing


def test_what_is_saved_for_a_node_without_a_plan_counts_for_nothing() -> None:
    room = Room(2)
    room.create("lab1")
    room.head_ready()
    assert room.coordinator.table_saved(mac(2), room.session, "vda") == []
    assert room.coordinator.table_saved(mac(1), "nope", "vda") == []
    assert room.coordinator.table_saved(mac(1), room.session, "vda") == []
    room.join(1)
    room.report(1, MemberState.READY, saves=False)
    assert room.standing(1) == "failed"
