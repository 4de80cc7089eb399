"""The retry policies of the method words, as the seeds give them."""

import pytest

from bootd.wire.errors import LocalProtocolError
from bootd.wire.retry import Attempt, RetryPolicy, for_method


@pytest.mark.parametrize(
    ("method", "tries", "words"),
    [
        ("ka", 5, "Can't reach a valid KA server"),
        ("dolly", 3, "Can't reach a valid Dolly server"),
        ("dollyC", 3, "Can't reach a valid Dolly server"),
        ("http", 5, "Can't reach a valid HTTP server"),
        ("nfs", 5, "Can't reach a valid NFS server"),
    ],
)
def test_methods(method: str, tries: int, words: str) -> None:
    policy = for_method(method)
    attempts = list(policy.attempts())
    assert [attempt.number for attempt in attempts] == list(range(1, tries + 1))
    assert [attempt.is_last for attempt in attempts] == [False] * (tries - 1) + [True]
    assert policy.message == words


def test_dolly_timeout() -> None:
    assert {attempt.timeout for attempt in for_method("dolly").attempts()} == {120.0}
    assert for_method("dolly", timeout=300).timeout == 300
    assert for_method("dolly", timeout=300).tries == 3


def test_pauses_grow_to_a_bound() -> None:
    policy = RetryPolicy(6, 10.0, "no", first_delay=1.0, factor=3.0, longest_delay=10.0)
    assert list(policy.delays()) == [1.0, 3.0, 9.0, 10.0, 10.0]
    assert list(policy.delays(spread=0.5)) == [1.25, 3.75, 11.25, 12.5, 12.5]
    assert next(policy.attempts(spread=0.9)) == Attempt(1, 6, 0.0, 10.0)


@pytest.mark.parametrize("timeout", [0, -1, 1e9, float("nan")])
def test_timeout_out_of_bounds(timeout: float) -> None:
    with pytest.raises(LocalProtocolError, match="time-out"):
        for_method("dolly", timeout=timeout)


def test_unknown_method() -> None:
    with pytest.raises(LocalProtocolError, match="known: ka, dolly, dollyC, http, nfs"):
        for_method("nfs4")
