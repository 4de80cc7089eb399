"""Groups: who is in them, which label counts, and what keeps a machine out of a session for anybody."""

import pytest

from bootd import config
from bootd.errors import OperatorError
from bootd.session.effects import GroupRecord
from bootd.session.groups import ConfiguredGroup, problem
from bootd.session.node_orders import NodeOrders
from bootd.wire.control import Wait
from tests.unit.session_room import Room, mac


def room(*groups: ConfiguredGroup, nodes: int = 6, default: str = "kamethod") -> Room:
    made = Room(nodes)
    made.coordinator = made.make(default, groups=groups)
    return made


ROOM2 = ConfiguredGroup("room2", "lab[1-4],!lab3")
BOTH = ConfiguredGroup("both", "@room2,lab6,!lab1")


def test_host_sets_with_groups_and_what_is_left_out() -> None:
    nodes = room(ROOM2, BOTH).coordinator.nodes
    assert nodes.groups.members("room2") == {mac(1), mac(2), mac(4)}
    assert nodes.groups.members("both") == {mac(2), mac(4), mac(6)}
    assert nodes.host_set("@room2,!lab2").macs == frozenset({mac(1), mac(4)})
    assert nodes.host_set("lab[1-6] !@both").macs == frozenset({mac(1), mac(3), mac(5)})
    everybody = nodes.host_set("any,!@room2")
    assert (everybody.macs, everybody.without) == (None, frozenset({mac(1), mac(2), mac(4)}))
    assert nodes.select("any,!@room2") == [mac(3), mac(5), mac(6)]
    with pytest.raises(OperatorError, match="names nobody"):
        nodes.host_set("@both,!lab[1-6]")
    with pytest.raises(OperatorError, match="no group is called 'room9'; known: room2, both"):
        nodes.host_set("any,!@room9")


def test_a_name_in_a_group_that_nobody_has_is_an_error_where_the_group_is_used() -> None:
    """An exclusion with a hole in it would erase a machine."""
    nodes = room(ConfiguredGroup("servers", "lab1,nas")).coordinator.nodes
    with pytest.raises(OperatorError, match="group servers names nas, which no node is called"):
        nodes.host_set("any,!@servers")
    assert nodes.groups.known_members("servers") == (frozenset({mac(1)}), ("nas",))
    assert nodes.groups.of(mac(50)) == ()
    nodes.rename(mac(50), "nas")
    assert nodes.groups.of(mac(50)) == ("servers",)
    assert nodes.host_set("any,!@servers").without == {mac(1), mac(50)}


def test_host_ids_and_aliases() -> None:
    """CloneSys: ``rifpc3``, or ``3`` alone."""
    made = Room(12)
    made.coordinator = made.make(prefix="rifpc", numbers={mac(5): 40})
    nodes = made.coordinator.nodes
    assert nodes.host_set("3,rifpc10,40").macs == frozenset({mac(3), mac(10), mac(5)})
    assert nodes.host_set("rifpc[1-2]").macs == frozenset({mac(1), mac(2)})
    with pytest.raises(OperatorError, match="no node is called 'rifpc5'"):
        nodes.find("rifpc5")
    nodes.rename(mac(30), "printer3")
    with pytest.raises(OperatorError, match="'3' is the number of lab3, printer3"):
        nodes.find("3")
    assert nodes.find("525400000040") == "52:54:00:00:00:40", "twelve digits are a MAC"


@pytest.mark.parametrize(
    ("groups", "label", "why"),
    [
        ([("a", "lab1", "rescue")], "rescue", "group a"),
        ([("a", "lab1", ""), ("b", "lab[1-2]", "dolly")], "dolly", "group b"),
        ([("a", "lab1", "rescue"), ("b", "lab1", "dolly")], "rescue", "group a (not that of b)"),
        ([("a", "lab1", "rescue"), ("b", "lab1", "local")], "local", "group b (not that of a)"),
        ([("a", "lab1", "rescue"), ("b", "lab1", "rescue")], "rescue", "group a"),
        ([("a", "lab2", "rescue")], "kamethod", "default"),
        ([("a", "lab1", "gone")], "kamethod", "default (label gone is not defined)"),
    ],
)
def test_label_of_a_group(groups: list[tuple[str, str, str]], label: str, why: str) -> None:
    made = room(*(ConfiguredGroup(*one) for one in groups))
    choice = made.coordinator.choice(mac(1))
    assert (choice.label, choice.why) == (label, why)


