"""The daemon is killed in the middle of a session and started again: real daemon, real members, slow links."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room, until
from tests.netns.test_serve import CHUNK, numbered

NODES = {"n1": "52:54:00:00:00:01", "n2": "52:54:00:00:00:02", "n3": "52:54:00:00:00:03"}
MEGABITS = 25  # of each link: a transfer takes ten seconds


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """In a room with three nodes, at the end of slow links. A short path, since a unix socket lives in it."""
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    try:
        with Room("server", *NODES) as room:
            room.address("server", f"{ADDRESS}/24")
            for number, name in enumerate(NODES, 1):
                room.address(name, f"10.9.0.{10 + number}/24")
                room.limit(name, MEGABITS)
            yield Daemon(room, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(daemon: Daemon, name: str, size: int) -> Process:
    """A node with a disk of ``size`` bytes: the one that it had, else one that is not blank."""
    target = daemon.folder / f"{name}.disk"
    if not target.exists():
        target.write_bytes(b"\xaa" * size)
    words = [NODES[name], f"10.9.0.1{name[1:]}", f"{ADDRESS}:{HTTP_PORT}", str(target), str(size)]
    return daemon.room.start(name, [sys.executable, "-m", "tests.netns.ring_node", *words])


def member(daemon: Daemon, name: str) -> dict[str, Any]:
    """What the session knows of a node; {} before it has joined."""
    members: list[dict[str, Any]] = daemon.session("room")["members"]
    return next((item for item in members if item["node"] == NODES[name]), {})


def test_a_node_that_dies_with_the_daemon_comes_back_with_what_it_has(daemon: Daemon) -> None:
    """n2 is dead when the daemon returns; its next process joins at once, with the manifest from the journal."""
    process = daemon.start()
    data = numbered(daemon.folder / "image", 32)
    daemon.command("label", "set-default", "kamethod")
    image = str(daemon.folder / "image")
    daemon.command("deploy", image, "any", "--disk", "only", "--expect", "3", "--name", "room", "--yes")
    nodes = {name: start(daemon, name, len(data)) for name in NODES}
    until(lambda: member(daemon, "n2").get("durable", 0) > 4 * CHUNK, 40, "the middle one has something")
    before = daemon.session("room")
    assert before["state"] == "running"
    process.signal(signal.SIGKILL)
    nodes["n2"].signal(signal.SIGKILL)
    process.wait(5)
    nodes["n2"].wait(5)
    daemon.start()
    assert daemon.session("room")["state"] == "running"
    nodes["n2"] = start(daemon, "n2", len(data))
    daemon.command("wait", "room", "--timeout", "60", expect=Exit.OK, seconds=70)
    assert daemon.session("room")["epoch"] > before["epoch"]
    assert member(daemon, "n2")["kept"] >= 4 * CHUNK
    assert [member(daemon, name)["attempts"] for name in NODES] == [0, 1, 0]
    for name, node in nodes.items():
        assert node.wait(10) == 0
        assert (daemon.folder / f"{name}.disk").read_bytes() == data, name
        if name != "n2":
            assert node.output.count("plan TEST-") == 1, "the same member all the time"
