"""Server-sent events (WHATWG HTML, section 9.2): bounded queues, heartbeats, and laggards that are let go."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable

import structlog
from aiohttp import web

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 2.0
WRITE_SECONDS = 10.0  # a client that takes nothing for so long is gone
HEARTBEAT = b": alive\n\n"


def frame(data: bytes, event: str = "") -> bytes:
    """One event. ``data`` may have several lines; each becomes a ``data:`` line of its own."""
    head = f"event: {event}\n".encode() if event else b""
    body = b"".join(b"data: " + line + b"\n" for line in data.replace(b"\r\n", b"\n").split(b"\n"))
    return head + body + b"\n"


class Subscriber:
    """One connected client: a bounded queue of frames. Full, or closed, it takes no more and its stream ends."""

    def __init__(self, name: str, frames: Iterable[bytes], limit: int) -> None:
        self.name = name
        self.closed = False
        self.reason = ""
        self._frames = deque(frames)
        self._limit = max(limit, len(self._frames))
        self._wake = asyncio.Event()
        if self._frames:
            self._wake.set()

    def put(self, data: bytes) -> bool:
        """Queue a frame. False when the client lags so far behind that it is dropped."""
        if self.closed:
            return False
        if len(self._frames) >= self._limit:
            self.close("lags behind")
            return False
        self._frames.append(data)
        self._wake.set()
        return True

    def close(self, reason: str) -> None:
        """End the stream."""
        if not self.closed:
            self.closed, self.reason = True, reason
            self._wake.set()

    async def next(self, heartbeat: float) -> bytes | None:
        """The next frames together, `HEARTBEAT` after so many seconds without one, None at the end."""
        try:
            async with asyncio.timeout(heartbeat):
                await self._wake.wait()
        except TimeoutError:
            return HEARTBEAT
        if self.closed:
            return None
        self._wake.clear()
        data = b"".join(self._frames)
        self._frames.clear()
        return data


class Streams:
    """At most one stream per node: a node that connects again takes the place of its old connection."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._open: dict[str, Subscriber] = {}

    def __len__(self) -> int:
        return len(self._open)

    def attach(self, name: str, frames: Iterable[bytes]) -> Subscriber:
        """A subscriber that begins with ``frames``."""
        before = self._open.pop(name, None)
        if before is not None:
            before.close("connected again")
        subscriber = self._open[name] = Subscriber(name, frames, self._limit)
        return subscriber

    def detach(self, subscriber: Subscriber) -> None:
        """Forget ``subscriber``, if it still is the one of its name."""
        subscriber.close("disconnected")
        if self._open.get(subscriber.name) is subscriber:
            del self._open[subscriber.name]

    def publish(self, name: str, data: bytes) -> bool:
        """Queue a frame for ``name``; False when it does not listen."""
        subscriber = self._open.get(name)
        return subscriber is not None and self._put(subscriber, data)

    def listens(self, name: str) -> bool:
        """Whether ``name`` has a stream."""
        return name in self._open

    def broadcast(self, data: bytes) -> None:
        """Queue a frame for everybody."""
        for subscriber in list(self._open.values()):
            self._put(subscriber, data)

    def close(self) -> None:
        """End every stream."""
        for subscriber in list(self._open.values()):
            subscriber.close("the daemon stops")
        self._open.clear()

    def _put(self, subscriber: Subscriber, data: bytes) -> bool:
        taken = subscriber.put(data)
        if not taken:
            log.warning("event stream dropped", client=subscriber.name, reason=subscriber.reason)
            if self._open.get(subscriber.name) is subscriber:
                del self._open[subscriber.name]
        return taken


async def serve_stream(
    request: web.Request, subscriber: Subscriber, heartbeat: float = HEARTBEAT_SECONDS
) -> web.StreamResponse:
    """Send what ``subscriber`` gets until it is closed or the client is gone."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    response.force_close()
    with contextlib.suppress(ConnectionError, TimeoutError):
        await response.prepare(request)
        while (data := await subscriber.next(heartbeat)) is not None:
            await asyncio.wait_for(response.write(data), WRITE_SECONDS)
    return response
