"""Fetching stage2: ask bootd where it is, load it with resume, check its SHA-256.

Whatever the boot label's method says (ka, dolly, nfs, http), stage2 comes over HTTP in this version. The method
decides how often a node tries, how long it waits and with which words it gives up; see bootd.wire.retry.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from stage1.http import Connection, HttpError

BLOCK = 1 << 20
MAX_STAGE2 = 4 << 30  # bytes: no node has more memory to spare for it

Progress = Callable[[int, int], None]  # bytes so far, bytes in all


@dataclass(frozen=True)
class Source:
    """Where stage2 is and what it must be."""

    host: str
    port: int
    path: str
    size: int  # bytes
    sha256: str  # hex, lower case


def parse_source(data: bytes) -> Source:
    """The answer of ``GET /node/v1/stage2``; `HttpError` when a part is missing or makes no sense."""
    try:
        value = json.loads(data)
        url, size, sha256 = value["url"], value["size"], value["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HttpError(f"the server's description of stage2 cannot be read: {error!r}") from None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_STAGE2:
        raise HttpError(f"stage2 cannot have a size of {size!r} bytes")
    if not isinstance(sha256, str) or len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef"):
        raise HttpError(f"stage2 cannot have the SHA-256 {str(sha256)[:80]!r}")
    if not isinstance(url, str) or not url.startswith("http://") or not url.isascii() or not url.isprintable():
        raise HttpError(f"stage2 cannot be fetched from {str(url)[:200]!r}: expected http://HOST:PORT/PATH")
    authority, slash, path = url[7:].partition("/")
    host, _, port = authority.partition(":")
    if not host or " " in url or (port and not (port.isdigit() and 1 <= int(port) <= 65535)):
        raise HttpError(f"stage2 cannot be fetched from {url[:200]!r}: expected http://HOST:PORT/PATH")
    return Source(host, int(port or 80), (slash or "/") + path, size, sha256.lower())


def locate(host: str, port: int, node: str, token: str, timeout: float) -> Source:
    """Ask bootd for this node's stage2. `HttpError` or OSError when that fails."""
    with Connection(host, port, timeout) as connection:
        head = connection.request("GET", f"/node/v1/stage2?node={node}", {"Authorization": f"Bearer {token}"})
        body = connection.read_body(head)
    if head.status != 200:
        text = body.decode(errors="replace").strip().splitlines()
        raise HttpError(f"the server answered {head.status} {text[0][:200] if text else head.reason}")
    return parse_source(body)


class Download:
    """A file that arrives in pieces over several connections. What has come stays when a connection breaks."""

    def __init__(self, source: Source, path: str) -> None:
        self.source = source
        self.path = path
        self.received = 0
        self._digest = hashlib.sha256()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def run(self, timeout: float, progress: Progress) -> None:
        """Load what is still missing over one connection, then check the whole.

        OSError or `HttpError` when the connection ends early; call again to go on from there. A wrong SHA-256
        is an `HttpError` too, after which everything is loaded again.
        """
        source = self.source
        with Connection(source.host, source.port, timeout) as connection:
            fields = {"Range": f"bytes={self.received}-"} if self.received else {}
            head = connection.request("GET", source.path, fields)
            self._place(head.status, head.fields.get("content-range", ""), head.reason)
            buffer = memoryview(bytearray(BLOCK))
            while self.received < source.size:
                count = connection.read_into(buffer[: min(BLOCK, source.size - self.received)])
                if count == 0:
                    raise HttpError(f"stage2 was cut off after {self.received} of {source.size} bytes")
                self._keep(buffer[:count])
                progress(self.received, source.size)
        if self._digest.hexdigest() != source.sha256:
            found = self._digest.hexdigest()
            self._restart()
            raise HttpError(f"stage2 has the SHA-256 {found}, expected {source.sha256}")

    def _place(self, status: int, content_range: str, reason: str) -> None:
        """Judge the answer to a request for the rest (RFC 9110, 14.4)."""
        if status == 206 and content_range.startswith(f"bytes {self.received}-"):
            return
        if status == 200:
            if self.received:
                self._restart()  # a server without ranges begins anew
            return
        raise HttpError(f"the server answered {status} {reason} for stage2")

    def _restart(self) -> None:
        self.received = 0
        self._digest = hashlib.sha256()
        os.ftruncate(self._file, 0)

    def _keep(self, data: memoryview) -> None:
        self._digest.update(data)
        while data:
            count = os.pwrite(self._file, data, self.received)
            self.received += count
            data = data[count:]

    def close(self) -> None:
        os.close(self._file)
