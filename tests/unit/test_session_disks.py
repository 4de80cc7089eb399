"""A layout for several disks in a session: each is chosen, bound, saved and remembered, or none is written."""

from dataclasses import replace
from pathlib import Path

import pytest

from bootd.drivers.journal import Journal
from bootd.errors import Exit, OperatorError
from bootd.session import orders, restart, trees
from bootd.session.effects import ContentRecord, FilesOrder, LockRecord, MemberRecord, Persist
from bootd.session.parts import Choice, choose_target
from bootd.session.selector import Refusal, parse
from bootd.wire.control import ABILITIES, DISKS, Cancel, Disk, Join, Lock, MemberState, Partition, Prepare
from bootd.wire.scheme import text
from bootd.wire.tree import Mount, Tree
from tests.unit.session_room import SIZE, Room, disk, mac

GIB = 1 << 30
TREE = Tree((Mount("/", "ext4", 8 * GIB, 1 << 20, 30), Mount("/home", "ext4", 4 * GIB, 1 << 20, 9)))
LAYOUT = '[[partition]]\nsize = "fill"\nmount = "/"\n[[partition]]\ndisk = 1\nsize = "fill"\nmount = "/home"\n'
MIRROR = """[[partition]]
kind = "raid"
name = "mirror"
size = "fill"
disks = [0, 1]
[[array]]
name = "system"
level = "raid1"
members = ["mirror"]
filesystem = "ext4"
mount = "/"
"""
ONE = disk("sda", 3 * GIB, "S1", wwn="W1")
TWO = disk("sdb", 2 * GIB, "S2", wwn="W2")
FULL = (Partition(1, GIB, "", "ext4", "", 1 << 20),)
HALF = (parse("serial=S2"),)  # the further one


def files(layout: str = LAYOUT, *erase: str, protect: tuple[str, ...] = ()) -> FilesOrder:
    return trees.make_order(TREE, text.parse(layout), "layout.toml", erase=erase, protect=protect)


def joined(*disks: Disk, abilities: tuple[str, ...] = ABILITIES) -> Join:
    return Join(mac(1), "", "x86_64", "bios", "10.0.0.1", "", "ka", GIB, disks, abilities=abilities)


def choose(join: Join, order: FilesOrder, *selectors: str, locks: tuple[Lock, ...] = ()) -> Choice | Refusal:
    first, *more = [parse(one, several=True) for one in selectors or ("serial=S1", "serial=S2")]
    return choose_target(join, first, SIZE, locks, files=order, further=more)


def test_each_selector_chooses_one_disk_in_the_order_of_the_layout() -> None:
    assert choose(joined(TWO, ONE), files()) == Choice(ONE, (), (TWO,))
    assert choose(joined(TWO, ONE), files(), "size<=2G", "size>=3G") == Choice(TWO, (), (ONE,))


LOCK = Lock("S2", 0, "", "ann", "the exam")


@pytest.mark.parametrize(
    ("disks", "order", "selectors", "locks", "reason"),
    [
        ((ONE,), files(), (), (), "no disk matches 'serial=S2'"),
        ((), files(), (), (), "has no disk"),
        ((ONE, TWO), files(), ("serial=S1", "serial=S1"), (), "sda is chosen twice"),
        ((ONE, TWO), files(), ("serial=S1", "size>=1G"), (), "2 disks match"),
        ((ONE, TWO), files(), ("only", "serial=S2"), (), "2 disks match 'only'"),
        ((ONE, TWO), files(), (), (LOCK,), "the exam"),
        ((ONE, TWO), files(), (), (replace(LOCK, disk=""),), "the exam"),
        ((ONE, TWO), files(protect=("sdb",)), (), (), "--protect-disk"),
        ((ONE, replace(TWO, excluded="mounted at /srv")), files(), (), (), "mounted at /srv"),
        ((ONE, replace(TWO, size=1 << 20)), files(), (), (), "sda, sdb: "),
        ((ONE, replace(TWO, partitions=FULL)), files(), (), (), "sdb is not empty"),
        ((ONE, replace(TWO, partitions=FULL)), files(LAYOUT, "S1"), (), (), "sdb is not empty"),
        ((replace(ONE, partitions=FULL), TWO), files(LAYOUT, "S2"), (), (), "sda is not empty"),
        ((ONE, replace(TWO, serial="", wwn="")), files(), ("serial=S1", "name=sdb"), (), "no serial and no WWN"),
        ((ONE, replace(TWO, serial="S1")), files(), ("wwn=W1", "wwn=W2"), (), "sda and sdb have one serial"),
        ((ONE, TWO), files(), ("serial=S1",), (), "for 2 disks, there are 1"),
        ((ONE, TWO), files(MIRROR), ("all-of size>=3G",), (), "1 disk matches 'all-of size>=3G', exactly 2 must"),
        ((ONE, TWO, replace(TWO, serial="S3", wwn="W3")), files(MIRROR), ("all-of size>=1G",), (), "3 disks match"),
        ((ONE, TWO), files(MIRROR), ("all-of size>=1G",), (LOCK,), "the exam"),
        ((ONE, TWO), files(MIRROR), ("all-of wwn=W1",), (), "1 disk matches"),
    ],
)
def test_one_disk_that_may_not_be_written_refuses_all(
    disks: tuple[Disk, ...],
    order: FilesOrder,
    selectors: tuple[str, ...],
    locks: tuple[Lock, ...],
    reason: str,
) -> None:
    refused = choose(joined(*disks), order, *selectors, locks=locks)
    assert isinstance(refused, Refusal), refused
    assert reason in refused.reason, refused.reason


