"""Machines that nobody has named: accepted, told to wait, or ignored."""

import pytest

from bootd.errors import OperatorError
from bootd.session.admission import MAX_STRANGERS, Unknown
from bootd.session.effects import ForgottenNode, NodeRecord
from bootd.session.inventory import view_strangers
from bootd.session.node_orders import NodeOrders, NodeRow
from bootd.session.view import view
from bootd.wire.control import Lock, Wait
from tests.unit.session_room import Room, mac


def room(unknown: Unknown, default: str = "kamethod") -> tuple[Room, NodeOrders]:
    """lab1 and lab2 are in the configuration."""
    made = Room(2)
    made.coordinator = made.make(default, unknown=unknown)
    return made, NodeOrders(made.coordinator)


def test_accepted_is_as_ever() -> None:
    made, _ = room(Unknown.ACCEPT)
    made.create("any", expect=1)
    made.head_ready()
    made.join(9)
    assert made.standing(9) == "preparing"


def test_unapproved_waits_and_never_gets_a_plan() -> None:
    made, orders = room(Unknown.APPROVE, default="local")
    made.create("any", expect=5)
    made.head_ready()
    assert made.coordinator.boot_choice(mac(1), made.now)[0].label == "kamethod"
    assert made.coordinator.boot_choice(mac(9), made.now)[0].label == "local", "the session's label is not for it"
    made.join(9)
    assert made.last(9) == Wait("not approved here; to let it take part: bootd node approve node-525400000009")
    members = made.coordinator.sessions[made.session].members
    assert mac(9) not in members
    assert [item["mac"] for item in view_strangers(made.coordinator, made.now)] == [mac(9)]
    macs, effects = orders.approve("any", "root", made.now)
    made.run(effects)
    assert macs == [mac(9)]
    assert made.standing(9) == "preparing"
    assert view_strangers(made.coordinator, made.now) == []


@pytest.mark.parametrize("how", ["name", "label", "group", "deploy", "import", "approve"])
def test_whoever_is_named_is_approved(how: str) -> None:
    made, orders = room(Unknown.APPROVE)
    made.join(9)
    coordinator = made.coordinator
    match how:
        case "name":
            made.run(coordinator.name_node(mac(9), "lab9", "root"))
        case "label":
            made.run(coordinator.set_label(mac(9), "kamethod", False, "root"))
        case "group":
            made.run(orders.add_to_group("new", mac(9), "root"))
        case "deploy":
            made.create(mac(9))
        case "import":
            made.run(orders.import_rows([NodeRow(mac(9), "lab9")], "root"))
        case "approve":
            made.run(orders.approve(mac(9), "root", made.now)[1])
    assert coordinator.admission.is_known(coordinator.nodes.add(mac(9)))
    record = [one for one in made.records() if isinstance(one, NodeRecord) and one.mac == mac(9)][-1]
    again, _ = room(Unknown.APPROVE)
    again.coordinator.restore([record], "", [], (), 0.0)
    known = again.coordinator.admission.is_known(again.coordinator.nodes.add(mac(9)))
    assert known or how == "group", "its group has a record of its own"


def test_a_stricter_policy_does_not_lock_out_who_was_welcome() -> None:
    made, _ = room(Unknown.ACCEPT)
    made.join(9)
    made.run(made.coordinator.boot_choice(mac(8), made.now)[1])  # asked for a boot, never joined
    again, _ = room(Unknown.APPROVE)
    again.coordinator.restore([one for one in made.records() if isinstance(one, NodeRecord)], "", [], (), 0.0)
    known = {node.mac: again.coordinator.admission.is_known(node) for node in again.coordinator.nodes}
    assert known == {mac(1): True, mac(2): True, mac(9): True, mac(8): False}


