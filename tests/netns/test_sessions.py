"""What operators do with sessions, with the real daemon, its command line and real ring members."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room, until
from tests.netns.test_serve import CHUNK, HEAD, children, numbered

NODES = {f"n{number}": f"52:54:00:00:00:0{number}" for number in (1, 2, 3, 4)}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """In a room with four nodes. A short path, since a unix socket lives in it."""
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        room = stack.enter_context(Room("server", *NODES))
        room.address("server", f"{ADDRESS}/24")
        for number, name in enumerate(NODES, 1):
            room.address(name, f"10.9.0.{10 + number}/24")
        made = Daemon(room, folder)
        yield made


def node(daemon: Daemon, name: str, size: int) -> Process:
    """Starts a node with a disk of ``size`` bytes: the one that it had, else one that is not blank."""
    target = disk(daemon, name)
    if not target.exists():
        target.write_bytes(b"\xaa" * size)
    words = [NODES[name], f"10.9.0.1{name[1:]}", f"{ADDRESS}:{HTTP_PORT}", str(target), str(size)]
    return daemon.room.start(name, [sys.executable, "-m", "tests.netns.ring_node", *words])


def disk(daemon: Daemon, name: str) -> Path:
    return daemon.folder / f"{name}.disk"


def prepare(daemon: Daemon, chunks: int, name: str = "image") -> tuple[Process, bytes]:
    """A started daemon whose nodes boot into stage2, and an image."""
    data = numbered(daemon.folder / name, chunks)
    process = daemon.start()
    daemon.command("label", "set-default", "kamethod")
    return process, data


def deploy(daemon: Daemon, *words: str, image: str = "image") -> None:
    daemon.command("deploy", str(daemon.folder / image), *words, "--disk", "only", "--yes")


def macs(*names: str) -> str:
    return ",".join(NODES[name] for name in names)


def verdicts(daemon: Daemon, name: str) -> dict[str, str]:
    return {f"n{item['node'][-1]}": item["state"] for item in daemon.session(name)["outcome"]["nodes"]}


def written(daemon: Daemon, session: str, name: str) -> int:
    members = daemon.session(session)["members"]
    return sum(item["written"] for item in members if item["node"] == NODES[name])


def test_two_sessions_at_once(daemon: Daemon) -> None:
    """Two images, two rings of two nodes each, at the same time: every node gets its own."""
    process, first = prepare(daemon, 24)
    second = numbered(daemon.folder / "other", 20)
    for name in NODES:
        daemon.room.limit(name, 16)  # a transfer takes ten seconds: there is time to see both
    deploy(daemon, macs("n1", "n2"), "--name", "one")
    deploy(daemon, macs("n3", "n4"), "--name", "two", image="other")
    nodes = {name: node(daemon, name, len(first)) for name in NODES}
    seen: list[list[str]] = []

    def both_run() -> bool:
        seen.append([session["state"] for session in daemon.state()["sessions"]])
        return seen[-1] == ["running", "running"]

    until(both_run, 90, f"both run, not {seen}")
    assert len(children(process.pid, HEAD)) == 2
    for name in ("one", "two"):
        daemon.command("wait", name, "--timeout", "120", expect=Exit.OK, seconds=130)
    for name, data in (("n1", first), ("n2", first), ("n3", second), ("n4", second)):
        assert nodes[name].wait(10) == 0
        assert disk(daemon, name).read_bytes() == data, name
    until(lambda: not children(process.pid, HEAD), 10, "the heads are gone")


def test_add_and_eject_while_it_runs(daemon: Daemon) -> None:
    _, data = prepare(daemon, 24)
    for name in NODES:
        daemon.room.limit(name, 10)
    deploy(daemon, macs("n1", "n2"), "--name", "room")
    nodes = {name: node(daemon, name, len(data)) for name in ("n1", "n2", "n3")}
    nodes["n3"].wait_for("waits: no session wants this node")
    until(lambda: written(daemon, "room", "n1") > 2 * CHUNK, 90, "n1 is being written")
    refused = daemon.command("session", "add", "room", NODES["n3"], expect=Exit.USAGE)
    assert "say --yes" in refused, "nobody is asked here, so nothing is erased"
    daemon.command("session", "add", "room", NODES["n3"], "--yes")
    nodes["n3"].wait_for("plan TEST-03")
    daemon.command("session", "eject", "room", NODES["n1"], "--yes")
    nodes["n1"].wait_for("cancelled: taken out by root")
    assert nodes["n1"].wait(10) == 3
    daemon.command("wait", "room", "--timeout", "120", expect=Exit.PARTLY, seconds=130)
    assert verdicts(daemon, "room") == {"n1": "ejected", "n2": "done", "n3": "done"}
    for name in ("n2", "n3"):
        assert disk(daemon, name).read_bytes() == data, name
    assert disk(daemon, "n1").read_bytes() != data
    labels = {item["mac"]: item["next_label"] for item in daemon.state()["nodes"]}
    assert labels[NODES["n1"]] == "kamethod", "a half-written disk is not booted"
    audit = daemon.command("audit")
    assert "add-nodes" in audit
    assert "eject-nodes" in audit


def test_retry_clones_the_rest_of_it(daemon: Daemon) -> None:
    daemon.config.write_text(daemon.config.read_text() + "[session]\nsilence_seconds = 2\nattempts = 1\n")
    process, data = prepare(daemon, 24)
    for name in ("n1", "n2"):
        daemon.room.limit(name, 20)
    deploy(daemon, macs("n1", "n2"), "--name", "room")
    nodes = {name: node(daemon, name, len(data)) for name in ("n1", "n2")}
    until(lambda: written(daemon, "room", "n2") > 4 * CHUNK, 90, "n2 is being written")
    nodes["n2"].signal(signal.SIGKILL)
    daemon.command("wait", "room", "--timeout", "120", expect=Exit.PARTLY, seconds=130)
    assert verdicts(daemon, "room") == {"n1": "done", "n2": "parked"}
    parent = daemon.session("room")["id"]
    process.stop()
    daemon.start()  # what a retry needs is in the journal
    image = daemon.folder / "image"
    image.write_bytes(data + bytes(512))
    text = daemon.command("session", "retry", "room", "--yes", expect=Exit.REFUSED)
    assert "bytes now" in text
    image.write_bytes(data)
    daemon.command("session", "retry", "room", "--yes")
    child = daemon.session("room")
    assert (child["parent"], child["id"] != parent) == (parent, True)
    again = node(daemon, "n2", len(data))
    daemon.command("wait", "room", "--timeout", "120", expect=Exit.OK, seconds=130)
    assert again.wait(10) == 0
    assert disk(daemon, "n2").read_bytes() == data
    (member,) = daemon.session("room")["members"]
    assert member["kept"] >= 4 * CHUNK, "what it had is not sent again"


def test_start_at_a_time_survives_a_restart(daemon: Daemon) -> None:
    process, data = prepare(daemon, 4)
    begin = time.time() + 30
    moment = datetime.fromtimestamp(begin, UTC).isoformat()
    over = daemon.command(
        "deploy", str(daemon.folder / "image"), "any", "--disk", "only", "--at", "2020-01-01T00:00:00Z", "--yes",
        expect=Exit.USAGE,
    )  # fmt: skip
    assert "is over" in over
    deploy(daemon, macs("n1", "n2"), "--name", "night", "--at", moment, "--wake")
    one = node(daemon, "n1", len(data))
    one.wait_for("waits: no session wants this node")
    assert daemon.session("night")["state"] == "scheduled"
    assert not children(process.pid, HEAD)
    process.signal(signal.SIGKILL)
    process.wait(5)
    daemon.start()
    assert time.time() < begin, "it is not over yet"
    assert daemon.session("night")["state"] == "scheduled"
    one.wait_for("plan TEST-01", 60)
    assert time.time() >= begin
    woken = daemon.command("node", "timeline", NODES["n2"])
    assert "its session begins: magic packet sent to 10.9.0.255 on eth0" in woken
    one.wait_for("finished", 30)  # n2 never came: it has started with who was there
    assert disk(daemon, "n1").read_bytes() == data
    daemon.command("wait", "night", "--timeout", "30", expect=Exit.PARTLY, seconds=40)


def test_cancel_leaves_no_process(daemon: Daemon) -> None:
    """Not the head, nor anything that it had started: everything in the server's namespace is looked at."""
    process, data = prepare(daemon, 24)
    for name in NODES:
        daemon.room.limit(name, 10)

    def there() -> set[int]:
        words = ["ip", "netns", "pids", daemon.room.namespace("server")]
        return {int(word) for word in subprocess.run(words, check=True, capture_output=True).stdout.split()}

    before = there()
    deploy(daemon, macs("n1", "n2"), "--name", "room")
    nodes = [node(daemon, name, len(data)) for name in ("n1", "n2")]
    until(lambda: written(daemon, "room", "n2") > CHUNK, 90, "it runs")
    (head,) = children(process.pid, HEAD)
    assert head in there() - before
    daemon.command("session", "cancel", "room", "--yes")
    for one in nodes:
        one.wait_for("cancelled: cancelled by root")
        assert one.wait(10) == 3
    until(lambda: there() <= before, 10, "every process of the session is gone")
    with pytest.raises(ProcessLookupError):
        os.kill(head, 0)
    assert process.running()


