"""The sync requests of the node interface: orders of running systems, reports, and the stream to an rsync server.

A node in stage2 shows its boot token, the agent of a running system its own key.
"""

import os

import structlog
from aiohttp import web

from bootd.drivers.engine import Engine
from bootd.drivers.http.server import read_body, text_error
from bootd.drivers.http.streams import serve_stream
from bootd.drivers.sync.keeper import SyncKeeper
from bootd.wire import control
from bootd.wire.control import SyncReport
from bootd.wire.errors import PeerProtocolError
from bootd.wire.sync import UPGRADE

log = structlog.get_logger(__name__)


class SyncRequests:
    """``keeper`` is asked for with every request: it may not be there yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/node/v1/sync/events", self._events, allow_head=False),
            web.post("/node/v1/sync/logon", self._logon),
            web.post("/node/v1/sync/{task}/report", self._report),
            web.post("/node/v1/sync/{task}/stream", self._stream),
        ]

    @property
    def _keeper(self) -> SyncKeeper:
        keeper = self._engine.sync
        if keeper is None:
            raise web.HTTPServiceUnavailable(text="no syncs here\n")
        return keeper

    def _check(self, request: web.Request, node: str, *, is_agent: bool = False) -> None:
        """401 unless the request carries the boot token of ``node``, or the key of its agent."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip()
        good = scheme.lower() == "bearer" and token.isascii() and self._keeper.store.is_agent(node, token)
        if not good and not is_agent and scheme.lower() == "bearer" and token.isascii():
            good = self._engine.coordinator.check_token(node, token)
        if not good:
            raise web.HTTPUnauthorized(text="this is not the key of the node's agent, nor its boot token\n")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        node = request.query.get("node", "")
        self._check(request, node, is_agent=True)
        streams = self._keeper.streams
        subscriber = streams.attach(node, [])
        self._engine.note("agent", node, "", f"the agent is there ({request.remote})")
        try:
            return await serve_stream(request, subscriber)
        finally:
            streams.detach(subscriber)

    async def _logon(self, request: web.Request) -> web.Response:
        """204 when what is scheduled for it is over, however it went."""
        node = request.query.get("node", "")
        self._check(request, node, is_agent=True)
        if not await self._keeper.logon(node):
            return text_error(504, "it is not done yet")
        return web.Response(status=204)

    async def _report(self, request: web.Request) -> web.Response:
        if not request.headers.get("Authorization"):
            raise web.HTTPUnauthorized(text="a token is needed: Authorization: Bearer TOKEN\n")
        message = control.decode_as(SyncReport, await read_body(request, control.MAX_MESSAGE))
        self._check(request, message.node)
        if message.task != request.match_info["task"]:
            raise PeerProtocolError("a report of another task")
        if not self._keeper.reported(message):
            return text_error(410, "nobody wants to know it: end it")
        return web.Response(status=204)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """The connection changes hands: from here on it is a process of rsync that has it."""
        node = request.query.get("node", "")
        self._check(request, node)
        keeper = self._keeper
        if request.headers.get("Upgrade", "").lower() != UPGRADE:
            return text_error(400, f"the connection does not ask for {UPGRADE}")
        modules = keeper.modules(node, request.match_info["task"])
        if not modules:
            return text_error(410, "no such sync of this node, or it has ended")
        if keeper.servers.is_full:
            return text_error(503, "too many rsync servers at once")
        transport = request.transport
        opened = transport.get_extra_info("socket") if transport is not None else None
        if transport is None or opened is None:
            return text_error(500, "no socket")
        transport.pause_reading()  # what comes now is for rsync
        response = web.StreamResponse(status=101, headers={"Connection": "Upgrade", "Upgrade": UPGRADE})
        response.force_close()
        await response.prepare(request)
        descriptor = os.dup(opened.fileno())
        try:
            await keeper.servers.serve(descriptor, modules, request.match_info["task"])
        except OSError as error:
            log.error("rsync cannot be started", error=str(error), hint="apt install rsync")  # noqa: TRY400
        finally:
            os.close(descriptor)
            transport.close()
        return response
