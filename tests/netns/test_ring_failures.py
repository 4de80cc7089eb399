"""The failure matrix of the ring: real daemon, real members, shaped links, and the verdict of every node.

One test for each kind of failure that other tools do not survive; docs/failures.md is the table, and
test_ring_deaths.py has who dies and when. Faults strike at an exact place inside the process that has them
(`ring_matrix`), so the cases do not depend on the machine's speed.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS
from tests.netns.ring_lab import CHUNKS, OLD, SIZE, Ring
from tests.netns.room import Room, RoomError, until
from tests.netns.test_serve import CHUNK, children

NODES = ("n1", "n2", "n3", "n4", "n5", "n6")


@pytest.fixture
def ring() -> Iterator[Ring]:
    path = Path(tempfile.mkdtemp(prefix="bootd-"))
    try:
        with Room("server", *NODES) as room:
            room.address("server", f"{ADDRESS}/24")
            for name in NODES:
                room.address(name, f"10.9.0.{10 + int(name[1:])}/24")
            yield Ring(room, path, NODES)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def running(ring: Ring, *written: str) -> None:
    """Until the session runs and these nodes have written something, but not all."""
    until(lambda: ring.session()["state"] == "running", 20, "it runs")
    for node in written:
        until(lambda node=node: ring.member(node)["written"] > 0, 10, "bytes flow")  # type: ignore[misc]


def head_of(ring: Ring) -> int:
    """Process id of the newest child of the daemon: the head, when there is one session."""
    return max(children(ring.process.pid))


# --- freezes -----------------------------------------------------------------------------------------------


def test_frozen_nodes_are_evicted_and_wake_in_time_and_too_late(ring: Ring) -> None:
    """n2 wakes before it dialled, n3 amid its writes, both while the session runs; n4 when another one does."""
    ring.deploy(5)
    # The last one is slow, so that the session is still running when they wake.
    for name, fault in (
        ("n1", "none"),
        ("n2", "stale"),
        ("n3", "freeze:4"),
        ("n4", "freeze:8"),
        ("n5", "slow:400"),
    ):
        ring.start(name, fault)
    running(ring)
    for name in ("n2", "n3", "n4"):
        until(lambda name=name: ring.member(name)["state"] == "lost", 15, "frozen is lost")  # type: ignore[misc]
    assert ring.member("n5")["predecessor"] == ring.mac("n1"), "the chain is closed behind them"
    for name in ("n2", "n3"):
        ring.nodes[name].signal(signal.SIGCONT)
    # On the wire: n2 dials n1 under the epoch in which it froze.
    ring.nodes["n2"].wait_for(rf"trouble: predecessor {ring.mac('n1')}: refuses: epoch 1 is over, now \d+")
    ring.wait(Exit.PARTLY)
    states = {"n1": "done", "n2": "done", "n3": "done", "n4": "lost", "n5": "done"}
    ring.expect(states)
    for name in ("n2", "n3"):
        assert ring.nodes[name].output.count("node: epoch ") >= 2, "it got a place under a new epoch"

    ring.deploy(1, "n6", name="later")
    ring.start("n6", "slow:100")
    until(lambda: ring.session("later")["state"] == "running", 15, "the later session runs")
    ring.nodes["n4"].signal(signal.SIGCONT)
    ring.nodes["n4"].wait_for("cancelled: ")
    assert ring.nodes["n4"].wait(10) == 3
    ring.wait(Exit.OK, "later")
    ring.expect({"n6": "done"}, "later")
    ring.expect(states)


# --- disks -------------------------------------------------------------------------------------------------


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


def test_flipped_bit_and_names_that_are_alike(ring: Ring) -> None:
    """node1 relays with a flipped bit to node-1, which names it; node12 and already1 are others, and untouched."""
    names = {"n1": "node1", "n2": "node12", "n3": "node-1", "n4": "already1"}
    for node in names:
        ring.start(node, "flip:5" if node == "n1" else "none")
    for node, name in names.items():
        ring.nodes[node].wait_for("waits: ")
        ring.api("PUT", f"/nodes/{ring.mac(node)}/name", {"name": name})
    ring.api(
        "POST", "/sessions", {"source": str(ring.image), "nodes": "node1,node-1", "disk": "only", "name": "room"}
    )
    ring.wait(Exit.OK)
    assert "flipped a bit" in ring.nodes["n1"].output
    ring.nodes["n3"].wait_for(rf"trouble: predecessor {ring.mac('n1')}: chunk \d+ arrived damaged")
    ring.expect({"n1": "done", "n3": "done"})
    for node in ("n2", "n4"):
        assert ring.nodes[node].running()
        assert ring.disk(node).read_bytes() == OLD * SIZE, names[node]


def test_disk_ten_times_slower_holds_nobody_up(ring: Ring) -> None:
    """The first of three writes 6 MB/s from a link of 50, more than its window: it goes to the end."""
    ring.make_image(96)
    ring.deploy(3)
    ring.start("n1", "slow:150")
    ring.start("n2")
    ring.start("n3")
    for name in ("n2", "n3"):
        until(lambda name=name: ring.member(name)["state"] == "verified", 40, "not held up")  # type: ignore[misc]
    slow = ring.member("n1")
    assert slow["state"] == "receiving"
    assert slow["written"] < len(ring.data)
    assert slow["predecessor"] in (ring.mac("n2"), ring.mac("n3")), "it is fed by one that has everything"
    assert any("held up others" in text for text in ring.timeline("slow"))
    ring.wait(Exit.OK)
    ring.expect({"n1": "done", "n2": "done", "n3": "done"})


# --- head and coordinator ----------------------------------------------------------------------------------


def test_killed_head_is_replaced_and_nobody_starts_anew(ring: Ring) -> None:
    """SIGKILL while bytes flow: the next head finds the same image, the members keep what they have."""
    ring.deploy(3)
    for name in NODES[:3]:
        ring.start(name, "slow:200")
    running(ring, "n1")
    former = head_of(ring)
    os.kill(former, signal.SIGKILL)
    ring.wait(Exit.OK)
    ring.expect({"n1": "done", "n2": "done", "n3": "done"})
    assert any("killed by signal 9" in text for text in ring.timeline("head"))
    for name in NODES[:3]:
        assert ring.nodes[name].output.count("node: plan ") == 1, "the same member all the time"


def test_head_that_dies_again_and_again_ends_the_session_and_nobody_is_called_ok(ring: Ring) -> None:
    ring.deploy(2)
    for name in NODES[:2]:
        ring.start(name, "slow:1000")
    running(ring, "n1")
    killed: set[int] = set()
    for _ in range(3):
        until(lambda: head_of(ring) not in killed and _listens(ring), 20, "a head")
        killed.add(head_of(ring))
        os.kill(head_of(ring), signal.SIGKILL)
    ring.wait(Exit.ERROR)
    assert "killed by signal 9; it was started 3 times" in ring.session()["reason"]
    ring.expect({"n1": "cancelled", "n2": "cancelled"})
    for name in NODES[:2]:
        assert ring.nodes[name].wait(10) == 3
    assert ring.process.running()


def _listens(ring: Ring) -> bool:
    """Whether the newest child of the daemon has a listening socket: a bulk worker had it before the session."""
    return f"pid={head_of(ring)}," in ring.room.run("server", ["ss", "-Hltnp"])


def test_daemon_killed_in_the_middle_goes_on_with_the_session(ring: Ring) -> None:
    """kill -9 of the coordinator while bytes flow, and with it of the head; n3 dies meanwhile and is named."""
    ring.deploy(3)
    for name, fault in (("n1", "slow:250"), ("n2", "slow:250"), ("n3", "kill:3")):
        ring.start(name, fault)
    running(ring, "n1")
    ring.restart()
    assert ring.session()["state"] in ("waiting", "preparing", "running")
    ring.wait(Exit.PARTLY)
    ring.expect({"n1": "done", "n2": "done", "n3": "lost"})
    for name in ("n1", "n2"):
        assert ring.nodes[name].output.count("node: plan ") == 1, "the same member all the time"


# --- coming back, and coming late --------------------------------------------------------------------------


def test_restarted_node_resumes_and_late_nodes_join_while_it_runs_and_after_the_end(ring: Ring) -> None:
    """n2 dies in the middle and comes back with its disk; n3 joins while the session runs, n4 when all is done."""
    ring.deploy(2, keep_open=600)
    ring.room.limit("n2", 40)  # slow enough for it to report something before it dies
    ring.start("n1", "slow:150")
    ring.start("n2", f"kill:{CHUNKS // 2}")
    assert ring.nodes["n2"].wait(20) == -signal.SIGKILL
    ring.start("n2", "slow:100")
    ring.start("n3")
    await_verified(ring, "n1", "n2", "n3")
    resumed = ring.member("n2")
    assert resumed["kept"] >= (CHUNKS // 2 - 1) * CHUNK, "what it had written before is not sent again"
    assert resumed["attempts"] == 1
    assert ring.session()["state"] == "running"
    ring.start("n4")
    await_verified(ring, "n4")
    assert ring.member("n4")["predecessor"] in [ring.mac(name) for name in NODES[:3]], "fed by a finished one"
    ring.api("PATCH", "/sessions/room", {"close": True})
    ring.wait(Exit.OK)
    ring.expect({"n1": "done", "n2": "done", "n3": "done", "n4": "done"})


def await_verified(ring: Ring, *names: str) -> None:
    """Until these nodes, which may not be members yet, are verified."""

    def states() -> dict[str, str]:
        return {item["node"]: item["state"] for item in ring.session()["members"]}

    try:
        until(lambda: all(states().get(ring.mac(name)) == "verified" for name in names), 40, f"{names} verified")
    except AssertionError as error:
        raise RoomError(f"{error}: {ring.session()['members']}\n{ring.outputs()}") from None