def test_delay_between_the_reboots(daemon: Daemon) -> None:
    _, data = prepare(daemon, 4)
    deploy(daemon, macs("n1", "n2", "n3"), "--name", "room", "--delay", "2")
    nodes = [node(daemon, name, len(data)) for name in ("n1", "n2", "n3")]
    times = []
    for one in nodes:  # in the order of their addresses
        one.wait_for("finished with", 40)
        times.append(time.monotonic())
    daemon.command("wait", "room", "--timeout", "30", expect=Exit.OK, seconds=40)
    assert all(1.2 < later - earlier < 10 for earlier, later in itertools.pairwise(times)), times
    for name in ("n1", "n2", "n3"):
        assert disk(daemon, name).read_bytes() == data


LIAR = """
import re, sys, urllib.request
from bootd.member.control import ControlClient
from bootd.wire.control import *
server, mac, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
script = urllib.request.urlopen(f"http://{server}/boot/boot.ipxe?mac={mac}").read().decode()
client = ControlClient(server, mac, re.search(r"bootd[.]token=([0-9a-f]+)", script).group(1))
disk = Disk("vda", size, 512, "LIAR", "", "file", "virtio", False, "", "ab" * 32)
client.join(Join(mac, "", "x86_64", "bios", "10.9.0.11", "", "ka", 512 << 20, (disk,)))
for message in client.events():
    if isinstance(message, Prepare):
        client.report(Report(mac, message.plan.session, MemberState.READY, port=4000, total=size))
    elif isinstance(message, (Arrange, Cancel)):
        print("liar:", message, flush=True)
        break
"""


def test_ready_without_a_saved_table_is_refused(daemon: Daemon) -> None:
    _, data = prepare(daemon, 4)
    deploy(daemon, macs("n1"), "--name", "room")
    words = [f"{ADDRESS}:{HTTP_PORT}", NODES["n1"], str(len(data))]
    liar = daemon.room.start("n1", [sys.executable, "-c", LIAR, *words])
    text = liar.wait_for(r"liar: (.*)\n").group(1)
    assert text.startswith("Cancel(")
    assert "the server holds no old partition table of vda from this attempt" in text
    (member,) = daemon.session("room")["members"]
    assert member["state"] == "failed"
    assert daemon.session("room")["state"] == "waiting"
