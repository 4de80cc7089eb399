"""Times as operators write them; what they mean comes from date(1)."""

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from bootd.cli.times import clock, parse_time
from bootd.errors import OperatorError

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"  # POSIX, so that no zone files are needed


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", BERLIN)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def date(text: str) -> float:
    words = ["date", "--date", text, "+%s"]
    return float(subprocess.run(words, check=True, capture_output=True, env={**os.environ, "TZ": BERLIN}).stdout)


@pytest.mark.parametrize(
    ("now", "text", "meant"),
    [
        ("2026-11-21 14:25:00", "15:00", "2026-11-21 15:00:00"),
        ("2026-11-21 14:25:00", "2:00", "2026-11-22 02:00:00"),
        ("2026-11-21 14:25:00", "14:25", "2026-11-22 14:25:00"),
        ("2026-03-28 22:00:00", "03:30", "2026-03-29 03:30:00"),  # summer time begins in this night
        ("2026-10-24 22:00:00", "04:00", "2026-10-25 04:00:00"),  # and ends in this one
        ("2026-12-31 23:59:00", "00:00", "2027-01-01 00:00:00"),
        ("2026-11-21 14:25:00", "2026-11-22T02:00:00Z", "2026-11-22 02:00:00 UTC"),
        ("2026-11-21 14:25:00", "2026-11-22T02:00:00-05:30", "2026-11-22 07:30:00 UTC"),
    ],
)
def test_times(now: str, text: str, meant: str) -> None:
    assert parse_time(text, datetime.fromtimestamp(date(now)).astimezone()) == date(meant)


@pytest.mark.parametrize("text", ["", "24:00", "2:60", "morning", "2026-11-22T02:00:00", "2026-11-21T01:00:00Z"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(OperatorError):
        parse_time(text, datetime.fromtimestamp(date("2026-11-21 14:25:00")).astimezone())


def test_shown_in_local_time() -> None:
    assert clock(date("2026-07-01 02:00:00 UTC")) == "2026-07-01 04:00:00 CEST"
