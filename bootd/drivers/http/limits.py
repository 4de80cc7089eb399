"""How often an address may ask. Seconds are arguments."""

import ipaddress
from collections import OrderedDict

MAX_KEYS = 4096


class Buckets:
    """A token bucket for each key: ``rate`` a second, ``burst`` at once. The key unused longest is forgotten."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, when

    def take(self, key: str, now: float) -> float:
        """0 when there was one to take, else the seconds until there is."""
        left, before = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - before) * self._rate)
        granted = left >= 1
        self._buckets[key] = (left - 1 if granted else left, now)
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        return 0.0 if granted else (1 - left) / self._rate


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one, since its user has all of it."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