def test_a_groups_label_comes_after_the_nodes_own_and_before_the_default() -> None:
    made = room(ConfiguredGroup("room2", "lab[1-3]", "rescue"))
    orders = NodeOrders(made.coordinator)
    assert made.coordinator.choice(mac(1)).label == "rescue"
    made.run(orders.set_group_label("room2", "dolly", "root"))
    assert made.coordinator.choice(mac(1)).label == "dolly"
    made.run(made.coordinator.set_label("lab1", "local", False, "root"))
    assert made.coordinator.choice(mac(1)).label == "local"
    made.run(orders.set_group_label("room2", "", "root"))
    assert made.coordinator.choice(mac(2)).label == "rescue", "back to what bootd.toml says"
    made.start(3)
    assert made.coordinator.choice(mac(2)).why.startswith("session"), "who is named by a session follows it"
    made.verified(1, 2, 3)
    made.rebooting(1, 2, 3)
    assert made.state == "done"
    assert made.coordinator.choice(mac(2)).label == "local", "what its session left goes before its group"


def test_local_for_a_group_keeps_its_machines_out_of_sessions_for_any() -> None:
    made = room(ConfiguredGroup("servers", "lab2", "local"), default="local")
    made.create("any", expect=2)
    made.head_ready()
    assert made.coordinator.choice(mac(1)).label == "kamethod"
    assert made.coordinator.choice(mac(2)).label == "local"
    made.join(1)
    made.join(2)  # by its boot menu
    assert made.standing(1) == "preparing"
    assert mac(2) not in made.coordinator.sessions[made.session].members
    assert made.last(2) == Wait("no session wants this node: not named, and boots local: group servers")
    made.create("lab2")
    made.head_ready()
    made.join(2)
    assert made.standing(2) == "preparing", "a session that names it goes before"


def test_any_but() -> None:
    made = room(ROOM2)
    made.create("any,!@room2,!lab5", expect=2)
    made.head_ready()
    for number in range(1, 7):
        made.join(number)
    assert set(made.coordinator.sessions[made.session].members) == {mac(3), mac(6)}
    kept = made.session_record()
    assert kept.without == (mac(1), mac(2), mac(4), mac(5))
    other = room(ROOM2)
    other.session = kept.id
    other.run(other.coordinator.restore((), "", [kept], (), other.now))
    other.head_ready()
    other.join(2)
    other.join(3)
    assert set(other.coordinator.sessions[kept.id].members) == {mac(3)}, "after a restart too"


def test_groups_of_operators() -> None:
    made = room(ROOM2)
    orders, groups = NodeOrders(made.coordinator), made.coordinator.nodes.groups
    made.run(orders.add_to_group("lab", "lab[4-5],@room2", "root"))
    made.run(orders.drop_from_group("lab", "lab5", "root"))
    assert groups.members("lab") == {mac(1), mac(2), mac(4)}
    assert made.records()[-2:-1] == [GroupRecord("lab", "", frozenset({mac(1), mac(2), mac(4)}))]
    for wrong, text in (("room2", "in bootd.toml"), ("a_b", "not a group name"), ("any", "not a group name")):
        with pytest.raises(OperatorError, match=text):
            orders.add_to_group(wrong, "lab1", "root")
    with pytest.raises(OperatorError, match="everybody"):
        orders.add_to_group("lab", "any", "root")
    with pytest.raises(OperatorError, match="not defined"):
        orders.set_group_label("lab", "nonsense", "root")
    with pytest.raises(OperatorError, match="no group is called"):
        orders.drop_from_group("labs", "lab1", "root")
    made.run(orders.remove_group("lab", "root"))
    assert groups.names() == ["room2"]


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([("a", "@b", ""), ("b", "@a", "")], "contains itself"),
        ([("a", "@a", "")], "contains itself"),
        ([("a", "@b", ""), ("b", "@c,@b", "")], "no \\[\\[group\\]\\] c"),
        ([("a", "lab1,!@x", "")], "no \\[\\[group\\]\\] x"),
        ([("a", "any", "")], "everybody"),
        ([("a", "lab[", "")], "neither a node name"),
        ([("a b", "lab1", "")], "not a group name"),
        ([("a", "lab1", ""), ("a", "lab2", "")], "two \\[\\[group\\]\\]"),
    ],
)
def test_wrong_groups_in_the_settings(groups: list[tuple[str, str, str]], text: str) -> None:
    text_of = "".join(f'[[group]]\nname = "{name}"\nhosts = "{hosts}"\n' for name, hosts, _ in groups)
    assert problem([ConfiguredGroup(*one) for one in groups])
    with pytest.raises(OperatorError, match=text):
        config.parse(text_of)


def test_groups_in_the_settings() -> None:
    settings = config.parse(
        '[[group]]\nname = "room2"\nhosts = ["lab[1-4]", "!lab3"]\nlabel = "rescue"\n[nodes]\nunknown = "approve"\n'
    )
    assert settings.groups == (ConfiguredGroup("room2", "lab[1-4],!lab3", "rescue"),)
    assert settings.nodes.unknown.value == "approve"
    with pytest.raises(OperatorError, match="label 'x' is not defined"):
        config.parse('[[group]]\nname = "a"\nhosts = "lab1"\nlabel = "x"\n')
    with pytest.raises(OperatorError, match=r"nodes\.unknown"):
        config.parse('[nodes]\nunknown = "trust"\n')
