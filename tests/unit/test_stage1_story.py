"""What stage1 said, over real sockets, to the node interface of the daemon."""

import socket
from pathlib import Path

import pytest

from bootd.drivers.logs import LogStore
from bootd.wire.logs import MAX_LINES
from stage1 import story
from tests.unit.session_room import mac
from tests.unit.test_tables import Server


@pytest.fixture(autouse=True)
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "_count", 0)
    story._said.clear()


def test_what_was_said_reaches_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(tmp_path)
    try:
        store = server.engine.logs = LogStore(tmp_path / "logs.db")
        node = server.engine.coordinator.nodes.add(mac(1))
        story.say("start")
        story.say("network 192.0.2.7")
        assert story.tell("127.0.0.1", server.port, node.mac, node.token) == ""
        assert capsys.readouterr().out == "bootd-stage1: start\nbootd-stage1: network 192.0.2.7\n"
        lines = store.of(node.mac)
        assert [(line["stage"], line["text"]) for line in lines] == [
            ("stage1", "start"),
            ("stage1", "network 192.0.2.7"),
        ]
        assert lines[0]["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert 0 < lines[0]["up"] <= lines[1]["up"]
        for number in range(MAX_LINES + 9):
            story.say(f"stage2 {number} of 160 MiB")
        assert story.tell("127.0.0.1", server.port, node.mac, node.token) == ""
        texts = [line["text"] for line in store.of(node.mac)]
        assert (texts[:2], texts[-1]) == (["start", "network 192.0.2.7"], f"stage2 {MAX_LINES + 8} of 160 MiB")
        assert len(texts) == 2 + MAX_LINES, "the latest of a long story, each once"
        assert story.tell("127.0.0.1", server.port, node.mac, "00") == "401 Unauthorized"
        store.close()
    finally:
        server.close()


def test_a_server_that_is_not_there_is_no_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    story.say("start")
    assert "refused" in story.tell("127.0.0.1", port, mac(1), "aa")
