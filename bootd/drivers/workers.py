"""Worker processes of the daemon: started, fed one line, watched, ended by pid.

A worker ends when its standard input closes, so it cannot outlive the daemon, however that one dies. What it
writes to standard error goes to the log line by line.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence

import structlog

log = structlog.get_logger(__name__)

MAX_LINE = 4096  # bytes of one line of a worker's standard error; the rest of it is dropped
NICENESS = 5  # of workers: they move bytes, and give way to the daemon, which has little to do but firmware waits
_KEPT = 5  # last lines, for the reason of a death


class Worker:
    """One process. Not restarted: whoever owns it decides what its death means."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        first_line: bytes = b"",
        pass_fds: Sequence[int] = (),
        on_line: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """``first_line`` is written to its standard input, which then stays open. ``on_line`` gets each line that
        it writes and says whether that was for the daemon; all else is logged."""
        self.name = name
        self._command = list(command)
        self._first_line = first_line
        self._pass_fds = tuple(pass_fds)
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self._last: list[str] = []

    @property
    def pid(self) -> int:
        """Process id; 0 before `start`."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        """Whether the process is there and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def last_line(self) -> str:
        """The last line it wrote to its standard error."""
        return self._last[-1] if self._last else ""

    async def start(self) -> None:
        """Start the process. OSError when that fails."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=self._pass_fds,
            start_new_session=True,  # a Ctrl-C on the terminal is for the daemon, which ends its workers itself
        )
        with contextlib.suppress(OSError):  # it has ended already, or a sandbox forbids it: it runs all the same
            os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        self._pump = asyncio.create_task(self._read_errors(), name=f"stderr of {self.name}")
        if self._process.stdin is not None and self._first_line:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(self._first_line.rstrip(b"\n") + b"\n")
                await self._process.stdin.drain()

    async def wait(self) -> str:
        """Wait for its end; how it ended, in words, with its last line."""
        if self._process is None:
            return "never started"
        code = await self._process.wait()
        if self._pump is not None:
            await asyncio.wait({self._pump}, timeout=1)
        how = f"ended with status {code}" if code >= 0 else f"killed by signal {-code}"
        return f"{how}: {self._last[-1]}" if self._last else how

    async def stop(self, patience: float = 2.0) -> None:
        """End the process: close its input, then SIGTERM, then SIGKILL, ``patience`` seconds apart. Idempotent."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        for action in (None, process.terminate, process.kill):
            if action is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    action()
            try:
                await asyncio.wait_for(process.wait(), patience)
                break
            except TimeoutError:
                continue
        if self._pump is not None:
            self._pump.cancel()

    async def _read_errors(self) -> None:
        stream = self._process.stderr if self._process else None
        if stream is None:
            return
        pending = b""
        while data := await stream.read(65536):
            *lines, pending = (pending + data).split(b"\n")
            pending = pending[:MAX_LINE]
            for line in lines:
                self._note(line)
        if pending:
            self._note(pending)

    def _note(self, line: bytes) -> None:
        text = line[:MAX_LINE].decode(errors="replace").rstrip()
        if text and not self._on_line(text):
            self._last = [*self._last[-_KEPT:], text]
            log.info("worker", name=self.name, pid=self.pid, line=text)


class Backoff:
    """Delays between restarts: doubled up to ``most`` seconds, begun anew after a run of ``healthy`` seconds."""

    def __init__(self, first: float = 0.2, most: float = 10.0, healthy: float = 30.0) -> None:
        self._first, self._most, self._healthy = first, most, healthy
        self._next = first

    def after_run_of(self, seconds: float) -> float:
        """How long to wait now that a run of ``seconds`` has ended."""
        if seconds >= self._healthy:
            self._next = self._first
        delay = self._next
        self._next = min(self._most, self._next * 2)
        return delay
