"""``bootd ramboot`` and ``bootd stage import``: from the command to the bytes that a node's stage1 would mount."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room
from tests.netns.test_stage_ring import address_of, mac_of

SERVER = f"{ADDRESS}:{HTTP_PORT}"


@pytest.fixture
def tree(folder: Path) -> Path:
    """A system: BusyBox and what it needs to be recognised as one."""
    root = folder / "mini linux"
    (root / "bin").mkdir(parents=True)
    (root / "sbin").mkdir()
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "sbin/init").symlink_to("/bin/busybox")
    return root


@pytest.fixture
def daemon(room: Room, folder: Path) -> Daemon:
    made = Daemon(room, folder)
    modules = folder / "stage2root/usr/lib/modules/6.1.0-56-amd64"
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text("")
    (made.boot / "stage2").mkdir()
    image = made.boot / "stage2/stage2.squashfs"
    command = ["mksquashfs", str(folder / "stage2root"), str(image), "-quiet", "-no-progress"]
    subprocess.run(command, check=True)
    made.start()
    return made


def boot(room: Room, folder: Path, name: str) -> Process:
    """The stage1 of ``name``, with its own MAC and address."""
    room.mac(name, mac_of(name))
    (folder / name).mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.netns.stage1_node", mac_of(name), address_of(name), SERVER]
    return room.start(name, [*command, str(folder / name)])


def unpacked(image: Path, folder: Path) -> Path:
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-dest", str(folder), str(image)], check=True)
    return folder


def test_a_folder_arrives_in_the_memory_of_two_nodes(room: Room, folder: Path, daemon: Daemon, tree: Path) -> None:
    config = ("--config", str(daemon.config))
    nodes = [mac_of("n1"), mac_of("n2")]
    text = daemon.command("ramboot", str(tree), *nodes, *config, "--json")
    made = json.loads(text)
    assert (made["name"], made["init"], made["packed"], made["once"]) == ("mini-linux", "/sbin/init", True, True)
    assert sorted(host["mac"] for host in made["nodes"]) == nodes
    for name in ("n1", "n2"):
        agent = boot(room, folder, name)
        agent.wait_for("would mount", 30)
        assert agent.wait(10) == 0
        there = unpacked(folder / name / "stage2.squashfs", folder / f"{name}-root")
        assert (there / "bin/busybox").read_bytes() == (tree / "bin/busybox").read_bytes()
        assert (there / "lib/modules/6.1.0-56-amd64/modules.dep").exists()
        assert json.loads((folder / name / "node.json").read_text())["options"]["system"] == "mini-linux"
    why = {item["mac"]: item["why"] for item in json.loads(daemon.command("node", "list", "--json"))}
    assert [why[node] for node in nodes] == ["one-shot", "one-shot"]
    assert json.loads(daemon.command("ramboot", str(tree), *config, "--json"))["packed"] is False
    (tree / "bin/more").write_text("new")
    changed = json.loads(daemon.command("ramboot", str(tree), *config, "--json"))
    assert changed["packed"]
    assert changed["sha256"] != made["sha256"]
    assert "mini-linux" in daemon.command("label", "list")
    (listed,) = json.loads(daemon.command("stage", "list", "--json"))
    assert (listed["sha256"], listed["problem"]) == (changed["sha256"], "")
    daemon.command("stage", "remove", "mini-linux", "--yes", *config)
    left = json.loads(daemon.command("label", "list", "--json"))
    assert "mini-linux" not in [item["name"] for item in left["labels"]]
    assert {item["next_label"] for item in left["nodes"]} == {"local"}


def test_refusals(daemon: Daemon, folder: Path, tree: Path) -> None:
    config = ("--config", str(daemon.config))
    (tree / "sbin/init").unlink()
    assert "nothing would run" in daemon.command("ramboot", str(tree), *config, expect=Exit.INPUT)
    assert "is not a folder" in daemon.command("ramboot", str(folder / "none"), *config, expect=Exit.INPUT)
    assert "this machine itself" in daemon.command("ramboot", "/", *config, expect=Exit.INPUT)
    taken = daemon.command("ramboot", str(tree), "--label", "rescue", *config, expect=Exit.USAGE)
    assert "there is a label 'rescue' already" in taken
    assert "cannot be a label" in daemon.command("ramboot", str(tree), "--label", "a b", *config, expect=Exit.USAGE)
    (folder / "junk").write_bytes(b"junk" * 999)
    assert "nothing that can be imported" in daemon.command(
        "stage", "import", str(folder / "junk"), *config, expect=Exit.INPUT
    )


def test_an_operators_rescue_system(room: Room, folder: Path, daemon: Daemon, tree: Path) -> None:
    """rescue.sqfs of the older tools: imported, booted by its label, and served as it was given."""
    config = ("--config", str(daemon.config))
    image = folder / "rescue.sqfs"
    subprocess.run(["mksquashfs", str(tree), str(image), "-quiet", "-no-progress"], check=True)
    done = daemon.command("stage", "import", str(image), "--name", "rescue9", "--method", "http", *config)
    assert "rescue9" in done
    again = ("stage", "import", str(image), "--name", "rescue9")
    assert "--replace" in daemon.command(*again, *config, expect=Exit.REFUSED)
    daemon.command(*again, "--replace", "--method", "http", *config)
    daemon.command("label", "set-default", "rescue9")
    agent = boot(room, folder, "n1")
    agent.wait_for("would mount", 30)
    assert (folder / "n1/stage2.squashfs").read_bytes() == image.read_bytes()
