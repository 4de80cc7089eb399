"""Fetching stage2 over real sockets from a server that cuts, lies and refuses."""

import contextlib
import hashlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1.fetch import Download, Offer, Pace, Place, Source, Wish, locate, parse_offer, parse_source
from stage1.http import MAX_HEAD, HttpError, parse_head

CONTENT = b"".join(number.to_bytes(8, "big") for number in range(400_000))  # 3.2 MB, no two blocks alike
Answer = Callable[[str], bytes]


class Server:
    """Answers each request with what ``answers`` gives in turn (head and body, as bytes), then closes."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[str] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                request = ""
                while not request.endswith("\r\n\r\n"):
                    line = self.rfile.readline()
                    if not line:
                        return
                    request += line.decode()
                outer.requests.append(request)
                with contextlib.suppress(ConnectionError):  # a client may go when it likes
                    self.wfile.write(outer.answers.pop(0)(request))

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def source(server: Server) -> Source:
    return Source("127.0.0.1", server.port, "/x", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def whole(_: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT


def cut_at(count: int) -> Answer:
    return lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT[:count]


def rest(request: str) -> bytes:
    start = int(request.split("Range: bytes=", 1)[1].split("-", 1)[0])
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}\r\n\r\n"
    return head.encode() + CONTENT[start:]


def run(download: Download) -> None:
    seen: list[tuple[int, int]] = []
    download.run(5.0, lambda received, size: seen.append((received, size)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_whole_file(server: Server, source: Source, tmp_path: Path) -> None:
    server.answers = [whole]
    download = Download(source, str(tmp_path / "stage2"))
    run(download)
    download.close()
    assert (tmp_path / "stage2").read_bytes() == CONTENT


def test_resumes_where_the_connection_broke(server: Server, source: Source, tmp_path: Path) -> None:
    server.answers = [cut_at(1_000_001), rest]
    download = Download(source, str(tmp_path / "stage2"))
    with pytest.raises(HttpError, match="cut off after 1000001"):
        run(download)
    run(download)
    download.close()
    assert "Range: bytes=1000001-" in server.requests[1]
    assert (tmp_path / "stage2").read_bytes() == CONTENT


def test_a_server_without_ranges_begins_anew(server: Server, source: Source, tmp_path: Path) -> None:
    server.answers = [cut_at(5000), whole]
    download = Download(source, str(tmp_path / "stage2"))
    with pytest.raises(HttpError):
        run(download)
    run(download)
    download.close()
    assert (tmp_path / "stage2").read_bytes() == CONTENT


def test_wrong_content_is_refused_and_loaded_again(server: Server, source: Source, tmp_path: Path) -> None:
    flipped = bytearray(CONTENT)
    flipped[1234] ^= 1
    server.answers = [lambda _: b"HTTP/1.1 200 OK\r\n\r\n" + bytes(flipped), whole]
    download = Download(source, str(tmp_path / "stage2"))
    with pytest.raises(HttpError, match="SHA-256"):
        run(download)
    run(download)
    download.close()
    assert "Range" not in server.requests[1]
    assert (tmp_path / "stage2").read_bytes() == CONTENT


@pytest.mark.parametrize("status", ["404 Not Found", "416 Range Not Satisfiable", "206 Partial Content"])
def test_other_answers_are_errors(server: Server, source: Source, tmp_path: Path, status: str) -> None:
    server.answers = [lambda _: f"HTTP/1.1 {status}\r\nContent-Range: bytes 7-8/9\r\n\r\n".encode()]
    download = Download(source, str(tmp_path / "stage2"))
    with pytest.raises(HttpError, match=status[:3]):
        run(download)
    download.close()


def test_locate(server: Server) -> None:
    body = json.dumps(
        {"url": "http://10.0.0.1:7468/stage2/stage2.squashfs", "size": 5, "sha256": "AB" * 32}
    ).encode()
    server.answers = [lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body]
    found = locate("127.0.0.1", server.port, Wish("52:54:00:00:00:01", "c0ffee"), 5.0)
    assert found == Offer(Source("10.0.0.1", 7468, "/stage2/stage2.squashfs", 5, "ab" * 32))
    assert "GET /node/v1/stage2?node=52:54:00:00:00:01 HTTP/1.1" in server.requests[0]
    assert "Authorization: Bearer c0ffee" in server.requests[0]


def test_locate_shows_the_servers_words(server: Server) -> None:
    server.answers = [lambda _: b"HTTP/1.1 401 Unauthorized\r\n\r\nwrong token\n"]
    with pytest.raises(HttpError, match="401 wrong token"):
        locate("127.0.0.1", server.port, Wish("52:54:00:00:00:01", "c0ffee"), 5.0)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"url":"http://h/x","size":-1,"sha256":"' + b"0" * 64 + b'"}',
        b'{"url":"http://h/x","size":true,"sha256":"' + b"0" * 64 + b'"}',
        b'{"url":"http://h/x","size":99999999999999,"sha256":"' + b"0" * 64 + b'"}',
        b'{"url":"http://h/x","size":1,"sha256":"0"}',
        b'{"url":"ftp://h/x","size":1,"sha256":"' + b"0" * 64 + b'"}',
        b'{"url":"http://h:x/x","size":1,"sha256":"' + b"0" * 64 + b'"}',
        b'{"url":"http://h/a b","size":1,"sha256":"' + b"0" * 64 + b'"}',
        b'{"url":"http://h/\\r\\nX: y","size":1,"sha256":"' + b"0" * 64 + b'"}',
        b'{"url":"http:///x","size":1,"sha256":"' + b"0" * 64 + b'"}',
    ],
)
def test_bad_descriptions_are_refused(value: bytes) -> None:
    with pytest.raises(HttpError):
        parse_source(value)


def test_head_in_pieces_and_bad_heads() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    for cut in range(data.index(b"abc")):
        assert parse_head(data[:cut]) is None
    parsed = parse_head(data)
    assert parsed is not None
    assert (parsed[0].status, parsed[0].length, parsed[1]) == (200, 3, b"abc")
    for bad in (b"SSH-2.0\r\n\r\n", b"HTTP/1.1 2x0\r\n\r\n", b"HTTP/1.1 200 OK\r\nnocolon\r\n\r\n"):
        with pytest.raises(HttpError):
            parse_head(bad)
    with pytest.raises(HttpError, match="transfer encoding"):
        parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(HttpError, match="more than"):
        parse_head(b"H" * (MAX_HEAD + 1))


BLOCK = 1 << 20
BLOCKS = tuple(
    hashlib.sha256(CONTENT[start : start + BLOCK]).hexdigest() for start in range(0, len(CONTENT), BLOCK)
)


@pytest.fixture
def blocks(source: Source) -> Source:
    return Source(source.host, source.port, source.path, source.size, source.sha256, BLOCK, BLOCKS)


def test_a_wrong_block_is_never_kept(server: Server, blocks: Source, tmp_path: Path) -> None:
    """What is in the file may be handed on at any time: it is always the beginning of the right stage2."""
    flipped = bytearray(CONTENT)
    flipped[BLOCK + 77] ^= 1
    server.answers = [lambda _: b"HTTP/1.1 200 OK\r\n\r\n" + bytes(flipped), rest]
    download = Download(blocks, str(tmp_path / "stage2"))
    with pytest.raises(HttpError, match=f"wrong between byte {BLOCK} and {2 * BLOCK}"):
        run(download)
    assert (tmp_path / "stage2").read_bytes() == CONTENT[:BLOCK]
    run(download)
    download.close()
    assert f"Range: bytes={BLOCK}-" in server.requests[1]
    assert (tmp_path / "stage2").read_bytes() == CONTENT


def test_a_block_that_is_cut_off_is_not_kept(server: Server, blocks: Source, tmp_path: Path) -> None:
    server.answers = [cut_at(BLOCK + 5), rest]
    download = Download(blocks, str(tmp_path / "stage2"))
    with pytest.raises(HttpError, match=f"cut off after {BLOCK + 5}"):
        run(download)
    assert (tmp_path / "stage2").read_bytes() == CONTENT[:BLOCK]
    run(download)
    download.close()
    assert (tmp_path / "stage2").read_bytes() == CONTENT


def test_a_peer_that_is_too_slow_is_left(server: Server, blocks: Source, tmp_path: Path) -> None:
    server.answers = [whole]
    download = Download(blocks, str(tmp_path / "stage2"))
    with pytest.raises(HttpError, match=r"only \d+ bytes in"):
        download.run(5.0, lambda *_: None, Place("127.0.0.1", server.port, "/y"), Pace(0.0, slowest=1 << 50))
    assert server.requests[0].startswith("GET /y ")
    download.close()


def test_from_an_open_file(blocks: Source, tmp_path: Path) -> None:
    """As it lies on an NFS export: right, wrong, too short."""
    download = Download(blocks, str(tmp_path / "stage2"))
    wrong, short, right = tmp_path / "wrong", tmp_path / "short", tmp_path / "right"
    wrong.write_bytes(CONTENT[:-1] + b"x")
    short.write_bytes(CONTENT[:-BLOCK])
    right.write_bytes(CONTENT)
    for path, reason in ((wrong, "wrong between"), (short, "wrong between")):
        with path.open("rb") as stream, pytest.raises(HttpError, match=reason):
            download.copy(stream, lambda *_: None)
    with right.open("rb") as stream:
        download.copy(stream, lambda *_: None)
    download.close()
    assert (tmp_path / "stage2").read_bytes() == CONTENT


def test_offers() -> None:
    told = {
        "url": "http://h/x",
        "size": BLOCK + 1,
        "sha256": "0" * 64,
        "block": BLOCK,
        "blocks": ["A" * 64, "b" * 64],
    }
    offer = parse_offer(json.dumps(told | {"peer": "http://10.0.0.7:4000/abc", "patience": 4}).encode())
    assert (offer.peer, offer.patience) == (Place("10.0.0.7", 4000, "/abc"), 4.0)
    assert offer.source.blocks == ("a" * 64, "b" * 64)
    for wrong in (
        *({"blocks": ["0" * 64]}, {"blocks": ["0" * 63, "0" * 64]}, {"blocks": 7}, {"block": 0}, {"block": True}),
        *(
            {"peer": "http://10.0.0.7:4000/abc"},
            {"peer": "http://h/x", "patience": 1e9},
            {"peer": 5, "patience": 1},
        ),
    ):
        with pytest.raises(HttpError):
            parse_offer(json.dumps(told | wrong).encode())
