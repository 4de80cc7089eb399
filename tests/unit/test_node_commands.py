"""``bootd node``, ``group``, ``map``, ``label --group``, ``import`` and ``export`` against the real interface."""

import csv
import io
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator

from bootd import config
from bootd.cli import node_file
from bootd.drivers.http.operator import describe
from bootd.errors import Exit, OperatorError
from bootd.session.effects import ContentRecord
from bootd.session.inventory import view_group, view_machine
from bootd.wire.control import Disk, Hardware, Join, Nic, Partition
from bootd.wire.scheme.model import FILL
from bootd.wire.scheme.text import parse
from tests.unit.operators import Operators
from tests.unit.session_room import mac
from tests.unit.test_host_file import HOST, WRITTEN
from tests.unit.test_http_openapi import undescribed

DISK = Disk(
    "nvme0n1",
    512_110_190_592,
    512,
    "S3Z8NB0K",
    "eui.002538b1",
    "=cmd|'/C calc'!A1",
    "nvme",
    False,
    "",
    "cd" * 32,
    (Partition(1, 512 << 20, "aa-1", "vfat", "ESP"),),
)
HARDWARE = Hardware(
    vendor="Dell Inc.",
    product="OptiPlex 7040",
    product_serial="1AB2CD3",
    board="0Y7WYT",
    board_serial="/1AB2CD3/",
    bios_vendor="Dell Inc.",
    bios_version="1.18.0",
    cpu="i5-6500",
    sockets=1,
    cores=4,
    threads=4,
    nics=(Nic("eno1", mac(1), "e1000e", "pci", 1000, True),),
)


@pytest.fixture
def operators() -> Iterator[Operators]:
    with tempfile.TemporaryDirectory(prefix="bootd-") as folder:
        made = Operators(Path(folder))
        yield made
        made.close()


def join(operators: Operators, number: int, hardware: Hardware = HARDWARE) -> None:
    message = Join(mac(number), "", "x86_64", "uefi", f"192.0.2.{number}", "", "ka", 16 << 30, (DISK,), hardware)
    operators.engine.run(operators.engine.coordinator.join(message, operators.engine.now()))


