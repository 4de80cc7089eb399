"""Sessions that write partitions: their plans, what is kept of them, their second tries; and kiosk policies."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootd.drivers.journal import Journal
from bootd.errors import OperatorError
from bootd.session import orders
from bootd.session.effects import ContentRecord, KioskRecord, LayoutOrder, PartOrder, Record
from bootd.session.kiosk import check_time
from bootd.wire.control import Disk, Lock, MemberState, Partition, Prepare
from tests.unit.session_room import ROOT, SIZE, Room, disk, mac

PARTS = (PartOrder(5, "/img", SIZE - 4096, "/img"), PartOrder(6, "slice:1:4096:/b", 4096, "/b#2"))
PARTITIONS = (
    Partition(5, SIZE, "6d9f7a52-05", "ext4", "", 1 << 20, "0x83"),
    Partition(6, 8192, "6d9f7a52-06", "", "", (1 << 20) + SIZE, "0x83"),
)
LAYOUT = LayoutOrder("/img", "cd" * 32, 512, 48 << 20, "")


def parted(**changes: Any) -> Disk:
    return replace(disk(), partitions=PARTITIONS, **changes)


def started(**request: Any) -> Room:
    room = Room(1)
    room.create("lab1", parts=PARTS, **request)
    room.head_ready()
    room.join(1, (parted(),))
    return room


def contents(room: Room) -> list[tuple[int, str, str]]:
    found = [record for record in room.records() if isinstance(record, ContentRecord)]
    return [(record.partition, record.image, record.state) for record in found]


def test_the_plan_names_the_partitions_as_the_node_has_shown_them() -> None:
    room = started()
    plan = room.plan(1)
    assert [(part.partition, part.size) for part in plan.parts] == [
        (PARTITIONS[0], SIZE - 4096),
        (PARTITIONS[1], 4096),
    ]
    assert plan.disk == parted()


def test_installed_is_written_only_after_verified() -> None:
    room = started()
    assert contents(room) == [(5, "/img", "wanted"), (6, "/b#2", "wanted")]
    room.report(1, MemberState.READY)
    assert contents(room)[2:] == [(5, "/img", "writing"), (6, "/b#2", "writing")]
    room.receiving(1, SIZE)
    room.report(1, MemberState.VERIFYING, written=SIZE, durable=SIZE, verified=SIZE - 1)
    assert len(contents(room)) == 4
    room.verified(1)
    assert len(contents(room)) == 4, "not before the node has confirmed the end"
    room.rebooting(1)
    assert contents(room)[4:] == [(5, "/img", "installed"), (6, "/b#2", "installed")]


def test_a_failed_session_leaves_the_partition_incomplete() -> None:
    room = started()
    room.report(1, MemberState.READY)
    room.receiving(1, 1 << 20)
    room.run(room.coordinator.cancel(room.session, "", "root", room.now))
    assert [state for _, _, state in contents(room)] == ["wanted", "wanted", "writing", "writing"]


def test_partitions_survive_a_restart_of_the_daemon(tmp_path: Path) -> None:
    room = started(who="eva")
    room.report(1, MemberState.READY)
    book = Journal(tmp_path / "bootd.db")
    book.batch(room.records())
    book.close()
    saved = Journal(tmp_path / "bootd.db").load()
    again = Room(1)
    again.run(again.coordinator.restore(saved.nodes, "", saved.sessions, saved.members, again.now))
    session = again.coordinator.sessions[room.session]
    assert (session.plan.parts, session.plan.who) == (PARTS, "eva")
    assert session.members[mac(1)].parts == room.plan(1).parts
    assert session.plan.sources == ("/img", "slice:1:4096:/b")


def test_another_try_writes_the_same_partitions_and_never_the_disk() -> None:
    room = started(name="demo")
    room.report(1, MemberState.READY)
    room.receiving(1, 1 << 20)
    room.report(1, MemberState.FAILED, reason="input/output error")
    room.run(room.coordinator.cancel(room.session, "", "root", room.now))
    room.now += 60
    id_, effects = orders.retry(room.coordinator, "demo", "", "root", room.now, size=SIZE)
    room.session = id_
    room.run(effects)
    room.head_ready()
    room.join(1, (parted(),))
    message = room.last(1)
    assert isinstance(message, Prepare)
    assert [part.partition.number for part in message.plan.parts] == [5, 6]
    assert message.compare


def test_a_lock_of_one_partition_refuses_the_whole_order() -> None:
    room = Room(1)
    room.join(1, (parted(),))
    lock = Lock("S1", 6, "", "eva", "thesis")
    room.run(room.coordinator.add_lock("lab1", lock, "eva", room.now))
    room.create("lab1", parts=PARTS)
    room.head_ready()
    room.join(1, (parted(),))
    assert room.standing(1) == "refused"
    assert "locked by eva" in room.reason(1)


def test_a_layout_wants_an_empty_disk_and_its_second_try_does_not() -> None:
    parts = tuple(replace(part, start=(1 + part.number) << 20, room=SIZE) for part in PARTS)
    room = Room(1)
    room.create("lab1", parts=parts, layout=LAYOUT, expect=1)
    room.head_ready()
    room.join(1, (parted(),))
    assert "vda is not empty: 2 partitions" in room.reason(1)
    room = Room(1)
    room.create("lab1", parts=parts, layout=LAYOUT, expect=1)
    room.head_ready()
    room.join(1, (disk(),))
    plan = room.plan(1)
    assert (plan.empty, plan.layout, plan.least) == (True, "cd" * 32, 48 << 20)
    assert [part.partition.start for part in plan.parts] == [6 << 20, 7 << 20]
    room.report(1, MemberState.READY)
    room.report(1, MemberState.FAILED, reason="link lost")
    room.join(1, (parted(),))  # its table has been written
    assert room.plan(1).empty is False
    assert room.standing(1) == "preparing"


def test_a_layout_for_a_larger_disk_is_refused() -> None:
    room = Room(1)
    parts = tuple(replace(part, start=1 << 20, room=SIZE) for part in PARTS)
    room.create("lab1", parts=parts, layout=replace(LAYOUT, least=65 << 20))
    room.head_ready()
    room.join(1, (disk(),))
    assert "smaller than the image of 68157440 bytes" in room.reason(1)


def test_any_disk_is_no_answer_to_which_disk() -> None:
    with pytest.raises(OperatorError, match="erase names no disk"):
        Room(1).create("lab1", parts=PARTS, layout=replace(LAYOUT, erase="*"))


# --- kiosk -----------------------------------------------------------------------------------------------------


def policy(number: int = 1, at: str = "") -> KioskRecord:
    return KioskRecord(mac(number), "/img", "only", (), at, "kamethod", "root", is_due=False)


def test_kiosk_boots_stage2_then_its_own_disk_once() -> None:
    room = Room(1, default="local")
    room.coordinator.nodes.add(mac(1))
    room.coordinator.kiosks.set(policy())
    assert room.coordinator.choice(mac(1)).why == "kiosk: reset to /img"
    room.start(1, flip_default=False)
    room.verified(1)
    room.rebooting(1)
    assert room.coordinator.boot_choice(mac(1), room.now)[0].label == "local"
    room.now += room.limits.once + 1
    assert room.coordinator.boot_choice(mac(1), room.now)[0].label == "kamethod"
    room.run(room.coordinator.set_label("lab1", "local", once=False, who="root"))
    assert room.coordinator.choice(mac(1)).label == "local", "an operator's word comes first"


def test_kiosk_once_a_day() -> None:
    room = Room(1, default="local")
    kiosks = room.coordinator.kiosks
    kiosks.set(policy(at="03:00"))
    assert kiosks.label(mac(1)) is None
    assert kiosks.strike("02:59") == []
    (struck,) = kiosks.strike("03:00")
    assert struck.is_due
    assert kiosks.strike("03:00") == [], "once"
    assert kiosks.label(mac(1)) == ("kamethod", "kiosk: reset to /img")
    room.start(1)
    room.verified(1)
    room.rebooting(1)
    assert kiosks.label(mac(1)) is None
    assert [record.is_due for record in room.records() if isinstance(record, KioskRecord)] == [False]


def test_kiosk_policies_are_kept(tmp_path: Path) -> None:
    book = Journal(tmp_path / "bootd.db")
    due = replace(policy(2, "03:00"), is_due=True, parts=("5=/a", "6"))
    book.batch([policy(1), due])
    book.close()
    assert Journal(tmp_path / "bootd.db").load().kiosks == (policy(1), due)


@pytest.mark.parametrize("text", ["3:00", "24:00", "03:60", "noon", "03:00 "])
def test_times_of_day(text: str) -> None:
    assert check_time("23:59") == "23:59"
    with pytest.raises(OperatorError, match="no time of day"):
        check_time(text)


# --- what lies where -------------------------------------------------------------------------------------------


def note(partition: int, state: str, image: str = "/a") -> Record:
    return ContentRecord(mac(1), "S1", partition, "", image, ROOT, 1, state, "root", "s1")


def test_what_is_kept_of_places(tmp_path: Path) -> None:
    """A whole disk ends what was known of its partitions, a partition that its disk is the image it was."""
    times = iter(range(100, 200))
    book = Journal(tmp_path / "bootd.db", lambda: float(next(times)))
    for record in (note(0, "wanted"), note(0, "writing"), note(0, "installed"), note(5, "wanted", "/b")):
        book.write(record)
    seen = {row["partition"]: row for row in book.contents(mac(1))}
    assert (seen[0]["actual"]["state"], seen[0]["actual"]["time"]) == ("installed", 102.0)
    assert (seen[5]["actual"], seen[5]["wanted"]["image"]) == (None, "/b")
    book.write(note(5, "writing", "/b"))
    seen = {row["partition"]: row for row in book.contents(mac(1))}
    assert (seen[0]["actual"]["state"], seen[5]["actual"]["state"]) == ("changed", "writing")
    book.write(note(0, "writing", "/c"))
    assert [row["partition"] for row in book.contents(mac(1))] == [0]
    assert book.contents(mac(2)) == []
    book.close()
