"""`bootd backup --files --running`: the agent, as it is packed, on a system with / on btrfs that is written to."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootd.errors import Exit
from tests.namespaces import APART
from tests.netns import file_trees as trees
from tests.netns import volumes
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.disks import MIB, LoopDisk, add_partitions
from tests.netns.files_lab import CHANGED
from tests.netns.files_lab import LAYOUT as TARGET
from tests.netns.room import Process, Room, until

MAC, CLONE = "52:54:00:00:00:01", "52:54:00:00:00:02"
LAYOUT = "label: gpt\nstart=1MiB, size=48MiB\nstart=50MiB, size=600MiB\n"
SNAPSHOT = "bootd-backup-"
# The system as its init would have mounted it. What it has of this machine is /usr, and what the kernel shows.
START = """
set -e
mount -t btrfs -o subvol=@ "$1" "$3"
mount -t btrfs -o subvol=@home "$1" "$3/home"
mount -t ext4 "$2" "$3/boot"
mount -t proc proc "$3/proc"
mount -t tmpfs tmpfs "$3/run"
mount --rbind /sys "$3/sys"
mount --rbind /dev "$3/dev"
mount --bind /usr "$3/usr"
cd "$3"
pivot_root . mnt
umount -l /mnt
exec /usr/bin/python3 -I -S -B /usr-agent/agent.pyz /etc/bootd-agent/agent.json
"""


class Writer:
    """Writes pairs of files, one after the other, until it is stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.01):
            number = self.count + 1
            (self.folder / f"first-{number}").write_text(str(number))
            (self.folder / f"second-{number}").write_text(str(number))
            self.count = number

    def stop(self) -> int:
        self._stopping.set()
        self._thread.join()
        return self.count