def run(operators: Operators, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Output of a command that must end with 0."""
    code, out, error = operators.run(capsys, *words)
    assert code == 0, error
    return said(out)


def said(out: str) -> str:
    """What a command printed, without the daemon's log: here both are one process."""
    return re.sub(r"^\d{4}-\d\d-\d\d [^\n]*\[info[^\n]*\n", "", out, flags=re.MULTILINE)


def test_show(operators: Operators, capsys: pytest.CaptureFixture[str]) -> None:
    join(operators, 1)
    run(operators, capsys, "group", "add", "room2", "lab[1-2]")
    run(operators, capsys, "label", "set", "rescue", "--group", "@room2")
    assert "group room2: rescue" in run(operators, capsys, "label", "list").splitlines()
    shown = run(operators, capsys, "label", "show", "rescue").splitlines()
    assert {"name: rescue", "default: no", "groups: room2", "next of lab1: group room2"} <= set(shown), shown
    assert operators.run(capsys, "label", "show", "reskue")[0] == Exit.USAGE
    run(operators, capsys, "lock", "add", "lab1", "--disk", "--reason", "exam", "--owner", "eva")
    text = run(operators, capsys, "node", "show", "lab1")
    for line in (
        f"lab1  {mac(1)}",
        "boots    rescue: group room2",
        "machine  Dell Inc.  OptiPlex 7040  serial 1AB2CD3",
        "board    0Y7WYT  serial /1AB2CD3/",
        "firmware UEFI Dell Inc.  1.18.0",
        "CPU      i5-6500, 1 sockets, 4 cores, 4 threads, x86_64",
        f"network  eno1  {mac(1)}  e1000e (pci)  1000 Mbit/s",
        "LOCK     every disk is locked by eva: exam",
    ):
        assert line in text.splitlines(), text
    assert "S3Z8NB0K" in text
    assert "partition 1" in text
    told = json.loads(run(operators, capsys, "node", "show", "lab1", "--json"))
    assert told["hardware"]["nics"][0]["driver"] == "e1000e"
    assert told["disks"][0]["partitions"][0]["filesystem"] == "vfat"
    assert told["group_label"] == {"label": "rescue", "why": "group room2"}
    for words in (("node", "list"), ("state",)):
        assert "locked: every disk by eva: exam" in run(operators, capsys, *words)
    assert operators.run(capsys, "node", "show", mac(99))[0] == Exit.USAGE
    assert "never in stage2" in run(operators, capsys, "node", "show", "lab3")


def test_layout_of_a_disk_that_a_node_has_shown(operators: Operators, capsys: pytest.CaptureFixture[str]) -> None:
    join(operators, 1)
    told = json.loads(run(operators, capsys, "layout", "from-disk", "lab1", "--json"))
    assert [one["kind"] for one in told["layout"]["partition"]] == ["linux"]
    assert "mount points are not known to the server: put them in" in told["notes"]
    text = run(operators, capsys, "layout", "from-disk", "lab1", "--disk", DISK.serial)
    assert [one.size for one in parse(text).partitions] == [FILL]
    code, _, error = operators.run(capsys, "layout", "from-disk", "lab1", "--disk", "sdz")
    assert (code, "sdz: 0 disks" in error) == (Exit.INPUT, True), error
    assert "it has not shown its disks" in operators.run(capsys, "layout", "from-disk", "lab2")[2]
    assert operators.run(capsys, "layout", "from-disk", "nobody")[0] == Exit.USAGE


def test_what_is_told_is_described(operators: Operators) -> None:
    join(operators, 1)
    coordinator = operators.engine.coordinator
    operators.engine.run(operators.engine.node_orders.add_to_group("room2", "lab1", "root"))
    node = coordinator.nodes.get(mac(1))
    assert node is not None
    components = describe()["components"]["schemas"]
    for name, value in (
        ("Machine", view_machine(coordinator, node, 5.0)),
        ("Group", view_group(coordinator, "room2")),
    ):
        plain: Any = json.loads(json.dumps(value))
        schema = {"$ref": f"#/components/schemas/{name}"}
        assert undescribed(plain, schema, components, name) == []
        validator = OAS31Validator({**schema, "components": {"schemas": components}})
        assert list(validator.iter_errors(plain)) == []


def test_groups_and_sets(operators: Operators, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(operators, capsys, "group", "add", "room2", "lab[1-2]") == "room2: 2 nodes\n"
    assert run(operators, capsys, "node", "find", "@room2,!lab1") == f"lab2 {mac(2)}\n"
    assert run(operators, capsys, "node", "find", "3") == f"lab3 {mac(3)}\n"
    run(operators, capsys, "label", "set", "rescue", "--node", "@room2,!lab2")
    assert operators.engine.coordinator.choice(mac(1)).label == "rescue"
    assert operators.engine.coordinator.choice(mac(2)).label == "local"
    run(operators, capsys, "label", "clear", "--node", "@room2")
    assert operators.engine.coordinator.choice(mac(1)).label == "local"
    run(operators, capsys, "lock", "add", "@room2", "--disk", "--reason", "exam")
    assert [item["name"] for item in json.loads(run(operators, capsys, "lock", "list", "--json"))] == [
        "lab1",
        "lab2",
    ]
    run(operators, capsys, "lock", "remove", "@room2", "--disk")
    listed = json.loads(run(operators, capsys, "node", "list", "@room2", "--json"))
    assert [item["name"] for item in listed] == ["lab1", "lab2"]
    run(operators, capsys, "group", "remove", "@room2", "lab2")
    assert "room2" in run(operators, capsys, "group", "list")
    told = json.loads(run(operators, capsys, "group", "show", "room2", "--json"))
    assert [node["name"] for node in told["nodes"]] == ["lab1"]
    assert [record.macs for record in operators.journal.load().groups] == [frozenset({mac(1)})]
    run(operators, capsys, "group", "remove", "room2")
    assert operators.journal.load().groups == ()
    code, _, error = operators.run(capsys, "node", "find", "@room2")
    assert (code, "no group is called 'room2'" in error) == (Exit.USAGE, True)
    for wrong in (("label", "set", "local"), ("label", "set", "local", "--group", "x", "--once")):
        assert operators.run(capsys, *wrong)[0] == Exit.USAGE
    audited = [line.what for line in operators.journal.audit()]
    assert {"group-add", "group-drop", "group-remove"} <= set(audited)


def test_plan_and_deploy_take_sets(
    operators: Operators, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * 4096)
    join(operators, 1)
    join(operators, 1, Hardware(board_serial="OTHER"))
    run(operators, capsys, "group", "add", "servers", "lab2")
    run(operators, capsys, "label", "set", "local", "--group", "servers")
    code, out, _ = operators.run(capsys, "plan", str(image), "any,!lab3", "--disk", "only", "--json")
    assert code == Exit.REFUSED, "nobody is left"
    plan = json.loads(said(out))
    refusals = {card["name"]: card["refusal"] for card in plan["nodes"]}
    assert refusals.keys() == {"lab1", "lab2"}
    assert refusals["lab1"].startswith("another machine answers under this MAC")
    assert refusals["lab2"] == "not named, and boots local: group servers"
    words = ("deploy", str(image), "any,!@servers", "--disk", "only", "--expect", "1", "--yes", "--json")
    session = json.loads(run(operators, capsys, *words))
    assert session["nodes"] == "any"
    (record,) = operators.journal.load().sessions
    assert record.without == (mac(2),)


def test_accept_change_and_forget(operators: Operators, capsys: pytest.CaptureFixture[str]) -> None:
    join(operators, 9)
    join(operators, 9, Hardware(board_serial="OTHER"))
    name = f"node-{mac(9).replace(':', '')}"
    assert "warning: another machine answers" in run(operators, capsys, "node", "list")
    assert f"bootd node accept-change {name}" in run(operators, capsys, "node", "show", name)
    run(operators, capsys, "node", "accept-change", name)
    assert json.loads(run(operators, capsys, "node", "show", name, "--json"))["warnings"] == []
    assert operators.run(capsys, "node", "accept-change", name)[0] == Exit.USAGE
    code, _, error = operators.run(capsys, "node", "forget", name)
    assert (code, "say --yes" in error) == (Exit.USAGE, True)
    run(operators, capsys, "node", "forget", name, "--yes")
    assert mac(9) not in [node.mac for node in operators.journal.load().nodes]
    assert run(operators, capsys, "node", "approve", mac(9)).endswith("approved\n")
    assert run(operators, capsys, "node", "unpark", "lab[1-3]") == "none of them is parked\n"


def test_locks_that_came_with_the_machine_are_shown(
    operators: Operators, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    join(operators, 1)
    run(operators, capsys, "lock", "add", "lab1", "--disk", DISK.serial, "--reason", "exam", "--owner", "eva")
    join(operators, 2)
    line = f"LOCK     disk {DISK.serial} is locked by eva: exam (of lab1: the same machine, or disk)"
    assert line in run(operators, capsys, "node", "show", "lab2").splitlines()
    image = tmp_path / "image"
    image.write_bytes(b"x" * 4096)
    code, out, _ = operators.run(capsys, "plan", str(image), "lab2", "--disk", "only")
    assert (code, f"REFUSED disk {DISK.serial} is locked by eva: exam" in out) == (Exit.REFUSED, True)
    assert f"LOCK    disk {DISK.serial} is locked by eva: exam" in out


def test_clonesys_file_of_a_machine_that_bootd_has_written(
    operators: Operators, capsys: pytest.CaptureFixture[str]
) -> None:
    join(operators, 1)
    record = ContentRecord(
        mac(1), DISK.serial, 1, "aa-1", "/images/esp.img", "ab" * 32, 512 << 20, "installed", "eva (uid 1000)", "s"
    )
    operators.journal.write(record)
    day = time.strftime("%m/%d/%y")
    lines = run(operators, capsys, "export", "clonesys", "lab1").splitlines()
    assert lines[1:] == [f"nvme0n1p1:/images:esp.img:{day}:eva:::"]
    operators.journal.write(replace(record, state="writing"))
    assert run(operators, capsys, "export", "clonesys", "lab1").splitlines()[1:] == ["nvme0n1p1:::::::"]


def test_map(operators: Operators, capsys: pytest.CaptureFixture[str]) -> None:
    join(operators, 1)
    run(operators, capsys, "group", "add", "room2", "lab1,lab3")
    parts = json.loads(run(operators, capsys, "map", "--json"))
    assert [(part["part"], [node["name"] for node in part["nodes"]]) for part in parts] == [
        ("room2", ["lab1", "lab3"]),
        (None, ["lab2"]),
    ]
    assert [node["state"] for node in parts[0]["nodes"]] == ["in stage2", "never seen"]
    text = run(operators, capsys, "map")
    assert "room2: 2 nodes" in text
    assert "in no group: 1 nodes" in text
    assert "in no switch: 3 nodes" in run(operators, capsys, "map", "--by", "switch")


ROOM = f"""\
\ufeffMAC;Name;Number;Group;Switch;Label;IP
{mac(1)};lab1;;room2;sw1;;
52-54-00-00-00-0A;pc10;110;room2,south;sw2;rescue;192.0.2.10

{mac(11).upper()};;;;;;
"""


def test_a_room_as_csv_there_and_back(
    operators: Operators, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "room.csv"
    path.write_text(ROOM, encoding="utf-8")
    code, out, error = operators.run(capsys, "import", "nodes", str(path), "--apply")
    assert (code, said(out)) == (0, "3 nodes taken over\n"), error
    assert "1 addresses were not taken over" in error
    nodes = operators.engine.coordinator.nodes
    assert nodes.find("pc10") == nodes.find("110") == mac(10)
    exported = run(operators, capsys, "export", "nodes")
    rows = {row["mac"]: row for row in csv.DictReader(io.StringIO(exported))}
    assert rows[mac(10)] == {
        **dict(zip(node_file.COLUMNS, (mac(10), "pc10", "110", "room2 south", "sw2", "rescue", ""), strict=True))
    }
    path.write_text(exported)
    run(operators, capsys, "import", "nodes", str(path), "--apply")
    assert run(operators, capsys, "export", "nodes") == exported
    with tempfile.TemporaryDirectory(prefix="bootd-") as folder:
        other = Operators(Path(folder))
        try:
            run(other, capsys, "import", "nodes", str(path), "--apply")
            assert run(other, capsys, "export", "nodes") == exported, "an empty daemon becomes the same room"
        finally:
            other.close()


def test_a_room_as_settings(operators: Operators, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "room.csv"
    path.write_text(ROOM, encoding="utf-8")
    settings = config.parse(run(operators, capsys, "import", "nodes", str(path)))
    assert [(node.mac, node.name, node.address, node.number, node.switch) for node in settings.node] == [
        (mac(1), "lab1", "", None, "sw1"),
        (mac(10), "pc10", "192.0.2.10", 110, "sw2"),
        (mac(11), "node-52540000000b", "", None, ""),
    ]
    assert [(group.name, group.hosts) for group in settings.group] == [
        ("room2", ("lab1", "pc10")),
        ("south", ("pc10",)),
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no header line"),
        ("name\nlab1\n", "no column mac"),
        ("mac,nmae\n", "unknown column 'nmae'"),
        ("mac,mac\n", "stands twice"),
        ("mac,name\n12:34,lab1\n", "line 2: '12:34' is not a MAC"),
        (f"mac\n{mac(1)}\n{mac(1).upper()}\n", "two rows with mac"),
        (f"mac,name\n{mac(1)},a\n{mac(2)},A\n", "two rows with name a"),
        (f"mac,name\n{mac(1)},a_b\n", "not a host name"),
        (f"mac,number\n{mac(1)},x\n", "not a number"),
        (f"mac,address\n{mac(1)},1.2.3\n", "not an IPv4 address"),
        (f"mac,groups\n{mac(1)},a_b\n", "not a group name"),
        (f"mac\n{mac(1)},x\n", "2 fields"),
        (f'mac\n"{mac(1)}\n', "line 2"),
    ],
)
def test_malformed_rooms(text: str, error: str) -> None:
    with pytest.raises(OperatorError, match=error):
        node_file.parse(text)


def test_hardware_in_a_spreadsheet_is_no_formula(
    operators: Operators, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    join(operators, 1, Hardware(product="=HYPERLINK(1)", product_serial="1AB2CD3"))
    text = run(operators, capsys, "export", "nodes", "lab1", "--hardware")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["product"], row["serial"], row["memory"]) == ("'=HYPERLINK(1)", "1AB2CD3", str(16 << 30))
    assert "S3Z8NB0K" in row["disks"]
    path = tmp_path / "room.csv"
    path.write_text(text)
    run(operators, capsys, "import", "nodes", str(path), "--apply")


def test_clonesys_there_and_back(operators: Operators, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "config").mkdir(parents=True)
    (root / "scripts").mkdir()
    (root / "scripts/.cloneconfig").write_text("# Alias for machine name\nprefix=rifpc\n")
    for name in ("lab1", "lab2", "initconfig", "elsewhere"):
        (root / "config" / name).write_text(HOST)
    code, out, error = operators.run(capsys, "import", "clonesys", str(root))
    assert code == Exit.PARTLY
    assert said(out).splitlines() == ["elsewhere: no node is called 'elsewhere'", "lab1: 1 locks", "lab2: 1 locks"]
    assert 'set prefix = "rifpc" under [dns]' in error
    assert [record.mac for record in operators.journal.load().host_files] == [mac(1), mac(2)]
    assert run(operators, capsys, "export", "clonesys", "lab1") == WRITTEN
    folder = tmp_path / "out"
    run(operators, capsys, "export", "clonesys", "lab[1-2]", "--out", str(folder))
    assert [file.read_text() for file in sorted(folder.iterdir())] == [WRITTEN, WRITTEN]
    assert operators.run(capsys, "export", "clonesys", "lab[1-2]")[0] == Exit.USAGE
    code, _, _ = operators.run(capsys, "import", "clonesys", str(folder / "lab1"), "--node", "lab3")
    assert code == 0
    assert run(operators, capsys, "export", "clonesys", "lab3") == WRITTEN
    (tmp_path / "bad").write_text("sda1:nonsense\n")
    code, out, _ = operators.run(capsys, "import", "clonesys", str(tmp_path / "bad"), "--node", "lab3")
    assert (code, "line 1" in out) == (Exit.INPUT, True)