def test_all_of_has_an_order_of_its_own() -> None:
    """That of the serials: a disk that the kernel calls otherwise after a boot keeps its place."""
    for disks in ((ONE, TWO), (TWO, ONE), (replace(TWO, name="sda"), replace(ONE, name="sdb"))):
        found = choose(joined(*disks), files(MIRROR), "all-of size>=1G")
        assert isinstance(found, Choice)
        assert [one.serial for one in found.disks] == ["S1", "S2"]
    for wrong in ("all-of", "all-of ", "all-of only,size>=1G", "all-of all-of only"):
        with pytest.raises(OperatorError):
            parse(wrong, several=True)
    with pytest.raises(OperatorError, match="images of files"):
        parse("all-of size>=1G")


def test_an_older_stage2_gets_no_such_plan() -> None:
    known = tuple(one for one in ABILITIES if one != DISKS)
    refused = choose(joined(ONE, TWO, abilities=known), files())
    assert isinstance(refused, Refusal)
    assert "knows no layouts of several disks" in refused.reason
    assert isinstance(choose(joined(ONE, TWO, abilities=known), files(MIRROR), "all-of size>=1G"), Refusal)


def room_of_two(order: FilesOrder | None = None) -> Room:
    room = Room(2)
    room.create("lab1", name="demo", files=order or files(), disk="serial=S1", further=("serial=S2",))
    room.head_ready()
    room.join(1, (ONE, TWO))
    return room


def save(room: Room, *places: int) -> None:
    for place in places:
        room.run(room.coordinator.table_saved(mac(1), room.session, f"disk {place}", place))


def ready(room: Room) -> None:
    room.report(1, MemberState.READY, saves=False)


def test_the_plan_names_both() -> None:
    plan = room_of_two().plan(1)
    assert (plan.disk, plan.further, plan.eligible, plan.empty) == (ONE, (TWO,), 2, True)
    room = room_of_two(files(LAYOUT, "S2"))
    assert not room.plan(1).empty, "one may be erased; the gate holds the other to be empty, as it was planned"


@pytest.mark.parametrize(
    ("places", "standing"), [((), "failed"), ((0,), "failed"), ((1,), "failed"), ((1, 0), "ready")]
)
def test_ready_counts_only_with_the_ends_of_both_on_the_server(places: tuple[int, ...], standing: str) -> None:
    room = room_of_two()
    save(room, *places)
    ready(room)
    assert room.standing(1) == standing
    if standing == "failed":
        missing = [name for place, name in enumerate(("sda", "sdb")) if place not in places]
        assert f"no old partition table of {' and '.join(missing)} from" in room.reason(1)
        assert isinstance(room.last(1), Cancel)


def restarted(room: Room, folder: Path) -> None:
    """The daemon is killed; the next one knows what the journal holds."""
    journal = Journal(folder / "bootd.db")
    for effect in room.effects:
        if isinstance(effect, Persist):
            journal.write(effect.record)
    journal.close()
    journal = Journal(folder / "bootd.db")
    found = journal.load()
    journal.close()
    room.coordinator = room.make()
    kept = (found.nodes, found.default_label, found.sessions, found.members)
    room.run(room.coordinator.restore(*kept, room.now))


