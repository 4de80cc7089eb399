"""The node's side of the capture requests: what is in a source, which chunks are missing, the chunks themselves.

A request that does not get through is tried again until the daemon has been away for `GIVE_UP` seconds: a daemon
that restarts, or a network that is down for a while, costs nothing but time.
"""

import http.client
import threading
import time
from collections.abc import Sequence
from urllib.parse import quote

from bootd.wire import captured, control, marks
from bootd.wire.control import CaptureReport
from bootd.wire.digest import Buffer
from stage2.node import Node

REQUEST_SECONDS = 30.0
COMMIT_SECONDS = 600.0  # the server brings to its disk what is still in memory
GIVE_UP = 900.0
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
MAX_ANSWER = 1 << 20
_AGAIN = (408, 429, 500, 502, 503, 504)


class UploadError(Exception):
    """It leads nowhere; the text says why."""


class BeginAgainError(Exception):
    """The daemon knows nothing of this run any more: it has restarted. What it has got, it has kept."""


class CancelledError(Exception):
    """`stopping` is set."""


class Uploader:
    """Speaks for one task. Each thread has a connection of its own; `close` ends those of all."""

    def __init__(self, node: Node, task: str, stopping: threading.Event) -> None:
        """``stopping`` ends all waiting, with `CancelledError`."""
        host, _, port = node.server.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._headers = {"Authorization": f"Bearer {node.token}", "Content-Type": "application/octet-stream"}
        self._folder, self._node = f"/node/v1/capture/{quote(task, safe='')}", quote(node.mac, safe="")
        self._stopping = stopping
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[http.client.HTTPConnection] = []

    def describe(self, description: captured.Description) -> None:
        """Begin a run."""
        self._request("PUT", "source", captured.encode(description))

    def ask(self, first: int, digests: Sequence[bytes]) -> list[int]:
        """Tell the digests of chunks from ``first`` on; which of them the server lacks, counted from the first."""
        answer = self._request("POST", "chunks", b"".join(digests), f"&first={first}")
        return captured.decode_answer(answer, len(digests))

    def ask_marks(self, question: marks.Question) -> list[bytes | None]:
        """Tell marks of chunks; the digests of those that the server knows by them."""
        return marks.decode_answer(self._request("POST", "marks", marks.encode(question)), len(question.marks))

    def put(self, digest: bytes, data: Buffer) -> None:
        """One chunk, as a store keeps it (`bootd.wire.stored`)."""
        self._request("PUT", f"chunk/{digest.hex()}", bytes(data))

    def commit(self, count: int, size: int = 0) -> str:
        """All ``count`` chunks are told: make the image. Its id. ``size``: bytes, if not told before."""
        return (
            self._request("POST", "commit", b"", f"&count={count}&size={size}", COMMIT_SECONDS)
            .decode("ascii", "replace")
            .strip()
        )

    def report(self, report: CaptureReport) -> None:
        """How far it is. Tried once: the next report says more."""
        try:
            self._once("POST", "report", control.encode(report), "", REQUEST_SECONDS)
        except (OSError, http.client.HTTPException, UploadError, BeginAgainError):
            self._drop()

    def close(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()

    def _request(
        self, method: str, what: str, body: bytes, query: str = "", seconds: float = REQUEST_SECONDS
    ) -> bytes:
        pause, end = FIRST_PAUSE, time.monotonic() + GIVE_UP
        while True:
            if self._stopping.is_set():
                raise CancelledError
            try:
                return self._once(method, what, body, query, seconds)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if time.monotonic() >= end:
                    raise UploadError(f"the server does not answer: {error or type(error).__name__}") from None
            self._stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _once(self, method: str, what: str, body: bytes, query: str, seconds: float) -> bytes:
        connection = self._connection(seconds)
        connection.request(method, f"{self._folder}/{what}?node={self._node}{query}", body, self._headers)
        response = connection.getresponse()
        data = response.read(MAX_ANSWER)
        if response.status < 300:
            return data
        if response.status in _AGAIN:
            raise http.client.HTTPException(f"status {response.status}")
        if response.status == 409:
            raise BeginAgainError
        text = data.decode("utf-8", "replace").strip()[:500]
        raise UploadError(text or f"status {response.status}")

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        elif connection.sock is not None:
            connection.sock.settimeout(seconds)
        connection.timeout = seconds
        return connection

    def _drop(self) -> None:
        """The connection of this thread is of no use any more."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None
            with self._lock:
                if connection in self._connections:
                    self._connections.remove(connection)
