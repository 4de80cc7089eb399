"""The command line's side of the operators' interface: HTTP over the daemon's unix socket, or TLS with a token."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bootd.cli.remote import Remote
from bootd.errors import Exit, OperatorError

REQUEST_SECONDS = 60.0
SEND_SECONDS = 900.0  # the daemon brings what it got to its disk
SILENCE_SECONDS = 10.0  # the daemon says something every 2 s
MAX_ANSWER = 256 << 20
MAX_LINE = 64 << 20


class Client:
    """Talks to the daemon. Every method raises `OperatorError`: UNREACHABLE, or what the daemon answered."""

    def __init__(self, path: Path, remote: Remote | None = None) -> None:
        """``remote`` takes the place of the socket at ``path``."""
        self._path, self._remote = path, remote

    def get(self, *parts: str) -> Any:
        """The JSON below /api/v1."""
        return self.request("GET", *parts)

    def request(self, method: str, *parts: str, body: Any = None, query: str = "") -> Any:
        """One request; the decoded answer, None when it has no body. ``parts`` are escaped."""
        return _answer(*self._exchange(method, parts, body, query))

    def text(self, *parts: str) -> str:
        """What is no JSON."""
        status, text = self._exchange("GET", parts, None, "")
        if status >= 400:
            _answer(status, text)
        return text.decode(errors="replace")

    def send(self, *parts: str, pieces: Iterator[bytes], query: str) -> Any:
        """POST a body of any length as it comes; the decoded answer. What ``pieces`` raises breaks the body off, so
        the daemon does not take it for whole."""
        connection = self._connect(SEND_SECONDS)
        try:
            headers = {"Content-Type": "application/octet-stream", "Transfer-Encoding": "chunked"}
            with contextlib.suppress(BrokenPipeError):  # it has answered before the end: the answer says why
                target = _target(parts, query)
                connection.request("POST", target, pieces, {**self._headers(), **headers}, encode_chunked=True)
            response = connection.getresponse()
            return _answer(response.status, response.read(MAX_ANSWER))
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def health(self) -> Any:
        """What the daemon says of itself: also when its status is 503."""
        status, text = self._exchange("GET", ("health",), None, "")
        if status == 503 and b'"trouble"' in text:
            status = 200
        return _answer(status, text)

    def _exchange(self, method: str, parts: tuple[str, ...], body: Any, query: str) -> tuple[int, bytes]:
        """Status and body of the answer."""
        connection = self._connect(REQUEST_SECONDS)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, _target(parts, query), data, self._headers())
            response = connection.getresponse()
            return response.status, response.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def events(self) -> Iterator[tuple[str, Any]]:
        """Name and JSON of each event, until the daemon ends the stream."""
        connection = self._connect(SILENCE_SECONDS)
        try:
            connection.request("GET", _target(("events",), ""), headers=self._headers())
            response = connection.getresponse()
            if response.status != 200:
                _answer(response.status, response.read(MAX_ANSWER))
            name = ""
            while line := response.readline(MAX_LINE):
                field, _, value = line.rstrip(b"\r\n").partition(b": ")
                if field == b"event":
                    name = value.decode()
                elif field == b"data":
                    yield name, json.loads(value)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        if self._remote is not None:
            return self._remote.connect(seconds)
        connection = http.client.HTTPConnection("bootd", timeout=seconds)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(seconds)
        try:
            sock.connect(str(self._path))
        except OSError as error:
            sock.close()
            raise self._unreachable(error) from None
        connection.sock = sock
        return connection

    def _headers(self) -> dict[str, str]:
        return self._remote.headers() if self._remote is not None else {}

    def _unreachable(self, error: Exception) -> OperatorError:
        if self._remote is not None:
            return self._remote.unreachable(error)
        if isinstance(error, PermissionError):
            return OperatorError(f"not allowed to use {self._path}", "run this as root (sudo)", Exit.UNREACHABLE)
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return OperatorError(
                f"bootd is not running (nothing answers on {self._path})",
                "start it: systemctl start bootd, or bootd serve; another place: --socket PATH",
                Exit.UNREACHABLE,
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return OperatorError(
            f"bootd does not answer on {self._path}: {reason}", "see its log: journalctl -u bootd", Exit.UNREACHABLE
        )


def _target(parts: tuple[str, ...], query: str) -> str:
    path = "/api/v1/" + "/".join(quote(part, safe="") for part in parts)
    return f"{path}?{query}" if query else path


def _answer(status: int, text: bytes) -> Any:
    try:
        value = json.loads(text) if text else None
    except ValueError:
        value = None
    if status < 400:
        return value
    error = value.get("error", {}) if isinstance(value, dict) else {}
    message = str(error.get("message") or text.decode(errors="replace").strip() or f"HTTP status {status}")
    try:
        code = Exit(int(error.get("code", Exit.ERROR)))
    except ValueError:
        code = Exit.ERROR
    raise OperatorError(message, str(error.get("hint", "")), code)
