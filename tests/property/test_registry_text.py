"""What operators write: any text is understood or refused with a reason, and quickly; nothing else happens."""

import time
from contextlib import suppress
from random import Random

from bootd.cli import node_file
from bootd.errors import OperatorError
from bootd.session import host_file
from bootd.session.hosts import MAX_HOSTS, parse
from tests.unit.session_room import mac
from tests.unit.test_host_file import HOST

CASES = 9_000
PIECES = (
    *("lab", "[", "]", "1-9", "01-30", ",", "!", "@", "any", " ", "-", "a", "0", "999999", mac(1), "room2", "\t"),
    *(":", ";", "\n", '"', "\ufeff", "ü", "\x00", "mac", "name", "partition:", "sda5", "nvme0n1p3", "*", "="),
    "[1-99]",
)


def written(random: Random) -> str:
    return "".join(random.choice(PIECES) for _ in range(random.randint(0, 24)))


def cost(text: str) -> float:
    """CPU seconds of reading it: the least of three, for a collection of garbage may fall into one."""
    times = []
    for _ in range(3):
        begun = time.thread_time()
        with suppress(OperatorError):
            parse(text)
        times.append(time.thread_time() - begun)
    return min(times)


def test_host_sets() -> None:
    """Everything that is understood names at most so many, each of them once and plainly."""
    random, understood, slowest = Random(1), 0, 0.0
    reasons: list[OperatorError] = []
    for _ in range(CASES):
        text = written(random)
        slowest = max(slowest, cost(text))
        try:
            found = parse(text)
        except OperatorError as error:
            reasons.append(error)
        else:
            understood += 1
            names = (*(found.names or ()), *found.without)
            assert len(names) <= 2 * MAX_HOSTS
            for side in (found.names or (), found.without):
                assert len(set(side)) == len(side)
            assert not any(character in name for name in names for character in "[]!, ")
    assert understood > CASES / 100
    assert all(reason.message and reason.hint for reason in reasons)
    assert slowest < 0.5


def test_tables_of_rooms() -> None:
    random, understood = Random(2), 0
    reasons: list[OperatorError] = []
    for _ in range(CASES // 3):
        text = "mac,name,groups\n" * random.randint(0, 1) + written(random)
        try:
            rows = node_file.parse(text)
        except OperatorError as error:
            reasons.append(error)
        else:
            understood += 1
            node_file.to_toml(rows)
    assert understood
    assert all(reason.message and reason.hint for reason in reasons)


def test_host_files() -> None:
    """A file with a damaged place is refused, or says the same when it is written again."""
    random, understood = Random(3), 0
    reasons: list[OperatorError] = []
    for _ in range(CASES // 3):
        at = random.randrange(len(HOST))
        text = HOST[:at] + written(random) + HOST[at + random.randint(0, 3) :]
        try:
            lines = host_file.parse(text)
        except OperatorError as error:
            reasons.append(error)
        else:
            understood += 1
            assert host_file.parse(host_file.render(lines)) == lines
    assert understood > CASES / 100
    assert all(reason.message and reason.hint for reason in reasons)
