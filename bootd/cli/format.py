"""Numbers for people. Bytes in, text out; sizes in MB and GB of 1000, as disks and links are sold."""

from typing import Any

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def size(count: int) -> str:
    """``123.4 MB``."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def megabytes(count: int) -> str:
    """``123`` for a column that says MB."""
    return f"{count / 1e6:.0f}"


def duration(seconds: float | None) -> str:
    """``1:05`` or ``2:01:05``; a dash for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def remaining(member: dict[str, Any]) -> float | None:
    """Seconds until the last byte has arrived at the present rate; None while nothing flows or all is there."""
    left = (member.get("total") or 0) - member.get("written", 0)
    rate = member.get("rate", 0)
    return left / rate if left > 0 and rate > 0 else None
