"""The console's lines on their way to the server: kept while it cannot be reached, within bounds."""

import threading
import time
from collections import deque
from collections.abc import Callable

from bootd.member.control import ControlError
from bootd.wire.errors import ProtocolError
from bootd.wire.logs import MAX_LINES, Log, LogLine, printable

MAX_KEPT = 4000  # lines that wait; the oldest go
PAUSE = 1.0  # seconds between two messages
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Shipping:
    """``send`` has the server keep some lines, and raises when it did not. `add` may be called by any thread."""

    def __init__(self, node: str, send: Callable[[Log], None], boot: str | None = None) -> None:
        self._node, self._send = node, send
        self._boot = read_boot() if boot is None else boot
        self._lines: deque[LogLine] = deque()
        self._first = 0  # number of the first line that waits
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        self._ended = threading.Event()

    def add(self, text: str, session: str) -> None:
        """Keep a line, until the server has it or `MAX_KEPT` others have come."""
        line = LogLine(int(time.monotonic() * 1000), session, printable(text))
        with self._guard:
            if len(self._lines) >= MAX_KEPT:
                self._lines.popleft()
                self._first += 1
            self._lines.append(line)

    def run(self) -> None:
        """Thread: send what waits, until `close`."""
        while not self._ended.wait(PAUSE):
            self.flush()

    def flush(self) -> bool:
        """Send all that waits now; False when not all of it arrived."""
        with self._sending:
            while True:
                with self._guard:
                    first, lines = self._first, tuple(list(self._lines)[:MAX_LINES])
                if not lines:
                    return True
                try:
                    self._send(Log(self._node, self._boot, "stage2", first, lines))
                except ControlError as error:
                    if not 400 <= error.status < 500:
                        return False
                    # The server does not want these, and will not.
                except (OSError, ProtocolError):
                    return False
                with self._guard:
                    while self._lines and self._first < first + len(lines):
                        self._lines.popleft()
                        self._first += 1

    def close(self) -> None:
        """Send what still waits, once."""
        self._ended.set()
        self.flush()


def read_boot() -> str:
    """The kernel's name for this run of the machine; "" when it does not tell."""
    try:
        with open(BOOT_ID) as stream:
            return stream.read().strip()
    except OSError:
        return ""
