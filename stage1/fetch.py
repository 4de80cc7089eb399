"""Fetching stage2: ask bootd what it is and where, load it with resume, check its SHA-256.

With the digests of its blocks every block is checked on arrival, so nothing wrong is kept or handed on. How often a
node tries, how long it waits and with which words it gives up, the method decides: bootd.wire.retry.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from stage1.http import Connection, HttpError

BLOCK = 1 << 20
MAX_STAGE2 = 4 << 30  # bytes: no node has more memory to spare for it
MAX_DIGEST_BLOCK = 16 << 20  # bytes
SLOWEST_PEER = 1 << 20  # bytes/s; one that is slower than this is left for the server

Progress = Callable[[int, int], None]  # bytes so far, bytes in all


class NoStage2Error(HttpError):
    """bootd has no stage2 to offer, or to compare with."""


class NotThereError(HttpError):
    """A server that has no such file."""


@dataclass(frozen=True)
class Place:
    """Where something lies: http://HOST:PORT/PATH."""

    host: str
    port: int
    path: str

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}{self.path}"


@dataclass(frozen=True)
class Source:
    """Where stage2 is and what it must be. ``blocks``: SHA-256 of each ``block`` bytes of it, () = not known."""

    host: str
    port: int
    path: str
    size: int  # bytes
    sha256: str  # hex, lower case; "" = nobody has told it
    block: int = BLOCK
    blocks: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        return Place(self.host, self.port, self.path)


@dataclass(frozen=True)
class Offer:
    """The server's answer: stage2, and the peer that hands it on to us, if there is one.

    ``patience``, seconds: how long that peer may be without progress.
    """

    source: Source
    peer: Place | None = None
    patience: float = 0.0


def parse_offer(data: bytes) -> Offer:
    """The answer of ``GET /node/v1/stage2``; `HttpError` when a part is missing or makes no sense."""
    source, value = parse_source(data), json.loads(data)
    if not value.get("peer"):
        return Offer(source)
    patience = value.get("patience")
    if not isinstance(patience, int | float) or isinstance(patience, bool) or not 0.1 <= patience <= 120:
        raise HttpError(f"a peer cannot have a patience of {str(patience)[:80]!r} seconds")
    return Offer(source, parse_place(value["peer"]), float(patience))


