"""A program at one end of a stream: fed or read through a pipe, judged by its exit status and its last words."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import IO

_STDERR = 2
_TERM_SECONDS = 2.0  # from SIGTERM to SIGKILL
_WORDS_SECONDS = 1.0  # after the program's end, for what its children still say
_MAX_WORDS = 400  # characters of a last line


class Child:
    """``words``, run in a session of their own: a key pressed for bootd does not reach them. What the program says
    on standard error is passed on, and its last line kept. `OSError` when it cannot be started.

    ``feeds``: bytes go to its standard input (`stream`); else they come from its standard output.
    """

    def __init__(self, words: Sequence[str], *, feeds: bool) -> None:
        self._popen = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
            stdout=None if feeds else subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self._words = ""
        self._closing = threading.Lock()
        self._listener = threading.Thread(target=self._listen, name="bootd-stderr", daemon=True)
        self._listener.start()

    @property
    def stream(self) -> int:
        """Descriptor of the pipe."""
        pipe = self._popen.stdin or self._popen.stdout
        return pipe.fileno() if pipe is not None else -1

    def close_stream(self) -> None:
        """No more bytes."""
        with self._closing:
            pipe: IO[bytes] | None = self._popen.stdin or self._popen.stdout
            if pipe is not None and not pipe.closed:
                pipe.close()

    def wait(self) -> str:
        """Until the program has ended; "" when its status was 0, else how it ended and its last line."""
        status = self._popen.wait()
        self._listener.join(_WORDS_SECONDS)
        if status == 0:
            return ""
        how = f"the command ended with status {status}" if status > 0 else f"the command was {_killed(-status)}"
        return f"{how}: {self._words}" if self._words else how

    def kill(self) -> None:
        """End the program and what it has started, if it still runs."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._popen.poll() is not None:
                return
            try:
                os.killpg(self._popen.pid, number)
            except ProcessLookupError:
                return
            try:
                self._popen.wait(_TERM_SECONDS)
            except subprocess.TimeoutExpired:
                continue

    def _listen(self) -> None:
        stream = self._popen.stderr
        if stream is None:
            return
        line = b""
        with stream:
            while piece := stream.read(65536):
                with contextlib.suppress(OSError):  # ours may be closed
                    os.write(_STDERR, piece)
                *whole, line = (line + piece).split(b"\n")
                line = line[-_MAX_WORDS:]
                for text in [*whole, line]:
                    words = text.decode("utf-8", "replace").strip()
                    if words:
                        self._words = words[:_MAX_WORDS]


def _killed(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"
