"""Labels stay few, counters of the ring only grow, and each log line says whose it is."""

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from bootd.drivers import health, logging_setup, metrics
from bootd.drivers.health import Health, free_space
from bootd.errors import Exit
from tests.unit.operators import Operators
from tests.unit.session_room import disk, mac


def value(name: str, *labels: str) -> float:
    for family in text_string_to_metric_families(metrics.exposition({"nodes": [], "sessions": []}, 0, []).decode()):
        for sample in family.samples:
            if sample.name == name and tuple(sample.labels.values()) == labels:
                return sample.value
    return 0.0


def test_reasons_lose_what_strangers_choose() -> None:
    reasons = metrics.Reasons(3)
    same = {
        reasons.label(f"no free address in 10.{number}.0.0/24 for 52:54:00:00:00:{number:02x}")
        for number in range(99)
    }
    assert same == {"no free address in * for *"}
    assert [reasons.label(text) for text in ("b", "c", "d", "e", "b", "")] == [
        "b",
        "c",
        "other",
        "other",
        "b",
        "other",
    ]
    assert len(metrics.Reasons().label("x" * 1000)) == metrics.MAX_REASON


def test_bytes_of_the_ring_only_grow() -> None:
    tally = metrics.RingTally()
    before = value("bootd_ring_bytes_total", "written")
    for first, second in ((10, 0), (30, 5), (30, 7), (4, 9), (6, 9)):  # the first begins anew: attempt two
        tally.update([("s", "a", (first, 0, 0, 0)), ("s", "b", (second, 0, 0, 0))])
    tally.update([])
    tally.update([("t", "a", (1, 0, 0, 0))])
    assert value("bootd_ring_bytes_total", "written") - before == 30 + 2 + 9 + 1


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is written to standard error, as it is without a terminal."""
    text = io.StringIO()
    try:
        with redirect_stderr(text):
            logging_setup.set_up_logging(terminal=False, journal=False)
            yield text
    finally:
        logging_setup.follow_sessions(lambda _: "")
        structlog.reset_defaults()
        logging.basicConfig(handlers=[], force=True)


def test_each_line_says_whose_it_is(log: io.StringIO) -> None:
    logging_setup.follow_sessions(lambda node: "s1" if node.endswith("01") else "")
    write = structlog.get_logger("x")
    write.info("a", mac="52:54:00:00:00:01")
    write.info("b", node="52:54:00:00:00:02")
    write.info("c", node="52:54:00:00:00:01", session="s9")
    write.info("worker", name="head-s3", line="x")
    write.info("d")
    logging.getLogger("library").warning("e")
    seen = [(line["event"], line["node"], line["session"]) for line in map(json.loads, log.getvalue().splitlines())]
    assert seen == [
        ("a", "52:54:00:00:00:01", "s1"),
        ("b", "52:54:00:00:00:02", ""),
        ("c", "52:54:00:00:00:01", "s9"),
        ("worker", "head-s3", "s3"),
        ("d", "", ""),
        ("e", "", ""),
    ]


def test_lines_are_counted_and_carry_their_priority_in_the_journal(log: io.StringIO) -> None:
    before = value("bootd_log_messages_total", "warning"), value("bootd_log_messages_total", "error")
    with redirect_stderr(log):
        logging_setup.set_up_logging(terminal=False, journal=True)
    write = structlog.get_logger("x")
    write.info("a")
    write.warning("b")
    write.error("c")
    assert [line[:3] for line in log.getvalue().splitlines()] == ["<6>", "<4>", "<3>"]
    assert [json.loads(line[3:])["event"] for line in log.getvalue().splitlines()] == ["a", "b", "c"]
    after = value("bootd_log_messages_total", "warning"), value("bootd_log_messages_total", "error")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)


def test_the_journal_is_known_by_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert logging_setup._is_journal()
    for wrong in ("", f"{found.st_dev}:{found.st_ino + 1}", "x"):
        monkeypatch.setenv("JOURNAL_STREAM", wrong)
        assert not logging_setup._is_journal()


def test_health_asks_whoever_may_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_space(tmp_path) == ""
    assert "cannot be looked at" in free_space(tmp_path / "none")
    monkeypatch.setattr(health, "LEAST_FREE", 1 << 62)
    assert "MiB left" in free_space(tmp_path)

    class Service:
        name, trouble = "x", "it is broken"

        async def bind(self) -> None: ...
        async def serve(self) -> None: ...
        async def close(self) -> None: ...

    assert Health([lambda: "", lambda: "no disk"], lambda: [Service()])() == ["no disk", "it is broken"]


def test_over_the_operators_interface(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operators = Operators(tmp_path)
    try:
        operators.join(1, disk())
        assert operators.request("GET", "/health") == (200, {"ok": True, "trouble": []})
        operators.engine.health = lambda: ["no disk"]
        assert operators.request("GET", "/health") == (503, {"ok": False, "trouble": ["no disk"]})
        assert operators.run(capsys, "health") == (Exit.ERROR, "no disk\n", "")
        code, out, _ = operators.run(capsys, "metrics")
        assert code == 0
        families = {family.name: family for family in text_string_to_metric_families(out)}
        states = {sample.labels["state"]: sample.value for sample in families["bootd_nodes"].samples}
        assert (states["known"], states["present"], states["parked"]) == (3, 1, 0)
        assert families["bootd_healthy"].samples[0].value == 0
        assert mac(1) not in out, "no label has as many values as there are nodes"
    finally:
        operators.close()
