"""The head as a process, with a daemon of the test's making and a real target."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootd.member.control import ControlClient
from bootd.member.head import SettingsError, parse_settings
from bootd.member.member import Member
from bootd.member.store import FileStore
from bootd.wire import control, manifest
from bootd.wire.control import Address, Arrange, Cancel, Finish, MemberState, Message, Report
from tests.unit.ring_parts import HOST, PATIENCE, make_body
from tests.unit.test_member_control import Daemon, event

SESSION, JOIN_KEY = "lab-1", "0badcafe"
HEAD = f"head-{SESSION}"


class Process:
    """`python -m bootd.member.head` and the daemon that it talks to."""

    def __init__(self, source: str, *messages: Message, cache: str = "") -> None:
        self.daemon = Daemon([[event(message) for message in messages]])
        line = {
            "server": self.daemon.address, "node": HEAD, "token": "feed", "session": SESSION,
            "join_token": JOIN_KEY, "source": source, "host": HOST, **({"cache": cache} if cache else {}),
        }  # fmt: skip
        self.child = subprocess.Popen(
            [sys.executable, "-m", "bootd.member.head"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        if self.child.stdin is None:
            raise AssertionError("no pipe")
        self.child.stdin.write(json.dumps(line).encode() + b"\n")
        self.child.stdin.flush()

    def await_report(self, wanted: Callable[[Report], bool]) -> Report:
        found: list[Report] = []

        def has_come() -> bool:
            bodies = [body for _, path, _, body in self.daemon.requests if path.endswith("/report")]
            found.extend(filter(wanted, (control.decode_as(Report, body) for body in bodies)))
            return bool(found)

        with self.daemon.arrived:
            assert self.daemon.arrived.wait_for(has_come, PATIENCE)
        return found[0]

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(PATIENCE)
        if self.child.stdin is not None:
            self.child.stdin.close()
        self.daemon.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(make_body(50))
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def begin(*arguments: object, **options: str) -> Process:
        made.append(Process(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield begin
    for process in made:
        process.close()


def test_whole_session(start: Callable[..., Process], source: Path, tmp_path: Path) -> None:
    head = start(str(source), Arrange(SESSION, 1, None, ""), Finish("another session", "exit"))
    ready = head.await_report(lambda report: report.state is MemberState.READY and report.epoch == 1)
    size = source.stat().st_size
    assert (ready.node, ready.total, ready.written, ready.verified) == (HEAD, size, size, 0)
    image = manifest.parse(ControlClient(head.daemon.address, "n", "feed").fetch_manifest(SESSION))
    assert image.size == size
    store = FileStore(str(tmp_path / "target"), size)
    target = Member(
        node="n", session=SESSION, join_token=JOIN_KEY, manifest=image, store=store, listen_host=HOST,
        report=lambda _: None, is_head=False,
    )  # fmt: skip
    try:
        target.start()
        target.arrange(Arrange(SESSION, 1, Address(HOST, ready.port), HEAD))
        assert target.wait(PATIENCE).state is MemberState.VERIFIED
    finally:
        target.stop()
        store.close()
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    head.await_report(lambda report: report.sent == size)
    assert head.child.stdin is not None
    head.child.stdin.close()
    assert head.child.wait(PATIENCE) == 0


@pytest.mark.parametrize("message", [Finish(SESSION, "exit"), Cancel(SESSION, "enough")])
def test_ends_as_told(start: Callable[..., Process], source: Path, message: Message) -> None:
    head = start(str(source), message)
    assert head.child.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "No such file or directory"),
        ("empty", "is empty"),
        ("pipe", "neither a regular file"),
        (".", "neither a regular file"),
    ],
)
def test_source_that_cannot_be_read(start: Callable[..., Process], tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    head = start(str(tmp_path / name))
    report = head.await_report(lambda report: report.state is MemberState.FAILED)
    assert words in report.reason
    assert str(tmp_path / name) in report.reason
    assert head.child.wait(PATIENCE) == 1


GOOD = {
    "server": "h:1", "node": "n", "token": "t", "session": "s", "join_token": "j", "source": "/x", "host": "::",
}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        json.dumps({**GOOD, "more": "x"}).encode(),
        json.dumps({**GOOD, "host": ""}).encode(),
        json.dumps({**GOOD, "session": 7}).encode(),
        json.dumps({key: value for key, value in GOOD.items() if key != "node"}).encode(),
    ],
)
def test_settings_that_do_not_fit(line: bytes) -> None:
    with pytest.raises(SettingsError):
        parse_settings(line)
    assert parse_settings(json.dumps(GOOD).encode()).source == "/x"


def test_exit_status_of_wrong_settings() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bootd.member.head"], input=b"{}\n", capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert b"settings must be an object of" in done.stderr


def test_digests_of_an_image_are_remembered(start: Callable[..., Process], tmp_path: Path) -> None:
    """The next head, also one that takes the place of a dead one, has the same manifest."""
    image = str(Path(sys.executable).resolve())  # written long ago
    roots = []
    for _ in range(2):
        process = start(image, cache=str(tmp_path / "digests"))
        process.await_report(lambda report: report.state is MemberState.READY)
        bodies = [body for _, path, _, body in process.daemon.requests if "manifest" in path]
        roots.append(manifest.parse(bodies[0]).root)
        (entry,) = (tmp_path / "digests").iterdir()
    assert roots[0] == roots[1]
    assert entry.stat().st_mode & 0o077 == 0
