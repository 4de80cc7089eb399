"""Commands of operators on a node: real processes; what became of them is asked of the kernel."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootd.member.control import ControlError
from bootd.wire.commands import MAX_OUTPUT, Execute, Output, StopCommand
from bootd.wire.control import decode, encode
from stage2 import commands
from stage2.commands import Commands

DEADLINE = 20.0  # seconds, for every wait
NODE = "52:54:00:00:00:01"


class Server:
    """Takes output, unless ``errors`` are left to be raised."""

    def __init__(self) -> None:
        self.got: list[Output] = []
        self.errors: list[Exception] = []
        self.said: list[str] = []
        self._changed = threading.Condition()
        self.commands = Commands(NODE, self.send, self.said.append)

    def send(self, message: Output) -> None:
        assert decode(encode(message)) == message
        with self._changed:
            if self.errors:
                raise self.errors.pop(0)
            self.got.append(message)
            self._changed.notify_all()

    def wait(self, what: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(what, DEADLINE), self.got

    def end(self, job: str = "j") -> Output:
        """The message that tells the end."""
        self.wait(lambda: any(message.ended and message.id == job for message in self.got))
        return next(message for message in self.got if message.ended and message.id == job)

    def text(self, stream: str = "out", job: str = "j") -> str:
        pieces = [piece for message in self.got if message.id == job for piece in message.pieces]
        return "".join(piece.text for piece in pieces if piece.stream == stream)

    def run(self, *command: str, seconds: int = 30, job: str = "j") -> None:
        self.commands.take(Execute(job, command, seconds))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(commands, "GRACE", 0.5)
    made = Server()
    yield made
    made.commands.close()


def gone(pid: int) -> bool:
    """Whether no such process runs; one that nobody has reaped does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        threading.Event().wait(0.02)


def test_output_and_status(server: Server) -> None:
    server.run("sh", "-c", "echo out; echo err >&2; pwd; cat; exit 7")
    end = server.end()
    assert (end.code, end.reason, end.dropped) == (7, "", 0)
    assert (server.text(), server.text("err")) == ("out\n/\n", "err\n")
    assert [message.number for message in server.got] == list(range(1, len(server.got) + 1))
    assert server.said == ["runs for an operator: sh -c echo out; echo err >&2; pwd; cat; exit 7"]


def test_no_shell_looks_at_the_words(server: Server) -> None:
    server.run("printf", "%s|", "a b", "$HOME", "*", "; false")
    assert server.end().code == 0
    assert server.text() == "a b|$HOME|*|; false|"


def test_it_is_sent_while_it_runs(server: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    server.run("sh", "-c", f"echo first; read -r word < {tmp_path}/fifo; echo $word")
    server.wait(lambda: "first" in server.text())
    assert not any(message.ended for message in server.got)
    (tmp_path / "fifo").write_text("second\n")
    assert server.end().code == 0
    assert server.text() == "first\nsecond\n"


def test_characters_are_whole(server: Server) -> None:
    script = r"printf '\303'; sleep 0.6; printf '\251\n\377\n'"
    server.run("sh", "-c", script)
    server.end()
    assert server.text() == "é\n\ufffd\n"


def test_output_has_a_bound(server: Server) -> None:
    server.run("head", "-c", str(MAX_OUTPUT + 12345), "/dev/zero")
    end = server.end()
    assert (end.code, end.dropped) == (0, 12345)
    assert len(server.text()) == MAX_OUTPUT


@pytest.mark.parametrize(
    ("command", "reason"),
    [(("/nowhere/x",), "No such file"), (("/etc/passwd",), "denied"), (("a\0b",), "null byte"), ((), "no command")],
)
def test_what_cannot_be_started(server: Server, command: tuple[str, ...], reason: str) -> None:
    server.run(*command)
    end = server.end()
    assert end.code == 127
    assert end.reason.startswith("cannot be started: ")
    assert reason in end.reason


def test_a_time_limit_ends_the_whole_group(server: Server) -> None:
    server.run("sh", "-c", "trap '' TERM; sleep 300 & echo $!; wait; sleep 300", seconds=1)
    server.wait(lambda: server.text().endswith("\n"))
    child = int(server.text())
    assert not gone(child)
    end = server.end()
    assert (end.code, end.reason) == (128 + signal.SIGKILL, "time limit")
    wait_until_gone(child)


def test_stop_asks_first(server: Server) -> None:
    server.run("sh", "-c", "trap 'echo bye; exit 3' TERM; echo here; while :; do sleep 0.1; done")
    server.wait(lambda: "here" in server.text())
    server.commands.take(StopCommand("other"))
    server.commands.take(StopCommand("j"))
    end = server.end()
    assert (end.code, end.reason) == (3, "stopped")
    assert server.text() == "here\nbye\n"


def test_what_a_command_leaves_behind_is_killed(server: Server) -> None:
    server.run("sh", "-c", "sleep 300 > /dev/null 2>&1 & echo $!")
    assert server.end().code == 0
    wait_until_gone(int(server.text()))


def test_the_same_job_runs_once(server: Server, tmp_path: Path) -> None:
    for _ in range(3):
        server.run("sh", "-c", f"echo x >> {tmp_path}/runs")
    server.end()
    server.run("sh", "-c", f"echo x >> {tmp_path}/runs")
    server.run("true", job="k")
    server.end("k")
    assert (tmp_path / "runs").read_text() == "x\n"


def test_nobody_wants_the_output(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is over for the daemon, or the daemon is another one: the next sign of life is refused."""
    monkeypatch.setattr(commands, "HEARTBEAT", 0.1)
    server.run("sh", "-c", "echo $$; while :; do sleep 0.1; done")
    server.wait(lambda: server.text().endswith("\n"))
    server.errors = [ControlError("nobody waits for this output", 410)]
    wait_until_gone(int(server.text()))


def test_output_waits_for_a_server_that_restarts(server: Server) -> None:
    server.errors = [ControlError("connection refused"), OSError("timed out")]
    server.run("echo", "hello")
    assert server.end().code == 0
    assert server.text() == "hello\n"


def test_too_many_at_once(server: Server) -> None:
    for number in range(commands.AT_ONCE):
        server.run("sleep", "300", job=f"s{number}")
    server.wait(lambda: len(server.got) == commands.AT_ONCE)
    server.run("true", job="more")
    assert server.end("more").reason == "8 commands run already"


def test_the_agent_leaves(server: Server) -> None:
    server.run("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done")
    server.wait(lambda: server.text().endswith("\n"))
    server.commands.close()
    assert gone(int(server.text()))
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    for child in children:
        with contextlib.suppress(FileNotFoundError):  # it has ended since
            assert b"sleep" not in Path(f"/proc/{child}/cmdline").read_bytes()
