"""The failure matrix of the ring: real daemon, real members, shaped links, and the verdict of every node.

One test for each kind of failure that other tools do not survive; docs/failures.md is the table. Faults strike at
an exact place inside the process that has them (`ring_matrix`), so the cases do not depend on the machine's speed.
"""

import os
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
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room
from tests.netns.test_serve import CHUNK, children, numbered, until

NODES = ("n1", "n2", "n3", "n4", "n5", "n6")
CHUNKS = 16
SIZE = CHUNKS * CHUNK
OLD = b"\xaa"
DEATHS = {"0": "kill:0", "50": f"kill:{CHUNKS // 2}", "99.9": f"kill:{CHUNKS - 1}", "verify": "silence"}


def mac(name: str) -> str:
    return f"52:54:00:00:00:0{name[1:]}"


class Ring:
    """A daemon, an image, and nodes with faults; verdicts by the names n1, n2, ..."""

    def __init__(self, room: Room, folder: Path, megabits: float = 400) -> None:
        self.room, self.folder = room, folder
        self.daemon = Daemon(room, folder, "[session]\nsilence_seconds = 2\n")
        self.process = self.daemon.start()
        self.image = folder / "image"
        self.data = numbered(self.image, CHUNKS)
        self.nodes: dict[str, Process] = {}
        for name in NODES:
            room.limit(name, megabits)
        self.daemon.command("label", "set-default", "kamethod")

    def deploy(self, expect: int, *nodes: str, name: str = "room") -> None:
        words = (*(nodes or ("any",)), "--disk", "only", "--expect", str(expect), "--name", name, "--yes")
        self.daemon.command("deploy", str(self.image), *words)

    def start(self, name: str, fault: str = "none", target: Path | None = None, size: int = SIZE) -> None:
        if target is None:
            target = self.disk(name)
            target.write_bytes(OLD * size)  # not blank: what is not written shows
        number = name[1:]
        arguments = [
            fault,
            mac(name),
            f"10.9.0.{10 + int(number)}",
            f"{ADDRESS}:{HTTP_PORT}",
            str(target),
            str(size),
        ]
        self.nodes[name] = self.room.start(name, [sys.executable, "-m", "tests.netns.ring_matrix", *arguments])

    def disk(self, name: str) -> Path:
        return self.folder / f"{name}.disk"

    def wait(self, expect: Exit, name: str = "room") -> None:
        self.daemon.command("wait", name, "--timeout", "40", expect=expect, seconds=50)

    def verdicts(self, name: str = "room") -> dict[str, dict[str, Any]]:
        return {f"n{item['node'][-1]}": item for item in self.daemon.session(name)["outcome"]["nodes"]}

    def member(self, node: str, name: str = "room") -> dict[str, Any]:
        return next(item for item in self.daemon.session(name)["members"] if item["node"] == mac(node))

    def expect(self, states: dict[str, str], name: str = "room") -> dict[str, dict[str, Any]]:
        """The verdicts are ``states``; only "done" is ok; who is done has the image; everybody else a reason."""
        verdicts = self.verdicts(name)
        assert {node: item["state"] for node, item in verdicts.items()} == states, verdicts
        for node, item in verdicts.items():
            assert item["ok"] == (item["state"] == "done"), item
            if item["ok"]:
                assert self.nodes[node].wait(10) == 0
                assert self.disk(node).read_bytes() == self.data, node
            else:
                assert item["reason"], node
        return verdicts