class System:
    """A machine that runs: / and /home are subvolumes of one btrfs, /boot is ext4. ``top``: all of the btrfs."""

    def __init__(self, room: Room, folder: Path, stack: contextlib.ExitStack) -> None:
        self.room, self.daemon, self.folder = room, Daemon(room, folder), folder
        file = folder / "disk"
        with file.open("wb") as stream:
            stream.truncate(660 << 20)
        subprocess.run(["sfdisk", "-q", str(file)], input=LAYOUT.encode(), check=True, capture_output=True)
        self.device = stack.enter_context(volumes.disk(file))
        volumes.run("mkfs.ext4", "-q", "-F", f"{self.device}p1")
        volumes.run("mkfs.btrfs", "-q", "-f", f"{self.device}p2")
        self.top = stack.enter_context(volumes.mounted("btrfs", f"{self.device}p2", folder / "top"))
        self.boot = stack.enter_context(volumes.mounted("ext4", f"{self.device}p1", folder / "boot"))
        self.root, self.home = self.top / "@", self.top / "@home"
        for name in ("@", "@home"):
            volumes.run("btrfs", "subvolume", "create", self.top / name)
        trees.make(self.root)
        shutil.rmtree(self.root / "home/eva")
        (self.home / "letter").write_text("Dear all\n")
        (self.boot / "vmlinuz").write_bytes(os.urandom(300_000))
        for name in ("boot", "dev", "mnt", "run", "sys", "usr", "usr-agent"):
            (self.root / name).mkdir()
        for name in ("lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        tag = {
            number: volumes.run("blkid", "-p", "-s", "UUID", "-o", "value", f"{self.device}p{number}")
            for number in (1, 2)
        }
        self.uuid = {number: text.decode().strip() for number, text in tag.items()}
        (self.root / "etc/fstab").write_text(
            f"UUID={self.uuid[2]} / btrfs subvol=@ 0 0\nUUID={self.uuid[2]} /home btrfs subvol=@home 0 0\n"
            f"UUID={self.uuid[1]} /boot ext4 defaults 0 2\nUUID=0000-dead /data xfs noauto 0 0\n"
        )
        # systemd makes such a one; it is empty.
        volumes.run("btrfs", "subvolume", "create", self.root / "var/lib/machines")
        self.process = self.daemon.start()

    def enrol(self) -> None:
        package = self.folder / "agent.tar.gz"
        self.daemon.command("sync", "agent", MAC, "--out", str(package))
        unpacked = self.folder / "package"
        unpacked.mkdir()
        subprocess.run(["tar", "-xzf", str(package), "-C", str(unpacked)], check=True)
        # /usr is this machine's here, so the program lies beside it.
        shutil.copytree(unpacked / "usr/lib/bootd-agent", self.root / "usr-agent", dirs_exist_ok=True)
        shutil.copytree(unpacked / "etc/bootd-agent", self.root / "etc/bootd-agent")
        (self.root / "etc/bootd-agent/agent.json").chmod(0o600)

    def start(self) -> Process:
        place = self.folder / "system"
        place.mkdir(exist_ok=True)
        words = [*APART, "sh", "-c", START, "sh"]
        words += [f"{self.device}p2", f"{self.device}p1", str(place)]
        agent = self.room.start("n1", words, {"PYTHONUNBUFFERED": "1"})
        until(self.is_up, 30, "the agent is there")
        return agent

    def is_up(self) -> bool:
        found: list[dict[str, Any]] = json.loads(self.daemon.command("sync", "agents", "--json"))
        return bool(found) and bool(found[0]["up"])

    def backup(self, *words: str, expect: int = 0) -> dict[str, Any]:
        text = self.daemon.command(
            "backup",
            MAC,
            "golden",
            "-m",
            "a test",
            "--files",
            "--running",
            "--json",
            *words,
            expect=expect,
            seconds=120,
        )
        value: dict[str, Any] = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
        return value

    def snapshots(self) -> list[str]:
        return [path.name for path in self.top.iterdir() if path.name.startswith(SNAPSHOT)]

    def shown(self, task: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.daemon.command("backups", "show", task, "--json"))
        return value

    def await_sent(self, task: str) -> None:
        until(lambda: bool(self.shown(task)["sent"]), 40, "it reads")

    def unpack(self, name: str) -> Path:
        """What an image holds, by GNU tar."""
        archive, place = self.folder / f"{name}.tar", self.folder / f"{name}.files"
        self.daemon.command("image", "export", "golden", str(archive), seconds=60)
        place.mkdir()
        words = ["tar", "-xpf", str(archive), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", str(place)]
        subprocess.run(words, check=True)
        return place


@pytest.fixture
def system() -> Iterator[System]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        devices = stack.enter_context(contextlib.ExitStack())
        room = stack.enter_context(Room("server", "n1", "n2"))
        room.address("server", f"{ADDRESS}/24")
        room.address("n1", "10.9.0.11/24")
        room.address("n2", "10.9.0.12/24")
        room.mac("n2", CLONE)
        yield System(room, folder, devices)


def test_the_image_of_a_running_system_becomes_another_node(system: System) -> None:
    """From two subvolumes of btrfs and /boot onto a disk with / and /home on ext4."""
    system.enrol()
    system.start()
    assert system.backup("-x", "/tmp")["state"] == "done"
    layout, shown, own = (system.folder / name for name in ("layout.toml", "n2.disks", "n2.run"))
    layout.write_text(TARGET)
    own.mkdir()
    disk = LoopDisk(system.folder / "n2.disk", 300 * MIB, 0)
    try:
        shown.write_text(f"{disk.device} SERIAL-n2\n")
        system.daemon.command("label", "set", "kamethod", "--node", CLONE)
        system.daemon.command("node", "name", CLONE, "clone")
        words = [CLONE, "10.9.0.12", f"{ADDRESS}:{HTTP_PORT}", f"@{shown}"]
        node = system.room.start("n2", [sys.executable, "-m", "tests.netns.files_node", str(own), *words])
        node.wait_for("joined")
        words = ["clone", "--disk", "only", "--layout", str(layout), "-r", "none", "--skip", "initramfs"]
        system.daemon.command("deploy", "golden", *words, "--yes", "--wait", seconds=120)
        assert node.wait(30) == 0, node.output[-3000:]
        add_partitions(disk.device)
        left_out = ("/proc/*", "/sys/*", "/run/*", "/dev/*", "/tmp/*", "/usr/*", "/etc/bootd-agent", *CHANGED)
        with volumes.mounted("ext4", f"{disk.device}p2", system.folder / "mount") as root:
            lines = trees.differences(system.root, root, "/home/*", "/boot/*", *left_out, "/etc/bootd-agent/*")
            assert [line for line in lines if not line.startswith(".d..t")] == []
            assert trees.differences(system.boot, root / "boot", "lost+found") == []
            assert (root / "etc/hostname").read_text().strip() == "clone"
            fstab = [line for line in (root / "etc/fstab").read_text().splitlines() if not line.startswith("#")]
            assert not [line for line in fstab if "subvol" in line or "btrfs" in line], fstab
        with volumes.mounted("ext4", f"{disk.device}p3", system.folder / "mount") as home:
            assert trees.differences(system.home, home, "lost+found") == []
    finally:
        disk.close()


def test_a_running_system_is_read_as_it_was_at_one_moment(system: System) -> None:
    """All that it holds, to the last attribute; of what is written meanwhile, a beginning."""
    text = system.daemon.command("backup", MAC, "golden", "-m", "x", "--files", "--running", expect=Exit.REFUSED)
    assert "there is no agent" in text
    system.enrol()
    agent = system.start()
    first = system.backup("-x", "/tmp")
    assert (first["state"], first["source"]) == ("done", "its running system"), first
    assert "/boot: ext4 on" in " ".join(first["notes"])
    assert system.snapshots() == []
    found = system.unpack("quiet")
    assert trees.differences(system.home, found / "home") == []
    assert trees.differences(system.boot, found / "boot") == []
    left_out = ("/home/*", "/boot/*", "/proc/*", "/sys/*", "/run/*", "/dev/*", "/tmp/*", "/usr/*")
    lines = trees.differences(system.root, found, *left_out, "/etc/bootd-agent/*", "/etc/bootd-agent")
    # A folder of which something is mounted in its place has the time of that.
    assert [line for line in lines if not line.startswith(".d..t")] == []
    assert list((found / "etc/bootd-agent").iterdir()) == [], "a clone has not the key of its source"
    shown = json.loads(system.daemon.command("image", "show", "golden", "--json"))
    assert [(one["path"], one["kind"], one["uuid"]) for one in shown["tree"]["mounts"]] == [
        ("/", "btrfs", system.uuid[2]),
        ("/boot", "ext4", system.uuid[1]),
        ("/home", "btrfs", system.uuid[2]),
    ]
    assert system.backup("-x", "/tmp")["sent"] == 0, "what has not changed is not sent again"

    (system.root / "var/large").write_bytes(os.urandom(24 << 20))
    system.room.limit("server", 60)  # some seconds
    writer = Writer(system.root / "var/log/pairs")
    try:
        until(lambda: writer.count > 20, 20, "it writes")
        after = system.backup("-x", "/tmp")
    finally:
        total = writer.stop()
    assert after["state"] == "done", after
    pairs = [path.name for path in (system.unpack("busy") / "var/log/pairs").iterdir()]
    firsts = {int(name[6:]) for name in pairs if name.startswith("first-")}
    seconds = {int(name[7:]) for name in pairs if name.startswith("second-")}
    assert seconds <= firsts
    assert firsts == set(range(1, max(firsts) + 1)), "and none of the earlier ones is missing"
    assert len(firsts - seconds) <= 1
    assert 20 < max(firsts) < total - 20, "it went on writing while it was read"
    assert system.snapshots() == []
    agent.signal(signal.SIGTERM)
    assert agent.wait(30) == 0


def test_killed_in_the_middle_nothing_is_left(system: System) -> None:
    """The snapshots of an agent that was killed are gone once it runs again; its backup is begun anew, or not."""
    (system.root / "var/large").write_bytes(os.urandom(24 << 20))
    system.enrol()
    agent = system.start()
    system.room.limit("server", 30)
    task = system.backup("--no-wait")["id"]
    for _ in range(2):
        system.await_sent(task)
        assert len(system.snapshots()) == 2, "/ and /home"
        left = system.snapshots()
        agent.signal(signal.SIGKILL)
        agent.wait(10)
        assert system.snapshots() == left
        system.daemon.command("backups", "cancel", task)
        agent = system.start()
        until(lambda: system.snapshots() == [], 30, "they are removed, with nothing to do")
        task = system.backup("--no-wait")["id"]
    # And while the server goes on wanting it.
    system.await_sent(task)
    agent.signal(signal.SIGKILL)
    agent.wait(10)
    system.room.limit("server", 1000)
    agent = system.start()
    until(lambda: system.shown(task)["ended"], 60, "it has ended")
    assert system.shown(task)["state"] == "done"
    until(lambda: system.snapshots() == [], 30, "nothing is left")
    # Stopped as a service is, in the middle: nothing is left either.
    system.room.limit("server", 30)
    (system.root / "var/large").write_bytes(os.urandom(24 << 20))
    task = system.backup("--no-wait")["id"]
    until(lambda: len(system.snapshots()) == 2, 40, "it reads")
    agent.signal(signal.SIGTERM)
    assert agent.wait(60) == 0
    assert system.snapshots() == []


def test_what_is_no_state_of_one_moment_is_no_image(system: System) -> None:
    """/boot is written to while it is read; a subvolume that would be lost; the disk as blocks; another key."""
    system.enrol()
    system.start()
    volumes.run("btrfs", "subvolume", "create", system.root / "srv")
    (system.root / "srv/data").write_text("not to be lost\n")
    lost = system.backup(expect=Exit.REFUSED)
    assert "-x /srv" in lost["reason"]
    (system.root / "var/large").write_bytes(os.urandom(24 << 20))
    system.room.limit("server", 60)
    writer = Writer(system.boot / "pairs")
    try:
        changed = system.backup("-x", "/srv", expect=Exit.ERROR)
    finally:
        writer.stop()
    assert "/boot was written to while it was read" in changed["reason"], changed
    assert json.loads(system.daemon.command("image", "list", "--json")) == []
    assert system.snapshots() == []
    assert system.backup("-x", "/srv")["state"] == "done"
    words = ["backup", MAC, "blocks", "-m", "x", "--running"]
    assert "--files --running" in system.daemon.command(*words, expect=Exit.REFUSED)
    assert "no --part" in system.daemon.command(*words, "--files", "--part", "1", expect=Exit.USAGE)
    system.daemon.command("sync", "revoke", MAC)
    until(lambda: not json.loads(system.daemon.command("sync", "agents", "--json")), 20, "it has no key")
    text = system.daemon.command(*words, "--files", expect=Exit.REFUSED)
    assert "bootd sync agent" in text
