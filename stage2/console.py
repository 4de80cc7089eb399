"""What stage2 shows on the console: markers that tests and operators look for, and progress."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from bootd.wire.control import MemberState, Report

PROGRESS_SECONDS = 2.0


class Console:
    """Lines ``bootd-stage2: …``. A failing console (a serial line that is gone) never stops the work."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.ship: Callable[[str], None] = lambda _: None  # told every line, to take it to the server
        self._stream = stream or sys.stdout
        self._last = ""
        self._total = 0
        self._shown: set[str] = set()
        self._progress_at = 0.0

    def say(self, text: str) -> None:
        try:
            self._stream.write(f"bootd-stage2: {text}\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass
        self.ship(text)
        self._last = text

    mark = say

    def once(self, text: str) -> None:
        """Say it unless it was said last."""
        if text != self._last:
            self.say(text)

    def begin(self, total: int) -> None:
        """A new transfer of ``total`` bytes: its markers may come again."""
        self._total = total
        self._shown.clear()

    def follow(self, report: Report) -> None:
        """The markers that a member's report calls for, each once, and a line of progress every two seconds."""
        if report.state in (MemberState.RECEIVING, MemberState.VERIFYING, MemberState.VERIFIED):
            self._mark_once("receiving", "receiving")
        if self._total and report.durable >= self._total:
            self._mark_once("durable", f"durable {report.durable}")
        if report.state is MemberState.VERIFIED:
            self._mark_once("verified", f"verified {report.verified}")
        now = time.monotonic()
        busy = report.state in (MemberState.RECEIVING, MemberState.VERIFYING)
        if busy and self._total and now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            self.say(progress_line(report, self._total))

    def _mark_once(self, key: str, text: str) -> None:
        if key not in self._shown:
            self._shown.add(key)
            self.mark(text)


def progress_line(report: Report, total: int) -> str:
    """Where a transfer stands, on one line."""
    return (
        f"{report.written * 100 // total} % written, {report.durable * 100 // total} % durable, "
        f"{report.verified * 100 // total} % verified of {total / 1e6:.0f} MB, {report.rate / 1e6:.1f} MB/s"
    )