def parse_source(data: bytes) -> Source:
    """What ``GET /node/v1/stage2`` says of stage2 itself; `HttpError`."""
    try:
        value = json.loads(data)
        url, size, sha256 = value["url"], value["size"], value["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HttpError(f"the server's description of stage2 cannot be read: {error!r}") from None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_STAGE2:
        raise HttpError(f"stage2 cannot have a size of {size!r} bytes")
    if not _is_sha256(sha256):
        raise HttpError(f"stage2 cannot have the SHA-256 {str(sha256)[:80]!r}")
    place = parse_place(url)
    block, blocks = value.get("block", BLOCK), value.get("blocks", [])
    if not isinstance(block, int) or isinstance(block, bool) or not 4096 <= block <= MAX_DIGEST_BLOCK:
        raise HttpError(f"stage2 cannot have blocks of {str(block)[:80]!r} bytes")
    if not isinstance(blocks, list) or not all(map(_is_sha256, blocks)):
        raise HttpError("stage2 cannot have such digests of its blocks")
    if blocks and len(blocks) != -(-size // block):
        raise HttpError(f"stage2 of {size} bytes cannot have {len(blocks)} blocks of {block}")
    lower = tuple(text.lower() for text in blocks)
    return Source(place.host, place.port, place.path, size, sha256.lower(), block, lower)


def parse_place(url: object) -> Place:
    """`HttpError` when ``url`` is not http://HOST[:PORT]/PATH."""
    if not isinstance(url, str) or not url.startswith("http://") or not url.isascii() or not url.isprintable():
        raise HttpError(f"stage2 cannot be fetched from {str(url)[:200]!r}: expected http://HOST:PORT/PATH")
    authority, slash, path = url[7:].partition("/")
    host, _, port = authority.partition(":")
    if not host or " " in url or (port and not (port.isdigit() and 1 <= int(port) <= 65535)):
        raise HttpError(f"stage2 cannot be fetched from {url[:200]!r}: expected http://HOST:PORT/PATH")
    return Place(host, int(port or 80), (slash or "/") + path)


def _is_sha256(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and not set(text.lower()) - set("0123456789abcdef")


@dataclass(frozen=True)
class Wish:
    """What a node asks for. ``token`` is its boot token; ``system`` in place of bootd's own stage2; ``port``: it
    hands on there, 0 = it does not; ``failed``: URL of the peer that it complains of."""

    node: str
    token: str
    system: str = ""
    port: int = 0
    failed: str = ""

    @property
    def query(self) -> str:
        """No part has anything that must be escaped."""
        parts = (("node", self.node), ("system", self.system), ("port", self.port or ""), ("failed", self.failed))
        return "&".join(f"{name}={value}" for name, value in parts if value)


def locate(host: str, port: int, wish: Wish, timeout: float) -> Offer:
    """Ask bootd for this node's stage2. `HttpError` or OSError when that fails."""
    with Connection(host, port, timeout) as connection:
        path = f"/node/v1/stage2?{wish.query}"
        head = connection.request("GET", path, {"Authorization": f"Bearer {wish.token}"})
        body = connection.read_body(head)
    if head.status != 200:
        text = body.decode(errors="replace").strip().splitlines()
        kind = NoStage2Error if head.status == 503 else HttpError
        raise kind(f"the server answered {head.status} {text[0][:200] if text else head.reason}")
    return parse_offer(body)


class Pace:
    """Raises `HttpError` when fewer than ``slowest`` bytes/s have come during ``seconds``."""

    def __init__(self, seconds: float, slowest: int = SLOWEST_PEER) -> None:
        self._seconds, self._slowest = seconds, slowest
        self._begun, self._count = time.monotonic(), 0

    def add(self, count: int) -> None:
        self._count += count
        elapsed = time.monotonic() - self._begun
        if elapsed < self._seconds:
            return
        if self._count < self._slowest * elapsed:
            raise HttpError(f"only {self._count} bytes in {elapsed:.1f} s")
        self._begun, self._count = time.monotonic(), 0


class Download:
    """A file that arrives in pieces over several connections. What has come stays when a connection breaks."""

    def __init__(self, source: Source, path: str) -> None:
        self.source = source
        self.path = path
        self.received = 0
        self._digest = hashlib.sha256()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    @property
    def descriptor(self) -> int:
        """Of the file, for who hands it on."""
        return self._file

    def run(self, timeout: float, progress: Progress, place: Place | None = None, pace: Pace | None = None) -> None:
        """Load what is still missing over one connection, then check the whole.

        From ``place``, by default the source's own; ``pace`` is told of all that comes. OSError or `HttpError` when
        the connection ends early or a block is wrong; call again to go on from there. A wrong SHA-256 of the whole
        is an `HttpError` too, after which everything is loaded again.
        """
        source, where = self.source, place or self.source.place
        if self.received < source.size:
            with Connection(where.host, where.port, timeout) as connection:
                fields = {"Range": f"bytes={self.received}-"} if self.received else {}
                head = connection.request("GET", where.path, fields)
                self._place(head.status, head.fields.get("content-range", ""), head.reason)
                self._load(connection, progress, pace)
        self._check()

    def _load(self, connection: Connection, progress: Progress, pace: Pace | None) -> None:
        size, block = self.source.size, self.source.block
        buffer = memoryview(bytearray(block))
        have = 0  # bytes of a block that is not whole yet
        while self.received < size:
            length = min(block, size - self.received)
            count = connection.read_into(buffer[have:length])
            if count == 0:
                raise HttpError(f"stage2 was cut off after {self.received + have} of {size} bytes")
            have += count
            if pace is not None:
                pace.add(count)
            if have == length or not self.source.blocks:
                self._take(buffer[:have])
                have = 0
                progress(self.received, size)

    def copy(self, stream: BinaryIO, progress: Progress) -> None:
        """Load it from an open file, which has nothing but stage2 in it. OSError, `HttpError` as `run`."""
        self._restart()
        buffer = memoryview(bytearray(self.source.block))
        while self.received < self.source.size:
            # Whole blocks, for their digests; a file has fewer bytes only at its end.
            count = _fill(stream, buffer[: min(len(buffer), self.source.size - self.received)])
            if count == 0:
                raise HttpError(f"stage2 ends after {self.received} of {self.source.size} bytes")
            self._take(buffer[:count])
            progress(self.received, self.source.size)
        self._check()

    def _check(self) -> None:
        found = self._digest.hexdigest()
        if self.source.sha256 and found != self.source.sha256:
            self._restart()
            raise HttpError(f"stage2 has the SHA-256 {found}, expected {self.source.sha256}")

    def _take(self, data: memoryview) -> None:
        """Keep ``data``, a whole block where their digests are known; `HttpError` when it is wrong."""
        blocks, number = self.source.blocks, self.received // self.source.block
        if blocks and hashlib.sha256(data).hexdigest() != blocks[number]:
            raise HttpError(f"stage2 is wrong between byte {self.received} and {self.received + len(data)}")
        self._keep(data)

    def _place(self, status: int, content_range: str, reason: str) -> None:
        """Judge the answer to a request for the rest (RFC 9110, 14.4)."""
        if status == 206 and content_range.startswith(f"bytes {self.received}-"):
            return
        if status == 200:
            if self.received:
                self._restart()  # a server without ranges begins anew
            return
        kind = NotThereError if status == 404 else HttpError
        raise kind(f"the server answered {status} {reason} for stage2")

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


def _fill(stream: BinaryIO, buffer: memoryview) -> int:
    """Bytes that were read: fewer than ``buffer`` takes only at the end."""
    count = 0
    while count < len(buffer):
        piece = stream.read(min(BLOCK, len(buffer) - count))
        if not piece:
            break
        buffer[count : count + len(piece)] = piece
        count += len(piece)
    return count
