"""What operators see: counters, phases and the slowest hop, as plain values."""

import json
from typing import Any

from bootd.session.view import view
from bootd.wire.control import MemberState
from tests.unit.session_room import SIZE, Room, disk, mac


def look(room: Room) -> dict[str, Any]:
    value = view(room.coordinator, room.now)
    return dict(json.loads(json.dumps(value)))


def members(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {member["name"]: member for member in value["sessions"][-1]["members"]}


def test_a_session_from_beginning_to_end() -> None:
    room = Room(3)
    room.create("lab[1-3]", name="demo")
    room.head(MemberState.PREPARING, written=SIZE // 4, port=0)
    session = look(room)["sessions"][0]
    assert (session["state"], session["head"]["digested"], session["ended"]) == ("preparing", SIZE // 4, False)
    assert session["outcome"]["code"] is None
    assert [verdict["state"] for verdict in session["outcome"]["nodes"]] == ["absent"] * 3
    room.now += 2
    room.head_ready()
    room.ready(1, 2)
    room.now += 3
    value = look(room)
    assert (value["sessions"][0]["ready"], value["sessions"][0]["expect"]) == (2, 3)
    assert value["sessions"][0]["seconds"]["prepare"] == 2
    room.ready(3)
    room.now += 4
    room.receiving(1, SIZE // 2)
    room.receiving(2, SIZE // 4)
    room.report(3, MemberState.RECEIVING, written=SIZE // 4, durable=SIZE // 8, rate=5_000_000)
    value = look(room)
    third = members(value)["lab3"]
    assert (third["written"], third["durable"], third["verified"]) == (SIZE // 4, SIZE // 8, 0)
    assert (third["lag"], third["rate"], third["total"]) == (SIZE // 8, 5_000_000, SIZE)
    assert third["predecessor"] == mac(2)
    assert third["disk"] == disk().name
    assert third["seconds"]["transfer"] == 4
    hop = value["sessions"][0]["slowest_hop"]
    assert (hop["from"], hop["to"], hop["waiting"]) == (f"head-{room.session}", "lab1", SIZE // 2)
    for number, seconds in ((1, 1), (2, 1), (3, 6)):
        room.now += seconds
        room.report(number, MemberState.VERIFYING, written=SIZE, durable=SIZE)
    room.now += 2
    room.verified(1, 2, 3)
    room.now += 5
    room.rebooting(1, 2, 3)
    room.now += 100
    session = look(room)["sessions"][0]
    assert session["ended"]
    assert session["outcome"]["code"] == 0
    assert session["seconds"] == {
        "prepare": 2.0,
        "waiting": 3.0,
        "transfer": 12.0,
        "verify": 2.0,
        "finish": 5.0,
        "total": 24.0,
    }
    assert session["slowest_hop"]["to"] == "lab3"
    assert session["slowest_hop"]["rate"] == SIZE // 12
    seconds = session["members"][0]["seconds"]
    assert (seconds["wait"], seconds["transfer"], seconds["verify"], seconds["finish"]) == (3.0, 5.0, 9.0, 5.0)


def test_nodes() -> None:
    room = Room(2)
    room.join(1)
    room.run(room.coordinator.set_label("lab2", "dolly", True, "root"))
    first, second = look(room)["nodes"]
    assert (first["name"], first["next_label"], first["why"], first["present"]) == (
        "lab1",
        "kamethod",
        "default",
        True,
    )
    assert first["waiting"] == "no session wants this node"
    assert first["disks"][0]["serial"] == "S1"
    assert (second["next_label"], second["why"], second["once"]) == ("dolly", "one-shot", "dolly")
    assert second["seen_seconds"] is None


def test_sessions_of_an_earlier_run() -> None:
    room = Room(2).start(2)
    room.run(room.coordinator.cancel(room.session, "", "root", room.now))
    after = Room(2)
    after.run(after.coordinator.restore([], "", [room.session_record()]))
    session = look(after)["sessions"][0]
    assert (session["state"], session["ended"], session["outcome"]["code"]) == ("cancelled", True, 1)
    assert session["nodes"] == [mac(1), mac(2)]
