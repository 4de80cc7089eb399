"""The life of a capture task: waiting for its node, being read, its ends; what the boot policy makes of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from bootd.drivers.journal import Journal
from bootd.errors import Exit, OperatorError
from bootd.session.captures import MAX_ATTEMPTS, CaptureRequest, Task, TaskState, choose, view
from bootd.session.effects import CaptureRecord, Effect, Persist, Send
from bootd.session.selector import Refusal
from bootd.wire.control import (
    Cancel,
    Capture,
    CaptureReport,
    CaptureRunning,
    CaptureState,
    Message,
    Partition,
    Prepare,
    Wait,
)
from stage2 import flow
from tests.unit.session_room import Room, disk, idle, mac

PARTS = (Partition(1, 1 << 20, "", "ext4", ""), Partition(5, 2 << 20, "", "ntfs", ""))
NVME = replace(disk("nvme0n1", serial="N1"), partitions=PARTS)
SDA = replace(disk("sda", serial="S1"), partitions=PARTS)


def request(**values: object) -> CaptureRequest:
    return replace(CaptureRequest("lab1", "golden", "before the exam", "eva"), **values)  # type: ignore[arg-type]


def order(room: Room, **values: object) -> Task:
    id_, effects = room.coordinator.order_capture(request(**values), "eva", room.now)
    room.run(effects)
    return room.coordinator.captures.find(id_)


def report(room: Room, task: Task, state: CaptureState = CaptureState.READING, **values: int | str) -> list[Effect]:
    message = replace(CaptureReport(mac(1), task.id, state), **values)  # type: ignore[arg-type]
    return room.run(room.coordinator.captures.reported(message, room.now))


def told(room: Room) -> list[Message]:
    return [message for message in room.inbox.get(mac(1), []) if isinstance(message, Capture | Cancel)]


def test_the_node_is_brought_up_told_and_the_image_is_made() -> None:
    room = Room(default="local")
    task = order(room)
    assert room.coordinator.choice(mac(1)).label == "kamethod"
    assert "golden" in room.coordinator.choice(mac(1)).why
    assert room.coordinator.choice(mac(2)).label == "local"
    assert not told(room)
    room.join(1, (SDA,))
    assert told(room) == [Capture(task.id, SDA, 0, False, False, "reboot", marks=True)]
    report(room, task, total=100, done=10)
    assert task.state is TaskState.READING
    room.now += 2
    report(room, task, total=100, done=50, sent=30, wire=20)
    shown = view(task, room.coordinator.nodes.name, room.now)
    assert (shown["done"], shown["sent"], shown["wire"], shown["rate"]) == (50, 30, 20, 20)
    assert shown["remaining_seconds"] == 2.5
    assert shown["source"] == "sda of disk S1"
    room.run(room.coordinator.captures.committed(task.id, "ab" * 32, room.now))
    assert (task.state, task.image) == (TaskState.DONE, "ab" * 32)
    assert room.coordinator.choice(mac(1)).label == "local"


def test_a_node_that_is_there_is_told_at_once_and_no_session_gets_it_meanwhile() -> None:
    room = Room()
    room.join(1)
    task = order(room)
    assert told(room) == room.coordinator.commands_for(mac(1))
    report(room, task)
    room.create("lab1")
    room.head_ready()
    room.run(room.coordinator.report(idle(1), room.now))
    assert not [message for message in room.inbox[mac(1)] if isinstance(message, Prepare)]
    assert [message.reason for message in room.inbox[mac(1)] if isinstance(message, Wait)][-1].startswith("backup")
    report(room, task, CaptureState.REFUSED, reason="sda1 is not clean")
    assert (task.state, task.reason) == (TaskState.REFUSED, "sda1 is not clean")
    room.join(1)
    assert [message for message in room.inbox[mac(1)] if isinstance(message, Prepare)], "now it is its turn"


def test_a_node_in_a_session_is_not_asked() -> None:
    room = Room()
    room.create("lab1")
    room.head_ready()
    room.join(1)
    with pytest.raises(OperatorError, match="in session") as busy:
        room.coordinator.order_capture(request(), "eva", room.now)
    assert busy.value.code is Exit.BUSY


def test_several_one_after_the_other() -> None:
    room = Room()
    room.join(1, (SDA,))
    first, second = order(room, part="sda1", after="stay"), order(room, part="5", image="data")
    assert [message.partition for message in told(room) if isinstance(message, Capture)] == [1]
    report(room, first)
    room.run(room.coordinator.captures.committed(first.id, "ab" * 32, room.now))
    room.join(1, (SDA,))
    assert [message.partition for message in told(room) if isinstance(message, Capture)] == [1, 5]
    assert second.source == "sda5 of disk S1"


def test_what_the_disks_do_not_have_is_refused_and_the_next_task_goes_on() -> None:
    room = Room()
    wrong, right = order(room, part="sdb1"), order(room)
    room.join(1, (SDA,))
    assert wrong.state is TaskState.REFUSED
    assert "sda1 (ext4), sda5 (ntfs)" in wrong.reason
    assert [message.task for message in told(room) if isinstance(message, Capture)] == [right.id]


@pytest.mark.parametrize(
    ("disks", "selector", "part", "expected"),
    [
        ((SDA,), "only", "", ("sda", 0)),
        ((SDA,), "only", "5", ("sda", 5)),
        ((SDA,), "only", "sda5", ("sda", 5)),
        ((SDA, NVME), "only", "nvme0n1p5", ("nvme0n1", 5)),
        ((SDA, NVME), "serial=N1", "1", ("nvme0n1", 1)),
        ((SDA, NVME), "only", "", "2 disks match"),
        ((SDA, NVME), "only", "5", "2 disks match"),
        ((SDA, NVME), "only", "nvme0n15", "no disk has a partition"),
        ((SDA,), "name=sdb", "", "no disk matches"),
        ((SDA,), "name=sda", "sdb1", "no partition sdb1"),
        ((), "only", "", "no disk"),
        ((replace(SDA, excluded="usb"),), "only", "", "usb"),
        ((replace(SDA, excluded="usb"),), "serial=S1", "", ("sda", 0)),
    ],
)
def test_which_disk(disks: tuple[object, ...], selector: str, part: str, expected: tuple[str, int] | str) -> None:
    found = choose(disks, selector, part)  # type: ignore[arg-type]
    if isinstance(expected, str):
        assert isinstance(found, Refusal)
        assert expected in found.reason
    else:
        assert not isinstance(found, Refusal)
        assert (found[0].name, found[1]) == expected


def test_a_node_that_dies_begins_again_but_not_for_ever() -> None:
    room = Room()
    room.join(1)
    task = order(room)
    for _ in range(MAX_ATTEMPTS - 1):
        report(room, task)
        room.join(1)
        assert task.open
    report(room, task)
    room.join(1)
    assert task.state is TaskState.FAILED
    assert f"{MAX_ATTEMPTS} times" in task.reason


def test_a_silent_node_is_waited_for() -> None:
    room = Room()
    room.join(1)
    task = order(room)
    report(room, task)
    room.now += room.limits.silence + 1
    room.run(room.coordinator.tick(room.now))
    assert (task.state, "silent" in task.reason) == (TaskState.READING, True)
    report(room, task)
    assert not task.reason


def test_cancelled_and_told_again_to_whoever_goes_on() -> None:
    room = Room()
    room.join(1)
    task = order(room)
    report(room, task)
    room.run(room.coordinator.captures.cancel(task.id, "eva", room.now))
    assert told(room)[-1] == Cancel(task.id, "cancelled by eva")
    report(room, task)
    assert told(room)[-1] == Cancel(task.id, "cancelled by eva")
    assert not room.coordinator.captures.committed(task.id, "ab" * 32, room.now)
    with pytest.raises(OperatorError, match="only an open backup"):
        room.coordinator.captures.cancel(task.id, "eva", room.now)
    with pytest.raises(OperatorError, match="no backup"):
        room.coordinator.captures.cancel("nothing", "eva", room.now)
    message = CaptureReport(mac(2), task.id, CaptureState.FAILED, reason="of another node")
    room.run(room.coordinator.captures.reported(message, room.now))
    assert task.reason == "cancelled by eva"


def test_one_that_is_being_completed_is_too_late_to_cancel() -> None:
    room = Room()
    room.join(1)
    task = order(room)
    task.is_completing = True
    with pytest.raises(OperatorError, match="being completed"):
        room.coordinator.captures.cancel(task.id, "eva", room.now)


def test_what_the_journal_keeps_goes_on(tmp_path: Path) -> None:
    room = Room()
    room.join(1, (SDA,))
    task = order(room, part="1", tags=("exam",))
    report(room, task)
    ended = order(room, node="lab2")
    room.run(room.coordinator.captures.cancel(ended.id, "eva", room.now))
    records = [effect.record for effect in room.effects if isinstance(effect, Persist)]
    journal = Journal(tmp_path / "bootd.db")
    journal.batch(records)
    journal.close()
    journal = Journal(tmp_path / "bootd.db")
    kept = journal.load().captures
    journal.close()
    assert [record.id for record in kept] == [task.id, ended.id]
    later = Room()
    later.coordinator.captures.restore([replace(record, tags=list(record.tags)) for record in kept], later.now)  # type: ignore[arg-type]
    back = later.coordinator.captures.find(task.id)
    assert (back.state, back.request) == (TaskState.WAITING, replace(task.request, node=mac(1)))
    assert later.coordinator.captures.find(ended.id).state is TaskState.CANCELLED
    assert later.coordinator.choice(mac(1)).label == "kamethod"
    report(later, back, total=9, done=3)
    assert back.state is TaskState.READING, "the node has gone on without a word"
    assert all(isinstance(record, CaptureRecord) for record in kept)


def test_what_a_node_does_about_each_message() -> None:
    plain = Capture("t1", disk(), 0, False, False, "stay")
    at_work = flow.Situation(mac(1), flow.Step.CAPTURING, task="t1")
    assert flow.decide(flow.Situation(mac(1)), plain) == flow.ReadIn(plain)
    assert flow.decide(flow.Situation(mac(1), flow.Step.ENDED), plain) == flow.ReadIn(plain)
    assert isinstance(flow.decide(at_work, plain), flow.Ignore)
    assert isinstance(flow.decide(at_work, replace(plain, task="t2")), flow.Ignore)
    assert isinstance(flow.decide(flow.Situation(mac(1), flow.Step.MEMBER), plain), flow.Ignore)
    assert isinstance(flow.decide(flow.Situation(mac(1), flow.Step.ENDED, task="t1"), plain), flow.Ignore)
    assert flow.decide(at_work, Cancel("t1", "enough")) == flow.Abandon("enough")
    assert isinstance(flow.decide(at_work, Cancel("t2", "enough")), flow.Ignore)
    assert isinstance(flow.decide(at_work, Wait("no session")), flow.Ignore)
    assert isinstance(flow.decide(flow.Situation(mac(1), flow.Step.LEAVING), plain), flow.Ignore)


def sends(effects: list[Effect]) -> list[tuple[type[Message], bool]]:
    return [(type(effect.message), effect.agent) for effect in effects if isinstance(effect, Send)]


def test_a_running_system_is_its_agents_and_changes_nothing_of_what_the_node_boots(tmp_path: Path) -> None:
    room = Room(default="local")
    id_, effects = room.coordinator.order_capture(
        request(files=True, running=True, exclude=("/srv",)), "eva", room.now
    )
    room.run(effects)
    assert [effect for effect in effects if isinstance(effect, Send)] == [
        Send(mac(1), CaptureRunning(id_, ("/srv",)), agent=True)
    ]
    captures = room.coordinator.captures
    task = captures.find(id_)
    assert room.coordinator.choice(mac(1)).label == "local"
    room.join(1)
    assert not told(room), "stage2 hears nothing of it"
    assert not [one for one in room.coordinator.commands_for(mac(1)) if not isinstance(one, Wait)]
    assert captures.agent_commands(mac(1)) == [CaptureRunning(id_, ("/srv",))]
    with pytest.raises(OperatorError, match="running system of lab1 is at work"):
        room.coordinator.order_capture(request(files=True, running=True), "eva", room.now)
    (record,) = [effect.record for effect in effects if isinstance(effect, Persist)][1:2]
    assert isinstance(record, CaptureRecord)
    journal = Journal(tmp_path / "journal.db")
    journal.batch([record])
    (saved,) = journal.load().captures
    assert (saved.id, saved.running, tuple(saved.exclude)) == (id_, True, ("/srv",))
    # Each beginning of an agent that was killed counts.
    report(room, task, CaptureState.EXAMINING)
    for number in range(MAX_ATTEMPTS):
        assert task.open, number
        effects = report(room, task, CaptureState.EXAMINING)
    assert (task.state, sends(effects)) == (TaskState.FAILED, [(Cancel, True)])
    assert "never came to the end" in task.reason


def test_a_backup_of_a_running_system_is_cancelled_where_it_is_at_work() -> None:
    room = Room(default="local")
    task = order(room, files=True, running=True)
    report(room, task, total=100, done=10)
    room.now += 30
    room.run(room.coordinator.tick(room.now))
    assert task.reason == "", "it may be looking how much there is"
    room.now += 31
    room.run(room.coordinator.tick(room.now))
    assert task.reason.startswith("the agent is silent")
    assert sends(room.coordinator.captures.cancel(task.id, "eva", room.now)) == [(Cancel, True)]
    assert sends(report(room, task)) == [(Cancel, True)], "and told again when it goes on"


def test_quick_is_told_kept_and_said_when_the_stage_is_too_old_for_it() -> None:
    room = Room(default="local")
    room.join(1, (SDA,))
    task = order(room, quick=True)
    assert told(room) == [Capture(task.id, SDA, 0, False, False, "reboot", marks=True, quick=True)]
    assert task.record().quick
    report(room, task, total=100, done=60, skipped=50)
    shown = view(task, str, room.now)
    assert (shown["quick"], shown["skipped"]) == (True, 50)
    assert not view(order(room), str, room.now)["quick"]
    assert not [event for event in room.events("backup") if "older than --quick" in event.text]

    old = Room(default="local")
    old.join(1, (SDA,))
    node = old.coordinator.nodes.add(mac(1))
    assert node.join is not None
    node.join = replace(node.join, abilities=("partitions", "layout", "grow"))
    order(old, quick=True)
    assert [event for event in old.events("backup") if "older than --quick" in event.text]
