"""Kiosk policy: a machine is reset to its image at every boot, or once after a time of day. Sans-IO.

The reset is an ordinary session that compares: only chunks that differ are written. When it has ended well, the
machine boots its own disk once; the boot after that resets it again. What an operator sets for the machine, and a
session that names it, come first. One that cannot be reset `TRIES` times is parked, with the reason.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bootd.errors import Exit, OperatorError
from bootd.session.effects import KioskRecord

TRIES = 3
PAUSE = 20.0  # seconds between two sessions for one machine
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d\Z")


@dataclass
class Kiosk:
    """``is_due``: it is to be reset at its next boot; ``failures`` since it last went well."""

    record: KioskRecord
    is_due: bool
    failures: int = 0
    begun: float | None = None  # when its last session was made, monotonic seconds


class Kiosks:
    """The policies of all nodes, by MAC."""

    def __init__(self) -> None:
        self._nodes: dict[str, Kiosk] = {}

    def __iter__(self) -> Iterator[tuple[str, Kiosk]]:
        return iter(sorted(self._nodes.items()))

    def get(self, mac: str) -> Kiosk | None:
        return self._nodes.get(mac)

    def set(self, record: KioskRecord) -> None:
        """A policy at every boot is due at once; one at a time of day as its record says."""
        self._nodes[record.mac] = Kiosk(record, record.is_due or not record.at)

    def remove(self, mac: str) -> bool:
        return self._nodes.pop(mac, None) is not None

    def label(self, mac: str) -> tuple[str, str] | None:
        """What the machine boots for its policy, and why; None when nothing is due."""
        kiosk = self._nodes.get(mac)
        if kiosk is None or not kiosk.is_due:
            return None
        return kiosk.record.label, f"kiosk: reset to {kiosk.record.image}"

    def strike(self, clock: str) -> list[KioskRecord]:
        """Now it is ``clock`` ("03:00"): policies of that time are due. Records that have changed."""
        changed = []
        for kiosk in self._nodes.values():
            if kiosk.record.at == clock and not kiosk.is_due:
                kiosk.is_due, kiosk.record = True, replace(kiosk.record, is_due=True)
                changed.append(kiosk.record)
        return changed

    def succeeded(self, mac: str) -> KioskRecord | None:
        """The machine has been cloned. Its record, if that changed; None as well for one without a policy."""
        kiosk = self._nodes.get(mac)
        if kiosk is None:
            return None
        kiosk.failures, kiosk.begun = 0, None
        if not kiosk.record.at:
            return None
        kiosk.is_due, kiosk.record = False, replace(kiosk.record, is_due=False)
        return kiosk.record


def check_time(at: str) -> str:
    """``at``, if it is a time of day or ""; `OperatorError` (USAGE)."""
    if at and not _TIME.match(at):
        raise OperatorError(f"{at!r} is no time of day", "say 03:00, or nothing: at every boot", Exit.USAGE)
    return at


def groups(kiosks: Iterable[Kiosk]) -> list[list[Kiosk]]:
    """Those that one session can serve: the same image on the same place."""
    found: dict[tuple[object, ...], list[Kiosk]] = {}
    for kiosk in kiosks:
        record = kiosk.record
        found.setdefault((record.image, record.disk, record.parts, record.label), []).append(kiosk)
    return list(found.values())
