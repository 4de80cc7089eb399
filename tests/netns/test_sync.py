"""`bootd sync` with the real rsync: daemon, agents of stage2 on loop disks, the agent of a running system."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootd.errors import Exit
from tests.netns import volumes
from tests.netns.daemon import ADDRESS, BOOTD, HTTP_PORT, Daemon
from tests.netns.room import Process, Room, until
from tests.netns.trees import differences, look

NODES = {"n1": "52:54:00:00:00:01", "n2": "52:54:00:00:00:02"}
LAYOUT = "label: gpt\nstart=1MiB, size=64MiB\nstart=66MiB, size=24MiB\n"
HOME_UUID = "0b9e4f1c-9f2c-4b52-8c63-2f70a4d0c0{:02x}"
OWN = ("etc/hostname", "etc/machine-id", "etc/fstab", "etc/ssh/ssh_host_rsa_key")  # what stays a node's
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, vfs_cap_data v2
ACL = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000000ffffffff")


def model(root: Path) -> None:
    """The ideal workstation: everything that a file can be."""
    for folder in ("etc/ssh", "usr/bin", "home/kiosk", "var/lib", "dev", "proc", "tmp", "srv"):
        (root / folder).mkdir(parents=True)
    for path, text in (
        ("etc/hostname", "model\n"),
        ("etc/machine-id", "0" * 32 + "\n"),
        ("etc/fstab", "# the model's\n"),
        ("etc/ssh/ssh_host_rsa_key", "the model's key\n"),
        ("etc/motd", "welcome\n"),
        ("etc/shadow", "root:*:\n"),
        ("usr/bin/one", "#!/bin/sh\necho one\n"),
        ("usr/bin/two", "#!/bin/sh\necho two\n"),
        ("home/kiosk/.profile", "export A=1\n"),
        ("var/lib/odd name\twith \\ and * and ü", "odd\n"),
    ):
        (root / path).write_text(text)
    for number in range(200):
        (root / f"srv/file{number:03}").write_bytes(number.to_bytes(4, "big") * 700)
    (root / "usr/bin/one").chmod(0o4755)
    (root / "etc/shadow").chmod(0o640)
    os.chown(root / "etc/shadow", 0, 42)
    os.chown(root / "home/kiosk", 1000, 1000)
    os.chown(root / "home/kiosk/.profile", 1000, 1000)
    (root / "tmp").chmod(0o1777)
    os.link(root / "usr/bin/two", root / "usr/bin/zwei")
    (root / "usr/bin/deux").symlink_to("two")
    (root / "etc/absolute").symlink_to("/etc/motd")
    os.mkfifo(root / "var/lib/pipe", 0o600)
    os.mknod(root / "srv/null", 0o600 | 0o020000, os.makedev(1, 3))
    with (root / "srv/sparse").open("wb") as stream:
        stream.truncate(8 << 20)
        stream.seek(4 << 20)
        stream.write(b"in the middle")
    os.setxattr(root / "etc/motd", "user.note", b"kept")
    os.setxattr(root / "usr/bin/two", "security.capability", CAPABILITY)
    os.setxattr(root / "home/kiosk", "system.posix_acl_access", ACL)
    for item in root.rglob("*"):
        os.utime(item, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789), follow_symlinks=False)


def use(root: Path) -> None:
    """What happens to a machine in a day."""
    (root / "etc/motd").write_text("HACKED\n")
    (root / "usr/bin/two").unlink()
    (root / "usr/bin/two").write_text("#!/bin/sh\nrm -rf /\n")
    (root / "usr/bin/one").chmod(0o777)
    os.chown(root / "etc/shadow", 1000, 1000)
    os.removexattr(root / "home/kiosk", "system.posix_acl_access")
    (root / "srv/file007").unlink()
    (root / "srv/null").unlink()
    (root / "srv/null").write_text("a file now")
    (root / "home/kiosk/Downloads/deep").mkdir(parents=True)
    (root / "home/kiosk/Downloads/deep/virus").write_bytes(b"x" * 5000)
    (root / "srv/folder").mkdir()
    (root / "usr/bin/deux").unlink()
    (root / "usr/bin/deux").symlink_to("/tmp/evil")
    os.utime(root / "srv/file009")


class Place(Daemon):
    """A daemon with two sets; two nodes with a disk each: a root file system, and /home beside it."""

    def __init__(self, room: Room, folder: Path, stack: contextlib.ExitStack, settings: str = "") -> None:
        self.source = folder / "model"
        self.source.mkdir()
        model(self.source)
        super().__init__(
            room,
            folder,
            f'[[sync.set]]\nname = "lab"\nsource = "{self.source}"\n'
            f'[[sync.set]]\nname = "home"\nsource = "{self.source}/home"\ntarget = "/home"\nleast_files = 1\n'
            f'[[sync.set]]\nname = "srv"\nsource = "{self.source}/srv"\ntarget = "/srv"\n'
            f'[[sync.set]]\nname = "rooms"\nsource = "{self.source}"\nexclude = ["/home", "/home/***"]\n'
            + settings,
        )
        self.disks: dict[str, Path] = {}
        self.devices: dict[str, str] = {}
        for number, name in enumerate(NODES, 1):
            file = self.disks[name] = folder / f"{name}.disk"
            file.touch()
            os.truncate(file, 96 << 20)
            subprocess.run(["sfdisk", "-q", str(file)], input=LAYOUT.encode(), check=True, capture_output=True)
            device = self.devices[name] = stack.enter_context(volumes.disk(file))
            home = HOME_UUID.format(number)
            volumes.run("mkfs.ext4", "-q", "-F", f"{device}p1")
            volumes.run("mkfs.ext4", "-q", "-F", "-U", home, f"{device}p2")
            with self.mounted(name) as root:
                volumes.run("rsync", "-aHAXS", f"{self.source}/", f"{root}/")
                (root / "etc/fstab").write_text(
                    f"/dev/root / ext4 defaults 0 1\nUUID={home} /home ext4 defaults 0 2\n"
                )
                (root / "etc/hostname").write_text(f"{name}\n")
                (root / "etc/machine-id").write_text(f"{number}" * 32 + "\n")
                (root / "etc/ssh/ssh_host_rsa_key").write_text(f"the key of {name}\n")

    @contextlib.contextmanager
    def mounted(self, name: str) -> Iterator[Path]:
        """Both file systems of a node's disk."""
        root = self.folder / "mount"
        with volumes.mounted("ext4", f"{self.devices[name]}p1", root):
            (root / "home").mkdir(exist_ok=True)
            with volumes.mounted("ext4", f"{self.devices[name]}p2", root / "home"):
                yield root
        # A mount namespace that somebody has made meanwhile holds a copy of these mounts, as long as it lives.
        parts = [f"{self.devices[name]}{part}" for part in ("p1", "p2")]
        until(lambda: all(is_free(part) for part in parts), 90, "they are not mounted any more, anywhere")

    def start_node(self, name: str) -> Process:
        words = [NODES[name], f"10.9.0.1{name[1:]}", f"{ADDRESS}:{HTTP_PORT}", self.devices[name], f"LOOP-{name}"]
        node = self.room.start(name, [sys.executable, "-m", "tests.netns.loop_node", *words])
        node.wait_for("waiting: no session wants this node", 30)
        return node

    def up(self, *names: str) -> dict[str, Process]:
        self.process = self.start()
        self.command("label", "set-default", "kamethod")
        return {name: self.start_node(name) for name in names}

    def sync(self, *words: str, expect: int = 0, seconds: float = 60.0) -> dict[str, Any]:
        text = self.command("sync", *words, "--json", expect=expect, seconds=seconds)
        value: dict[str, Any] = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
        return value

    def show(self, id_: str) -> dict[str, Any]:
        """A run, however it stands."""
        words = [BOOTD, "--socket", str(self.socket), "sync", "show", id_, "--json"]
        value: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, check=False).stdout)
        return value

    def unlike(self, name: str, *left_out: str) -> list[str]:
        """Paths of a node that are not as the model's."""
        with self.mounted(name) as root:
            return differences(look(self.source, *left_out), look(root, "lost+found", "home/lost+found", *left_out))


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        devices = stack.enter_context(contextlib.ExitStack())
        room = stack.enter_context(Room("server", *NODES))
        room.address("server", f"{ADDRESS}/24")
        for number, name in enumerate(NODES, 1):
            room.address(name, f"10.9.0.{10 + number}/24")
        yield Place(room, folder, devices)


