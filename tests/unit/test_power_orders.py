"""Where controllers are, what settings are refused, and that a session keeps its nodes powered."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bootd.config import Settings, parse
from bootd.drivers.power.actions import Action
from bootd.drivers.power.control import PowerControl, Result
from bootd.drivers.secrets import read_password
from bootd.errors import Exit, OperatorError
from bootd.netboot.power import (
    Controller,
    Kind,
    magic_packet,
    parse_controller,
    parse_fingerprint,
    parse_secure_on,
)
from bootd.session.request import SessionRequest
from tests.unit.operators import Operators
from tests.unit.session_room import SIZE, disk, mac


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("redfish://root@bmc1/Systems/1", Controller(Kind.REDFISH, "bmc1", 443, "root", "/redfish/v1/Systems/1")),
        (
            "redfish://a%2Fb@[fd00::1]:8443/redfish/v1/Systems/Self/",
            Controller(Kind.REDFISH, "fd00::1", 8443, "a/b", "/redfish/v1/Systems/Self"),
        ),
        ("ipmi://ADMIN@10.0.0.1", Controller(Kind.IPMI, "10.0.0.1", 623, "ADMIN")),
    ],
)
def test_where_a_controller_is(text: str, wanted: Controller) -> None:
    assert parse_controller(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "http://root@bmc/Systems/1",
        "redfish://root:hunter2@bmc/Systems/1",
        "redfish://bmc/Systems/1",
        "redfish://root@bmc",
        "redfish://root@bmc/../x",
        "redfish://root@bmc:99999/Systems/1",
        "redfish://root@bmc:0/Systems/1",
        "redfish://root@bmc/Systems/1?x=1",
        "redfish://ro%0Aot@bmc/Systems/1",
        "ipmi://-v@bmc",
        "ipmi://root@-h",
        "ipmi://root@bmc/1",
        "ipmi://root@bm c",
        "",
    ],
)
def test_addresses_that_are_refused_and_never_a_password_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]") as caught:
        parse_controller(text)
    assert "hunter2" not in str(caught.value)


def test_settings_name_the_node() -> None:
    own = '[[node]]\nmac = "52:54:00:00:00:01"\nname = "lab1"\n'
    for line in (
        'power = "ipmi://root:hunter2@bmc"',
        'power_fingerprint = "00"',
        'power = "ipmi://root@bmc"\npower_fingerprint = "' + "0" * 64 + '"',
    ):
        with pytest.raises(OperatorError, match="node lab1: power") as caught:
            parse(own + line)
        assert caught.value.code is Exit.CONFIG
        assert "hunter2" not in str(caught.value)
    with pytest.raises(OperatorError, match="wake_addresses"):
        parse('[power]\nwake_addresses = ["room2"]')


def test_packet_of_wake_on_lan() -> None:
    """The example of AMD's white paper 20213: six times FF, sixteen times the address."""
    packet = magic_packet("11:22:33:44:55:66")
    assert packet.hex() == "ffffffffffff" + "112233445566" * 16
    assert len(magic_packet("11:22:33:44:55:66", parse_secure_on("0a-0b-0c-0d-0e-0f"))) == 108
    for text in ("", "1", "01:02:03:04:05", "01:02:03:04:05:0g"):
        with pytest.raises(ValueError, match="SecureOn"):
            parse_secure_on(text)


def test_fingerprints_as_openssl_prints_them() -> None:
    assert parse_fingerprint(":".join(["AB"] * 32)) == parse_fingerprint("sha256:" + "ab" * 32) == b"\xab" * 32
    for text in ("", "ab" * 31, "zz" * 32, "ab" * 20):
        with pytest.raises(ValueError, match="64 hexadecimal"):
            parse_fingerprint(text)


