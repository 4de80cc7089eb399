"""Times of day as operators write them: ``02:00``, or RFC 3339."""

import re
from datetime import datetime, timedelta

from bootd.errors import Exit, OperatorError

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\Z")


def parse_time(text: str, now: datetime) -> float:
    """Seconds since the epoch: of the next ``HH:MM`` after ``now`` (which has a time zone), or of an RFC 3339 time.

    `OperatorError` (USAGE) for what is neither, for a time without an offset and for one that is over.
    """
    match = _CLOCK.match(text.strip())
    if match:
        # On the wall clock of this machine, whatever summer time does in between.
        today = now.replace(
            tzinfo=None, hour=int(match.group(1)), minute=int(match.group(2)), second=0, microsecond=0
        )
        for day in range(3):
            moment = (today + timedelta(days=day)).astimezone()
            if moment > now:
                return moment.timestamp()
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise OperatorError(f"{text!r} is no time", "say 02:00, or 2026-01-31T02:00:00+01:00", Exit.USAGE) from None
    if moment.tzinfo is None:
        raise OperatorError(f"{text!r} has no offset", "add Z or +01:00, as RFC 3339 has it", Exit.USAGE)
    if moment <= now:
        raise OperatorError(f"{text!r} is over", "say a time that is to come", Exit.USAGE)
    return moment.timestamp()


def clock(seconds: float) -> str:
    """A moment, in local time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