def is_free(device: str) -> bool:
    """Whether no file system on it is mounted, wherever."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return False
    return True


def changes(run: dict[str, Any]) -> dict[str, set[str]]:
    """Paths by kind, of the first node."""
    found: dict[str, set[str]] = {}
    for one in run["nodes"][0]["changes"]:
        found.setdefault(one["kind"], set()).add(one["path"].partition(" -> ")[0].partition(" => ")[0].rstrip("/"))
    return found


def test_what_a_day_did_to_a_machine_is_undone(place: Place) -> None:
    """Deep-freeze of the whole system in stage2; a dry run before it says what will be, and changes nothing."""
    with place.mounted("n1") as root:
        use(root)
        before = look(root)
    place.up("n1")
    told = place.sync("run", "lab", NODES["n1"], "--freeze", "--dry-run")
    assert told["dry_run"]
    assert told["nodes"][0]["state"] == "done"
    kinds = changes(told)
    assert kinds["deleted"] == {
        "home/kiosk/Downloads/deep/virus", "home/kiosk/Downloads/deep", "home/kiosk/Downloads", "srv/folder"
    } | ({"srv/null"} if "srv/null" in kinds["deleted"] else set())  # fmt: skip
    assert {"etc/motd", "usr/bin/two", "usr/bin/deux"} <= kinds["changed"] | kinds["created"]
    assert {"usr/bin/one", "etc/shadow", "home/kiosk", "srv/file009"} <= kinds["attributes"] | kinds["changed"]
    assert "srv/file007" in kinds["created"]
    assert not any(path in paths for path in OWN for paths in kinds.values())
    with place.mounted("n1") as root:
        assert look(root) == before, "a dry run changes nothing"
    done = place.sync("run", "lab", NODES["n1"], "--freeze", "--yes")
    assert done["code"] == 0
    node = done["nodes"][0]
    assert (node["state"], node["reason"]) == ("done", "")
    assert node["deleted"] == told["nodes"][0]["deleted"]
    assert 0 < node["wire"] < 200_000, "only what differs has gone over the network"
    assert place.unlike("n1", *OWN) == []
    with place.mounted("n1") as root:
        assert (root / "etc/hostname").read_text() == "n1\n"
        assert (root / "etc/machine-id").read_text() == "1" * 32 + "\n"
        assert (root / "etc/ssh/ssh_host_rsa_key").read_text() == "the key of n1\n"
        assert "UUID=" in (root / "etc/fstab").read_text()
        assert (root / "srv/sparse").stat().st_blocks * 512 < 1 << 20, "holes stay holes"
    again = place.sync("run", "lab", NODES["n1"], "--freeze", "--yes")
    assert not any(again["nodes"][0][key] for key in ("created", "changed", "attributes", "deleted"))
    audit = place.command("audit")
    assert f"lab freeze on {NODES['n1']}" in audit
    assert "sync-ended" in audit
    assert f"lab done, {node['created']} new" in audit


def test_an_update_leaves_what_else_is_there_and_a_set_is_no_more_than_its_folder(place: Place) -> None:
    """The set of /home, on its own file system; nothing beside it is touched."""
    with place.mounted("n1") as root:
        use(root)
    place.up("n1")
    done = place.sync("run", "home", NODES["n1"], "--yes")
    assert done["nodes"][0]["state"] == "done"
    with place.mounted("n1") as root:
        assert differences(look(place.source / "home"), look(root / "home", "lost+found")) == [
            "kiosk/Downloads", "kiosk/Downloads/deep", "kiosk/Downloads/deep/virus"
        ]  # fmt: skip
        assert (root / "etc/motd").read_text() == "HACKED\n"
    frozen = place.sync("run", "home", NODES["n1"], "--freeze", "--yes")
    assert frozen["nodes"][0]["deleted"] == 3
    with place.mounted("n1") as root:
        assert differences(look(place.source / "home"), look(root / "home", "lost+found")) == []
        assert (root / "etc/motd").read_text() == "HACKED\n"


def test_what_could_empty_a_room_is_refused(place: Place) -> None:
    """A source that is not there, or empty, or not the right one; a locked partition; a node that is not up."""
    place.up("n1")
    with place.mounted("n1") as root:
        before = look(root)
    hidden = place.source.with_name("hidden")
    place.source.rename(hidden)
    assert "is no folder" in place.command(
        "sync", "run", "lab", NODES["n1"], "--freeze", "--yes", expect=Exit.REFUSED
    )
    place.source.mkdir()
    (place.source / "one").touch()
    text = place.command("sync", "run", "lab", NODES["n1"], "--freeze", "--yes", expect=Exit.REFUSED)
    assert "1 files and folders, 10 at least are expected" in text
    wrong = place.sync("run", "lab", NODES["n1"], "--freeze", "--yes", "--few", expect=Exit.REFUSED)
    assert re.search(r"\d+ of \d+ files would be deleted, more than 50 %", wrong["nodes"][0]["reason"])
    shutil.rmtree(place.source)
    hidden.rename(place.source)
    place.command("lock", "add", NODES["n1"], "--partition", "1", "--reason", "exam")
    locked = place.sync("run", "lab", NODES["n1"], "--yes", expect=Exit.REFUSED)
    assert "is locked by root" in locked["nodes"][0]["reason"]
    assert "exam" in locked["nodes"][0]["reason"]
    absent = place.sync("run", "lab", NODES["n2"], "--yes", expect=Exit.REFUSED)
    assert absent["nodes"][0]["reason"] == "it is neither in stage2 nor running with an agent"
    assert "known: " in place.command("sync", "run", "nothing", NODES["n1"], "--yes", expect=Exit.USAGE)
    with place.mounted("n1") as root:
        assert look(root) == before


def test_files_of_one_node_alone_are_laid_over(place: Place) -> None:
    place.up("n1")
    name = place.state()["nodes"][0]["name"]
    own = place.folder / "state/sync-overlay" / name
    (own / "etc").mkdir(parents=True)
    (own / "etc/motd").write_text("this is n1\n")
    (own / "etc/hostname").write_text("lab-01\n")
    (own / "etc").chmod(0o700)
    (own / "new/folder").mkdir(parents=True)
    (own / "new/folder/file").write_text("new\n")
    told = place.sync("run", "lab", NODES["n1"], "--freeze", "--dry-run")
    assert {"etc/motd", "etc/hostname", "new/folder/file"} <= set().union(*changes(told).values())
    done = place.sync("run", "lab", NODES["n1"], "--freeze", "--yes")
    assert done["nodes"][0]["state"] == "done", done
    with place.mounted("n1") as root:
        assert (root / "etc/motd").read_text() == "this is n1\n"
        assert (root / "etc/hostname").read_text() == "lab-01\n"
        assert (root / "new/folder/file").read_text() == "new\n"
        assert (root / "etc").stat().st_mode & 0o7777 == 0o755, "folders on the way stay as they are"
    assert place.unlike("n1", *OWN, "etc/motd", "new") == []
    again = place.sync("run", "lab", NODES["n1"], "--freeze", "--yes")
    assert not any(again["nodes"][0][key] for key in ("created", "changed", "attributes", "deleted")), again


def test_a_staged_sync_that_is_killed_leaves_the_old_tree(place: Place) -> None:
    """The whole root file system: killed while the new tree is made, then done by the next boot of the node."""
    with place.mounted("n1") as root:
        use(root)
        before = look(root, "home")
    (place.source / "srv/large").write_bytes(os.urandom(6 << 20))
    nodes = place.up("n1")
    place.room.limit("n1", 5)
    started = place.sync("run", "rooms", NODES["n1"], "--freeze", "--staged", "--yes", "--no-wait")
    nodes["n1"].wait_for("sync rooms", 20)
    until(lambda: place.show(started["id"])["nodes"][0]["changed"] > 0, 30, "the new tree is being made")
    nodes["n1"].signal(signal.SIGKILL)
    nodes["n1"].wait(10)
    with place.mounted("n1") as root:
        assert look(root, "home", ".bootd-sync") == before
    place.room.limit("n1", 1000)
    place.command("sync", "stop", started["id"])
    until(lambda: bool(place.show(started["id"])["ended"]), 80, "the dead one is lost")
    place.start_node("n1")
    done = place.sync("run", "rooms", NODES["n1"], "--freeze", "--staged", "--yes")
    assert done["nodes"][0]["state"] == "done", done
    assert place.unlike("n1", *OWN, "home") == []
    with place.mounted("n1") as root:
        assert not (root / ".bootd-sync").exists()
        assert (root / "etc/hostname").read_text() == "n1\n"


def test_a_folder_is_swapped_in_one_step(place: Place) -> None:
    with place.mounted("n1") as root:
        use(root)
        old = (root / "srv").stat().st_ino
    place.up("n1")
    done = place.sync("run", "srv", NODES["n1"], "--freeze", "--staged", "--yes")
    assert done["nodes"][0]["state"] == "done", done
    kinds = changes(done)
    assert "file007" in kinds["created"]
    assert "folder" in kinds["deleted"]
    with place.mounted("n1") as root:
        assert differences(look(place.source / "srv"), look(root / "srv")) == []
        assert (root / "srv").stat().st_ino != old
        assert not list(root.glob(".bootd-sync*"))


def test_collect_brings_a_model_machine_to_the_server(place: Place) -> None:
    """In reverse; what comes from a node lies in a folder of its own, and nothing on the node changes."""
    with place.mounted("n1") as root:
        (root / "etc/motd").write_text("of the model machine\n")
        before = look(root)
    place.up("n1")
    done = place.sync("collect", "lab", NODES["n1"])
    assert done["nodes"][0]["state"] == "done", done
    with place.mounted("n1") as root:
        assert look(root) == before
        kept = place.folder / "state/sync-collected/lab" / done["nodes"][0]["name"]
        left = ("lost+found", "home/lost+found", "proc", "tmp", "dev")
        assert differences(look(root, *left), look(kept, *left)) == []


def test_not_during_a_backup_but_right_after_it(place: Place) -> None:
    with place.mounted("n1") as root:
        (root / "home/large").write_bytes(os.urandom(12 << 20))
    place.up("n1")
    mac = NODES["n1"]
    place.room.limit("server", 8)  # of what the node sends
    text = place.command("backup", mac, "golden", "-m", "a test", "--raw", "--after", "stay", "--no-wait", "--json")
    id_ = json.JSONDecoder().raw_decode(text)[0]["id"]

    def state() -> str:
        return str(json.loads(place.command("backups", "show", id_, "--json"))["state"])

    until(lambda: state() == "reading", 20, "the backup is at it")
    refused = place.sync("run", "srv", mac, "--yes", expect=Exit.REFUSED)
    assert [(node["state"], node["reason"]) for node in refused["nodes"]] == [("refused", "a backup is at it")]
    place.room.limit("server", 1000)
    until(lambda: state() != "reading", 60, "the backup is over")
    done = place.sync("run", "srv", mac, "--yes")
    assert (state(), done["nodes"][0]["state"]) == ("done", "done"), done


def test_two_nodes_with_a_cap(place: Place) -> None:
    """One after the other, or both at once; a node that fails leaves the other."""
    nodes = place.up("n1", "n2")
    (place.source / "srv/large").write_bytes(os.urandom(3 << 20))
    for name in NODES:
        place.room.limit(name, 5)
    both = ",".join(NODES.values())

    def most_at_once(cap: str) -> int:
        run = place.sync("run", "srv", both, "--full", "--cap", cap, "--yes", "--no-wait")
        most = 0
        while not (run := place.show(run["id"]))["ended"]:
            most = max(most, sum(node["state"] in ("sent", "running") for node in run["nodes"]))
        ends = [(node["state"], node["reason"]) for node in run["nodes"]]
        assert ends == [("done", ""), ("done", "")]
        return most

    assert most_at_once("1") == 1
    (place.source / "srv/large").write_bytes(os.urandom(3 << 20))
    assert most_at_once("2") == 2
    (place.source / "srv/large").write_bytes(os.urandom(3 << 20))
    run = place.sync("run", "srv", both, "--yes", "--no-wait")
    until(lambda: all(n["state"] == "running" for n in place.show(run["id"])["nodes"]), 20, "both are at it")
    nodes["n2"].signal(signal.SIGKILL)
    until(lambda: place.show(run["id"])["nodes"][0]["state"] == "done", 40, "the other is done")
    place.command("sync", "stop", run["id"])
    until(lambda: bool(place.show(run["id"])["ended"]), 80, "the dead one is lost")
    lost = place.sync("show", run["id"], expect=Exit.PARTLY)
    assert [node["state"] for node in lost["nodes"]] == ["done", "lost"]


class Running:
    """A running system: a folder of its own for each node, and the agent as `bootd sync agent` packs it."""

    def __init__(self, place: Place, name: str) -> None:
        self.place, self.name, self.mac = place, name, NODES[name]
        self.folder = place.folder / f"system-{name}"
        self.target = place.folder / "system" / "srv"

    def enrol(self) -> None:
        package = self.place.folder / f"{self.name}.tar.gz"
        text = self.place.command("sync", "agent", self.mac, "--out", str(package))
        assert "systemctl enable --now bootd-agent" in text
        assert package.stat().st_mode & 0o077 == 0
        self.folder.mkdir()
        subprocess.run(["tar", "-xzf", str(package), "-C", str(self.folder)], check=True)  # as its user does
        unit = (self.folder / "etc/systemd/system/bootd-agent.service").read_text()
        assert "/usr/lib/bootd-agent/agent.pyz" in unit

    def start(self) -> Process:
        settings = self.folder / "etc/bootd-agent/agent.json"
        program = self.folder / "usr/lib/bootd-agent/agent.pyz"
        # As on a strange system: none of our packages, nothing but Debian's own Python.
        words = ["/usr/bin/python3", "-I", "-S", "-B", str(program), str(settings)]
        return self.place.room.start(self.name, words, {"PYTHONUNBUFFERED": "1"})


@pytest.fixture
def running(place: Place) -> Running:
    one = Running(place, "n1")
    one.target.mkdir(parents=True)
    subprocess.run(["rsync", "-aHAXS", f"{place.source}/srv/", f"{one.target}/"], check=True)
    with place.config.open("a") as file:
        file.write(f'[[sync.set]]\nname = "live"\nsource = "{place.source}/srv"\ntarget = "{one.target}"\n')
        file.write(f'[[sync.set]]\nname = "all"\nsource = "{place.source}"\n')
    place.process = place.start()
    return one


def test_a_running_system_with_the_agent(running: Running) -> None:
    place, mac, target = running.place, running.mac, running.target
    running.enrol()
    agent = running.start()
    until(lambda: json.loads(place.command("sync", "agents", "--json"))[0]["up"], 20, "the agent is there")
    (target / "file003").write_text("changed by a user\n")
    (target / "more").write_text("more\n")
    told = place.sync("run", "live", mac, "--freeze", "--dry-run")
    assert changes(told)["deleted"] == {"more"}
    assert (target / "more").exists()
    assert place.sync("run", "live", mac, "--freeze", "--yes")["nodes"][0]["state"] == "done"
    assert differences(look(place.source / "srv"), look(target)) == []
    # Staged: one step of the kernel, and a process that is in the old folder keeps it.
    (place.source / "srv/file004").write_text("the new version\n")
    old = target.stat().st_ino
    done = place.sync("run", "live", mac, "--staged", "--yes")
    assert done["nodes"][0]["state"] == "done", done
    assert target.stat().st_ino != old
    assert differences(look(place.source / "srv"), look(target)) == []
    assert [path.name for path in target.parent.iterdir()] == ["srv"]
    # / of a running system: only a set that says so.
    refused = place.sync("run", "all", mac, "--yes", expect=Exit.REFUSED)
    assert "whole_system" in refused["nodes"][0]["reason"]
    # A lock in force on something that cannot be told from where the target is.
    place.command("lock", "add", mac, "--disk", "--reason", "exam")
    locked = place.sync("run", "live", mac, "--yes", expect=Exit.REFUSED)
    assert re.search("locked|cannot be told", locked["nodes"][0]["reason"])
    assert "the new version" in (target / "file004").read_text()
    text = place.command("sync", "revoke", mac)
    assert "n1" not in text
    agent.wait_for("the server says no", 30)
    place.sync("run", "live", mac, "--yes", expect=Exit.REFUSED)


def test_a_schedule_at_boot_syncs_whoever_comes_up(running: Running) -> None:
    place, target = running.place, running.target
    running.enrol()
    (target / "more").write_text("more\n")
    text = place.command("sync", "schedule", "live", running.mac, "--at", "boot", "--freeze", "--yes")
    assert "boot" in text
    place.process.signal(signal.SIGKILL)
    place.process.wait(5)
    place.process = place.start()
    running.start()
    until(lambda: not (target / "more").exists(), 30, "it is synced as it comes up")
    until(lambda: "sync-ended" in place.command("audit"), 20, "and that is on record")
    (schedule,) = json.loads(place.command("sync", "schedules", "--json"))
    place.command("sync", "unschedule", schedule["id"])
    assert json.loads(place.command("sync", "schedules", "--json")) == []
    assert "is no time of day" in place.command(
        "sync", "schedule", "live", running.mac, "--at", "25:00", "--yes", expect=Exit.USAGE
    )


def test_at_a_logon_the_user_finds_what_is_set(running: Running) -> None:
    """As PAM has it run: it returns when the home is as it should be; and with a server that is away, too."""
    place, target = running.place, running.target
    running.enrol()
    place.command("sync", "schedule", "live", running.mac, "--at", "logon", "--freeze", "--yes")
    running.start()
    until(lambda: json.loads(place.command("sync", "agents", "--json"))[0]["up"], 20, "the agent is there")
    (target / "left by the last user").touch()
    program, settings = (
        str(running.folder / path) for path in ("usr/lib/bootd-agent/agent.pyz", "etc/bootd-agent/agent.json")
    )
    words = ["/usr/bin/python3", "-B", program, "--logon", settings]
    assert place.room.run("n1", words, 60.0) == ""
    assert differences(look(place.source / "srv"), look(target)) == []
    place.process.stop()
    assert "no sync at this logon" in place.room.run("n1", words, 60.0, check=False)


def test_only_with_the_key_and_only_its_folder(running: Running) -> None:
    """What a node may ask the rsync server for: its task's folder, and nothing through a link that leaves it."""
    place = running.place
    running.enrol()
    settings = json.loads((running.folder / "etc/bootd-agent/agent.json").read_text())
    secret = place.folder / "secret"
    secret.mkdir()
    (secret / "file").write_text("not for nodes\n")
    (place.source / "srv/out").symlink_to(secret)
    running.start()
    until(lambda: json.loads(place.command("sync", "agents", "--json"))[0]["up"], 20, "the agent is there")
    (place.source / "srv/large").write_bytes(os.urandom(12 << 20))
    place.room.limit("n1", 4)
    run = place.sync("run", "live", running.mac, "--yes", "--no-wait")
    until(lambda: place.show(run["id"])["nodes"][0]["state"] == "running", 20, "it runs")
    audit = place.command("audit")
    assert settings["key"] not in audit
    task = re.search(rb"/sync/([0-9a-f]+)/stream", pipes(place, "n1"))
    assert task is not None
    path = f"/node/v1/sync/{task.group(1).decode()}/stream?node={running.mac}"

    def ask(key: str, words: list[str]) -> str:
        environment = {
            "BOOTD_SYNC_SERVER": settings["server"], "BOOTD_SYNC_PATH": path, "BOOTD_SYNC_TOKEN": key,
            "PYTHONPATH": str(running.folder / "usr/lib/bootd-agent/agent.pyz"),
        }  # fmt: skip
        command = ["rsync", "--rsh=/usr/bin/python3 -m stage2.pipe", *words]
        done = subprocess.run(
            ["ip", "netns", "exec", place.room.namespace("n1"), *command],
            capture_output=True, text=True, env={**os.environ, **environment}, check=False, timeout=60,
        )  # fmt: skip
        return done.stdout + done.stderr

    assert "file001" in ask(settings["key"], ["bootd::source/"])
    assert "the server says no" in ask("wrong", ["bootd::source/"])
    assert "Unknown module" in ask(settings["key"], ["bootd::collect/"])
    assert "read only" in ask(settings["key"], [str(place.config), "bootd::source/"])
    stolen = place.folder / "stolen"
    for words in (
        ["-r", "bootd::source/out/"],
        ["-rL", "bootd::source/"],
        ["-r", f"bootd::source/../{secret.name}/"],
    ):
        ask(settings["key"], [*words, f"{stolen}/"])
        found = [file for file in stolen.rglob("*") if file.is_file() and not file.is_symlink()]
        assert not any(b"not for nodes" in file.read_bytes() for file in found)
    place.command("sync", "stop", run["id"])
    until(lambda: bool(place.show(run["id"])["ended"]), 40, "it is ended")
    assert "the server says no" in ask(settings["key"], ["bootd::source/"])


def pipes(place: Place, name: str) -> bytes:
    """Environment of what runs on a node, as its root sees it."""
    listed = subprocess.run(["ip", "netns", "pids", place.room.namespace(name)], capture_output=True, text=True)
    found = b""
    for number in listed.stdout.split():
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{number}/environ").read_bytes()
    return found


def test_after_a_freeze_with_reboot_a_node_boots_its_own_disk(place: Place) -> None:
    nodes = place.up("n1")
    place.sync("run", "srv", NODES["n1"], "--freeze", "--reboot", "--yes", "--no-wait")
    nodes["n1"].wait_for("node: rebooted", 40)
    script = place.room.run(
        "n1", ["curl", "-sSf", f"http://{ADDRESS}:{HTTP_PORT}/boot/boot.ipxe?mac={NODES['n1']}"]
    )
    assert "bootd.node" not in script, "no stage: its own disk"
    assert "set-label" in place.command("audit")
