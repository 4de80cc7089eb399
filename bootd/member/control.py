"""The node's side of the control interface: requests up, server-sent events down, on `http.client` alone.

The interface is in docs/architecture.md. Every request has a connection of its own, so a daemon that restarts
costs no more than the request in hand.
"""

import http.client
import logging
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO
from urllib.parse import quote

from bootd.wire import control
from bootd.wire.commands import Output
from bootd.wire.control import Join, Message, Report, SyncReport
from bootd.wire.errors import PeerProtocolError
from bootd.wire.logs import Log

REQUEST_SECONDS = 5.0
SAVE_SECONDS = 20.0  # 2 MiB over a slow link, and the server's disk
SILENCE_SECONDS = 6.0  # the daemon says something on the event stream every 2 s
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
MAX_LINE = control.MAX_MESSAGE + 64
_MAX_QUEUED = 64
_MAX_ERROR_TEXT = 500
MAX_ANSWER = 1 << 28  # bytes; a manifest is the largest
_FINAL = (400, 401, 403)  # asking again will not help
_log = logging.getLogger("bootd.member.control")


class ControlError(Exception):
    """The daemon cannot be reached (``status`` 0) or answered with an HTTP error. The text says which."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_final(self) -> bool:
        """True when the same request would fail again."""
        return self.status in _FINAL


class ControlClient:
    """Speaks for one node. ``server`` is "host:port"; ``token`` the boot token. Methods may be called from any
    thread; `close` ends `events`."""

    events_path = "/node/v1/events"

    def __init__(self, server: str, node: str, token: str) -> None:
        host, separator, port = server.rpartition(":")
        if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise ControlError(f"server {server!r} is not HOST:PORT")
        self._host = host.strip("[]")
        self._port = int(port)
        self._node = node
        self._headers = {"Authorization": f"Bearer {token}"}
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._stream: http.client.HTTPConnection | None = None
        self._is_reaching = True  # the last report arrived

    def join(self, message: Join) -> None:
        """Ask for work; `ControlError` when that did not arrive or was refused."""
        self._request("POST", "/node/v1/join", control.encode(message))

    def report(self, message: Report) -> bool:
        """Send a report; False when it did not arrive. The next one says more anyway, so nothing is raised."""
        try:
            self._request("POST", "/node/v1/report", control.encode(message))
        except ControlError as error:
            if self._is_reaching:
                _log.warning("report: %s", error)
            self._is_reaching = False
            return False
        self._is_reaching = True
        return True

    def fetch_manifest(self, session: str) -> bytes:
        """The encoded manifest of a session; `ControlError` with status 404 while there is none."""
        return self._request("GET", f"/node/v1/manifest?session={quote(session, safe='')}")

    def put_manifest(self, session: str, encoded: bytes) -> None:
        """For the head: what the session replicates."""
        self._request("PUT", f"/node/v1/manifest?session={quote(session, safe='')}", encoded)

    def fetch_layout(self, session: str) -> bytes:
        """What `bootd.wire.layout` describes: the partition table that the session's plan writes first."""
        return self._request("GET", f"/node/v1/layout?session={quote(session, safe='')}", None, SAVE_SECONDS)

    def save_table(self, encoded: bytes) -> None:
        """Have the server keep what `bootd.wire.saved` describes; `ControlError` unless it says that it does."""
        self._request("POST", f"/node/v1/saved?node={quote(self._node, safe='')}", encoded, SAVE_SECONDS)

    def send_log(self, message: Log) -> None:
        """Lines of the console; `ControlError` when they did not arrive."""
        self._request("POST", "/node/v1/log", control.encode(message))

    def send_output(self, message: Output) -> None:
        """What a command printed; `ControlError` with status 410 when nobody wants it any more."""
        self._request("POST", "/node/v1/output", control.encode(message))

    def send_sync(self, message: SyncReport) -> bool:
        """How a sync goes; False when the daemon does not want to know it any more. OSError when it did not
        arrive."""
        try:
            self._request("POST", f"/node/v1/sync/{quote(message.task, safe='')}/report", control.encode(message))
        except ControlError as error:
            if error.status in (400, 401, 403, 404, 410):
                return False
            raise OSError(str(error)) from None
        return True

    def events(self) -> Iterator[Message]:
        """Messages of the coordinator as they come, until `close`; connects anew for as long as it takes.

        After each connect everything in force comes again, so messages repeat. `ControlError` when the daemon
        refuses this node for good. The connection is opened now, not when the first message is asked for.
        """
        arrived: queue.Queue[Message | ControlError | None] = queue.Queue(_MAX_QUEUED)
        threading.Thread(target=self._follow, args=(arrived,), name="bootd-events", daemon=True).start()
        return _drain(arrived)

    def close(self) -> None:
        """End `events`, from any thread."""
        self._closing.set()
        with self._lock:
            connection = self._stream
        if connection is not None and connection.sock is not None:
            with suppress(OSError):  # not connected any more
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)

    def _request(
        self, method: str, path: str, body: bytes | None = None, seconds: float = REQUEST_SECONDS
    ) -> bytes:
        connection = self._connect(seconds)
        try:
            headers = dict(self._headers)
            if body is not None:
                headers["Content-Type"] = "application/octet-stream" if method == "PUT" else "application/json"
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                raise _refusal(response)
            data = response.read(MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ControlError(f"{method} {path.partition('?')[0]}: {error or type(error).__name__}") from None
        finally:
            connection.close()
        if len(data) > MAX_ANSWER:
            raise ControlError(f"{method} {path.partition('?')[0]}: answer of more than {MAX_ANSWER} bytes")
        return data

    def _follow(self, arrived: "queue.Queue[Message | ControlError | None]") -> None:
        """Thread: keep the stream up."""
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            try:
                if self._stream_once(arrived):
                    pause = FIRST_PAUSE
            except ControlError as error:
                if error.is_final:
                    self._put(arrived, error)
                    return
                _log.warning("events: %s", error)
            except (OSError, http.client.HTTPException) as error:
                if not self._closing.is_set():
                    _log.warning("events: %s", error or type(error).__name__)
            self._closing.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        self._put(arrived, None)

    def _stream_once(self, arrived: "queue.Queue[Message | ControlError | None]") -> bool:
        """One connection, until it ends; True when it brought anything."""
        connection = self._connect(SILENCE_SECONDS)
        with self._lock:
            self._stream = connection
        try:
            headers = {**self._headers, "Accept": "text/event-stream"}
            connection.request("GET", f"{self.events_path}?node={quote(self._node, safe='')}", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response)
            has_brought = False
            for data in read_events(response):
                has_brought = True
                try:
                    message = control.decode(data)
                except PeerProtocolError as error:
                    _log.warning("events: %s", error)
                    continue
                self._put(arrived, message)
                if self._closing.is_set():
                    break
            return has_brought
        finally:
            with self._lock:
                self._stream = None
            connection.close()

    def _put(
        self, arrived: "queue.Queue[Message | ControlError | None]", item: Message | ControlError | None
    ) -> None:
        """Waits while the reader of `events` is behind, but not after `close`."""
        while True:
            try:
                arrived.put(item, timeout=0.5)
            except queue.Full:
                if self._closing.is_set():
                    return
            else:
                return


def read_events(stream: IO[bytes] | http.client.HTTPResponse) -> Iterator[bytes]:
    """The data of each server-sent event (WHATWG HTML, 9.2.6); ends with the stream.

    Comments and fields other than ``data`` are passed over. `ControlError` for a line or an event beyond bounds.
    """
    parts: list[bytes] = []
    size = 0
    while line := stream.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise ControlError("event line beyond bounds")
        text = line.rstrip(b"\r\n")
        if not text and parts:
            yield b"\n".join(parts)
            parts, size = [], 0
        name, _, value = text.partition(b":")
        if name == b"data":
            parts.append(value.removeprefix(b" "))
            size += len(value)
            if size > MAX_LINE:
                raise ControlError("event beyond bounds")


def _drain(arrived: "queue.Queue[Message | ControlError | None]") -> Iterator[Message]:
    while (item := arrived.get()) is not None:
        if isinstance(item, ControlError):
            raise item
        yield item


def _refusal(response: http.client.HTTPResponse) -> ControlError:
    text = response.read(_MAX_ERROR_TEXT).decode("utf-8", "replace").strip()
    return ControlError(text or response.reason or "refused", response.status)
