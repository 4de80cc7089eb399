"""Names, host sets, MACs, tokens, and the boot policy decision."""

import pytest

from bootd.errors import OperatorError
from bootd.session import nodes
from bootd.session.hosts import Written, normal_mac, parse
from bootd.session.nodes import Registry
from bootd.session.policy import choose_label
from tests.unit.session_room import LABELS, Room, counter, mac


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lab3", ("lab3",)),
        ("lab[3-5]", ("lab3", "lab4", "lab5")),
        ("lab[08-11]", ("lab08", "lab09", "lab10", "lab11")),
        ("lab[1,3-4],node9", ("lab1", "lab3", "lab4", "node9")),
        ("lab1, lab2 lab1", ("lab1", "lab2")),
        ("r[1-2]-a", ("r1-a", "r2-a")),
        ("52:54:00:12:34:56,lab1", ("52:54:00:12:34:56", "lab1")),
        ("any", None),
        (" ANY ", None),
        ("r[1-2]n[09-10]", ("r1n09", "r1n10", "r2n09", "r2n10")),
        ("lab[1-5,!2-3]", ("lab1", "lab4", "lab5")),
        ("lab[!1,1-2]", ("lab2",)),
        ("@room2 lab1", ("@room2", "lab1")),
        ("@room[1-2]", ("@room1", "@room2")),
        ("@525400123456", ("@525400123456",)),
    ],
)
def test_host_sets(text: str, names: tuple[str, ...] | None) -> None:
    assert parse(text) == Written(names)


@pytest.mark.parametrize(
    ("text", "names", "without"),
    [
        ("@room2,!lab7", ("@room2",), ("lab7",)),
        ("!lab[7-8] @room2 !@servers", ("@room2",), ("lab7", "lab8", "@servers")),
        ("any,!@servers", None, ("@servers",)),
        ("lab1,!lab1", ("lab1",), ("lab1",)),
    ],
)
def test_what_is_left_out(text: str, names: tuple[str, ...] | None, without: tuple[str, ...]) -> None:
    assert parse(text) == Written(names, without)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "any,lab1",
        "lab[5-3]",
        "lab[",
        "lab[]",
        "lab[a-b]",
        "lab[1-99999]",
        "-lab",
        "lab_1",
        "a b]",
        "!lab1",
        "!any",
        "any,!any",
        "@",
        "!",
        "lab[1,!1]",
        "lab[1-2][",
        "lab[[1-2]]",
        "r[1-100]n[1-100]",
        "@a@b",
        "a" * 64,
    ],
)
def test_malformed_host_sets(text: str) -> None:
    with pytest.raises(OperatorError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("52:54:00:AB:cd:01", "52:54:00:ab:cd:01"),
        ("52-54-00-ab-cd-01", "52:54:00:ab:cd:01"),
        ("525400abcd01", "52:54:00:ab:cd:01"),
        ("52:54:00:ab:cd", ""),
        ("52:54:00:ab:cd:0g", ""),
        ("52:54:00:ab:cd:01:02", ""),
        ("", ""),
        ("lab1", ""),
    ],
)
def test_macs(text: str, normal: str) -> None:
    assert normal_mac(text) == normal


def test_names_come_from_the_configuration_then_operators_then_the_mac() -> None:
    registry = Registry({mac(1): "node1", mac(2): "node12", mac(3): "node-1", mac(4): "already1"}, counter())
    assert registry.find("node1") == mac(1)
    assert registry.find("NODE12") == mac(2)
    assert registry.find("node-1") == mac(3)
    assert registry.find("already1") == mac(4)
    assert registry.add(mac(9)).name == "node-525400000009"
    assert registry.find("node-525400000009") == mac(9)
    assert registry.find(mac(77)) == mac(77)
    registry.rename(mac(9), "printer")
    assert registry.find("printer") == mac(9)
    assert registry.host_set("node1,printer").macs == frozenset({mac(1), mac(9)})
    with pytest.raises(OperatorError, match="no node is called"):
        registry.find("node2")
    for name in ("node1", "any", "a_b", "", "525400000001"):
        with pytest.raises(OperatorError):
            registry.rename(mac(9), name)
    with pytest.raises(OperatorError, match=f"is the name of {mac(5)}"):
        registry.rename(mac(9), "node-525400000005")
    registry.rename(mac(9), "Plotter")
    registry.rename(mac(10), "printer")
    assert (registry.find("plotter"), registry.find("printer")) == (mac(9), mac(10)), "a name that was left is free"
    registry.forget(mac(10))
    with pytest.raises(OperatorError, match="no node is called"):
        registry.find("printer")
    with pytest.raises(OperatorError, match="named by the configuration"):
        registry.rename(mac(1), "other")


