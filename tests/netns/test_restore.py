"""Partitions restored through the whole of it: command, daemon, head, ring, the agent of stage2 on loop disks."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.disks import MIB, TEN, LoopDisk, add_partitions
from tests.netns.room import Process, Room, until

SIZE = 40 * MIB
NODES = ("n1", "n2")
MACS = {"n1": "52:54:00:00:00:01", "n2": "52:54:00:00:00:02"}


class Lab:
    """A daemon, two nodes with a disk of ten partitions each, and images."""

    def __init__(self, room: Room, folder: Path) -> None:
        self.room, self.folder = room, folder
        self.daemon = Daemon(room, folder)
        self.daemon.start()
        self.disks = {
            name: LoopDisk(folder / f"{name}.disk", SIZE, mark, TEN) for mark, name in enumerate(NODES, 1)
        }
        self.nodes: dict[str, Process] = {}
        for name, mac in MACS.items():
            self.daemon.command("node", "name", mac, name)

    def image(self, name: str, size: int) -> Path:
        path = self.folder / name
        path.write_bytes(Random(name).randbytes(size))
        return path

    def boot(self, name: str) -> Process:
        """The node comes up in stage2, as its boot label says, and stays until it reboots."""
        words = [
            MACS[name],
            f"10.9.0.{10 + int(name[1:])}",
            f"{ADDRESS}:{HTTP_PORT}",
            self.disks[name].device,
            name,
        ]
        self.nodes[name] = self.room.start(name, [sys.executable, "-m", "tests.netns.loop_node", *words])
        return self.nodes[name]

    def places(self, name: str) -> dict[int, dict[str, Any]]:
        """What `bootd node partitions` says, by the numbers of partitions."""
        found = json.loads(self.daemon.command("node", "partitions", name, "--json"))
        return {place["partition"]: place for place in found}

    def output(self) -> str:
        return "\n".join(process.output[-1500:] for process in self.nodes.values())

    def close(self) -> None:
        for process in self.nodes.values():
            process.stop()
        for disk in self.disks.values():
            disk.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with Room("server", *NODES) as room:
        room.address("server", f"{ADDRESS}/24")
        for number, name in enumerate(NODES, 1):
            room.address(name, f"10.9.0.{10 + number}/24")
            room.mac(name, MACS[name])
        made = Lab(room, folder)
        try:
            yield made
        finally:
            made.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_two_partitions_on_two_nodes_and_back_again(lab: Lab) -> None:
    """Partition 5 from a file, 6 from partition 7 of a disk image, in this order; nothing else changes; the room
    is reset by @last, and only what differs is written."""
    system, golden = lab.image("system.img", 4 * MIB), LoopDisk(lab.folder / "golden.img", SIZE, 9, TEN)
    golden.close()
    before = {name: disk.content() for name, disk in lab.disks.items()}
    numbers = [f"5={system}", f"6={golden.path}#7"]
    words = ["--part", numbers[0], "--part", numbers[1], "--disk", "size>=1M"]
    lab.daemon.command("restore", str(system), "n[1-2]", *words, "--name", "one", "--yes")
    for name in NODES:
        lab.boot(name)
    lab.daemon.command("wait", "one", "--timeout", "60", seconds=90)
    for name in NODES:
        assert lab.nodes[name].wait(20) == 0, lab.output()
        lab.nodes[name].wait_for("rebooted")
    first, second = 5, 6
    golden_bytes = golden.path.read_bytes()
    for name, disk in lab.disks.items():
        after = disk.content()
        expected = bytearray(before[name])
        put(expected, start_of(disk, first), system.read_bytes())
        put(expected, start_of(disk, second), golden_bytes[start_of(disk, 7) : start_of(disk, 7) + 2 * MIB])
        assert after == bytes(expected), differences(after, bytes(expected))
        places = lab.places(name)
        assert {number for number, place in places.items() if place["actual"]} == {5, 6}
        assert places[5]["actual"]["state"] == "installed"
        assert places[5]["actual"]["image"] == str(system)
        assert places[6]["actual"]["image"] == f"{golden.path}#7"
        assert places[5]["actual"]["who"] == places[5]["wanted"]["who"] != ""
    installed = {name: disk.content() for name, disk in lab.disks.items()}
    for disk in lab.disks.values():  # a day of work: something in every partition
        damaged = bytearray(installed[disk.path.stem])
        put(damaged, start_of(disk, first) + MIB, b"students were here")
        put(damaged, start_of(disk, 10) + 5, b"and their home stays")
        disk.path.write_bytes(damaged)
    home = {name: disk.content()[start_of(disk, 10) :] for name, disk in lab.disks.items()}
    lab.daemon.command("restore", "@last", "n[1-2]", "--part", "5", "--disk", "size>=1M", "--name", "two", "--yes")
    for name in NODES:
        lab.boot(name)
    done = json.loads(lab.daemon.command("wait", "two", "--timeout", "60", "--json", seconds=90))
    for member in done["members"]:
        assert (member["kept"], member["verified"]) == (3 * MIB, 4 * MIB), "one chunk of four was written"
    for name, disk in lab.disks.items():
        assert lab.nodes[name].wait(20) == 0
        after, end = disk.content(), start_of(disk, 10)
        assert after[:end] == installed[name][:end]
        assert after[end:] == home[name]


def test_refusals_leave_the_others_alone(lab: Lab) -> None:
    """Node 1 has partition 6 locked; node 2 is restored. The card says so before anything happens."""
    lab.daemon.command("label", "set-default", "kamethod")
    image = lab.image("system.img", 3 * MIB)
    before = {name: disk.digest() for name, disk in lab.disks.items()}
    for name in NODES:
        lab.boot(name).wait_for("joined")
    lab.daemon.command("lock", "add", "n1", "--partition", "6", "--reason", "thesis", "--owner", "eva")
    words = ["n[1-2]", "--part", "5", "--part", "6", "--disk", "size>=1M"]
    text = lab.daemon.command("plan", str(image), *words)
    assert "REFUSED partition 6 (6d9f7a52-06) of disk n1 is locked by eva: thesis" in text
    assert f"ERASE   {lab.disks['n2'].name}p5" in text
    assert f"ERASE   {lab.disks['n1'].name}p5" not in text
    lab.daemon.command("restore", str(image), *words, "--name", "one", "--yes")
    lab.daemon.command("wait", "one", "--timeout", "60", expect=Exit.PARTLY, seconds=90)
    assert lab.disks["n1"].digest() == before["n1"]
    content = lab.disks["n2"].content()
    for number in (5, 6):
        start = start_of(lab.disks["n2"], number)
        assert content[start : start + 3 * MIB] == image.read_bytes()
    assert lab.places("n1")[6]["locked"] == "partition 6 (6d9f7a52-06) of disk n1 is locked by eva: thesis"
    assert lab.places("n1")[6]["actual"] is None
    text = lab.daemon.command("node", "partitions", "n1", "--colons")
    assert f"{lab.disks['n1'].name}p6:/dev/{lab.disks['n1'].name}p6::::eva:thesis:" in text


GROWING = """label: gpt
label-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000001
1 : size=1M, type=21686148-6449-6E6F-744E-656564454649, attrs="LegacyBIOSBootable"
2 : size=4M, name="first"
3 : size=16M, name="root", uuid=6D9F7A52-0000-4F7F-9F42-B007D0000003
"""


def test_init_gives_an_empty_disk_a_table_boot_code_and_partitions_and_grows(lab: Lab) -> None:
    """Refused while the disk is not empty, and for the words of another disk; then table, gap, contents, growth."""
    lab.daemon.command("label", "set-default", "kamethod")
    golden = LoopDisk(lab.folder / "golden.img", 24 * MIB, 9, GROWING)
    run("mkfs.ext4", "-q", "-F", f"{golden.device}p3")
    golden.content()
    golden.close()
    with golden.path.open("r+b") as stream:
        stream.write(b"BOOT" * 110)
        stream.seek(34 * 512)
        stream.write(b"second stage" * 500)
    content = golden.path.read_bytes()
    before = lab.disks["n1"].digest()
    lab.boot("n1").wait_for("joined")
    words = ["n1", "--layout", str(golden.path), "--grow", "--name", "one", "--wait"]
    assert "is not empty" in lab.daemon.command("init", *words, "--yes", expect=Exit.REFUSED)
    text = lab.daemon.command("init", *words, "--yes", "--erase", "n2", expect=Exit.REFUSED)
    assert "n2 is not the disk of n1 that would be erased: n1" in text
    assert lab.disks["n1"].digest() == before
    lab.daemon.command("init", *words, "--erase", "n1", seconds=90)
    assert lab.nodes["n1"].wait(20) == 0
    disk = lab.disks["n1"]
    after = disk.content()
    assert after[:440] == content[:440]
    assert after[34 * 512 : MIB] == content[34 * 512 : MIB]
    assert after[MIB : 6 * MIB] == content[MIB : 6 * MIB], "two partitions, byte for byte"
    old, new = (json.loads(run("sfdisk", "--json", path))["partitiontable"] for path in (golden.path, disk.path))
    for one, other in zip(old["partitions"], new["partitions"], strict=True):
        same = ("start", "type", "uuid", "name", "attrs")
        assert [one.get(key) for key in same] == [other.get(key) for key in same]
    assert new["id"] == old["id"]
    root = new["partitions"][2]
    assert (root["start"] + root["size"]) * 512 >= SIZE - 2 * MIB
    assert "No problems found" in run("sgdisk", "--verify", disk.path)
    add_partitions(disk.device)
    run("e2fsck", "-f", "-n", f"{disk.device}p3")
    blocks = run("dumpe2fs", "-h", f"{disk.device}p3")
    assert f"Block count:              {root['size'] * 512 // 1024}" in blocks, "its blocks have 1024 bytes"
    assert {number for number, place in lab.places("n1").items() if place["actual"]} == {0, 1, 2, 3}
    done = lab.daemon.session("one")
    assert "ext4 grown" in done["outcome"]["nodes"][0]["reason"]


def run(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_kiosk_resets_at_every_boot_and_lets_its_own_disk_boot_in_between(lab: Lab) -> None:
    """Two machines; the second time only what differs is written; afterwards each boots its own disk once."""
    image = lab.image("system.img", 4 * MIB)
    lab.daemon.command("kiosk", "set", "n1", "n2", str(image), "--part", "5", "--disk", "size>=1M", "--yes")
    assert [item["due"] for item in json.loads(lab.daemon.command("kiosk", "list", "--json"))] == [True, True]
    before = {name: disk.content() for name, disk in lab.disks.items()}
    for turn in range(2):
        for name, disk in lab.disks.items():
            assert next_label(lab, name) == "kamethod", "it is due"
            if turn:
                with disk.path.open("r+b") as stream:
                    stream.seek(9 * MIB)
                    stream.write(b"students were here")
            lab.boot(name)
        for name, disk in lab.disks.items():
            assert lab.nodes[name].wait(60) == 0, lab.output()
            expected = bytearray(before[name])
            put(expected, 8 * MIB, image.read_bytes())
            assert disk.content() == expected, differences(disk.content(), bytes(expected))
            until(lambda: next_label(lab, name) == "local", 10, "its own disk boots once")  # noqa: B023 - at once
            lab.daemon.command("label", "clear", "--node", name)  # as when that boot has been
    members = [member for session in lab.daemon.state()["sessions"] for member in session["members"]]
    assert sorted(member["kept"] for member in members) == [0, 0, 3 * MIB, 3 * MIB], "of four"
    lab.daemon.command("kiosk", "clear", "n1")
    assert next_label(lab, "n1") == "local"
    assert "no such policy" in lab.daemon.command("kiosk", "clear", "n1", expect=Exit.USAGE)


def next_label(lab: Lab, name: str) -> str:
    (node,) = [item for item in lab.daemon.state()["nodes"] if item["name"] == name]
    return str(node["next_label"])


NONSENSE: list[tuple[list[str], Exit, str]] = [
    (["--part", "sda5", "--part", "sdb5"], Exit.USAGE, "one session, one disk"),
    (["--part", "five"], Exit.USAGE, "names no partition"),
    (["--part", "5"], Exit.USAGE, "which disk is not said"),
    ([], Exit.USAGE, "what is written is not said"),
    (["--part", "sda5=/nowhere"], Exit.INPUT, "no such file"),
    (["--part", "sda5={disk}#4"], Exit.INPUT, "has no partition 4"),
    (["--part", "sda5={disk}#12"], Exit.INPUT, "there are: 1, 2, 3, 5, 6, 7, 8, 9, 10"),
    (["--part", "sda5", "--grow"], Exit.USAGE, "a partition cannot grow"),
    (["--part", "sda5=@last"], Exit.REFUSED, "which disk @last means is not known"),
]


def test_what_makes_no_sense_is_said(lab: Lab) -> None:
    image = lab.image("system.img", MIB)
    for words, code, text in NONSENSE:
        given = [word.replace("{disk}", str(lab.disks["n1"].path)) for word in words]
        assert text in lab.daemon.command("restore", str(image), "n1", *given, "--yes", expect=code)
    assert lab.daemon.state()["sessions"] == []


def start_of(disk: LoopDisk, number: int) -> int:
    """Where a partition begins, as the kernel has it from the test's own table."""
    starts = {1: 1, 2: 3, 3: 5, 5: 8, 6: 13, 7: 18, 8: 21, 9: 24, 10: 27}
    assert disk.size == SIZE
    return starts[number] * MIB


def put(content: bytearray, offset: int, data: bytes) -> None:
    content[offset : offset + len(data)] = data


def differences(one: bytes, other: bytes) -> list[int]:
    """The MiB in which they differ."""
    return [
        index // MIB for index in range(0, len(one), MIB) if one[index : index + MIB] != other[index : index + MIB]
    ]
