"""Who may hold a connection, how many, and for how long without asking for anything.

aiohttp waits for a request for ever; a client that sends one byte a minute, or opens a thousand connections, must
not keep others out. `Gate` stands between the socket and aiohttp's protocol.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n"
    b"Retry-After: 2\r\nConnection: close\r\n\r\ntoo many connections\n"
)
_USER_TIMEOUT = 18  # TCP_USER_TIMEOUT


@dataclass(frozen=True)
class Bounds:
    """Connections and seconds."""

    connections: int = 1024
    per_address: int = 64
    header_seconds: float = 10.0  # from the first byte of a request to the end of its headers
    idle_seconds: float = 75.0  # between requests, and before the first
    stalled_seconds: float = 60.0  # the client's side takes nothing of what is being sent


DEFAULT_BOUNDS = Bounds()


class Gate:
    """Counts connections; `make` is what `asyncio.loop.create_server` wants."""

    def __init__(self, inner: Callable[[], asyncio.Protocol], bounds: Bounds) -> None:
        self.bounds = bounds
        self.inner = inner
        self.open: Counter[str] = Counter()
        self.refused = 0

    def make(self) -> asyncio.Protocol:
        return _Passage(self)

    def enter(self, address: str) -> bool:
        """Whether there is room for one more connection from ``address``; if so it is counted."""
        bounds = self.bounds
        if self.open.total() >= bounds.connections or (address and self.open[address] >= bounds.per_address):
            self.refused += 1
            return False
        self.open[address] += 1
        return True

    def leave(self, address: str) -> None:
        self.open[address] -= 1
        if self.open[address] <= 0:
            del self.open[address]


class _Passage(asyncio.Protocol):
    """One connection. Everything is passed on to aiohttp's protocol; `busy` is set by `watch`."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._inner: asyncio.Protocol | None = None
        self._address = ""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._heard = False  # bytes of a request that is not complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            return
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._gate.enter(self._address):
            transport.write(FULL)
            transport.close()
            return
        self._transport = transport
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family != socket.AF_UNIX:
            # Also for a peer that is there but takes nothing (zero window): the kernel ends the connection.
            opened.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(self._gate.bounds.stalled_seconds * 1000))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._inner = self._gate.inner()
        self._inner.connection_made(transport)
        _passages[transport] = self
        self.waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is None:
            return
        self.busy()
        if self._transport is not None:
            _passages.pop(self._transport, None)
        self._gate.leave(self._address)
        self._inner.connection_lost(exc)
        self._inner = None

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            return
        if self._timer is not None and not self._heard:
            self._heard = True
            self._wait(self._gate.bounds.header_seconds)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def busy(self) -> None:
        """A request is being answered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def waiting(self) -> None:
        """For the next request."""
        self._heard = False
        self._wait(self._gate.bounds.idle_seconds)

    def _wait(self, seconds: float) -> None:
        self.busy()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._transport is not None:
            self._transport.abort()


_passages: dict[asyncio.BaseTransport, _Passage] = {}


@web.middleware
async def watch(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tells the connection that its request is complete, and when the answer is."""
    passage = _passages.get(request.transport) if request.transport is not None else None
    if passage is None:
        return await handler(request)
    passage.busy()
    try:
        return await handler(request)
    finally:
        if request.transport is not None:
            passage.waiting()
