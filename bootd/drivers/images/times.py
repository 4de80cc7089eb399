"""``created`` of a manifest (`bootd.images.manifest`) and seconds since the epoch."""

import calendar
import time

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def timestamp(seconds: float | None = None) -> str:
    """Of that moment; of now without one."""
    return time.strftime(_FORMAT, time.gmtime(seconds))


def seconds_of(created: str) -> int:
    """The opposite."""
    return calendar.timegm(time.strptime(created, _FORMAT))
