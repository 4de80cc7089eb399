"""Runs the real rsync between a folder here and a module of the daemon, and reads what it says."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from urllib.parse import quote

from bootd.wire.sync import Tally, reason_of
from stage2 import pipe

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TEXT = 4000  # characters of standard error that are kept


class Rsync:
    """Runs for one task, one after the other. `stop` ends the present one, and all that would follow."""

    def __init__(self, server: str, token: str, node: str, task: str) -> None:
        """``server``: HOST:PORT of the node interface."""
        path = f"/node/v1/sync/{quote(task, safe='')}/stream?node={quote(node, safe='')}"
        self._environment = {pipe.SERVER: server, pipe.PATH: path, pipe.TOKEN: token}
        self._guard = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self.error = ""  # what it said last on standard error

    @property
    def is_stopped(self) -> bool:
        return self._stopped

    def run(self, words: Sequence[str], tally: Tally, told: Callable[[], None]) -> int:
        """``words`` as `bootd.wire.sync.arguments` makes them; ``told`` is called with every line that is counted.

        The exit status; 20 when it was stopped, 127 when there is no rsync.
        """
        environment = {
            "PATH": PATH,
            "LC_ALL": "C",
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            **self._environment,
        }
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            with self._guard:
                if self._stopped:
                    return 20
                try:
                    self._process = process = subprocess.Popen(
                        [words[0], f"--rsh={shlex.join([sys.executable, '-m', 'stage2.pipe'])}", *words[1:]],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=errors,
                        env=environment,
                        cwd="/",
                        text=True,
                        errors="surrogateescape",
                        start_new_session=True,
                    )
                except FileNotFoundError:
                    self.error = "no rsync here"
                    return 127
            try:
                for line in process.stdout or ():
                    tally.take(_printable(line.rstrip("\n")))
                    told()
                code = process.wait()
            finally:
                with self._guard:
                    self._end(process)
                    self._process = None
            errors.seek(0)
            self.error = errors.read(_TEXT).strip()
        return 20 if code < 0 else code

    def why(self, code: int) -> str:
        """``code`` in words, with the last that rsync itself said; "" for 0."""
        last = next((line for line in self.error.splitlines() if line.strip()), "")
        return f"{reason_of(code)}{f' ({last[:300]})' if last and code else ''}"

    def stop(self) -> None:
        """From any thread."""
        with self._guard:
            self._stopped = True
            if self._process is not None:
                self._end(self._process, signal.SIGTERM)

    def _end(self, process: "subprocess.Popen[str]", number: int = signal.SIGKILL) -> None:
        """It and the pipe beside it; who has ended already is not harmed."""
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        if number == signal.SIGKILL:
            process.wait()


def _printable(text: str) -> str:
    """Without what no message can carry: halves of surrogate pairs, control characters."""
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in clean)
