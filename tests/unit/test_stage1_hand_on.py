"""What a node hands on: a file that still grows, from any byte, and nothing else."""

import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1 import hand_on
from stage1.hand_on import Server, start_of

SIZE = 3_000_000
CONTENT = os.urandom(SIZE)
PATH = "/" + "ab" * 32


class Handing:
    """A server in a thread, over a file that the test lets grow."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        listener = hand_on.listen("127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"
        self._thread = threading.Thread(target=Server(listener, self.file, SIZE, PATH).run, daemon=True)
        self._thread.start()

    def grow(self, start: int, end: int) -> None:
        os.pwrite(self.file, CONTENT[start:end], start)

    def ended(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


@pytest.fixture
def handing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handing]:
    made = Handing(tmp_path / "stage2")
    yield made
    made.grow(0, SIZE)
    monkeypatch.setattr(hand_on, "IDLE_SECONDS", 0.0)
    assert made.ended(10)
    os.close(made.file)


def get(url: str, start: int = 0) -> tuple[int, bytes]:
    fields = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=fields)  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http
        return answer.status, answer.read()


def test_it_is_served_while_it_grows(handing: Handing) -> None:
    got: list[tuple[int, bytes]] = []
    successor = threading.Thread(target=lambda: got.append(get(handing.url)))
    handing.grow(0, 1_000_000)
    successor.start()
    second = get_some(handing.url, 999_000)
    assert second == CONTENT[999_000:1_000_000], "what is there comes at once, though more is to come"
    handing.grow(1_000_000, SIZE)
    successor.join(10)
    assert got == [(200, CONTENT)]
    assert get(handing.url, SIZE - 7) == (206, CONTENT[-7:])


def get_some(url: str, start: int) -> bytes:
    """As much as there is from ``start`` to the first million."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"})  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http
        data: bytes = answer.read(1_000_000 - start)
    return data


@pytest.mark.parametrize("start", [SIZE, SIZE + 1])
def test_nothing_beyond_its_end(handing: Handing, start: int) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(handing.url, start)


def test_only_what_was_named(handing: Handing) -> None:
    for path in ("/", "/etc/passwd", PATH + "x", "/../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(handing.url.removesuffix(PATH) + path)


def test_at_most_so_many_at_a_time(handing: Handing) -> None:
    """A successor too many is let go at once, and is fed by another."""
    host, _, rest = handing.url.removeprefix("http://").partition(":")
    address = (host, int(rest.partition("/")[0]))
    taken = [socket.create_connection(address, timeout=10) for _ in range(hand_on.MAX_SUCCESSORS)]
    for connection in taken:
        connection.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
        assert connection.recv(4) == b"HTTP"
    with socket.create_connection(address, timeout=10) as extra:
        assert extra.recv(4) == b""
    handing.grow(0, SIZE)
    for connection in taken:
        while connection.recv(1 << 20):
            pass
        connection.close()


def test_it_ends_when_nobody_needs_it_any_more(handing: Handing, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not handing.ended(0.1)
    monkeypatch.setattr(hand_on, "IDLE_SECONDS", 0.5)
    assert not handing.ended(2.5), "it is not whole yet"
    handing.grow(0, SIZE)
    begun = time.monotonic()
    assert handing.ended(10)
    assert time.monotonic() - begun > 0.4


@pytest.mark.parametrize(
    ("request_text", "start"),
    [
        (f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (f"GET {PATH} HTTP/1.1\r\nrange:bytes=12-\r\n\r\n", 12),
        (f"GET {PATH} HTTP/1.1\r\nRange: bytes=-5\r\n\r\n", None),
        (f"GET {PATH} HTTP/1.1\r\nRange: bytes=1-5\r\n\r\n", None),
        (f"GET {PATH} HTTP/1.1\r\nRange: bytes=99999999999999\r\n\r\n", None),
        (f"POST {PATH} HTTP/1.1\r\n\r\n", None),
        ("\r\n\r\n", None),
        ("", None),
        ("GET\r\n", None),
    ],
)
def test_requests(request_text: str, start: int | None) -> None:
    assert start_of(request_text.encode(), PATH, SIZE) == start
