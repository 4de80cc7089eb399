"""The command line against a daemon that is missing, hostile, or answers with errors."""

import http.server
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootd.cli.client import Client
from bootd.cli.main import main
from bootd.errors import Exit, OperatorError


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every request with what the test has set."""

    status, body = 200, b"{}"

    def handle_any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))  # unread, it would reset the connection
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any  # noqa: N815

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    socket_path = tmp_path / "s"
    with UnixServer(str(socket_path), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield socket_path
        server.shutdown()
        thread.join()


def answer(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> None:
    monkeypatch.setattr(Answers, "status", status)
    monkeypatch.setattr(Answers, "body", body)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "--socket", str(tmp_path / "none"), "state")
    assert (code, out) == (Exit.UNREACHABLE, "")
    first, second = error.splitlines()
    assert first.startswith("bootd: bootd is not running")
    assert second.startswith("  -> start it")


def test_socket_from_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOOTD_SOCKET", str(tmp_path / "elsewhere"))
    assert "elsewhere" in run(capsys, "label", "list")[2]


def test_a_dead_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))
    assert run(capsys, "--socket", str(tmp_path / "s"), "node", "list")[0] == Exit.UNREACHABLE


@pytest.mark.parametrize("code", list(Exit))
def test_the_daemons_error_is_the_commands(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: Exit
) -> None:
    body = {"error": {"message": "it is so", "hint": "do this", "code": int(code)}}
    answer(monkeypatch, 400, json.dumps(body).encode())
    assert run(capsys, "--socket", str(path), "label", "set-default", "x") == (
        code,
        "",
        "bootd: it is so\n  -> do this\n",
    )


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b"internal error"), (400, b"{}"), (404, b"[]"), (400, b'{"error":{"code":99}}'), (502, b"")],
)
def test_answers_that_are_no_errors_of_ours(
    path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes
) -> None:
    answer(monkeypatch, status, body)
    with pytest.raises(OperatorError) as raised:
        Client(path).get("state")
    assert raised.value.code is Exit.ERROR
    assert raised.value.message


def test_events(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 200, b': alive\n\nevent: state\ndata: {"a": 1}\n\nevent: line\ndata: 2\n\n')
    assert list(Client(path).events()) == [("state", {"a": 1}), ("line", 2)]
    answer(monkeypatch, 400, b'{"error": {"message": "no", "code": 4}}')
    with pytest.raises(OperatorError) as raised:
        list(Client(path).events())
    assert raised.value.code is Exit.REFUSED


def test_deploy_never_erases_unasked(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal and without --yes nothing is sent but the preview."""
    plan = {"source": "/i", "size": 512, "any": True, "nodes": []}
    answer(monkeypatch, 200, json.dumps(plan).encode())
    asked: list[str] = []
    request = Client.request

    def record(self: Client, method: str, *parts: str, body: Any = None, query: str = "") -> Any:
        asked.append(f"{method} {'/'.join(parts)}")
        return request(self, method, *parts, body=body, query=query)

    monkeypatch.setattr(Client, "request", record)
    code, out, error = run(capsys, "--socket", str(path), "deploy", "/i", "any", "--disk", "only", "--expect", "1")
    assert code == Exit.USAGE
    assert out == ""
    assert "--yes" in error
    assert asked == ["POST preview"]


@pytest.mark.parametrize(
    "words",
    [
        ["deploy"],
        ["deploy", "image", "any"],
        ["deploy", "image", "any", "--disk", "only", "--expect", "0"],
        ["deploy", "image", "any", "--disk", "only", "--after", "explode"],
        ["label", "set", "x"],
        ["session", "expect", "x", "many"],
        ["nonesuch"],
        ["--nonesuch"],
    ],
)
def test_a_wrong_command_line(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, error = run(capsys, *words)
    assert (code, out) == (Exit.USAGE, "")
    assert "Usage" in error


def test_serve_with_wrong_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bootd.toml"
    file.write_text("[server]\nhttp_prot = 1\n")
    code, _, error = run(capsys, "serve", "--config", str(file))
    assert code == Exit.CONFIG
    assert "http_prot" in error
    assert "$.server" in error
    assert run(capsys, "serve", "--config", str(tmp_path / "missing"))[0] == Exit.CONFIG


@pytest.mark.parametrize(
    "words", [[], ["deploy"], ["session"], ["label", "set"], ["node"], ["stage", "build"], ["wait"], ["watch"]]
)
def test_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, _ = run(capsys, *words, "--help")
    assert code == Exit.OK
    assert "Usage: bootd" in out
