"""Who gets stage2 from whom: the shape of the tree, complaints, and nobody fed by himself."""

from collections import Counter
from random import Random

from bootd.session.stage_ring import FAN_OUT, KEEP_SECONDS, MAX_PATIENCE, Feed, StageRing

DIGEST = "a" * 64


def url(node: str) -> str:
    return f"http://{node}:1/{DIGEST}"


def test_a_tree_below_one_node() -> None:
    ring = StageRing()
    feeds = {f"n{number}": ring.arrange(f"n{number}", url(f"n{number}"), DIGEST, "", 0.0) for number in range(100)}
    assert [node for node, feed in feeds.items() if not feed.peer] == ["n0"]
    load = Counter(feed.peer for feed in feeds.values() if feed.peer)
    assert max(load.values()) == FAN_OUT
    assert feeds["n1"] == Feed(url("n0"), "n0", feeds["n1"].patience)
    # Who is further from the server waits longer: trouble is reported by those next to it.
    assert feeds["n1"].patience < feeds["n3"].patience < feeds["n99"].patience <= MAX_PATIENCE


def test_who_complains_is_fed_by_the_server_and_the_peer_by_nobody_asked_any_more() -> None:
    ring = StageRing()
    ring.arrange("bad", url("bad"), DIGEST, "", 0.0)
    assert ring.arrange("n1", url("n1"), DIGEST, "", 0.0).peer == "bad"
    assert ring.arrange("n1", url("n1"), DIGEST, url("bad"), 1.0) == Feed()
    assert ring.arrange("n2", url("n2"), DIGEST, "", 2.0).peer == "n1"


def test_a_node_blames_only_its_own_predecessor() -> None:
    ring = StageRing()
    ring.arrange("good", url("good"), DIGEST, "", 0.0)
    ring.arrange("n1", url("n1"), DIGEST, "", 0.0)
    ring.arrange("liar", url("liar"), DIGEST, "", 0.0)  # fed by good
    ring.arrange("liar", url("liar"), DIGEST, url("n1"), 0.0)
    assert ring.arrange("n2", url("n2"), DIGEST, "", 0.0).peer in ("n1", "liar")
    assert ring.arrange("n3", url("n3"), DIGEST, "", 0.0).peer in ("n1", "liar")


def test_another_stage2_is_not_handed_on() -> None:
    ring = StageRing()
    ring.arrange("old", url("old"), "b" * 64, "", 0.0)
    assert ring.arrange("n1", url("n1"), DIGEST, "", 0.0) == Feed()


def test_who_asked_long_ago_hands_on_no_more_unless_it_was_needed() -> None:
    ring = StageRing()
    ring.arrange("n0", url("n0"), DIGEST, "", 0.0)
    assert ring.arrange("n1", url("n1"), DIGEST, "", KEEP_SECONDS - 1).peer == "n0"
    assert ring.arrange("n2", url("n2"), DIGEST, "", KEEP_SECONDS + 1).peer == "n0"
    assert ring.arrange("n3", url("n3"), DIGEST, "", 3 * KEEP_SECONDS) == Feed()


def test_nobody_is_fed_by_way_of_himself() -> None:
    """Seeded histories of boots, second tries and complaints: from every node the way leads to the server."""
    for seed in range(200):
        random, ring = Random(seed), StageRing()
        feeders: dict[str, str] = {}
        for moment in range(60):
            node = f"n{random.randrange(12)}"
            before = feeders.get(node, "")
            failed = url(before) if before and random.random() < 0.3 else ""
            feeders[node] = ring.arrange(node, url(node), DIGEST, failed, moment / 10).peer
            seen, current = set(), node
            while current:
                assert current not in seen, f"seed {seed}: {current} is fed by way of itself"
                seen.add(current)
                current = feeders.get(current, "")
