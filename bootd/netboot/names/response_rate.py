"""Response rate limiting: what one network may be told about one name, so that nobody is flooded through us.

UDP sources can be forged; a server that answers all of them multiplies what an attacker sends. Token buckets per
/24 of the source and name answered, and per /24 alone, since names cost an attacker nothing. Of what is too much,
every second answer is cut to "truncated": a real client then comes back over TCP, which cannot be forged.
Sans-IO; ``now`` is in monotonic seconds.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

_MOST_BUCKETS = 8192
_BURST_SECONDS = 2.0
_ALL_NAMES = 10  # a network may have so many times the answers that one name may have


class Verdict(Enum):
    ANSWER = "answer"
    TRUNCATE = "truncate"
    DROP = "drop"


@dataclass
class _Bucket:
    tokens: float
    filled: float
    refused: int = 0


class ResponseRate:
    """``per_second`` answers about one name to one /24; 0 = no limit."""

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._buckets: OrderedDict[tuple[str, object], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def judge(self, address: str, key: object, now: float) -> Verdict:
        """Whether the answer about ``key`` may go to the IPv4 ``address`` now; it counts."""
        if self._rate <= 0:
            return Verdict.ANSWER
        network = address.rpartition(".")[0]
        whole = self._bucket(network, None, self._rate * _ALL_NAMES, now)
        one = self._bucket(network, key, self._rate, now)
        if whole.tokens >= 1 and one.tokens >= 1:
            whole.tokens -= 1
            one.tokens -= 1
            return Verdict.ANSWER
        short = whole if whole.tokens < 1 else one
        short.refused += 1
        return Verdict.TRUNCATE if short.refused % 2 else Verdict.DROP

    def _bucket(self, network: str, key: object, rate: float, now: float) -> _Bucket:
        """The bucket, filled up to ``now``; the one that was not asked for longest makes room for a new one."""
        bucket = self._buckets.get((network, key))
        if bucket is None:
            bucket = self._buckets[(network, key)] = _Bucket(rate * _BURST_SECONDS, now)
            if len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
            return bucket
        bucket.tokens = min(rate * _BURST_SECONDS, bucket.tokens + (now - bucket.filled) * rate)
        bucket.filled = now
        self._buckets.move_to_end((network, key))
        return bucket
