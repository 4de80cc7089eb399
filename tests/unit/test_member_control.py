"""The control client against a daemon of the standard library's making."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bootd.member.control import MAX_LINE, ControlClient, ControlError, read_events
from bootd.wire import control
from bootd.wire.control import Address, Arrange, Finish, Join, MemberState, Message, Report, Wait

NODE, BOOT_TOKEN = "52:54:00:aa:bb:cc", "feed01"
JOIN = Join(NODE, "u", "x86_64", "uefi", "192.0.2.7", "", "ka", 1 << 30, ())
ARRANGE = Arrange("s", 2, Address("192.0.2.1", 4000), "head-s")


class Daemon:
    """Answers the node interface; ``script`` holds what each connection to the event stream gets."""

    def __init__(self, script: list[list[bytes]], status: int = 204) -> None:
        self.script = script
        self.status = status
        self.requests: list[tuple[str, str, str, bytes]] = []
        self.arrived = threading.Condition()
        self.closing = threading.Event()
        self.manifests: dict[str, bytes] = {}
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def answer(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def note(self) -> bytes:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with daemon.arrived:
                    daemon.requests.append((self.command, self.path, self.headers.get("Authorization", ""), body))
                    daemon.arrived.notify_all()
                return body

            def do_POST(self) -> None:
                self.note()
                self.answer(daemon.status, b"no such luck\n" if daemon.status >= 400 else b"")

            def do_PUT(self) -> None:
                daemon.manifests[self.path.partition("session=")[2]] = self.note()
                self.answer(204)

            def do_GET(self) -> None:
                self.note()
                if self.path.startswith("/node/v1/manifest"):
                    found = daemon.manifests.get(self.path.partition("session=")[2])
                    self.answer(404 if found is None else 200, found or b"no manifest yet")
                elif daemon.status >= 400:
                    self.answer(daemon.status, b"unknown token")
                else:
                    self.stream()

            def stream(self) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in daemon.script.pop(0) if daemon.script else []:
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                if not daemon.script:
                    daemon.closing.wait(20)
                self.wfile.write(b"0\r\n\r\n")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


def event(message: Message) -> bytes:
    return b"data: " + control.encode(message) + b"\n\n"


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    made = Daemon(**getattr(request, "param", {"script": []}))
    yield made
    made.close()


def test_requests(daemon: Daemon) -> None:
    client = ControlClient(daemon.address, NODE, BOOT_TOKEN)
    report = Report(NODE, "s", MemberState.READY, port=4001)
    client.join(JOIN)
    assert client.report(report)
    with pytest.raises(ControlError, match="no manifest yet") as missing:
        client.fetch_manifest("a b")
    assert missing.value.status == 404
    assert not missing.value.is_final
    client.put_manifest("a b", b"manifest bytes")
    assert client.fetch_manifest("a b") == b"manifest bytes"
    paths = [(method, path) for method, path, _, _ in daemon.requests]
    assert paths[:3] == [
        ("POST", "/node/v1/join"),
        ("POST", "/node/v1/report"),
        ("GET", "/node/v1/manifest?session=a%20b"),
    ]
    assert {authorization for _, _, authorization, _ in daemon.requests} == {f"Bearer {BOOT_TOKEN}"}
    assert control.decode(daemon.requests[0][3]) == JOIN
    assert control.decode(daemon.requests[1][3]) == report


@pytest.mark.parametrize("daemon", [{"script": [], "status": 401}], indirect=True)
def test_wrong_token(daemon: Daemon) -> None:
    client = ControlClient(daemon.address, NODE, "wrong")
    with pytest.raises(ControlError, match="no such luck") as refused:
        client.join(JOIN)
    assert refused.value.is_final
    assert not client.report(Report(NODE, "s", MemberState.READY))
    with pytest.raises(ControlError, match="unknown token"):
        next(client.events())


def test_no_daemon() -> None:
    client = ControlClient("127.0.0.1:1", NODE, BOOT_TOKEN)
    with pytest.raises(ControlError, match="refused") as gone:
        client.join(JOIN)
    assert gone.value.status == 0
    assert not client.report(Report(NODE, "s", MemberState.READY))


@pytest.mark.parametrize("server", ["", "host", "host:", ":80", "host:0", "host:65536", "host:x", "host:²"])
def test_server_that_is_none(server: str) -> None:
    with pytest.raises(ControlError, match="HOST:PORT"):
        ControlClient(server, NODE, BOOT_TOKEN)


@pytest.mark.parametrize(
    "daemon",
    [
        {
            "script": [
                [b": hello\n\n", event(Wait("nothing yet"))[:20], event(Wait("nothing yet"))[20:]],
                [
                    b"data: {not json\n\n",
                    b'data: {"type":"unheard"}\n\n',
                    event(ARRANGE),
                    event(Finish("s", "stay")),
                ],
            ]
        }
    ],
    indirect=True,
)
def test_events_survive_a_cut_and_what_they_do_not_know(daemon: Daemon) -> None:
    client = ControlClient(daemon.address, NODE, BOOT_TOKEN)
    events = client.events()
    assert [next(events), next(events), next(events)] == [Wait("nothing yet"), ARRANGE, Finish("s", "stay")]
    client.close()
    assert list(events) == []
    assert daemon.requests[0][1] == "/node/v1/events?node=52%3A54%3A00%3Aaa%3Abb%3Acc"


def test_event_lines() -> None:
    stream = b"\xef: comment\nretry: 5\ndata: a\r\ndata:b\n\n\n\ndata\n\ndata: unfinished"
    assert list(read_events(io.BytesIO(stream))) == [b"a\nb", b""]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * MAX_LINE, (b"data: " + b"x" * 1000 + b"\n") * 1100])
def test_event_beyond_bounds(stream: bytes) -> None:
    with pytest.raises(ControlError, match="beyond bounds"):
        list(read_events(io.BytesIO(stream)))