def test_a_password_is_the_first_line_of_a_file_that_others_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_text("pass word\nsecond\n")
    path.chmod(0o640)
    assert read_password(str(path)) == "pass word"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_password("credential:secret") == "pass word"
    for name in ("credential:../secret", "credential:", "credential:none", str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(OperatorError) as caught:
            read_password(name)
        assert caught.value.code is Exit.INPUT
    path.chmod(0o644)
    with pytest.raises(OperatorError, match="everybody"):
        read_password(str(path))
    path.chmod(0o600)
    for text in ("", "\n", "x" * 200, "a\tb\n"):
        path.write_text(text)
        with pytest.raises(OperatorError, match="has no password"):
            read_password(str(path))


@pytest.fixture
def operators(tmp_path: Path) -> Iterator[Operators]:
    """With nobody to switch: no interface, no controller."""
    settings = parse("")
    made = Operators(tmp_path, PowerControl(settings, ()))
    yield made
    made.close()


def test_a_node_in_a_session_keeps_its_power_unless_confirmed(
    operators: Operators, capsys: pytest.CaptureFixture[str]
) -> None:
    operators.join(1, disk())
    order = SessionRequest(source="/img", source_size=SIZE, nodes="lab[1-2]", disk="only", name="room")
    id_, effects = operators.engine.coordinator.create(order, "root", 0.0)
    operators.engine.run(effects)
    operators.join(1, disk())
    node = operators.engine.coordinator.nodes.get(mac(1))
    assert node is not None
    node.session = id_
    answer = operators.request("POST", "/power", {"nodes": "lab[1-2]", "action": "off"})
    assert answer[0] == 409
    assert "lab1" in answer[1]["error"]["message"]
    assert answer[1]["error"]["code"] == Exit.REFUSED
    assert not [line for line in operators.journal.audit() if line.what.startswith("power")], "nothing was done"
    code, out, _ = operators.run(capsys, "power", "off", "lab1", "lab2", "--yes", "--json")
    assert code == Exit.ERROR
    assert out.count('"text": "no power controller is set') == 2
    assert [line.detail for line in operators.journal.audit() if line.what == "power-off"] == [
        f"{mac(1)} lab1",
        f"{mac(2)} lab2",
    ]
    code, out, _ = operators.run(capsys, "power", "status", "lab1", "--json")
    assert code == Exit.ERROR
    assert [line.what for line in operators.journal.audit()][-1] == "power-off", "looking leaves no line"


def test_orders_that_make_no_sense(operators: Operators, capsys: pytest.CaptureFixture[str]) -> None:
    for body in (
        {"nodes": "any", "action": "off"},
        {"nodes": "lab9", "action": "off"},
        {"nodes": "lab1", "action": "explode"},
        {"nodes": "lab1"},
        {"nodes": "lab1", "action": "on", "else": 1},
    ):
        assert operators.request("POST", "/power", body)[0] == 400
    assert operators.run(capsys, "power", "off", "lab1")[0] == Exit.USAGE
    for nodes in ("any", "any,!lab3", "!lab3,ANY"):
        code, _, err = operators.run(capsys, "deploy", "x.img", nodes, "--disk", "only", "--wake", "--yes")
        assert (code, "cannot be woken" in err) == (Exit.USAGE, True), nodes


def test_results_keep_the_order_and_name_each_failure(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    settings: Settings = parse(
        f'[power]\nsecret = "{missing}"\nseconds = 1\n'
        '[[node]]\nmac = "52:54:00:00:00:01"\nname = "a"\npower = "ipmi://root@127.0.0.1:9"\n'
        '[[node]]\nmac = "52:54:00:00:00:02"\nname = "b"\n'
    )
    macs: Sequence[str] = [mac(3), "52:54:00:00:00:02", "52:54:00:00:00:01"]
    results: list[Result] = asyncio.run(PowerControl(settings, ()).carry_out(macs, Action.STATUS, lambda _: False))
    assert [result.mac for result in results] == list(macs)
    assert "no power controller" in results[0].text
    assert str(missing) in results[2].text
