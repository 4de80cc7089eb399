"""Whether the daemon can do its work: a list of what is wrong, each with what to do. Looks, changes nothing."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bootd.drivers.service import Service

LEAST_FREE = 64 << 20  # bytes; below it the journal may soon fail

Check = Callable[[], str]
"""One sentence on what is wrong, or ""."""


def free_space(folder: Path) -> str:
    """A `Check`, once ``folder`` is bound to it."""
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return f"{folder} cannot be looked at: {error.strerror}"
    free = found.f_bavail * found.f_frsize
    return f"{folder} has {free >> 20} MiB left: make room" if free < LEAST_FREE else ""


def troubles_of(services: Sequence[Service]) -> list[str]:
    """What the services say themselves: those that can have a ``trouble`` tell it."""
    said = (str(getattr(service, "trouble", "")) for service in services)
    return [text for text in said if text]


class Health:
    """Asks ``checks`` and ``services`` whenever it is called."""

    def __init__(self, checks: Sequence[Check], services: Callable[[], Sequence[Service]]) -> None:
        self._checks, self._services = tuple(checks), services

    def __call__(self) -> list[str]:
        """Sentences; [] when all is well."""
        return [text for text in (check() for check in self._checks) if text] + troubles_of(self._services())
