"""Locks: which disk they hold, in the coordinator, through restarts, by API and command line."""

import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootd.cli.lock import seconds
from bootd.drivers.journal import SCHEMA, Journal
from bootd.errors import Exit, OperatorError
from bootd.session.effects import AuditRecord, LockRecord, RemovedLock
from bootd.session.locks import MAX_LOCKS, Held, Locks, checked_lock
from bootd.wire.control import Disk, Lock, MemberState, Partition, Wait
from bootd.wire.locks import holding
from tests.unit.operators import Operators
from tests.unit.session_room import Room, disk, mac

GUID = "6d9f7a52-0d0c-4f7f-9f42-b007d0000002"
PART = Partition(2, 32 << 20, GUID, "ntfs", "Data")
SYSTEM = replace(disk(), partitions=(Partition(1, 1 << 20, "aa-01", "vfat", ""),))
DATA = replace(disk("vdb", serial="S2"), partitions=(PART,))
BARE = disk("vdc", serial="")
ALL = Lock("", 0, "", "anna", "exam")


@pytest.mark.parametrize(
    ("lock", "held"),
    [
        (ALL, {"vda", "vdb", "vdc"}),
        (replace(ALL, disk="S2"), {"vdb"}),
        (replace(ALL, disk="S2", partition=7), {"vdb"}),  # its table has changed: what was there may still be
        (replace(ALL, partuuid=GUID), {"vdb"}),
        (replace(ALL, partuuid=GUID, disk="S1"), {"vda", "vdb"}),  # moved, or copied: both
        (replace(ALL, partuuid="gone"), {"vda", "vdb", "vdc"}),  # nobody knows where it is
        (replace(ALL, partuuid="gone", disk="S9"), set()),  # on a disk that is not here
        (replace(ALL, disk="S9"), set()),
    ],
)
def test_what_a_lock_holds(lock: Lock, held: set[str]) -> None:
    disks = (SYSTEM, DATA, BARE)
    assert {one.name for one in disks if holding([lock], one, disks)} == held


def test_a_lock_is_completed_by_what_the_node_has_shown() -> None:
    assert checked_lock(replace(ALL, partition=2), (SYSTEM, DATA)) == replace(
        ALL, disk="S2", partition=2, partuuid=GUID
    )
    assert checked_lock(replace(ALL, partuuid=GUID.upper()), (SYSTEM, DATA)).disk == "S2"
    assert checked_lock(replace(ALL, partuuid="Not-Seen"), ()) == replace(ALL, partuuid="not-seen")
    assert checked_lock(ALL, ()) == ALL


