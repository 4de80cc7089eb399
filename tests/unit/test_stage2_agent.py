"""The whole agent against a coordinator in the test, a real head over loopback and a real loop device."""

import hashlib
import io
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootd.member.control import ControlError
from bootd.member.member import Member
from bootd.member.store import SourceStore
from bootd.wire import manifest as manifests
from bootd.wire.commands import Output
from bootd.wire.control import (
    Address,
    Arrange,
    Cancel,
    Disk,
    Finish,
    Join,
    MemberState,
    Message,
    Plan,
    Prepare,
    Report,
    SyncReport,
)
from bootd.wire.digest import digest
from bootd.wire.logs import Log
from bootd.wire.saved import SavedTable, decode
from stage2 import agent as agents
from stage2 import way_back
from stage2.agent import Agent
from stage2.console import Console
from stage2.inventory import InventoryError, table_digest
from stage2.node import Node

NODE = Node("52:54:00:00:00:01", "127.0.0.1:1", "aa", "ka", "", None, "lo", "127.0.0.1", dynamic=False)
TOKEN = "ab" * 16
CHUNK = 1 << 20
IMAGE = b"".join(number.to_bytes(8, "big") for number in range((5 * CHUNK + 4096) // 8))
DISK_SIZE = 8 << 20
DEADLINE = 20.0  # seconds, for every wait
MANIFEST = manifests.build(
    len(IMAGE), CHUNK, [digest(IMAGE[start : start + CHUNK]) for start in range(0, len(IMAGE), CHUNK)]
)


class Daemon:
    """What the agent needs of bootd: takes reports, sends what the test says."""

    def __init__(self) -> None:
        self.joins: list[Join] = []
        self.reports: list[Report] = []
        self.down: queue.Queue[Message] = queue.Queue()
        self.manifest = MANIFEST.encoded
        self.join_errors: list[Exception] = []
        self.saved: list[SavedTable] = []
        self.save_errors: list[Exception] = []
        self.logs: list[Log] = []
        self.outputs: list[Output] = []
        self.syncs: list[SyncReport] = []
        self._changed = threading.Condition()

    def join(self, message: Join) -> None:
        if self.join_errors:
            raise self.join_errors.pop(0)
        with self._changed:
            self.joins.append(message)
            self._changed.notify_all()

    def report(self, message: Report) -> bool:
        with self._changed:
            self.reports.append(message)
            self._changed.notify_all()
        return True

    def fetch_manifest(self, session: str) -> bytes:
        assert session == "s1"
        return self.manifest

    def fetch_layout(self, session: str) -> bytes:
        raise AssertionError(f"{session} has no layout")

    def save_table(self, encoded: bytes) -> None:
        if self.save_errors:
            raise self.save_errors.pop(0)
        assert MemberState.READY not in [report.state for report in self.reports]
        self.saved.append(decode(encoded))

    def send_log(self, message: Log) -> None:
        with self._changed:
            self.logs.append(message)
            self._changed.notify_all()

    def send_sync(self, message: SyncReport) -> bool:
        with self._changed:
            self.syncs.append(message)
            self._changed.notify_all()
        return True

    def send_output(self, message: Output) -> None:
        with self._changed:
            self.outputs.append(message)
            self._changed.notify_all()

    def events(self) -> Iterator[Message]:
        while True:
            yield self.down.get()

    def wait_for(self, state: MemberState) -> Report:
        with self._changed:
            assert self._changed.wait_for(lambda: any(r.state is state for r in self.reports), DEADLINE), (
                f"no {state}, only {[report.state.value for report in self.reports]}"
            )
            return next(report for report in self.reports if report.state is state)

    def wait_for_joins(self, count: int) -> Join:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.joins) >= count, DEADLINE)
            return self.joins[count - 1]