def test_ignored_gets_no_answer_and_leaves_nothing_but_a_line() -> None:
    made, orders = room(Unknown.IGNORE)
    choice, effects = made.coordinator.boot_choice(mac(9), made.now)
    assert (choice.token, choice.label, effects) == ("", "local", [])
    assert made.coordinator.nodes.get(mac(9)) is None
    assert made.coordinator.boot_choice(mac(1), made.now)[0].token
    assert [item["mac"] for item in view_strangers(made.coordinator, made.now)] == [mac(9)]
    for number in range(100, 100 + MAX_STRANGERS):
        made.coordinator.boot_choice(mac(number), made.now)
    assert len(made.coordinator.admission.strangers) == MAX_STRANGERS
    assert mac(9) not in made.coordinator.admission.strangers, "the oldest goes"
    made.run(orders.approve(mac(9), "root", made.now)[1])
    assert made.coordinator.boot_choice(mac(9), made.now)[0].token


def test_forget() -> None:
    made, orders = room(Unknown.APPROVE)
    made.join(9)
    made.run(orders.add_to_group("new", mac(9), "root"))
    with pytest.raises(OperatorError, match=r"in bootd\.toml"):
        orders.forget("lab1", "root")
    with pytest.raises(OperatorError, match="nothing is known"):
        orders.forget(mac(77), "root")
    made.run(made.coordinator.add_lock(mac(9), Lock("", 0, "", "eve", "mine"), "root", made.now))
    with pytest.raises(OperatorError, match="has locks"):
        orders.forget(mac(9), "root")
    made.run(made.coordinator.remove_lock(mac(9), "disk=*", "root", made.now))
    made.create(mac(9))
    with pytest.raises(OperatorError, match="is in session"):
        orders.forget(mac(9), "root")
    made.run(made.coordinator.cancel(made.session, "", "root", made.now))
    made.run(orders.forget(mac(9), "root"))
    assert ForgottenNode(mac(9)) in made.records()
    assert made.coordinator.nodes.get(mac(9)) is None
    assert made.coordinator.nodes.groups.members("new") == frozenset()


def test_a_lock_of_a_machine_that_never_came_is_seen_after_a_restart() -> None:
    made, _ = room(Unknown.ACCEPT)
    made.run(made.coordinator.add_lock(mac(9), Lock("", 0, "", "eve", "mine"), "root", made.now))
    again, _ = room(Unknown.ACCEPT)
    held = [held.record(mac(9)) for held in made.coordinator.locks.of(mac(9))]
    again.coordinator.restore_locks(held, again.now, 0.0)
    (node,) = [item for item in view(again.coordinator, again.now)["nodes"] if item["mac"] == mac(9)]
    assert node["locks"][0]["reason"] == "mine"


def test_import_takes_all_rows_or_none() -> None:
    made, orders = room(Unknown.ACCEPT)
    good = [NodeRow(mac(5), "pc5", 50, "sw1", "rescue", ("new",)), NodeRow(mac(6), "pc6")]
    wrong = [
        (NodeRow("nonsense"), "is not a MAC"),
        (NodeRow(mac(5)), "stands twice"),
        (NodeRow(mac(7), "pc6"), "is the name of"),
        (NodeRow(mac(7), "LAB1"), "is the name of"),
        (NodeRow(mac(1), "other"), "in bootd.toml"),
        (NodeRow(mac(7), "a_b"), "not a host name"),
        (NodeRow(mac(7), label="nonsense"), "not defined"),
        (NodeRow(mac(7), number=1_000_000), "number 1000000"),
        (NodeRow(mac(7), switch="\x00"), "no switch"),
        (NodeRow(mac(7), groups=("any",)), "not a group name"),
    ]
    for row, text in wrong:
        with pytest.raises(OperatorError, match=text):
            orders.import_rows([*good, row], "root")
        assert [node.mac for node in made.coordinator.nodes] == [mac(1), mac(2)]
    made.run(orders.import_rows(good, "root"))
    nodes = made.coordinator.nodes
    assert (nodes.find("pc5"), nodes.find("50"), nodes.groups.of(mac(5))) == (mac(5), mac(5), ("new",))
    assert made.coordinator.switch_of(mac(5)) == "sw1"
    made.run(orders.import_rows([NodeRow(mac(5), "pc6"), NodeRow(mac(6), "pc5")], "root"))
    assert (nodes.find("pc6"), nodes.find("pc5")) == (mac(5), mac(6)), "two machines change names"
    assert made.coordinator.choice(mac(5)).label == "rescue", "what is not said stays"
