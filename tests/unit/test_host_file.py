"""CloneSys's host files: those of its documentation, in and out, and what their locks mean here."""

import pytest

from bootd.errors import OperatorError
from bootd.session import host_file
from bootd.session.node_orders import NodeOrders
from bootd.wire.control import Disk, Lock, Partition
from tests.unit.session_room import Room, mac

# From the documentation of CloneSys, 4.6 (revised 24 November 1999): a machine of the Patagonia cluster.
HOST = """\
partition:path:image:cloned:user:locked:reason:
sda:/images/cloneimages:sda_InitClone.gz::kurmann:kurmann:admin:
sda1:/images/cloneimages:sda1_SysCom.gz:05/21/99:kurmann:kurmann:admin:
sda2:/images/cloneimages:sda2_CloneSys.gz:05/25/99:rauch:rauch:admin:
sda5:/images/cloneimages:sda5_WinNTEduD_SP4.gz:06/01/99:bmc:::
sda6:/images/cloneimages:sda6_OberonEdu_2.3.6.gz:06/01/99:muller:::
sda7:/images/cloneimages:sda7_OberonRes_2.3.6.gz:06/01/99:muller:::
sda8:/images/cloneimages:sda8_LinuxSwap.gz:06/01/99:rauch:::
sda9:/images/cloneimages:sda9_Linux_6.0_UNI.gz:06/01/99:rauch:::
sda10:/images/cloneimages:sda10_WinNTRes.gz:06/01/99:kurmann:::
"""
WRITTEN = HOST.replace(":locked:", ":lockedby:", 1)  # the name of the field in the grammar of the same chapter
# 4.7, the template for new machines: nothing is cloned yet.
TEMPLATE = """\
partition:path:image:cloned:user:locked:reason:
sda:/images/cloneimages:sda_InitClone.gz:::::
sda1:/images/cloneimages:sda1_SysCom.gz::kurmann:kurmann:admin:
sda2:/images/cloneimages:sda2_CloneSys.gz::kurmann:kurmann:admin:
sda5:/images/cloneimages:sda5_WinNTEduD_SP4.gz:::::
"""


def sda(name: str = "sda", serial: str = "S1") -> Disk:
    partitions = tuple(
        Partition(number, 1 << 30, f"cafe-{number:02}", "ntfs", "") for number in (1, 2, 4, 5, 6, 7, 8, 9, 10)
    )
    return Disk(name, 9 << 30, 512, serial, "", "IBM", "sata", False, "", "cd" * 32, partitions)


def test_the_files_of_the_documentation_come_back_byte_for_byte() -> None:
    assert host_file.render(host_file.parse(HOST)) == WRITTEN
    lines = host_file.parse(TEMPLATE)
    assert [(line.partition, line.cloned, line.user, line.locked_by) for line in lines] == [
        ("sda", "", "", ""),
        ("sda1", "", "kurmann", "kurmann"),
        ("sda2", "", "kurmann", "kurmann"),
        ("sda5", "", "", ""),
    ]
    assert host_file.render(lines) == TEMPLATE.replace(":locked:", ":lockedby:", 1)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("sda1:a:b", "line 1"),
        ("partition:x\nsda1:/i:i.gz::::::\n", "line 2"),
        ("sda1::::::\nsda1::::::\n", "stands twice"),
        ("SDA 1::::::\n", "line 1"),
        ("sda1:\x07:::::\n", "line 1"),
        ("".join(f"sda{number}::::::\n" for number in range(1, 301)), "at most 256"),
    ],
)
def test_malformed_files(text: str, error: str) -> None:
    with pytest.raises(OperatorError, match=error):
        host_file.parse(text)


