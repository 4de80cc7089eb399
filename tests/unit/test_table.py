"""Partition tables: what sfdisk and sgdisk say of a disk before and after is equal, by tools that are not ours."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bootd.wire.errors import PeerProtocolError
from bootd.wire.table import PartitionTable, grown, of_object, parse

GPT_HOME = "933AC7E1-2EB4-4F13-B844-0E14E2AEF915"
# What a machine room has on its disks, as an administrator would type it for sfdisk.
TABLES = {
    "one partition": "label: dos\nlabel-id: 0x1\n,,83,*\n",
    "ten partitions, five of them hidden, one active": """label: dos
label-id: 0x6d9f7a52
1 : size=4M, type=17
2 : size=4M, type=7, bootable
3 : size=4M, type=1b
4 : type=f
5 : size=4M, type=83
6 : size=2M, type=82
7 : size=4M, type=1c
8 : size=3M, type=16
9 : size=1M, type=11
10 : type=83
""",
    "gaps among the numbers": """label: dos
label-id: 0xabcdef01
2 : start=8192, size=2M
4 : start=20480, type=5
6 : size=4M
5 : size=1M
""",
    "start at sector 63, as of old": "label: dos\nlabel-id: 0x12\n1 : start=63, size=16002, type=e, bootable\n",
    "partitions out of order": "label: dos\nlabel-id: 0x13\n1 : start=30720, size=2M\n2 : start=2048, size=2M\n",
    "gpt with names, attributes, identifiers": f"""label: gpt
label-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000001
1 : size=4M, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=6D9F7A52-0000-4F7F-9F42-B007D0000001, name="EFI System"
2 : size=1M, type=21686148-6449-6E6F-744E-656564454649, attrs="LegacyBIOSBootable"
5 : size=8M, name="say \\x22hello\\x22", attrs="RequiredPartition GUID:60,63"
4 : type={GPT_HOME}, name="zw\u00f6lf"
""",
    "gpt with more room": "label: gpt\nlabel-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000002\ntable-length: 200\n,2M\n,\n",
    "gpt that begins early": "label: gpt\nlabel-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000003\nfirst-lba: 34\n34,2M\n",
    "gpt without partitions": "label: gpt\nlabel-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000004\n",
}
SIZE = 64 << 20


def run(*command: object, text: str | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
    return done.stdout


def disk(path: Path, script: str, size: int = SIZE) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)
    run("sfdisk", "--quiet", path, text=script)
    return path


def read(path: Path) -> PartitionTable:
    return parse(run("sfdisk", "--json", path))


def said(path: Path) -> str:
    """Everything that sfdisk and, for a GPT, sgdisk say, without the name of the file."""
    text = run("sfdisk", "--dump", path) + run("sfdisk", "--list", path)
    if "label: gpt" in text:
        text += run("sgdisk", "--print", path) + run("sgdisk", "--verify", path)
        text += "".join(run("sgdisk", f"--info={entry.number}", path) for entry in read(path).entries)
    return text.replace(str(path.parent), "")


@pytest.mark.parametrize("script", TABLES.values(), ids=list(TABLES))
def test_before_and_after_are_equal(tmp_path: Path, script: str) -> None:
    before = disk(tmp_path / "one/disk", script)
    table = read(before)
    after = disk(tmp_path / "two/disk", table.script())
    assert said(after) == said(before)
    assert read(after) == table


def test_ten_partitions_are_what_was_asked_for(tmp_path: Path) -> None:
    table = read(disk(tmp_path / "disk", TABLES["ten partitions, five of them hidden, one active"]))
    assert [entry.number for entry in table.entries] == list(range(1, 11))
    assert [entry.number for entry in table.contents] == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert [entry.number for entry in table.entries if entry.active] == [2]
    assert [entry.type for entry in table.entries] == ["17", "7", "1b", "f", "83", "82", "1c", "16", "11", "83"]


def test_boot_code_and_gap_stay_when_a_table_is_written(tmp_path: Path) -> None:
    """The 440 bytes of a boot sector and what lies up to the first partition are not the table's."""
    path = disk(tmp_path / "disk", TABLES["one partition"])
    with path.open("r+b") as stream:
        stream.write(b"\xeb\x63" + b"B" * 438)
        stream.seek(512)
        stream.write(b"G" * (2047 * 512))
    before = path.read_bytes()
    run("sfdisk", "--quiet", path, text=read(path).script())
    assert path.read_bytes()[: 1 << 20] == before[: 1 << 20]


