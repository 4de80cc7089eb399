"""A process's output: written to a log file, and waited on by pattern, with a deadline."""

import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.lab.errors import LabError

_KEPT = 1 << 20  # characters that are kept in memory; the log file has all
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|c)")
_ESCAPE_BEGUN = re.compile(r"\x1b(?:\[[0-9;?=]*)?\Z")


@dataclass(frozen=True)
class Marker:
    """Output that was waited for."""

    text: str
    groups: tuple[str, ...]
    at: float  # seconds since the process was started


class Console:
    """Runs one process. ``who`` names it in errors; ``log`` gets every byte of its output."""

    def __init__(self, who: str, log: Path) -> None:
        self.who = who
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._text = ""
        self._dropped = 0  # characters cut off the front of _text
        self._position = 0  # counted from the first character of all: everything before has been matched
        self._ended = False
        self._started = 0.0
        self.changed: threading.Event | None = None  # set whenever there is new output, if given

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def age(self) -> float:
        """Seconds since `start`."""
        return time.monotonic() - self._started

    def start(
        self, command: list[str], environment: dict[str, str] | None = None, descriptors: tuple[int, ...] = ()
    ) -> None:
        """Run ``command``. It dies with this process: the kernel sends SIGKILL, whatever ends us."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
            env=None if environment is None else {**os.environ, **environment},
        )
        reader = threading.Thread(target=self._read, args=(self._process.stdout,), name=f"console-{self.who}")
        reader.daemon = True
        reader.start()

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a power cut; does nothing when the process has ended."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def terminate(self, seconds: float) -> int:
        """SIGTERM, then SIGKILL after ``seconds``. Returns the exit status."""
        process = self._process
        if process is None:
            return 0
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        self._end()
        return process.returncode

    def find(self, pattern: str) -> Marker | None:
        r"""The next match of ``pattern``, if the output has it already.

        The search begins where the last match ended (``\A`` in a pattern is that place).
        """
        with self._changed:
            return self._find(re.compile(pattern))

    def has(self, pattern: str) -> Marker | None:
        """Like `find`, without moving on."""
        with self._changed:
            return self._find(re.compile(pattern), move=False)

    def wait_for(self, pattern: str, seconds: float, step: str) -> Marker:
        """The next match of ``pattern``; `LabError` after ``seconds``, or when the process ends before."""
        wanted = re.compile(pattern)
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                marker = self._find(wanted)
                if marker is not None:
                    return marker
                if self._ended:
                    raise LabError(self.who, step, f"ended before {pattern!r}", self.log)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LabError(self.who, step, f"no {pattern!r} within {seconds:.0f} s", self.log)
                self._changed.wait(left)

    def type(self, text: str) -> None:
        """Send ``text`` to the process's standard input."""
        if self._process is None or self._process.stdin is None:
            raise LabError(self.who, "type", "not running", self.log)
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise LabError(self.who, "type", str(error), self.log) from None

    def last_line(self) -> str:
        """The last line of output that is not blank, for error messages."""
        with self._changed:
            lines = [line.strip() for line in self._text[-4000:].splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def _find(self, pattern: re.Pattern[str], *, move: bool = True) -> Marker | None:
        start = max(self._position - self._dropped, 0)
        found = pattern.search(self._text[start:])
        if found is None:
            return None
        if move:
            self._position = self._dropped + start + found.end()
        return Marker(found.group(0), tuple(group or "" for group in found.groups()), self.age)

    def _read(self, stream: IO[bytes]) -> None:
        rest = ""  # an escape sequence that the next read will complete
        with self.log.open("wb", buffering=0) as log:
            while data := os.read(stream.fileno(), 65536):
                log.write(data)
                text = _ESCAPES.sub("", rest + data.decode("utf-8", errors="replace"))
                begun = _ESCAPE_BEGUN.search(text)
                text, rest = (text[: begun.start()], begun.group(0)) if begun else (text, "")
                with self._changed:
                    self._text += text
                    if len(self._text) > 2 * _KEPT:
                        self._dropped += len(self._text) - _KEPT
                        self._text = self._text[-_KEPT:]
                    self._changed.notify_all()
                if self.changed is not None:
                    self.changed.set()
        stream.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _end(self) -> None:
        process = self._process
        if process is not None:
            process.wait(20)
            if process.stdin and not process.stdin.closed:
                process.stdin.close()