@pytest.mark.parametrize("shown", [(sda(),), (), (sda("nvme0n1"),), (sda(), sda("sdb", "S2"))])
def test_import_and_export_of_a_machine(shown: tuple[Disk, ...]) -> None:
    """Whatever the machine has shown: the file comes back, and every lock holds."""
    room = Room(2)
    orders = NodeOrders(room.coordinator)
    if shown:
        room.join(1, shown)
    locks, effects = orders.import_host_file("lab1", HOST, "root", room.now)
    room.run(effects)
    assert orders.export_host_file("lab1") == WRITTEN
    held = room.coordinator.locks.in_force(mac(1), room.now)
    assert len(held) == locks == (3 if shown else 1)
    owners = {lock.owner for lock in held}
    assert owners == ({"kurmann", "rauch"} if shown else {"kurmann"})
    if shown:
        assert Lock("S1", 1, "cafe-01", "kurmann", "admin") in held
    again = NodeOrders(room.coordinator)
    again.import_host_file("lab1", orders.export_host_file("lab1"), "root", room.now)
    assert again.export_host_file("lab1") == WRITTEN
    assert len(room.coordinator.locks.of(mac(1))) == locks, "the same locks, once"


def test_a_machine_with_an_imported_lock_is_refused() -> None:
    room = Room(2)
    _, effects = NodeOrders(room.coordinator).import_host_file("lab1", HOST, "root", room.now)
    room.run(effects)
    room.create("lab[1-2]")
    room.head_ready()
    room.join(1)
    assert room.standing(1) == "refused"
    assert room.reason(1) == "every disk is locked by kurmann: admin"


def test_locks_of_here_are_in_the_file_and_those_that_are_gone_are_not() -> None:
    room = Room(2)
    orders = NodeOrders(room.coordinator)
    room.join(1, (sda(),))
    room.run(orders.import_host_file("lab1", HOST, "root", room.now)[1])
    room.run(room.coordinator.remove_lock("lab1", "partuuid=cafe-02", "root", room.now))
    lock = Lock("", 10, "", "eve", "my thesis: do not touch")
    room.run(room.coordinator.add_lock("lab1", lock, "root", room.now))
    lines = orders.export_host_file("lab1").splitlines()
    assert lines[3] == "sda2:/images/cloneimages:sda2_CloneSys.gz:05/25/99:rauch:::"
    assert lines[9] == "sda10:/images/cloneimages:sda10_WinNTRes.gz:06/01/99:kurmann:eve:my_thesis_do_not_touch:"
    room.run(room.coordinator.add_lock("lab2", Lock("", 0, "", "eve", "all of it"), "root", room.now))
    assert orders.export_host_file("lab2").splitlines()[1:] == ["*:::::eve:all_of_it:"]
    assert host_file.lock_of(host_file.parse("*:::::eve:all_of_it:\n")[0], (sda(),)) == Lock(
        "", 0, "", "eve", "all_of_it"
    )


def test_what_was_written_since_is_in_the_file() -> None:
    lines = host_file.parse(HOST)
    part = host_file.Written("sda5", "/var/lib/bootd/images", "win11", "11/21/26", "root")
    text = host_file.render(host_file.with_written(lines, [part]))
    assert text.splitlines()[4] == "sda5:/var/lib/bootd/images:win11:11/21/26:root:::"
    assert text.splitlines()[5] == WRITTEN.splitlines()[5], "its neighbour is as it was"
    whole = host_file.Written("sda", "", "room:latest", "11/21/26", "root")
    text = host_file.render(host_file.with_written(lines, [part, whole]))
    assert text.splitlines()[1:5] == [
        "sda::room_latest:11/21/26:root:kurmann:admin:",
        "sda1:::::kurmann:admin:",
        "sda2:::::rauch:admin:",
        "sda5:/var/lib/bootd/images:win11:11/21/26:root:::",
    ]
    begun = host_file.Written("sdb1", "/x", "", "11/21/26", "root")
    assert host_file.render(host_file.with_written((), [begun])).splitlines()[1:] == ["sdb1:::::::"]


def test_a_file_that_cannot_be_taken_over_leaves_nothing() -> None:
    room = Room(1)
    room.create("lab1", disk="serial=S2")
    room.head_ready()
    room.join(1, (sda(), sda("sdb", "S2")))
    text = "sda1:::::kurmann:admin:\nsdb1:::::rauch:admin:\n"
    with pytest.raises(OperatorError, match="is at sdb of lab1 now"):
        NodeOrders(room.coordinator).import_host_file("lab1", text, "root", room.now)
    assert room.coordinator.locks.of(mac(1)) == ()
