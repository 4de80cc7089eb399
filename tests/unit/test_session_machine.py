"""Which machine is behind a MAC: dongles that wander, boards with one UUID, new network cards."""

from dataclasses import replace

import pytest

from bootd.errors import OperatorError
from bootd.session.machine import Machine, Twins, difference, machine_of, merged, same_machine
from bootd.session.node_orders import NodeOrders
from bootd.session.view import view
from bootd.wire.control import Hardware, Join, Lock, Nic
from tests.unit.session_room import Room, disk, mac

UUID = "4c4c4544-0051-3310-8052-b4c04f4d4e32"
A = Machine(UUID, "/1234567/CN00/", "Q3RM4N2", ("S1",))


@pytest.mark.parametrize(
    ("old", "new", "how"),
    [
        (A, A, ""),
        (A, replace(A, disks=("S2",)), ""),  # a new disk in the same board
        (A, replace(A, uuid="", board=""), ""),  # firmware that is silent once
        (A, replace(A, board="/7654321/CN00/"), "board serial /7654321/CN00/, was /1234567/CN00/"),
        (A, replace(A, system="Q3RM4N3"), "system serial Q3RM4N3, was Q3RM4N2"),
        (A, replace(A, uuid=UUID.replace("b4", "b5")), f"UUID {UUID.replace('b4', 'b5')}, was {UUID}"),
        # SMBIOS 2.6: the same 16 bytes, read in the other order (the example of the specification, 7.2.1)
        (
            Machine("33221100-5544-7766-8899-aabbccddeeff"),
            Machine("00112233-4455-6677-8899-aabbccddeeff"),
            "",
        ),
        (Machine(disks=("S1", "S2")), Machine(disks=("S2",)), ""),
        (Machine(), Machine(disks=("S2",)), ""),
    ],
)
def test_same_machine_or_another(old: Machine, new: Machine, how: str) -> None:
    assert difference(old, new) == how


def test_disks_decide_only_where_nothing_else_does() -> None:
    assert "none of its disks is known" in difference(Machine(disks=("S1",)), Machine(disks=("S2",)))
    with_uuid = (Machine(UUID, disks=("S1",)), Machine(UUID, disks=("S2",)))
    assert difference(*with_uuid) == ""
    assert "none of its disks is known" in difference(*with_uuid, shared_uuid=True)


@pytest.mark.parametrize(
    "text",
    ["", "To Be Filled By O.E.M.", "Default string", "System Serial Number", "00000000", "N/A", "xxxxxxx", "."],
)
def test_what_makers_leave_blank_is_no_identity(text: str) -> None:
    hardware = Hardware(product_serial=text, board_serial=text)
    join = Join(mac(1), "", "x86_64", "uefi", "10.0.0.1", "", "ka", 1, (), hardware)
    assert machine_of(join) == Machine()
    for uuid in (
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
    ):
        assert machine_of(replace(join, uuid=uuid)) == Machine()
    assert machine_of(replace(join, uuid=UUID.upper())).uuid == UUID


def test_a_stick_is_no_part_of_a_machine() -> None:
    stick = replace(disk("sda", serial="STICK"), transport="usb")
    join = Join(mac(1), UUID, "x86_64", "uefi", "10.0.0.1", "", "ka", 1, (disk(serial="S1", wwn="0x5"), stick))
    assert machine_of(join).disks == ("0x5", "S1")
    assert merged(A, Machine(disks=("S9",))) == replace(A, disks=("S9",))


def test_twins() -> None:
    twins = Twins()
    twins.put("a", A)
    twins.put("b", replace(A, board="B2", system="P2", disks=("S2",)))  # a vendor's one UUID
    twins.put("c", A)  # a new network card
    assert (twins.same("a"), twins.sharing_uuid("a")) == (["c"], ["b"])
    assert (twins.same("b"), sorted(twins.sharing_uuid("b"))) == ([], ["a", "c"])
    assert not same_machine(A, replace(A, disks=("S7",))), "serials alone prove nothing when the disks differ"
    twins.put("b", None)
    twins.put("a", Machine(UUID, disks=("S8",)))
    assert (twins.same("c"), twins.sharing_uuid("c")) == ([], ["a"])
    twins.put("c", None)
    assert (twins.same("a"), twins.sharing_uuid("a")) == ([], [])


BOARD1, BOARD2 = Hardware(board_serial="B1"), Hardware(board_serial="B2")


def test_a_dongle_on_another_machine_gets_no_plan_made_for_the_first() -> None:
    room = Room(2)
    room.create("lab[1-2]")
    room.head_ready()
    room.join(1, hardware=BOARD1)
    assert room.standing(1) == "preparing"
    room.join(1, (disk(serial="OTHER"),), hardware=BOARD2)
    assert room.standing(1) == "refused"
    assert "another machine answers under this MAC: board serial B2, was B1" in room.reason(1)
    assert "bootd node accept-change lab1" in room.reason(1)
    assert [event.node for event in room.events("warning")] == [mac(1)]
    (node,) = [item for item in view(room.coordinator, room.now)["nodes"] if item["mac"] == mac(1)]
    assert node["warnings"] == ["another machine answers under this MAC: board serial B2, was B1"]
    room.join(1, hardware=BOARD1)
    assert room.standing(1) == "preparing", "the machine that is known is back"
    assert len(room.events("machine")) == 1


