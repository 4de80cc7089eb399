"""The coordinator's effects, carried out: order, what is in force, a journal that fails."""

import asyncio
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from bootd.drivers.engine import Engine
from bootd.drivers.heads import Heads
from bootd.drivers.http.streams import frame
from bootd.drivers.journal import Journal
from bootd.errors import OperatorError
from bootd.session.coordinator import Coordinator
from bootd.session.effects import DefaultLabel, Effect, Event, Persist, Record, Send, StartHead, StopHead
from bootd.session.request import SessionRequest
from bootd.wire import manifest
from bootd.wire.control import Wait, encode


class FakeHeads(Heads):
    """Notes what it is told; starts nothing."""

    def __init__(self, done: list[Any]) -> None:
        super().__init__("s:1", "h", lambda *_: None)
        self.orders = done

    def start(self, order: StartHead) -> None:
        self.orders.append(order)

    def stop(self, session: str) -> None:
        self.orders.append(session)


def make_engine(tmp_path: Path) -> Engine:
    numbers = itertools.count(1)
    coordinator = Coordinator(
        labels=["kamethod", "rescue"],
        default_label="local",
        names={},
        node_labels={},
        head_host="192.0.2.1",
        draw=lambda count: f"{next(numbers):0{2 * count}x}",
    )
    return Engine(coordinator, Journal(tmp_path / "bootd.db"), clock=itertools.count(1.0).__next__)


def test_records_are_written_before_what_follows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    engine = make_engine(tmp_path)
    engine.attach_heads(FakeHeads(done))
    monkeypatch.setattr(Journal, "batch", lambda _, records: done.append(tuple(records)))
    order = StartHead("5e", "head-5e", "/i", "aa", "bb")
    one, two = Persist(DefaultLabel("a")), Persist(DefaultLabel("b"))
    effects: list[Effect] = [one, two, order, Event("k", "", "", "t"), one, StopHead("5e"), two]
    engine.run(effects)
    assert done == [(one.record, two.record), order, (one.record,), "5e", (two.record,)]


def test_messages_reach_the_stream_in_order(tmp_path: Path) -> None:
    async def run() -> None:
        engine = make_engine(tmp_path)
        subscriber = engine.streams.attach("n", [])
        engine.run([Send("n", Wait("1")), Send("other", Wait("x")), Send("n", Wait("2"))])
        assert await subscriber.next(1) == frame(encode(Wait("1"))) + frame(encode(Wait("2")))

    asyncio.run(run())


def test_a_full_disk_is_told_once_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        engine = make_engine(tmp_path)

        def fail(_: Journal, records: Iterable[Record]) -> None:
            raise OperatorError("disk full", "make room")

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "batch", fail)
            subscriber = engine.streams.attach("n", [])
            for number in range(3):
                engine.run([Persist(DefaultLabel("a")), Send("n", Wait(str(number)))])
            assert (await subscriber.next(1) or b"").count(b"data: ") == 3
            assert engine.state()["journal"] == "disk full"
        engine.run([Persist(DefaultLabel("a"))])
        assert engine.state()["journal"] == "ok"

    asyncio.run(run())
    output = capsys.readouterr()
    assert (output.out + output.err).count("disk full") == 1


def test_state_survives_a_restart(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    engine.run(engine.coordinator.set_default_label("kamethod", "root"))
    engine.run(engine.coordinator.set_label("52:54:00:00:00:01", "rescue", True, "root"))
    again = make_engine(tmp_path)
    again.restore()
    assert again.state()["default_label"] == "kamethod"
    assert [(node["mac"], node["next_label"]) for node in again.state()["nodes"]] == [
        ("52:54:00:00:00:01", "rescue")
    ]


def test_manifests_are_kept_while_their_session_is_open(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    engine.attach_heads(FakeHeads([]))
    request = SessionRequest(source="/i", source_size=4096, nodes="any", disk="only", expect=1)
    id_, effects = engine.coordinator.create(request, "root", engine.now())
    engine.run(effects)
    image = manifest.build(4096, 4096, [bytes(32)])
    engine.put_manifest(id_, image.encoded, image)
    engine.tick()
    assert engine.manifest(id_) == image.encoded
    again = make_engine(tmp_path)
    again.attach_heads(FakeHeads([]))
    again.restore()
    assert again.manifest(id_) == image.encoded, "a node that comes while the next head digests gets it"
    engine.run(engine.coordinator.cancel(id_, "enough", "root", engine.now()))
    engine.tick()
    assert engine.manifest(id_) is None