@pytest.mark.parametrize(
    ("before", "after", "standing"), [((0,), (1,), "ready"), ((0,), (), "failed"), ((), (1,), "failed")]
)
def test_what_a_restarted_daemon_knows_of_both(
    before: tuple[int, ...], after: tuple[int, ...], standing: str, tmp_path: Path
) -> None:
    """Killed between the two: what was kept before counts, and what was not kept is not made up."""
    room = room_of_two()
    save(room, *before)
    restarted(room, tmp_path)
    member = room.coordinator.sessions[room.session].members[mac(1)]
    assert member.disks == (ONE, TWO)
    assert member.saved == set(before)
    assert room.coordinator.planned_disks(mac(1), room.session) == (ONE, TWO)
    save(room, *after)
    ready(room)
    assert room.standing(1) == standing


def test_a_lock_of_either_is_refused_while_they_are_written() -> None:
    room = room_of_two()
    for serial in ("S1", "S2"):
        with pytest.raises(OperatorError, match="is at sd") as caught:
            room.coordinator.add_lock("lab1", Lock(serial, 0, "", "ann", "mine"), "ann", room.now)
        assert caught.value.code is Exit.BUSY
    assert not any(isinstance(record, LockRecord) for record in room.records())


def test_what_lies_where_is_told_of_both() -> None:
    found = [one for one in room_of_two().records() if isinstance(one, ContentRecord)]
    assert [(one.disk, one.partition, one.state) for one in found] == [("S1", 0, "wanted"), ("S2", 0, "wanted")]


def test_begun_on_both_is_taken_up_on_both_or_on_none(tmp_path: Path) -> None:
    """Full disks, since this session made them so: the next attempt may erase them, and no other disk."""
    full = (replace(ONE, partitions=FULL), replace(TWO, partitions=FULL))
    room = room_of_two()
    room.join(1, full)
    assert "sda is not empty" in room.reason(1), "nothing was saved, so it was not this session"
    for places in ((0,), (0, 1)):
        room = room_of_two()
        save(room, *places)
        folder = tmp_path / str(len(places))
        folder.mkdir()
        restarted(room, folder)
        room.head()
        room.report(1, MemberState.FAILED, reason="its disk has failed")
        room.join(1, full)
        if len(places) == 1:
            assert "is not empty" in room.reason(1), "a node with one of two saved has not written to any"
        else:
            plan = room.plan(1)
            assert ((plan.disk, *plan.further), plan.empty) == (full, False)
    room.report(1, MemberState.FAILED, reason="its disk has failed")
    room.join(1, (full[0], replace(full[1], size=3 * GIB)))
    assert "sdb is not empty" in room.reason(1), "it has that serial, but another size"


def test_a_retry_is_bound_to_both(tmp_path: Path) -> None:
    room = room_of_two()
    save(room, 0, 1)
    ready(room)
    room.run(room.coordinator.cancel("demo", "enough", "ann", room.now))
    restarted(room, tmp_path)
    full = (replace(ONE, partitions=FULL), replace(TWO, partitions=FULL))
    for shown, reason in (
        ((full[0],), "no disk matches"),
        ((full[0], replace(TWO, size=4 * GIB)), "sdb .* is not the disk that was planned before"),
        ((full[0], replace(TWO, wwn="W9")), "sdb .* is not the disk that was planned before"),
    ):
        room.join(1, shown)
        with pytest.raises(OperatorError, match=reason):
            orders.retry(room.coordinator, "demo", "", "ann", room.now, size=SIZE)
    room.join(1, full)
    room.session, effects = orders.retry(room.coordinator, "demo", "", "ann", room.now, size=SIZE)
    room.run(effects)
    room.head_ready()
    prepare = [one for one in room.inbox[mac(1)] if isinstance(one, Prepare)][-1]
    assert prepare.plan.session == room.session
    assert ((prepare.plan.disk, *prepare.plan.further), prepare.plan.empty) == (full, False)


def test_two_disks_are_for_files_alone() -> None:
    room = Room(1)
    with pytest.raises(OperatorError, match="several disks are for images of files"):
        room.create("lab1", disk="serial=S1", further=("serial=S2",))
    with pytest.raises(OperatorError, match="images of files"):
        room.create("lab1", disk="all-of size>=1G")


def test_records_of_an_older_bootd(tmp_path: Path) -> None:
    """One disk, no word of further ones: as they were."""
    room = Room(1)
    room.create("lab1")
    room.head_ready()
    room.join(1)
    save(room, 0)
    (record,) = [one for one in room.records() if isinstance(one, MemberRecord) and one.is_saved]
    assert (record.further, record.saved) == ((), ())
    restarted(room, tmp_path)
    member = room.coordinator.sessions[room.session].members[mac(1)]
    assert member.is_saved
    assert restart.member_record(room.session, member).is_saved