@pytest.fixture
def ring() -> Iterator[Ring]:
    path = Path(tempfile.mkdtemp(prefix="bootd-"))
    try:
        with Room("server", *NODES) as room:
            room.address("server", f"{ADDRESS}/24")
            for name in NODES:
                room.address(name, f"10.9.0.{10 + int(name[1:])}/24")
                room.mac(name, mac(name))
            yield Ring(room, path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def test_first_two_adjacent_and_last_die(ring: Ring) -> None:
    """First at 0 %, two neighbours in the middle at 50 %, the last before verification: n2 and n5 go on."""
    faults = {"n1": "0", "n3": "50", "n4": "50", "n6": "verify"}
    ring.deploy(6)
    for name in NODES:
        ring.start(name, DEATHS[faults[name]] if name in faults else "none")
    ring.wait(Exit.PARTLY)
    ring.expect({name: "lost" if name in faults else "done" for name in NODES})


def test_all_but_the_last_die_at_the_end(ring: Ring) -> None:
    """Two neighbours before their last chunk, the two behind them between the end of data and verification."""
    ring.deploy(5)
    for name, point in zip(NODES, ("99.9", "99.9", "verify", "verify"), strict=False):
        ring.start(name, DEATHS[point])
    ring.start("n5")
    ring.wait(Exit.PARTLY)
    ring.expect({"n1": "lost", "n2": "lost", "n3": "lost", "n4": "lost", "n5": "done"})


def test_frozen_nodes_are_evicted_and_wake_in_time_and_too_late(ring: Ring) -> None:
    """n2 wakes while the session runs: a new epoch, verified. n3 wakes as a stale node of an earlier session."""
    ring.deploy(4)
    # The last one is slow, so that the session is still running when n2 wakes.
    for name, fault in (("n1", "none"), ("n2", "freeze:4"), ("n3", "freeze:8"), ("n4", "slow:150")):
        ring.start(name, fault)
    until(lambda: ring.daemon.session("room")["state"] == "running", 20, "it runs")
    until(lambda: ring.member("n2")["state"] == "lost", 15, "the frozen node is named lost")
    assert ring.member("n3")["predecessor"] != mac("n2"), "the chain is closed behind it"
    ring.nodes["n2"].signal(signal.SIGCONT)
    ring.wait(Exit.PARTLY)
    ring.expect({"n1": "done", "n2": "done", "n3": "lost", "n4": "done"})
    assert ring.nodes["n2"].output.count("node: epoch ") >= 2, "it got a place under a new epoch"

    ring.deploy(1, mac("n5"), name="later")
    ring.start("n5", "slow:100")
    until(lambda: ring.daemon.session("later")["state"] == "running", 15, "the later session runs")
    ring.nodes["n3"].signal(signal.SIGCONT)
    ring.nodes["n3"].wait_for("cancelled: ")
    assert ring.nodes["n3"].wait(10) == 3
    ring.wait(Exit.OK, "later")
    ring.expect({"n5": "done"}, "later")
    ring.expect({"n1": "done", "n2": "done", "n3": "lost", "n4": "done"})


@pytest.fixture
def full(ring: Ring) -> Iterator[Path]:
    """A block device as large as the image, with room for a quarter of it (thin provisioning that ran out)."""
    mount = ring.folder / "medium"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE // 4}", "none", str(mount)], check=True)
    device = ""
    try:
        with (mount / "backing").open("wb") as file:
            file.truncate(SIZE)
        attach = ["losetup", "--find", "--show", str(mount / "backing")]
        device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
        yield Path(device)
    finally:
        for node in ring.nodes.values():
            node.stop()
        if device:
            subprocess.run(["losetup", "--detach", device], check=True)
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_bad_disks_fail_with_their_reason_and_hold_nobody_up(ring: Ring, full: Path) -> None:
    """Full, EIO, lying and too small: four reasons; the good nodes between and behind them are cloned."""
    ring.deploy(6)
    ring.start("n1", target=full)
    ring.start("n2")
    ring.start("n3", f"eio:{CHUNKS // 4}")
    ring.start("n4", f"lie:{CHUNKS // 2}")
    ring.start("n5", size=SIZE - CHUNK)
    ring.start("n6")
    ring.wait(Exit.PARTLY)
    states = {"n1": "failed", "n2": "done", "n3": "failed", "n4": "failed", "n5": "refused", "n6": "done"}
    verdicts = ring.expect(states)
    assert verdicts["n1"]["reason"].endswith(": No space left on device")
    assert "Input/output error" in verdicts["n3"]["reason"]
    assert "does not keep what is written" in verdicts["n4"]["reason"]
    assert ring.disk("n5").read_bytes() == OLD * (SIZE - CHUNK), "not a byte of a refused disk is touched"


def test_killed_head_ends_the_session_and_nobody_is_called_ok(ring: Ring) -> None:
    ring.deploy(3)
    for name in NODES[:3]:
        ring.start(name, "slow:200")
    until(lambda: ring.daemon.session("room")["state"] == "running", 20, "it runs")
    until(lambda: ring.member("n1")["written"] > 0, 10, "bytes flow")
    os.kill(max(children(ring.process.pid)), signal.SIGKILL)
    ring.wait(Exit.ERROR)
    assert "killed by signal 9" in ring.daemon.session("room")["reason"]
    ring.expect({"n1": "cancelled", "n2": "cancelled", "n3": "cancelled"})
    for name in NODES[:3]:
        assert ring.nodes[name].wait(10) == 3
    assert ring.process.running()


def test_flipped_bit_slow_disk_and_names_that_are_alike(ring: Ring) -> None:
    """node1 relays with a flipped bit to node-1, whose disk is ten times slower; node12 and already1 are others."""
    names = {"n1": "node1", "n2": "node12", "n3": "node-1", "n4": "already1"}
    faults = {"n1": "flip:5", "n3": "slow:210"}
    for node in names:
        ring.start(node, faults.get(node, "none"))
    for node, name in names.items():
        ring.nodes[node].wait_for("waits: ")
        ring.daemon.command("node", "name", mac(node), name)
    ring.deploy(2, "node1", "node-1")
    ring.wait(Exit.OK)
    assert "flipped a bit" in ring.nodes["n1"].output
    ring.expect({"n1": "done", "n3": "done"})
    for node in ("n2", "n4"):
        assert ring.nodes[node].running()
        assert ring.disk(node).read_bytes() == OLD * SIZE, names[node]
