"""What the HTTP interfaces share: errors as answers, bodies with bounds, runners that end quickly."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from bootd.drivers import metrics
from bootd.drivers.http.gate import DEFAULT_BOUNDS, Bounds, Gate, watch
from bootd.drivers.sockets import BACKLOG

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SHUTDOWN_SECONDS = 1.0
ACCEPT = 4  # connections taken per wake-up
BODY_SECONDS = 30.0  # a body must have arrived within


def text_error(status: int, text: str) -> web.Response:
    """One line of text, printable whatever the client had sent."""
    line = "".join(character if character.isprintable() else "?" for character in text)
    return web.Response(status=status, text=line[:500] + "\n")


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A defect in a handler is logged once and answered with 500; it never reaches the daemon's loop."""
    try:
        return await handler(request)
    except (web.HTTPException, asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        log.exception("request failed", method=request.method, path=request.path[:200])
        return text_error(500, "internal error: see the log of bootd")


def counting(interface: str) -> Middleware:
    """A middleware, to stand first: counts what ``interface`` answers, by status."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        status = 499  # the client has gone
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            metrics.HTTP_REQUESTS.labels(interface, str(status)).inc()
        return response

    return count


async def read_body(request: web.Request, limit: int) -> bytes:
    """The whole body. 413 beyond ``limit`` bytes, 408 when it does not arrive in time."""
    if request.content_length is not None and request.content_length > limit:
        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=request.content_length)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.content.iter_chunked(1 << 16):
                size += len(part)
                if size > limit:
                    raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=size)
                parts.append(part)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body did not arrive in time\n") from None
    except web.HTTPException:
        raise
    except ValueError as error:  # a chunked body that is none
        raise web.HTTPBadRequest(text=f"body: {error}"[:200] + "\n") from None
    return b"".join(parts)


class HttpServer:
    """An application on a socket that is bound already: `prepare`, then `serve`; `close` ends both."""

    def __init__(self, listener: socket.socket, app: web.Application, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        self._socket = listener
        app.middlewares.insert(0, watch)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_SECONDS,
            keepalive_timeout=bounds.idle_seconds,
        )
        self._bounds = bounds
        self._server: asyncio.Server | None = None

    async def prepare(self) -> None:
        """Set the application up; nothing is answered yet."""
        await self._runner.setup()

    async def serve(self) -> None:
        """Accept connections; aiohttp runs them as tasks of the loop."""
        inner = self._runner.server
        if inner is None:
            raise RuntimeError("serve() before prepare()")
        gate = Gate(inner, self._bounds)
        # Few are taken at once, so that several processes on one socket share them; the kernel's queue stays long.
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(gate.make, sock=self._socket, backlog=ACCEPT)
        self._socket.listen(BACKLOG)

    async def close(self) -> None:
        """End the connections soon, and close the socket."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        self._socket.close()
