"""Syncs of a node, one at a time: which orders are begun. What rsync does then is in tests/netns/test_sync.py."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from bootd.session.sync import Options, SyncSet, order_of
from bootd.wire.control import Sync, SyncReport, SyncState
from stage2.gate import RefusedError
from stage2.places import Place
from stage2.sync import Station, Syncs

DEADLINE = 20.0  # seconds, for every wait
NODE = "52:54:00:00:00:01"
FIRST, SECOND = (order_of(SyncSet("lab", "/srv/model"), Options(), task) for task in ("first", "second"))


class Node:
    """Every sync is refused at its target, as soon as ``may_look`` is set."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.ends: dict[str, str] = {}
        self.on_end: Callable[[SyncReport], None] | None = None
        self.may_look = threading.Event()
        self._changed = threading.Condition()
        self.syncs = Syncs(Station(NODE, "127.0.0.1:1", "token", self.send, self.open_place, print))

    @contextlib.contextmanager
    def open_place(self, order: Sync) -> Iterator[Place]:
        self.opened.append(order.task)
        assert self.may_look.wait(DEADLINE)
        raise RefusedError(f"no target for {order.task}")
        yield

    def send(self, report: SyncReport) -> bool:
        if report.state is not SyncState.RUNNING:
            if self.on_end is not None:
                self.on_end(report)  # before the node knows that its report has arrived
            with self._changed:
                self.ends[report.task] = report.reason
                self._changed.notify_all()
        return True

    def wait_for(self, *tasks: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(tasks) <= set(self.ends), DEADLINE), self.ends


def test_the_next_order_comes_as_soon_as_the_end_is_told() -> None:
    node = Node()

    def order_again(report: SyncReport) -> None:
        if report.task == "first":
            node.syncs.take(SECOND)

    node.on_end = order_again
    node.may_look.set()
    node.syncs.take(FIRST)
    node.wait_for("first", "second")
    assert node.opened == ["first", "second"]
    assert node.ends == {task: f"no target for {task}" for task in node.opened}


def test_one_at_a_time_and_the_same_order_once() -> None:
    node = Node()
    node.syncs.take(FIRST)
    node.syncs.take(FIRST)
    node.syncs.take(SECOND)
    node.wait_for("second")
    assert node.ends == {"second": "busy with sync lab"}
    node.may_look.set()
    node.wait_for("first")
    assert node.opened == ["first"]


def test_another_work_stands_against_it() -> None:
    node = Node()
    node.syncs.take(FIRST, "busy: member")
    node.wait_for("first")
    assert (node.opened, node.ends) == ([], {"first": "busy: member"})
