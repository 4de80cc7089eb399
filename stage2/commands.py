"""Commands that an operator has this node run: a process each, its output on the way to the server while it runs.

They come over the node's own connection to the daemon, as plans do; nothing listens here. Each is in a process
group of its own, with a time limit and a bound on its output. Nobody is left behind: when the server does not want
the output any more, when the limit is over and when the agent leaves, the whole group is killed.
"""

import codecs
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from bootd.member.control import ControlError
from bootd.wire.commands import HEARTBEAT, MAX_OUTPUT, MAX_PIECES, MAX_SECONDS, Execute, Output, Piece, StopCommand
from bootd.wire.errors import ProtocolError

AT_ONCE = 8
REMEMBERED = 256  # ids of those that were taken up
GRACE = 2.0  # seconds from SIGTERM to SIGKILL
PAUSE = 0.25  # seconds of output that go into one message
TRIES = 30  # of a message that does not arrive, a second apart
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_RUN = 127
_READ = 4096  # bytes of one piece

Send = Callable[[Output], None]


class Commands:
    """Takes `Execute` and `StopCommand`. ``send`` raises `ControlError` when output did not arrive."""

    def __init__(self, node: str, send: Send, say: Callable[[str], None], tries: int = TRIES) -> None:
        self._node, self._send, self._say, self._tries = node, send, say, tries
        self._seen: dict[str, None] = {}
        self._running: dict[str, tuple[Command, threading.Thread]] = {}
        self._guard = threading.Lock()

    def take(self, message: Execute | StopCommand) -> None:
        """Begin or end a command. The same one is never begun twice. From one thread."""
        with self._guard:
            running = self._running.get(message.id)
            is_full = len(self._running) >= AT_ONCE
        if isinstance(message, StopCommand):
            if running is not None:
                running[0].stop("stopped")
            return
        if message.id in self._seen:
            return
        self._seen[message.id] = None
        while len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._say(f"runs for an operator: {' '.join(message.command)[:200]}")
        command = Command(self._node, message, self._send, self._tries)
        if is_full:
            command.stop(f"{AT_ONCE} commands run already")
        thread = threading.Thread(
            target=self._run, args=(command,), name=f"bootd-command-{message.id}", daemon=True
        )
        with self._guard:
            self._running[message.id] = command, thread
        thread.start()

    def close(self) -> None:
        """End all of them, at once."""
        with self._guard:
            running = list(self._running.values())
        for command, _ in running:
            command.stop("the node leaves stage2", grace=0.0)
        for _, thread in running:
            thread.join(GRACE)

    def _run(self, command: "Command") -> None:
        try:
            command.run()
        finally:
            with self._guard:
                self._running.pop(command.id, None)


class Command:
    """One command, from its beginning to the message that tells its end."""

    def __init__(self, node: str, order: Execute, send: Send, tries: int) -> None:
        self.id = order.id
        self._node, self._order, self._send, self._tries = node, order, send, tries
        self._pieces: queue.Queue[Piece] = queue.Queue(MAX_PIECES)
        self._number = 0
        self._told = 0.0
        self._left = MAX_OUTPUT
        self._dropped = 0
        self._bounds = threading.Lock()  # of these two
        self._guard = threading.Lock()  # of the three below
        self._reason = ""
        self._kill_at: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_unwanted = False

    def stop(self, reason: str, grace: float = GRACE) -> None:
        """Ask the whole group to end, and kill it when ``grace`` seconds are over. From any thread."""
        with self._guard:
            self._reason = self._reason or reason
            at = time.monotonic() + grace
            self._kill_at = at if self._kill_at is None else min(self._kill_at, at)
            if self._process is not None:
                _signal_group(self._process, signal.SIGTERM)

    def run(self) -> None:
        """Start it, send what it prints, tell its end."""
        try:
            process = self._start()
        except (OSError, ValueError) as error:
            self._reason = self._reason or f"cannot be started: {getattr(error, 'strerror', None) or error}"
            process = None
        if process is None:
            self._tell((), ended=True, code=_NOT_RUN)
            return
        self._tell(())
        streams = (("out", process.stdout), ("err", process.stderr))
        readers = [threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams]
        for reader in readers:
            reader.start()
        end = time.monotonic() + min(max(1, self._order.seconds), MAX_SECONDS)
        while not _has_ended(process) and not self._is_over():
            self._forward(PAUSE)
            if time.monotonic() >= end:
                self.stop("time limit")
        with self._guard:
            # Its number cannot be that of another group before its leader is reaped.
            _signal_group(process, signal.SIGKILL)
            process.wait()
            self._process = None
        self._drain(readers)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        self._tell((), ended=True, code=code)

    def _start(self) -> "subprocess.Popen[bytes] | None":
        with self._guard:
            if self._reason:  # stopped before it has begun
                return None
            if not self._order.command:
                raise ValueError("no command")
            self._process = subprocess.Popen(
                list(self._order.command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": PATH, "HOME": "/root", "TERM": "dumb", "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
            return self._process

    def _is_over(self) -> bool:
        with self._guard:
            return self._kill_at is not None and time.monotonic() >= self._kill_at

    def _read(self, name: str, stream: IO[bytes]) -> None:
        """Thread: pieces of output, whole characters each."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            data = os.read(stream.fileno(), _READ)
            with self._bounds:
                taken = data[: self._left]
                self._left -= len(taken)
                self._dropped += len(data) - len(taken)
            text = decoder.decode(taken, final=not data)
            if text:
                self._pieces.put(Piece(name, text))
            if not data:
                stream.close()
                return

    def _forward(self, seconds: float) -> None:
        """Send what comes within ``seconds``, and a sign of life now and then."""
        end = time.monotonic() + seconds
        pieces: list[Piece] = []
        while len(pieces) < MAX_PIECES and (left := end - time.monotonic()) > 0:
            with suppress(queue.Empty):
                pieces.append(self._pieces.get(timeout=left))
        if pieces or time.monotonic() - self._told >= HEARTBEAT:
            self._tell(tuple(pieces))

    def _drain(self, readers: list[threading.Thread]) -> None:
        """What was printed before the end. Who has left the group may hold a pipe open: that is not waited for."""
        end = time.monotonic() + GRACE
        while any(reader.is_alive() for reader in readers) and time.monotonic() < end:
            self._forward(0.05)
        while not self._pieces.empty():
            self._forward(0.01)

    def _tell(self, pieces: tuple[Piece, ...], *, ended: bool = False, code: int = 0) -> None:
        """Send a message, again while the server cannot be reached. If nobody wants it: stop."""
        if self._is_unwanted:
            return
        self._number += 1
        reason = self._reason if ended else ""
        message = Output(
            self._node, self.id, self._number, pieces, ended=ended, code=code, reason=reason, dropped=self._dropped
        )
        for _ in range(self._tries):
            try:
                self._send(message)
            except ControlError as error:
                if 400 <= error.status < 500:
                    break
            except (OSError, ProtocolError):
                pass
            else:
                self._told = time.monotonic()
                return
            time.sleep(1.0)
        self._is_unwanted = True
        self.stop("nobody wants its output any more")


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it has; it is not reaped."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