def test_tokens_are_per_node_and_checked() -> None:
    room = Room()
    first, _ = room.coordinator.boot_choice(mac(1), room.now)
    again, _ = room.coordinator.boot_choice(mac(1).upper(), room.now)
    second, _ = room.coordinator.boot_choice(mac(2), room.now)
    assert first.token == again.token != second.token
    assert room.coordinator.check_token(mac(1), first.token)
    assert not room.coordinator.check_token(mac(1), second.token)
    assert not room.coordinator.check_token(mac(50), "")
    assert not room.coordinator.check_token("head-unknown", "")
    assert room.coordinator.boot_choice("garbage", room.now)[0].token == ""


def test_made_up_macs_do_not_fill_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_NODES", 20)
    room = Room(nodes=3)
    room.join(5)
    room.coordinator.set_label(mac(6), "rescue", False, "root")
    for number in range(100, 300):
        room.now += 1
        room.run(room.coordinator.boot_choice(mac(number), room.now)[1])
    assert len(room.coordinator.nodes) == 20
    for number in (1, 2, 3, 5, 6, 299):
        assert room.coordinator.nodes.get(mac(number)) is not None
    assert room.coordinator.nodes.get(mac(100)) is None


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({}, "kamethod"),
        ({"automatic": "local"}, "local"),
        ({"automatic": "local", "session": ("dolly", "demo")}, "dolly"),
        ({"label": "local", "session": ("dolly", "demo")}, "local"),
        ({"once": "rescue", "label": "local"}, "rescue"),
        ({"parked": "broken", "once": "kamethod"}, "rescue"),
        ({"label": "gone"}, "kamethod"),
        ({"default": "gone"}, "local"),
        ({"default": ""}, "local"),
    ],
)
def test_policy_order(values: dict[str, str], label: str) -> None:
    given = {"parked": "", "once": "", "label": "", "session": None, "automatic": "", "default": "kamethod"}
    choice = choose_label(**{**given, **values}, known=LABELS)  # type: ignore[arg-type]
    assert choice.label == label
    assert choice.why


def test_one_shot_label_serves_one_boot_that_asks_several_times() -> None:
    room = Room()
    room.run(room.coordinator.set_label("lab1", "rescue", True, "root"))
    for seconds in (0, 1, 30):  # pxelinux.cfg, autoexec.ipxe and boot.ipxe of one boot
        assert room.coordinator.boot_choice(mac(1), room.now + seconds)[0].label == "rescue"
    assert room.coordinator.boot_choice(mac(1), room.now + room.limits.once + 1)[0].label == "kamethod"


def test_one_shot_label_is_used_up_by_the_join_of_its_boot() -> None:
    room = Room()
    room.run(room.coordinator.set_label("lab1", "dolly", True, "root"))
    assert room.coordinator.boot_choice(mac(1), room.now)[0].label == "dolly"
    room.join(1)
    assert room.coordinator.boot_choice(mac(1), room.now + 1)[0].label == "kamethod"


def test_labels_of_operators() -> None:
    room = Room(default="local")
    with pytest.raises(OperatorError, match="not defined"):
        room.coordinator.set_default_label("nonsense", "root")
    room.run(room.coordinator.set_default_label("kamethod", "root"))
    room.run(room.coordinator.set_label("lab1", "dolly", False, "root"))
    assert room.coordinator.choice(mac(1)).label == "dolly"
    assert room.coordinator.choice(mac(2)).label == "kamethod"
    assert room.coordinator.choice("52:54:00:99:99:99").label == "kamethod"
    room.run(room.coordinator.clear_label("lab1", "root"))
    assert room.coordinator.choice(mac(1)).label == "kamethod"
