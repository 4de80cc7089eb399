"""The slowest hop: named where bytes queue up, and for no other reason."""

from bootd.session.hops import Hop, slowest


def hop(source: str, node: str, lag: int, rate: int, source_rate: int, **more: bool | float) -> Hop:
    values = {"is_receiving": True, "is_aside": False, **more}
    return Hop(source, node, lag, rate, source_rate, **values)  # type: ignore[arg-type]


def test_nothing_to_say() -> None:
    assert slowest([]) is None


def test_where_the_lag_grows() -> None:
    chain = [hop("head", "a", 500, 100, 0), hop("a", "b", 200, 40, 100), hop("b", "c", 3, 39, 40)]
    found = slowest(chain)
    assert found is not None
    assert (found.node, found.growth, found.catch_up) == ("b", 60, 5.0)


def test_everybody_at_one_rate_is_limited_by_the_hop_from_the_head() -> None:
    chain = [hop("head", "a", 900, 100, 0), hop("a", "b", 20, 98, 100), hop("b", "c", 30, 97, 98)]
    found = slowest(chain)
    assert found is not None
    assert found.node == "a"


def test_a_side_lane_holds_nobody_up() -> None:
    lane = hop("c", "slow", 800, 1, 100, is_aside=True)
    found = slowest([hop("head", "a", 90, 100, 0), lane])
    assert found is not None
    assert found.node == "a"
    assert slowest([hop("head", "a", 0, 0, 0, is_receiving=False), lane]) is lane


def test_afterwards_the_one_that_took_longest() -> None:
    ended = [hop("head", n, 0, 0, 0, is_receiving=False, taken=t) for n, t in (("a", 3.0), ("b", 9.0), ("c", 4.0))]
    found = slowest(ended)
    assert found is not None
    assert found.node == "b"
