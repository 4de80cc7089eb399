"""Bytes per second, over about the last second."""

from dataclasses import dataclass

SPAN = 1.0  # seconds


@dataclass(frozen=True)
class Rate:
    """Bytes of image per second."""

    received: int = 0
    sent: int = 0
    disk: int = 0  # made durable, or read back
    blocked: int = 0  # milliseconds of a second in which receiving waited for the disk


class Rates:
    """Fed with counters that only grow."""

    def __init__(self) -> None:
        self._rate = Rate()
        self._since: float | None = None
        self._before: tuple[float, ...] = (0, 0, 0, 0)

    def update(self, now: float, received: int, sent: int, disk: int, blocked: float) -> Rate:
        """The counters at ``now`` (seconds; ``blocked`` in milliseconds); the rates of the last whole span."""
        counters = (received, sent, disk, blocked)
        if self._since is None:
            self._since, self._before = now, counters
        elif now - self._since >= SPAN:
            seconds = now - self._since
            values = [int(max(0, new - old) / seconds) for new, old in zip(counters, self._before, strict=True)]
            self._rate = Rate(*values)
            self._since, self._before = now, counters
        return self._rate