@pytest.mark.parametrize(
    ("lock", "disks", "message"),
    [
        (replace(ALL, reason=" "), (), "needs a reason"),
        (replace(ALL, owner="x" * 501), (), "needs a owner"),
        (replace(ALL, reason="a\nb"), (), "needs a reason"),
        (replace(ALL, disk="S9"), (SYSTEM,), "has shown no disk S9; known: S1"),
        (replace(ALL, partition=2), (), "on 0 disks"),
        (replace(ALL, partition=2), (SYSTEM,), "on 0 disks"),
        (replace(ALL, partition=2), (DATA, replace(DATA, name="vdd", serial="S4")), "on 2 disks"),
        (
            replace(ALL, partition=1),
            (replace(BARE, partitions=(replace(PART, number=1, partuuid=""),)),),
            "no serial",
        ),
    ],
)
def test_a_lock_that_would_protect_nothing(lock: Lock, disks: tuple[Disk, ...], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        checked_lock(lock, disks)


def test_locks_of_a_node_are_bounded() -> None:
    locks = Locks()
    for number in range(MAX_LOCKS):
        locks.add("m", Held(replace(ALL, partuuid=str(number)), None, 0.0))
    locks.add("m", Held(replace(ALL, partuuid="0", reason="another"), None, 0.0))
    with pytest.raises(OperatorError, match="64 locks"):
        locks.add("m", Held(ALL, None, 0.0))


# --- the coordinator -----------------------------------------------------------------------------------------


def test_a_locked_disk_is_never_planned_and_is_once_it_is_free() -> None:
    room = Room(2)
    room.run(room.coordinator.add_lock("lab1", ALL, "root (uid 0)", room.now))
    assert AuditRecord("root (uid 0)", "lock", f"{mac(1)} every disk, owner anna: exam") in room.records()
    room.create("lab[1-2]")
    room.head_ready()
    room.join(1)
    assert (room.standing(1), room.reason(1)) == ("refused", "every disk is locked by anna: exam")
    assert isinstance(room.last(1), Wait)
    room.join(2)
    assert room.standing(2) == "preparing"
    assert room.plan(2).locks == ()
    room.run(room.coordinator.remove_lock("lab1", "disk=*", "root", room.now))
    assert room.standing(1) == "preparing"
    assert RemovedLock(mac(1), "disk=*") in room.records()
    with pytest.raises(OperatorError, match="no lock"):
        room.coordinator.remove_lock("lab1", "disk=*", "root", room.now)


def test_a_lock_on_another_disk_goes_with_the_plan_also_after_a_restart() -> None:
    room = Room(1)
    locked = replace(ALL, disk="S2", partition=2, partuuid=GUID)
    disks = (disk(), replace(DATA, excluded="usb"))
    room.join(1, disks)
    room.run(room.coordinator.add_lock("lab1", replace(ALL, partition=2), "root", room.now))
    room.create("lab1")
    room.head_ready()
    room.join(1, disks)
    assert room.plan(1).locks == (locked,)
    records = [record for record in room.records() if isinstance(record, LockRecord)]
    room.coordinator = room.make()
    room.coordinator.restore_locks(records, room.now, 5000.0)
    assert room.coordinator.locks.in_force(mac(1), room.now) == (locked,)


def test_expiry_also_over_a_restart_and_the_node_is_judged_again() -> None:
    room = Room(2)
    room.run(room.coordinator.add_lock("lab1", ALL, "root", room.now, seconds=60, expires=10_060))
    room.create("lab[1-2]")  # lab2 never comes, so the session waits
    room.head_ready()
    room.join(1)
    assert room.standing(1) == "refused"
    restarted = room.make()
    records = [record for record in room.records() if isinstance(record, LockRecord)]
    restarted.restore_locks(records, 7.0, 10_020.0)  # 40 s are left, on another monotonic clock
    assert restarted.locks.in_force(mac(1), 46.9)
    assert not restarted.locks.in_force(mac(1), 47.0)
    for _ in range(70):
        room.now += 1
        room.head()
        room.join(1)
        room.run(room.coordinator.tick(room.now))
    assert room.standing(1) == "preparing"
    audits = [record.what for record in room.records() if isinstance(record, AuditRecord)]
    assert audits == ["lock", "deploy", "lock-expired"]


def test_a_lock_does_not_pretend_to_stop_a_session_at_work() -> None:
    room = Room(1).start(1)
    room.receiving(1, 1 << 20)
    with pytest.raises(OperatorError, match="is at vda of lab1 now") as caught:
        room.coordinator.add_lock("lab1", ALL, "root", room.now)
    assert caught.value.code is Exit.BUSY
    room.report(1, MemberState.FAILED, reason="EIO")
    room.run(room.coordinator.add_lock("lab1", ALL, "root", room.now))  # it would have to be planned anew


def test_image_made_for_other_sectors() -> None:
    room = Room(1)
    room.create("lab1", source_sector=512)
    room.head_ready()
    room.join(1, (replace(disk(), sector=4096),))
    assert room.reason(1) == "vda has sectors of 4096 bytes, the image was made for 512"


# --- journal, API, command line ------------------------------------------------------------------------------


def test_journal_keeps_locks_and_an_older_one_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "bootd.db"
    record = LockRecord(mac(1), "disk=*", ALL, 12.5)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript("".join(SCHEMA[:2]) + "PRAGMA user_version = 2;")
    book = Journal(path)
    book.batch([record, replace(record, mac=mac(2)), RemovedLock(mac(2), "disk=*")])
    book.close()
    book = Journal(path)
    assert book.load().locks == (record,)
    book.close()


@pytest.fixture
def operators() -> Iterator[Operators]:
    with tempfile.TemporaryDirectory(prefix="bootd-") as folder:
        made = Operators(Path(folder))
        yield made
        made.close()


def test_lock_by_command(operators: Operators, capsys: pytest.CaptureFixture[str]) -> None:
    operators.join(1, SYSTEM, DATA)
    words = ("--partition", "2", "--reason", "thesis", "--owner", "eva")
    code, out, problem = operators.run(capsys, "lock", "add", "lab1", *words)
    assert code == 0, problem
    assert out.endswith(f"lab1: partition 2 ({GUID}) of disk S2 is locked by eva: thesis\n")
    code, out, _ = operators.run(capsys, "lock", "add", "lab1", "--disk", "--reason", "exam", "--expires", "2h")
    assert code == 0
    assert "every disk is locked by root (uid 0): exam, until 20" in out
    _, out, _ = operators.run(capsys, "lock", "list", "lab1", "--json")
    places = [item["place"] for item in json.loads(out)]
    assert places == [f"partuuid={GUID}", "disk=*"]
    assert [record.place for record in operators.journal.load().locks] == sorted(places)
    assert operators.run(capsys, "lock", "remove", "lab1", "--disk")[0] == 0
    assert operators.run(capsys, "lock", "remove", "lab1", "--partition", "2")[0] == 0
    assert operators.journal.load().locks == ()
    assert [line.what for line in operators.journal.audit()] == ["lock", "lock", "unlock", "unlock"]
    assert operators.run(capsys, "lock", "remove", "lab1", "--disk")[0] == Exit.USAGE
    code, _, error = operators.run(capsys, "lock", "add", "lab2", "--partition", "2", "--reason", "x")
    assert code == Exit.USAGE
    assert "is on 0 disks that the node has shown" in error


def test_spans_of_time() -> None:
    assert [seconds(text) for text in ("", "90", "2h", "7d", "4w")] == [0, 90, 7200, 604800, 2419200]
    for text in ("0h", "2y", "h", "-1h", "1h30m"):
        with pytest.raises(OperatorError, match="no span of time"):
            seconds(text)