def test_a_changed_machine_is_refused_after_a_restart_too_until_it_is_accepted() -> None:
    room = Room(2)
    orders = NodeOrders(room.coordinator)
    room.join(1, hardware=BOARD1)
    with pytest.raises(OperatorError, match="is the machine that it was"):
        orders.accept_change("lab1", "root", room.now)
    room.join(1, hardware=BOARD2)
    kept = [record for record in room.records() if getattr(record, "mac", "") == mac(1)][-1]
    other = Room(2)
    other.run(other.coordinator.restore([kept], "", [], (), other.now))  # type: ignore[list-item]
    other.create("lab[1-2]")
    other.head_ready()
    other.join(1, hardware=BOARD2)
    assert other.standing(1) == "refused"
    other.run(NodeOrders(other.coordinator).accept_change("lab1", "root", other.now))
    assert other.standing(1) == "preparing"
    other.join(1, hardware=BOARD1)
    assert other.standing(1) == "refused", "now the first one is the stranger"


def test_what_a_session_left_was_for_the_other_machine() -> None:
    room = Room(1).start(1)
    room.verified(1)
    room.rebooting(1)
    assert room.coordinator.choice(mac(1)).why == "left by its last session"
    room.join(1, (disk(serial="OTHER"),), hardware=BOARD2, uuid="4c4c4544-0051-3310-8052-b4c04f4d4e32")
    room.run(NodeOrders(room.coordinator).accept_change("lab1", "root", room.now))
    assert room.coordinator.choice(mac(1)).why == "default"
    room.create("any", expect=1)
    room.head_ready()
    assert room.standing(1) == "preparing", "nobody has cloned this one"


def test_preview_says_that_the_machine_changed() -> None:
    room = Room(1)
    room.join(1, hardware=BOARD1)
    room.join(1, hardware=BOARD2)
    assert "board serial B2, was B1" in room.coordinator.admission.veto(mac(1), is_any=False)


def test_a_new_card_in_a_known_machine_is_told_and_its_locks_hold() -> None:
    room = Room(3)
    room.join(1, hardware=BOARD1)
    room.run(room.coordinator.add_lock("lab1", Lock("S1", 0, "", "eve", "thesis"), "root", room.now))
    room.create("lab3", expect=1)
    room.head_ready()
    room.join(3, hardware=BOARD1)
    texts = [event.text for event in room.events("warning")]
    assert texts == ["same machine as lab1 (serial, disks): a changed network card?"]
    assert room.standing(3) == "refused"
    assert room.reason(3) == "disk S1 is locked by eve: thesis"


def test_two_cards_in_one_machine() -> None:
    room = Room(2)
    nics = tuple(Nic(f"eno{number}", mac(number), "igb", "pci", 1000, True) for number in (1, 2))
    for number in (1, 2):
        room.join(number, hardware=Hardware(board_serial="B1", nics=nics))
    assert room.coordinator.admission.warnings(room.coordinator.nodes.add(mac(2))) == (
        "same machine as lab1 (serial, disks): by another of its network cards",
    )


def test_a_locked_disk_that_moved_to_another_machine_is_known_by_its_wwn() -> None:
    room = Room(3)
    room.join(1, (disk(serial="S1", wwn="0x5000c500a1b2c3d4"),), hardware=BOARD1)
    room.run(
        room.coordinator.add_lock("lab1", Lock("0x5000c500a1b2c3d4", 0, "", "eve", "thesis"), "root", room.now)
    )
    room.create("lab[2-3]", expect=1)
    room.head_ready()
    room.join(2, (disk(serial="S1"),), hardware=BOARD2)
    assert room.standing(2) == "preparing", "a serial alone is not worldwide"
    room.join(3, (disk(serial="S1", wwn="0x5000c500a1b2c3d4"),), hardware=Hardware(board_serial="B3"))
    assert room.standing(3) == "refused"


def test_one_uuid_in_many_boards() -> None:
    room = Room(3)
    for number in (1, 2, 3):
        hardware = Hardware(board_serial=f"B{number}")
        room.join(number, (disk(serial=f"S{number}"),), uuid=UUID, hardware=hardware)
    warnings = {item["name"]: item["warnings"] for item in view(room.coordinator, room.now)["nodes"]}
    assert warnings["lab2"] == ["same UUID as lab1, lab3, other machines"]
    room.create("lab[1-3]")
    room.head_ready()
    for number in (1, 2, 3):
        room.join(number, (disk(serial=f"S{number}"),), uuid=UUID, hardware=Hardware(board_serial=f"B{number}"))
        assert room.standing(number) == "preparing", "a warning, no refusal"


def test_a_dongle_names_the_machine_that_it_is_plugged_into() -> None:
    room = Room(2)
    room.join(1, (disk(serial="S1"),), hardware=BOARD1)
    room.join(2, (disk(serial="S2"),), hardware=BOARD2)
    room.join(1, (disk(serial="S2"),), hardware=BOARD2)
    assert room.coordinator.nodes.add(mac(1)).changed == "board serial B2, was B1; it looks like lab2"