@pytest.mark.parametrize("label", ["dos", "gpt", "logical"])
def test_growth_fills_a_larger_disk(tmp_path: Path, label: str) -> None:
    """As sfdisk itself would have made the last partition on the larger disk, aligned to MiB."""
    scripts = {
        "dos": "label: dos\nlabel-id: 0x21\n1 : size=4M, type=7, bootable\n2 : size=8M\n",
        "gpt": "label: gpt\nlabel-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000005\n1 : size=4M\n2 : size=8M, name=root\n",
        "logical": "label: dos\nlabel-id: 0x22\n1 : size=4M\n2 : size=20M, type=5\n5 : size=2M\n6 : size=8M\n",
    }
    small = read(disk(tmp_path / "small", scripts[label]))
    larger, last = grown(small, SIZE)
    path = disk(tmp_path / "large", larger.script())
    assert said(path).count("overlap") == 0
    result = read(path)
    entry = result.entry(last.number)
    assert entry is not None
    assert last.number == max(one.number for one in small.entries)
    behind = (33 * 512 if label == "gpt" else 0) + (1 << 20)
    assert SIZE - behind <= entry.end * 512 <= SIZE
    assert entry.end * 512 % (1 << 20) == 0
    for other in small.entries:
        if other.number != last.number and not other.is_extended:
            assert result.entry(other.number) == other
    assert (result.id, entry.uuid, entry.start, entry.type) == (small.id, *_identity(small, last.number))
    if label == "logical":
        container = result.entry(2)
        assert container is not None
        assert container.end == entry.end


def _identity(table: PartitionTable, number: int) -> tuple[str, int, str]:
    entry = table.entry(number)
    assert entry is not None
    return entry.uuid, entry.start, entry.type


def test_nothing_grows_on_a_full_disk_or_an_empty_table(tmp_path: Path) -> None:
    table = read(disk(tmp_path / "full", TABLES["gpt with names, attributes, identifiers"]))
    assert grown(table, SIZE)[0] == table
    with pytest.raises(LookupError, match="no partition"):
        grown(replace(table, entries=()), SIZE)


def test_growth_of_a_dos_table_ends_where_its_numbers_do(tmp_path: Path) -> None:
    table = read(disk(tmp_path / "disk", TABLES["one partition"]))
    larger, last = grown(table, 8 << 40)
    assert last.size <= (1 << 32) - 1
    assert larger.least <= (1 << 32) * 512 + (2 << 20)


@pytest.mark.parametrize("script", [text for name, text in TABLES.items() if "gpt" not in name])
def test_least_size_of_a_dos_table(tmp_path: Path, script: str) -> None:
    """A disk of the least size takes the table, one that is a MiB smaller does not."""
    table = read(disk(tmp_path / "disk", script))
    assert read(disk(tmp_path / "least", table.script(), table.least)).entries == table.entries
    with (tmp_path / "smaller").open("wb") as stream:
        stream.truncate(table.least - (1 << 20))
    done = subprocess.run(
        ["sfdisk", "--quiet", tmp_path / "smaller"],
        input=table.script(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0


def test_least_size_of_a_gpt(tmp_path: Path) -> None:
    table = read(disk(tmp_path / "disk", TABLES["gpt that begins early"]))
    assert read(disk(tmp_path / "least", table.script(), table.least)).entries == table.entries


GOOD = {
    "label": "dos",
    "id": "0x1",
    "sectorsize": 512,
    "partitions": [{"node": "d1", "start": 1, "size": 1, "type": "83"}],
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": "bsd"}, "only dos and gpt"),
        ({"id": "0x1\nlabel: gpt"}, "no identifier"),
        ({"sectorsize": 0}, "sectors of 0"),
        ({"sectorsize": True}, "sectorsize is no number"),
        ({"unit": "cylinders"}, "unit is not sectors"),
        ({"partitions": {}}, "no list"),
        ({"partitions": [1]}, "no object"),
        ({"partitions": [{"node": "x", "start": 1, "size": 1, "type": "83"}]}, "has no number"),
        ({"partitions": [{"node": "d1", "start": -1, "size": 1, "type": "83"}]}, "start is no number"),
        ({"partitions": [{"node": "d1", "start": 1, "size": 0, "type": "83"}]}, "is empty"),
        ({"partitions": [{"node": "d1", "start": 1, "size": 1, "type": "83, bootable"}]}, "no type"),
        ({"partitions": [{"node": "d5", "start": 9, "size": 1, "type": "83"}]}, "lies in no extended one"),
        ({"partitions": [GOOD["partitions"][0], {"node": "d1", "start": 4, "size": 1, "type": "83"}]}, "twice"),  # type: ignore[index]
        ({"partitions": [GOOD["partitions"][0], {"node": "d2", "start": 1, "size": 4, "type": "83"}]}, "overlap"),  # type: ignore[index]
        (
            {"label": "gpt", "id": "6D9F7A52-0D0C-4F7F-9F42-B007D0000001", "partitions": [
                {"node": "d1", "start": 64, "size": 1, "type": GPT_HOME, "uuid": GPT_HOME, "attrs": '"\nx'}]},
            "no attributes",
        ),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(changes: dict[str, object], reason: str) -> None:
    assert of_object(GOOD).entries
    with pytest.raises(PeerProtocolError, match=re.escape(reason)):
        parse(json.dumps({"partitiontable": {**GOOD, **changes}}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"partitiontable":[]}', "[" * 100_000, "x" * (1 << 21)])
def test_what_is_no_json_of_sfdisk_is_refused(text: str) -> None:
    with pytest.raises(PeerProtocolError, match="partition table"):
        parse(text)
