"""Trees of files onto two disks of a node: / on one, /home on the other; and ways in which the second is wrong."""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootd.errors import Exit
from tests.namespaces import APART
from tests.netns.daemon import ADDRESS, BOOTD
from tests.netns.disks import MIB, LoopDisk, add_partitions
from tests.netns.files_lab import MACS, Lab
from tests.netns.room import Room

FIRST, SECOND = "SERIAL-n1", "SERIAL-second"
LAYOUT = """table = "dos"

[[partition]]
size = "fill"
mount = "/"

[[partition]]
kind = "swap"
disk = 1
size = "16M"
filesystem = "swap"

[[partition]]
disk = 1
size = "fill"
mount = "/home"
"""
BOTH = ("--disk", f"serial={FIRST}", "--disk", f"serial={SECOND}")


def disk_of(path: Path, size: int) -> LoopDisk:
    """Without a table, and no byte of it is zero: whatever is written or wiped shows."""
    disk = LoopDisk(path, size, 0)
    block = bytes(1 + value % 255 for value in os.urandom(MIB))
    with path.open("r+b") as stream:
        for _ in range(size // MIB):
            stream.write(block)
    return disk


class Pair:
    """A daemon and one node with two disks, and a third one in the drawer."""

    def __init__(self, room: Room, folder: Path) -> None:
        self.lab = Lab(room, folder)
        self.daemon = self.lab.daemon
        for disk in self.lab.disks.values():
            disk.close()
        self.first = disk_of(folder / "first.disk", 200 * MIB)
        self.second = disk_of(folder / "second.disk", 160 * MIB)
        self.third = disk_of(folder / "third.disk", 96 * MIB)
        self.lab.disks = {"first": self.first, "second": self.second, "third": self.third}
        self.show((self.first, FIRST), (self.second, SECOND))
        self.lab.layout.write_text(LAYOUT)
        self.lab.put("golden", "-x", "/tmp")
        self.before = self.digests()

    def show(self, *disks: tuple[LoopDisk, str]) -> None:
        self.lab.show("n1", *disks)

    def digests(self) -> list[str]:
        return [disk.digest() for disk in (self.first, self.second, self.third)]

    def words(self, *more: str) -> list[str]:
        words = ["golden", "n1", "--layout", str(self.lab.layout), "-r", "none", "--skip", "initramfs"]
        return [*words, *(more if "--disk" in more else (*BOTH, *more))]

    def deploy(self, *more: str, name: str = "one", expect: int = 0) -> str:
        return self.daemon.command(
            "deploy", *self.words(*more), "--yes", "--name", name, "--wait", expect=expect, seconds=90
        )

    def refused(self, reason: str, *more: str, name: str = "one") -> None:
        """The whole session, with nothing written to any disk; the card says the same."""
        card = self.daemon.command("plan", *self.words(*more), expect=Exit.REFUSED)
        assert f"REFUSED {reason}" in card, card
        assert "ERASE" not in card
        assert reason in self.deploy(*more, name=name, expect=Exit.REFUSED)
        assert self.digests() == self.before

    def check(self) -> None:
        for disk in (self.first, self.second):
            add_partitions(disk.device)
        self.lab.check_on("n1", f"{self.first.device}p1", f"{self.second.device}p2", ("/tmp/*",))
        assert self.third.digest() == self.before[2]


@pytest.fixture
def pair() -> Iterator[Pair]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with Room("server", "n1") as room:
        room.address("server", f"{ADDRESS}/24")
        room.address("n1", "10.9.0.11/24")
        room.mac("n1", MACS["n1"])
        made = Pair(room, folder)
        try:
            yield made
        finally:
            made.lab.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_tree_goes_onto_two_disks(pair: Pair) -> None:
    """The card shows both, both ends of both are on the server first, the third disk stays as it is."""
    ends = [disk.path.read_bytes()[:MIB] + disk.path.read_bytes()[-MIB:] for disk in (pair.first, pair.second)]
    pair.show((pair.first, FIRST), (pair.second, SECOND), (pair.third, "SERIAL-third"))
    pair.lab.boot("n1").wait_for("joined")
    card = pair.daemon.command("plan", *pair.words())
    erased = [line for line in card.splitlines() if "ERASE" in line]
    assert [(FIRST in line, SECOND in line) for line in erased] == [(True, False), (False, True)]
    assert [line.rpartition("  ")[2] for line in erased] == ["disk 0 of the layout", "disk 1 of the layout"]
    assert any("keep" in line and "SERIAL-third" in line for line in card.splitlines())
    assert "partition 2 of disk 1" in card
    pair.deploy()
    assert pair.lab.nodes["n1"].wait(30) == 0, pair.lab.output()
    pair.check()
    (member,) = pair.daemon.session("one")["members"]
    assert (member["serial"], [one["serial"] for one in member["further"]]) == (FIRST, [SECOND])
    kept = json.loads(pair.daemon.command("undo-table", "n1", "--json"))
    assert sorted(one["serial"] for one in kept) == [FIRST, SECOND]
    for serial, expected in zip((FIRST, SECOND), ends, strict=True):
        (path,) = (pair.lab.folder / "state/tables").glob(f"*/{serial}/*")
        assert path.read_bytes().endswith(expected), f"what lay at both ends of {serial}"
    text = pair.daemon.command("node", "show", "n1")
    assert FIRST in text
    assert SECOND in text


def test_all_of_takes_as_many_as_the_layout_has(pair: Pair) -> None:
    """Only where it does not matter which is which, and only when they are exactly as many."""
    pair.lab.boot("n1").wait_for("joined")
    text = pair.deploy("--disk", "all-of size>=1M", expect=Exit.USAGE)
    assert "all-of does not say which is which" in text
    pair.lab.layout.write_text(
        'table = "dos"\n[[partition]]\nkind = "lvm"\nname = "pv"\nsize = "fill"\ndisks = [0, 1]\n'
        '[[group]]\nname = "vg-bootd-test"\nmembers = ["pv"]\n'
        '[[volume]]\nname = "root"\ngroup = "vg-bootd-test"\nsize = "fill"\nmount = "/"\n'
    )
    card = pair.daemon.command("plan", *pair.words("--disk", "all-of size>=1M"))
    erased = [line for line in card.splitlines() if "ERASE" in line]
    assert [(FIRST in line, SECOND in line) for line in erased] == [(True, False), (False, True)]
    assert "vg-bootd-test/root" in card
    pair.refused("1 disk matches 'all-of size>=180M', exactly 2 must", "--disk", "all-of size>=180M")
    assert "are for images" not in card


def test_each_selector_means_exactly_one_other_disk(pair: Pair) -> None:
    pair.lab.boot("n1").wait_for("joined")
    pair.refused("2 disks match 'only', exactly one must", "--disk", f"serial={FIRST}", "--disk", "only")
    pair.refused("2 disks match", "--disk", "size>=1M", "--disk", f"serial={SECOND}", name="two")
    name = pair.first.name
    pair.refused(f"{name} is chosen twice", "--disk", f"serial={FIRST}", "--disk", f"name={name}", name="three")
    for more in (("--disk", "only"), (*BOTH, "--disk", "serial=third")):
        text = pair.deploy(*more, expect=Exit.USAGE)
        assert f"the layout is for 2 disks, --disk names {more.count('--disk')}" in text
    words = ["deploy", "/etc/hostname", "n1", *BOTH, "--yes"]
    assert "several disks are for images of files" in pair.daemon.command(*words, expect=Exit.USAGE)
    assert pair.digests() == pair.before


@contextmanager
def mounted_unseen(device: str, folder: Path) -> Iterator[None]:
    """In a namespace of its own: the node's list of what is mounted does not have it."""
    script = 'mount -o ro "$0" "$1" && echo there && exec sleep 120'
    with subprocess.Popen([*APART, "sh", "-c", script, device, str(folder)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"there\n"
            yield
        finally:
            holder.terminate()


def test_a_second_disk_that_must_stay(pair: Pair) -> None:
    """Locked, protected, missing, without a name of its own, mounted, too small, not empty: the first stays too."""
    lab = pair.lab
    lab.boot("n1").wait_for("joined")
    pair.refused(f"disk {SECOND} is locked by this session", "--protect-disk", SECOND, name="protected")
    pair.daemon.command("lock", "add", "n1", "--disk", SECOND, "--reason", "the exam")
    pair.refused(f"disk {SECOND} is locked by root (uid 0): the exam", name="locked")
    pair.daemon.command("lock", "remove", "n1", "--disk", SECOND)
    lab.layout.write_text(LAYOUT.replace("16M", "159M"))
    pair.refused(f"{pair.first.name}, {pair.second.name}: ", name="small")
    lab.layout.write_text(LAYOUT)
    for name, disks, reason in (
        ("missing", [(pair.first, FIRST)], "no disk matches"),
        ("twins", [(pair.first, FIRST), (pair.second, FIRST)], "2 disks match"),
    ):
        lab.nodes["n1"].stop()
        pair.show(*disks)
        lab.boot("n1").wait_for("joined")
        pair.refused(reason, name=name)
    lab.nodes["n1"].stop()
    pair.show((pair.first, FIRST), (pair.second, SECOND))
    subprocess.run(["mkfs.ext2", "-q", "-F", pair.second.device], check=True)
    pair.before = pair.digests()
    lab.boot("n1").wait_for("joined")
    text = pair.deploy(expect=Exit.REFUSED)
    assert f"1 disks are not empty, and nobody can be asked here: {SECOND}" in text
    assert SECOND in pair.deploy("--erase", FIRST, expect=Exit.REFUSED), "the words are for another disk"
    assert pair.digests() == pair.before
    mount = lab.folder / "busy"
    mount.mkdir()
    with mounted_unseen(pair.second.device, mount):
        pair.deploy("--erase", SECOND, name="busy", expect=Exit.REFUSED)  # it was free when the node showed it
        lab.nodes["n1"].wait_for(f"refused disk {pair.second.name} .* cannot be opened alone")
        assert pair.digests() == pair.before
    subprocess.run(["mount", "-o", "ro", pair.second.device, mount], check=True)
    try:
        lab.nodes["n1"].stop()
        lab.boot("n1").wait_for("joined")
        pair.refused("no disk matches", "--erase", SECOND, name="mounted")
    finally:
        subprocess.run(["umount", mount], check=True)
    lab.nodes["n1"].stop()
    lab.boot("n1").wait_for("joined")
    pair.deploy("--erase", SECOND, name="last")
    assert lab.nodes["n1"].wait(30) == 0, lab.output()
    pair.check()


def test_both_that_are_not_empty_are_shown_and_typed(pair: Pair) -> None:
    """At a terminal: other words than those asked for erase nothing."""
    for disk in (pair.first, pair.second):
        subprocess.run(["mkfs.ext2", "-q", "-F", disk.device], check=True)
    pair.before = pair.digests()
    pair.lab.boot("n1").wait_for("joined")
    words = [BOOTD, "--socket", str(pair.daemon.socket), "deploy", *pair.words(), "--yes", "--wait"]
    for typed, code in (("yes", 1), (f"erase {SECOND}", 1), ("erase 2 disks", 0)):
        assert pair.digests() == pair.before
        command = ["script", "--quiet", "--return", "--command", shlex.join(words), "/dev/null"]
        done = subprocess.run(command, input=f"{typed}\n", capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == code, done.stdout
        assert "To erase them, type: erase 2 disks" in done.stdout
        assert all(f"serial {serial}" in done.stdout for serial in (FIRST, SECOND))
    assert pair.lab.nodes["n1"].wait(30) == 0, pair.lab.output()
    pair.check()


def test_a_second_disk_that_is_another_one_when_it_is_opened(pair: Pair) -> None:
    """Between the plan and the gate: swapped, gone, one more, another table. Not one byte on any of the disks."""
    lab = pair.lab
    third = (pair.third, "SERIAL-third")
    rows = {
        "swapped": ([(pair.first, FIRST), (pair.third, SECOND)], "bytes, the plan says"),
        "exchanged": ([(pair.first, SECOND), (pair.second, FIRST)], "bytes, the plan says"),
        "gone": ([(pair.first, FIRST)], "is not here|disks are eligible"),
        "more": ([(pair.first, FIRST), (pair.second, SECOND), third], "3 disks are eligible"),
    }
    for name, (disks, reason) in rows.items():
        pair.show((pair.first, FIRST), (pair.second, SECOND))
        node = lab.boot("n1")
        node.wait_for("joined")
        pair.show(*disks)
        pair.deploy(name=name, expect=Exit.REFUSED)
        node.wait_for(f"refused .*({reason})")
        assert pair.digests() == pair.before, name
        node.stop()
    pair.show((pair.first, FIRST), (pair.second, SECOND))
    node = lab.boot("n1")
    node.wait_for("joined")
    with pair.second.path.open("r+b") as stream:
        stream.write(b"somebody was here")
    pair.before = pair.digests()
    pair.deploy(name="table", expect=Exit.REFUSED)
    node.wait_for("the partition table of .* has changed since")
    assert pair.digests() == pair.before
    assert not list((lab.folder / "state/tables").glob("*/*/*")), "nothing was kept, for nothing was to be written"


def test_a_retry_writes_the_same_two_disks(pair: Pair) -> None:
    """Half written, the daemon restarted: both are erased again without being named, or neither."""
    lab = pair.lab
    (lab.source / "large").write_bytes(os.urandom(60 << 20))
    lab.put("golden", "-x", "/tmp")
    lab.room.limit("n1", 40)  # megabits a second
    lab.boot("n1").wait_for("joined")
    pair.daemon.command("deploy", *pair.words(), "--yes", "--name", "one")
    lab.nodes["n1"].wait_for("kainstall2", 60)
    pair.daemon.command("session", "cancel", "one", "--yes")
    lab.room.limit("n1", 1000)
    lab.nodes["n1"].wait_for("cancelled", 30)
    lab.nodes["n1"].wait_for("joined", 30)
    assert SECOND in pair.deploy(name="two", expect=Exit.REFUSED), "a session of another order knows nothing of it"
    lab.process.stop()
    lab.process = pair.daemon.start()
    lab.nodes["n1"].stop()
    pair.show((pair.first, FIRST), (pair.third, SECOND))
    lab.boot("n1").wait_for("joined")
    text = pair.daemon.command("session", "retry", "one", "--yes", expect=Exit.REFUSED)
    assert f"{pair.third.name} ({SECOND}" in text
    assert "is not the disk that was planned before" in text
    lab.nodes["n1"].stop()
    pair.show((pair.first, FIRST), (pair.second, SECOND))
    lab.boot("n1").wait_for("joined")
    pair.daemon.command("session", "retry", "one", "--yes", "--wait", seconds=90)
    assert lab.nodes["n1"].wait(30) == 0, lab.output()
    pair.check()
