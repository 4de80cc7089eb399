"""Console lines from the node to the store: kept once, within bounds, across restarts of either side."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.drivers.logs import LogStore
from bootd.errors import OperatorError
from bootd.member.control import ControlError
from bootd.wire.control import MAX_MESSAGE, encode
from bootd.wire.logs import MAX_LINES, MAX_TEXT, Log, LogLine, printable
from stage2.shipping import MAX_KEPT, Shipping

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LogStore]:
    made = LogStore(tmp_path / "logs.db", clock=iter(range(1000)).__next__)
    yield made
    made.close()


def log(*texts: str, first: int = 0, boot: str = "b1", session: str = "", node: str = MAC) -> Log:
    lines = tuple(LogLine(1000 + place, session, text) for place, text in enumerate(texts))
    return Log(node, boot, "stage2", first, lines)


def texts(store: LogStore, **values: object) -> list[str]:
    return [line["text"] for line in store.of(MAC, **values)]  # type: ignore[arg-type]


# --- the store ---------------------------------------------------------------------------------------------


def test_lines_are_kept_once(store: LogStore) -> None:
    store.add(log("a", "b"))
    store.add(log("a", "b"))  # its answer was lost
    store.add(log("b", "c", first=1))
    store.add(log("z", node=OTHER))
    assert texts(store) == ["a", "b", "c"]
    store.add(log("a", boot="b2"))
    lines = store.of(MAC)
    assert [(line["boot"], line["text"]) for line in lines[-2:]] == [("b1", "c"), ("b2", "a")]
    assert (lines[0]["up"], lines[0]["stage"], lines[0]["session"]) == (1000, "stage2", "")


def test_from_a_line_on_and_of_a_session(store: LogStore) -> None:
    store.add(log(*"abcdef", session="s1"))
    store.add(log(*"gh", first=6, session="s2"))
    assert texts(store, limit=3) == ["f", "g", "h"], "the latest"
    number = store.of(MAC)[1]["number"]
    assert texts(store, after=number, limit=3) == ["c", "d", "e"], "the first behind it"
    assert texts(store, session="s2") == ["g", "h"]
    assert texts(store, session="s1", after=number) == ["c", "d", "e", "f"]


def test_bounds_for_each_node_and_in_all(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "logs.db", per_node=10, in_all=15)
    for number in range(30):
        store.add(log(str(number), first=number))
        store.add(log(str(number), first=number, node=OTHER))
    assert texts(store)[-1] == "29"
    assert len(store.of(MAC)) <= 10
    assert len(store.of(MAC)) + len(store.of(OTHER)) <= 20
    assert store.clear(MAC) > 0
    assert store.of(MAC) == []
    assert store.of(OTHER)
    store.close()


def test_they_survive_the_daemon(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "logs.db")
    store.add(log("a"))
    number = store.of(MAC)[0]["number"]
    store.clear(MAC)
    store.close()
    store = LogStore(tmp_path / "logs.db")
    store.add(log("b", first=1))
    assert store.of(MAC)[0]["number"] > number, "who follows from the last number on misses nothing"
    store.close()


def test_what_a_node_says_cannot_harm(store: LogStore) -> None:
    store.add(log("\x1b[2Jgone\n\r\x00", "x" * 5000, boot="b\n" * 500, session="s" * 500))
    lines = store.of(MAC)
    assert lines[0]["text"] == "?[2Jgone???"
    assert len(lines[1]["text"]) == MAX_TEXT
    assert len(lines[0]["boot"]) <= 64
    with pytest.raises(OperatorError):
        store.add(Log(MAC, "b", "stage2", (1 << 63) - 1, (LogLine(0, "", "a"), LogLine(0, "", "b"))))
    store.add(log("still there", first=9))


def test_writers_and_readers_at_once(store: LogStore) -> None:
    errors: list[Exception] = []

    def write(node: str) -> None:
        try:
            for number in range(50):
                store.add(log(str(number), first=number, node=node))
                store.of(node)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(node,)) for node in (MAC, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(store.of(MAC)) == len(store.of(OTHER)) == 50


# --- the node ----------------------------------------------------------------------------------------------


def test_the_worst_lines_fit_a_message() -> None:
    worst = LogLine((1 << 63) - 1, "\u2028" * 64, printable("é" * (2 * MAX_TEXT)))
    assert len(encode(Log(MAC, "b" * 64, "stage2", 1 << 60, (worst,) * MAX_LINES))) < MAX_MESSAGE


def test_lines_wait_for_the_server(store: LogStore) -> None:
    errors: list[Exception] = [OSError("timed out"), ControlError("connection refused")]

    def send(message: Log) -> None:
        if errors:
            raise errors.pop(0)
        store.add(message)

    shipping = Shipping(MAC, send, boot="b1")
    for number in range(2 * MAX_LINES + 1):
        shipping.add(str(number), "")
    assert not shipping.flush()
    assert not shipping.flush()
    assert shipping.flush()
    assert texts(store) == [str(number) for number in range(2 * MAX_LINES + 1)]
    shipping.add("last", "s1")
    shipping.close()
    assert store.of(MAC)[-1]["session"] == "s1"


def test_an_answer_that_is_lost_makes_no_double(store: LogStore) -> None:
    lost = [True]

    def send(message: Log) -> None:
        store.add(message)
        if lost.pop() if lost else False:
            raise ControlError("connection reset")

    shipping = Shipping(MAC, send, boot="b1")
    shipping.add("a", "")
    assert not shipping.flush()
    shipping.add("b", "")
    assert shipping.flush()
    assert texts(store) == ["a", "b"]


def test_what_waits_has_a_bound(store: LogStore) -> None:
    shipping = Shipping(MAC, store.add, boot="b1")
    for number in range(MAX_KEPT + 7):
        shipping.add(str(number), "")
    assert shipping.flush()
    assert texts(store, after=1, limit=1) == ["8"]
    assert len(store.of(MAC, limit=5000)) == MAX_KEPT


def test_a_server_that_does_not_want_them(store: LogStore) -> None:
    asked: list[Log] = []

    def send(message: Log) -> None:
        asked.append(message)
        raise ControlError("no such place", 404)

    shipping = Shipping(MAC, send, boot="b1")
    shipping.add("a", "")
    assert shipping.flush()
    assert shipping.flush()
    assert len(asked) == 1, "not asked for the same lines again and again"
