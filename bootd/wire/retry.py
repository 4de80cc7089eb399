"""How often, how long and with which words a node tries to reach its server. Pure: the caller waits.

The seeds' numbers: ka tries five times; dolly and dolly+ three times with a time-out of 120 s (``dolly_timeout``).
After the last try the caller parks, or reboots if the label says so; it never starts over by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bootd.wire.errors import LocalProtocolError

MAX_TRIES = 100
MAX_TIMEOUT = 3600.0


@dataclass(frozen=True)
class Attempt:
    """One try. Wait ``delay`` seconds, then give it ``timeout`` seconds."""

    number: int  # from 1
    of: int
    delay: float
    timeout: float

    @property
    def is_last(self) -> bool:
        return self.number == self.of


@dataclass(frozen=True)
class RetryPolicy:
    """Bounded tries with growing pauses. Times in seconds."""

    tries: int
    timeout: float  # of one try
    message: str  # what the node shows when a try has failed
    first_delay: float = 1.0
    factor: float = 2.0
    longest_delay: float = 15.0

    def __post_init__(self) -> None:
        if not 1 <= self.tries <= MAX_TRIES:
            raise LocalProtocolError(f"{self.tries} tries, 1 to {MAX_TRIES} allowed")
        if not 0 < self.timeout <= MAX_TIMEOUT:
            raise LocalProtocolError(f"time-out of {self.timeout} s, up to {MAX_TIMEOUT:g} s allowed")
        if self.first_delay < 0 or self.longest_delay < 0 or self.factor < 1:
            raise LocalProtocolError("pauses must not be negative and must not shrink")

    def delays(self, spread: float = 0.0) -> Iterator[float]:
        """The pause before each try but the first: ``tries - 1`` values.

        ``spread`` in [0, 1) lengthens each by up to half, so that a room of nodes does not knock all at once.
        """
        delay = self.first_delay
        for _ in range(self.tries - 1):
            yield min(delay, self.longest_delay) * (1 + spread / 2)
            delay = min(delay * self.factor, self.longest_delay)

    def attempts(self, spread: float = 0.0) -> Iterator[Attempt]:
        """Every try, the first without a pause."""
        yield Attempt(1, self.tries, 0.0, self.timeout)
        for number, delay in enumerate(self.delays(spread), start=2):
            yield Attempt(number, self.tries, delay, self.timeout)


_POLICIES = {
    "ka": RetryPolicy(5, 20.0, "Can't reach a valid KA server"),
    "dolly": RetryPolicy(3, 120.0, "Can't reach a valid Dolly server"),
    "dollyC": RetryPolicy(3, 120.0, "Can't reach a valid Dolly server"),
    "http": RetryPolicy(5, 20.0, "Can't reach a valid HTTP server"),
    "nfs": RetryPolicy(5, 20.0, "Can't reach a valid NFS server"),
}
METHODS = tuple(_POLICIES)


def for_method(method: str, timeout: float | None = None) -> RetryPolicy:
    """The policy of a method word; ``timeout`` (``dolly_timeout``, seconds) replaces its own.

    `LocalProtocolError` for an unknown method or a time-out out of bounds.
    """
    policy = _POLICIES.get(method)
    if policy is None:
        raise LocalProtocolError(f"unknown method {method!r}, known: {', '.join(METHODS)}")
    if timeout is None:
        return policy
    return RetryPolicy(policy.tries, timeout, policy.message)
