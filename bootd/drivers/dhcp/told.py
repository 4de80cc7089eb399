"""Tells an operator what happens to clients, and the same thing once a minute: firmware repeats itself."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

OnEvent = Callable[[str, str, str, str], None]
"""(kind, mac, address, detail) for the timeline of a node; "" for what is not known. Must not raise."""

REPEAT_SECONDS = 60.0
_REMEMBERED = 1024


class Told:
    """A line in ``log`` and, for a known MAC, an event."""

    def __init__(self, log: Any, on_event: OnEvent) -> None:
        self._log, self._on_event = log, on_event
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()

    def once(self, kind: str, mac: str, address: str, detail: str) -> None:
        """Unless the same was told of the same node within the last minute."""
        now = time.monotonic()
        key = (mac, detail)
        if now - self._told.get(key, float("-inf")) < REPEAT_SECONDS:
            return
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        self._log.info(kind, mac=mac, address=address, detail=detail)
        if mac:
            self._on_event(kind, mac, address, detail)