class Bench:
    """A loop device as the only disk, a head, a daemon and an agent in its thread."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "disk"
        self.file.write_bytes(b"\xa5" * DISK_SIZE)
        done = subprocess.run(["losetup", "--find", "--show", str(self.file)], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop device: {done.stderr.decode().strip()}")
        self.device = done.stdout.decode().strip()
        self.before = self.content()
        source = folder / "image"
        source.write_bytes(IMAGE)
        self.head = Member(
            node="head-s1",
            session="s1",
            join_token=TOKEN,
            manifest=MANIFEST,
            store=SourceStore(str(source)),
            listen_host="127.0.0.1",
            report=lambda _: None,
            is_head=True,
        )
        self.head_port = self.head.start()
        self.head.arrange(Arrange("s1", 1, None, ""))
        self.daemon = Daemon()
        self.screen = io.StringIO()
        self.rebooted = threading.Event()
        self.code: int | None = None
        self.agent = Agent(NODE, self.daemon, self.take, Console(self.screen), reboot=self.rebooted.set)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.code = self.agent.run()

    def take(self) -> list[Disk]:
        descriptor = os.open(self.device, os.O_RDONLY)
        try:
            found = table_digest(descriptor, DISK_SIZE)
        finally:
            os.close(descriptor)
        return [Disk(self.device[5:], DISK_SIZE, 512, "BENCH", "", "", "", False, "", found)]

    def content(self) -> str:
        subprocess.run(["blockdev", "--flushbufs", self.device], check=True)
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def plan(self, **changes: object) -> Plan:
        (disk,) = self.take()
        return replace(Plan("s1", NODE.mac, MANIFEST.root, len(IMAGE), CHUNK, disk, 1), **changes)  # type: ignore[arg-type]

    def place(self, epoch: int = 1) -> Arrange:
        return Arrange("s1", epoch, Address("127.0.0.1", self.head_port), "head-s1")

    def close(self) -> None:
        if self.thread.is_alive():
            self.agent._stopping.set()
            self.agent._stop_member()
        self.head.stop()
        subprocess.run(["losetup", "--detach", self.device], check=False)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    monkeypatch.setattr(agents, "AFTER_CANCEL", 0.05)
    monkeypatch.setattr(agents, "AFTER_FAILURE", 0.05)
    monkeypatch.setattr(agents, "AFTER_REFUSAL", 0.05)
    monkeypatch.setattr(way_back, "PAUSE", 0.01)
    # What follows the clone touches firmware and partitions of this machine; test_stage2_flow has its parts.
    monkeypatch.setattr(agents, "make_bootable", lambda disk: f"asked for {disk}")
    made = Bench(tmp_path)
    yield made
    made.close()


def test_from_join_to_reboot(bench: Bench) -> None:
    bench.thread.start()
    joined = bench.daemon.wait_for_joins(1)
    assert (joined.node, joined.method, [disk.serial for disk in joined.disks]) == (NODE.mac, "ka", ["BENCH"])
    for _ in range(2):  # everything in force comes again after a reconnection
        bench.daemon.down.put(Prepare(bench.plan(), TOKEN))
    ready = bench.daemon.wait_for(MemberState.READY)
    assert ready.port > 0
    assert bench.content() == bench.before, "nothing is written before the chain is arranged"
    bench.daemon.down.put(bench.place())
    verified = bench.daemon.wait_for(MemberState.VERIFIED)
    assert (verified.verified, verified.durable, verified.total) == (len(IMAGE),) * 3
    bench.daemon.down.put(Finish("s1", "reboot"))
    assert bench.rebooted.wait(DEADLINE)
    bench.thread.join(DEADLINE)
    assert bench.code == 0
    data = bench.file.read_bytes()
    assert data[: len(IMAGE)] == IMAGE
    assert data[len(IMAGE) :] == b"\xa5" * (DISK_SIZE - len(IMAGE))
    last = bench.daemon.reports[-1]
    assert (last.state, last.session, last.verified) == (MemberState.REBOOTING, "s1", len(IMAGE))
    assert bench.daemon.wait_for(MemberState.FINISHING)
    lines = bench.screen.getvalue().splitlines()
    name = bench.device[5:]
    wanted = ["joined", f"plan {name} BENCH", f"ready {ready.port}", "receiving"]
    wanted += [f"durable {len(IMAGE)}", f"verified {len(IMAGE)}", f"asked for {name}", "rebooting"]
    places = [lines.index(f"bootd-stage2: {text}") for text in wanted]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_root": "cd" * 32}, "the plan of cdcdcdcdcdcdcdcd"),
        ({"image_size": len(IMAGE) + 1}, "the manifest says"),
        ({"node": "52:54:00:00:00:02"}, "the plan is for node 52:54:00:00:00:02"),
        ({"disk": Disk("sdx", DISK_SIZE, 512, "OTHER", "", "", "", False, "", "d" * 64)}, "is not here"),
    ],
)
def test_refusals_touch_nothing(bench: Bench, changes: dict[str, object], reason: str) -> None:
    bench.thread.start()
    bench.daemon.wait_for_joins(1)
    bench.daemon.down.put(Prepare(bench.plan(**changes), TOKEN))
    refused = bench.daemon.wait_for(MemberState.REFUSED)
    assert reason in refused.reason
    assert f"bootd-stage2: refused {refused.reason}" in bench.screen.getvalue()
    bench.daemon.wait_for_joins(2)  # shows its disks again; the daemon judges
    assert bench.content() == bench.before


def test_table_changed_since_the_plan(bench: Bench) -> None:
    bench.thread.start()
    bench.daemon.wait_for_joins(1)
    plan = bench.plan()
    with Path(bench.device).open("r+b") as stream:
        stream.write(b"\x55\xaa")
    before = bench.content()
    bench.daemon.down.put(Prepare(plan, TOKEN))
    assert "partition table" in bench.daemon.wait_for(MemberState.REFUSED).reason
    assert bench.content() == before


def test_both_ends_are_on_the_server_before_the_node_is_ready(bench: Bench) -> None:
    table = "label: gpt\nlabel-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000001\n,2M,L\n"
    subprocess.run(["sfdisk", "--quiet", "--no-reread", bench.device], input=table.encode(), check=True)
    subprocess.run(["blockdev", "--flushbufs", bench.device], check=True)
    before = bench.file.read_bytes()
    bench.thread.start()
    bench.daemon.wait_for_joins(1)
    bench.daemon.save_errors = [ControlError("connection reset")]  # asked again
    bench.daemon.down.put(Prepare(bench.plan(), TOKEN))
    bench.daemon.wait_for(MemberState.READY)
    (saved,) = bench.daemon.saved
    assert saved.content == before[:CHUNK] + before[-CHUNK:]
    assert (saved.session, saved.serial, saved.size, saved.digest) == (
        "s1",
        "BENCH",
        DISK_SIZE,
        bench.plan().disk.table_digest,
    )
    assert "label-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000001" in saved.dump
    assert bench.file.read_bytes() == before


@pytest.mark.parametrize("errors", [[ControlError("no space left", 507)] * 3, [ControlError("not yours", 403)]])
def test_without_a_way_back_nothing_is_written(bench: Bench, errors: list[Exception]) -> None:
    bench.daemon.save_errors = errors
    bench.thread.start()
    bench.daemon.wait_for_joins(1)
    bench.daemon.down.put(Prepare(bench.plan(), TOKEN))
    failed = bench.daemon.wait_for(MemberState.FAILED)
    assert "the server does not keep the old partition table: no" in failed.reason
    bench.daemon.wait_for_joins(2)
    assert not bench.daemon.saved
    assert bench.content() == bench.before


def test_cancel_frees_the_disk_for_a_new_plan(bench: Bench) -> None:
    bench.thread.start()
    bench.daemon.wait_for_joins(1)
    bench.daemon.down.put(Prepare(bench.plan(), TOKEN))
    bench.daemon.wait_for(MemberState.READY)
    bench.daemon.down.put(Cancel("s1", "the operator changed his mind"))
    bench.daemon.wait_for_joins(2)
    assert "cancelled: the operator changed his mind" in bench.screen.getvalue()
    assert bench.content() == bench.before
    bench.daemon.reports.clear()
    bench.daemon.down.put(Prepare(bench.plan(), TOKEN))
    bench.daemon.wait_for(MemberState.READY)


def test_a_wrong_manifest_is_a_failure_with_a_bounded_number_of_returns(bench: Bench) -> None:
    bench.daemon.manifest = b"not a manifest"
    bench.thread.start()
    for number in range(1, agents.MAX_RETURNS + 2):
        bench.daemon.wait_for_joins(number)
        bench.daemon.reports.clear()
        bench.daemon.down.put(Prepare(bench.plan(), TOKEN))
        assert "manifest" in bench.daemon.wait_for(MemberState.FAILED).reason
    assert bench.content() == bench.before
    assert len(bench.daemon.joins) == agents.MAX_RETURNS + 1
    assert f"no more attempts in this boot after {agents.MAX_RETURNS}" in bench.screen.getvalue()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], list[Disk]]], tuple[Daemon, io.StringIO]]:
    """An agent whose clock moves only when it sleeps; run to its end."""
    now = [0.0]
    monkeypatch.setattr("stage2.agent.time.monotonic", lambda: now[0])
    monkeypatch.setattr("stage2.agent.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def run(take: Callable[[], list[Disk]], daemon: Daemon | None = None) -> tuple[Daemon, io.StringIO]:
        used, screen = daemon or Daemon(), io.StringIO()
        assert Agent(NODE, used, take, Console(screen)).run() == 1
        assert now[0] < 600, "bounded"
        return used, screen

    return run


def test_parked_when_the_server_is_not_there(
    no_pauses: Callable[..., tuple[Daemon, io.StringIO]],
) -> None:
    daemon = Daemon()
    daemon.join_errors = [ControlError("connection refused")] * 1000
    _, screen = no_pauses(list, daemon)
    text = screen.getvalue()
    assert text.count("Can't reach a valid KA server: connection refused (try ") == 5
    assert "parked: Can't reach a valid KA server in 5 tries: connection refused" in text
    assert [report.state for report in daemon.reports] == [MemberState.PARKED]


@pytest.mark.parametrize(
    ("work", "words", "tries"),
    [
        ("ka", "Can't reach a valid KA server", 5),
        ("dolly", "Can't reach a valid Dolly server", 3),
        ("dollyC", "Can't reach a valid Dolly server", 3),
    ],
)
def test_restarted_where_the_label_says_so(
    monkeypatch: pytest.MonkeyPatch, work: str, words: str, tries: int
) -> None:
    """Each work word has its ancestors' tries; ``give_up:reboot`` is theirs, too."""
    now, reboots = [0.0], []
    monkeypatch.setattr("stage2.agent.time.monotonic", lambda: now[0])
    monkeypatch.setattr("stage2.agent.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    daemon, screen = Daemon(), io.StringIO()
    daemon.join_errors = [ControlError("connection refused")] * 1000
    node = replace(NODE, work=work, gives_up_by_reboot=True)
    assert Agent(node, daemon, list, Console(screen), reboot=lambda: reboots.append(now[0])).run() == 0
    assert screen.getvalue().count(f"{words}: connection refused (try ") == tries
    assert f"restarting, as the label says: {words} in {tries} tries" in screen.getvalue()
    assert len(reboots) == 1
    assert daemon.reports == [], "it is not parked"


def test_parked_at_once_when_the_server_refuses(no_pauses: Callable[..., tuple[Daemon, io.StringIO]]) -> None:
    daemon = Daemon()
    daemon.join_errors = [ControlError("401 wrong token", 401)]
    _, screen = no_pauses(list, daemon)
    assert "parked: the server refuses this node: 401 wrong token" in screen.getvalue()


def test_parked_without_an_inventory(no_pauses: Callable[..., tuple[Daemon, io.StringIO]]) -> None:
    def broken() -> list[Disk]:
        raise InventoryError("lsblk: no such file")

    daemon, _ = no_pauses(broken)
    assert daemon.reports[-1].reason == "lsblk: no such file"
