"""What ``bootd state`` shows, from the real coordinator's view."""

import io
import itertools
from types import ModuleType

import pytest
from rich.console import Console

from bootd.cli import logs, state
from bootd.cli.client import Client
from bootd.cli.format import duration, megabytes, remaining, size
from bootd.cli.main import cli
from bootd.cli.state import overview
from bootd.session.coordinator import Coordinator
from bootd.session.member import Image
from bootd.session.request import SessionRequest
from bootd.session.view import view
from bootd.wire.control import Disk, Join, MemberState, Report

MAC = "52:54:00:00:00:01"
DISK = Disk("vda", 1 << 30, 512, "SERIAL", "", "", "virtio", False, "", "0" * 64)


def shown(coordinator: Coordinator, now: float, name: str | None = None) -> str:
    output = io.StringIO()
    Console(file=output, width=200).print(overview(view(coordinator, now), name))
    return output.getvalue()


def coordinator() -> Coordinator:
    numbers = itertools.count(1)
    return Coordinator(
        labels=["kamethod", "rescue"],
        default_label="local",
        names={MAC: "lab1"},
        node_labels={},
        head_host="192.0.2.1",
        draw=lambda count: f"{next(numbers):0{2 * count}x}",
    )


def test_a_session_from_its_first_to_its_last_state() -> None:
    made = coordinator()
    text = shown(made, 0.0)
    assert "lab1" in text
    assert "default label: local" in text
    request = SessionRequest(source="/image", source_size=50_000_000, nodes="lab1", disk="only", name="room")
    id_, _ = made.create(request, "root", 1.0)
    text = shown(made, 2.0)
    assert "session room preparing" in text
    assert "/image (50.0 MB)" in text
    assert "it never joined" in text
    made.manifest(id_, Image("ab" * 32, 50_000_000, 1 << 20), 3.0)
    made.report(Report(f"head-{id_}", id_, MemberState.READY, port=4000), 3.0)
    assert "0 of 1 nodes ready" in shown(made, 3.5)
    made.join(Join(MAC, "", "x86_64", "bios", "192.0.2.11", "", "ka", 1 << 30, (DISK,)), 4.0)
    made.table_saved(MAC, id_, "vda")
    made.report(Report(MAC, id_, MemberState.READY, port=5000), 5.0)
    report = Report(MAC, id_, MemberState.RECEIVING, 1, 5000, 50_000_000, 20_000_000, 10_000_000, rate=10_000_000)
    made.report(report, 6.0)
    text = shown(made, 6.5, "room")
    row = next(line for line in text.splitlines() if "receiving" in line)
    assert row.split()[0] == "lab1"
    assert row.split()[-9:] == ["20", "10", "0", "-", "10.0", "-", "-", "40", "0:03"]
    made.cancel(id_, "enough", "root", 7.0)
    assert "cancelled" in shown(made, 8.0, id_)
    assert "room" not in shown(made, 8.0, "another")


def test_numbers() -> None:
    assert [size(n) for n in (0, 999, 1500, 40 * 10**9, 2 * 10**12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "40.0 GB",
        "2.0 TB",
    ]
    assert megabytes(1_499_999) == "1"
    assert [duration(n) for n in (None, 0, 65, 3725.4)] == ["-", "0:00", "1:05", "1:02:05"]
    assert remaining({"total": 100, "written": 50, "rate": 10}) == 5
    assert remaining({"total": 100, "written": 100, "rate": 10}) is None
    assert remaining({"total": None, "written": 0, "rate": 0}) is None


@pytest.mark.parametrize(("module", "words"), [(logs, ["logs", "lab1", "--follow"]), (state, ["watch", "--json"])])
def test_ctrl_c_while_lines_are_printed_is_an_end(
    module: ModuleType, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only while it waits for the next ones."""
    line = {"number": 1, "boot": "b", "time": 1.0, "up": 1, "stage": "stage2", "session": "", "text": "found"}
    monkeypatch.setattr(Client, "request", lambda *_, **__: [line])
    monkeypatch.setattr(Client, "events", lambda _: iter([("line", line)] * 3))
    monkeypatch.setattr(logs, "_POLL_SECONDS", 0)
    said: list[str] = []

    def echo(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.click, "echo", echo)
    assert cli.main(words, standalone_mode=False) is None
    assert len(said) == 3
