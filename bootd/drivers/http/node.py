"""The node interface (docs/architecture.md): HTTP on ``server.http_port``, JSON up, server-sent events down.

A request is answered only with the boot token of the node it speaks for. Bodies are bounded before they are read;
what does not fit is answered 400 with one line of text.
"""

import asyncio
import time
from typing import Any

import structlog
from aiohttp import web

from bootd.config import Settings
from bootd.drivers import order_sources
from bootd.drivers.engine import Engine
from bootd.drivers.http.capture import CaptureRequests
from bootd.drivers.http.files import IMAGES, send
from bootd.drivers.http.gate import Bounds
from bootd.drivers.http.image_tickets import Tickets
from bootd.drivers.http.server import HttpServer, counting, guard, read_body, text_error
from bootd.drivers.http.stages import StageRequests
from bootd.drivers.http.streams import serve_stream
from bootd.drivers.http.sync_node import SyncRequests
from bootd.drivers.http.unlock import Unlock
from bootd.drivers.sockets import listen
from bootd.drivers.source import Sources
from bootd.drivers.tree import File, NotFound, VirtualTree
from bootd.errors import OperatorError
from bootd.netboot.labels import Label
from bootd.wire import control, layout, saved
from bootd.wire.commands import Output
from bootd.wire.control import Disk, Join, Report
from bootd.wire.errors import PeerProtocolError
from bootd.wire.logs import MAX_LINES, Log
from bootd.wire.manifest import MAX_ENCODED
from bootd.wire.manifest import parse as parse_manifest
from bootd.wire.saved import SavedTable

log = structlog.get_logger(__name__)

HEAD = "head-"
SMALL_FILE = 1 << 20  # bytes; what is larger is fetched from the bulk worker


def bounds(settings: Settings) -> Bounds:
    """How many connections a port takes."""
    server = settings.server
    return Bounds(connections=server.max_connections, per_address=server.max_connections_per_address)


class NodeInterface:
    """The server of the node interface. A `bootd.drivers.service.Service`."""

    name = "http"

    def __init__(
        self,
        engine: Engine,
        tree: VirtualTree,
        settings: Settings,
        address: str,
        tickets: Tickets | None = None,
        *,
        labels: dict[str, Label] | None = None,
    ) -> None:
        """``tickets``: for nodes that read images from the bulk port. ``labels``: all, by default the settings'."""
        self._tickets = tickets
        self._engine, self._tree, self._boot_dir = engine, tree, settings.boot_dir
        self._address, self._port = address, settings.server.http_port
        self._bulk = f"http://{address}:{settings.server.bulk_port}"
        self._bounds = bounds(settings)
        self._unlock = Unlock(engine, tree, settings.labels if labels is None else labels)
        self._stages = StageRequests(engine, settings.boot_dir, self._bulk, self._check)
        self._server: HttpServer | None = None

    async def bind(self) -> None:
        """Listen; nothing is answered before `serve`."""
        self._server = HttpServer(
            listen(self._address, self._port, "nodes, boot files", "server.http_port"),
            self._application(),
            self._bounds,
        )
        await self._server.prepare()

    async def serve(self) -> None:
        """Accept connections; aiohttp runs them as tasks of the loop."""
        if self._server is not None:
            await self._server.serve()

    async def close(self) -> None:
        """End the streams, then the connections."""
        self._engine.streams.close()
        if self._server is not None:
            await self._server.close()
            self._server = None

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[counting("nodes"), guard, _protocol_errors])
        app.add_routes(
            [
                web.post("/node/v1/join", self._join),
                web.post("/node/v1/report", self._report),
                web.get("/node/v1/events", self._events, allow_head=False),
                web.post("/node/v1/saved", self._saved),
                web.post("/node/v1/log", self._log),
                web.post("/node/v1/output", self._output),
                web.put("/node/v1/manifest", self._put_manifest),
                web.get("/node/v1/manifest", self._get_manifest),
                web.get("/node/v1/layout", self._get_layout),
                web.get("/node/v1/stage2", self._stages.answer),
                web.get("/node/v1/images", self._images),
                web.get("/boot/{path:.*}", self._boot_file),
                *CaptureRequests(self._engine, self._check).routes(),
                *SyncRequests(self._engine).routes(),
                web.post("/boot/unlock.ipxe", self._unlock.answer),
                web.get("/health", self._health),
            ]
        )
        return app

    async def _join(self, request: web.Request) -> web.Response:
        _token(request)
        message = control.decode_as(Join, await read_body(request, control.MAX_MESSAGE))
        self._check(request, message.node)
        self._engine.run(self._engine.coordinator.join(message, self._engine.now()))
        return web.Response(status=204)

    async def _report(self, request: web.Request) -> web.Response:
        _token(request)
        message = control.decode_as(Report, await read_body(request, control.MAX_MESSAGE))
        self._check(request, message.node)
        self._engine.run(self._engine.coordinator.report(message, self._engine.now()))
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        node = request.query.get("node", "")
        self._check(request, node)
        streams = self._engine.streams
        subscriber = streams.attach(node, self._engine.commands_for(node))
        try:
            return await serve_stream(request, subscriber)
        finally:
            streams.detach(subscriber)

    async def _saved(self, request: web.Request) -> web.Response:
        """Keep the old partition table of the disk that this node was told to write; 204 when it is on our disk."""
        node = request.query.get("node", "")
        self._check(request, node)
        table = saved.decode(await read_body(request, saved.MAX_SAVED))
        coordinator = self._engine.coordinator
        disks = coordinator.planned_disks(node, table.session)
        place = next((number for number, disk in enumerate(disks) if is_of(table, disk)), None)
        if place is None:
            return text_error(409, "these are not the ends of a disk that this node was told to write")
        if self._engine.tables is None:
            return text_error(503, "partition tables are not kept here")
        try:
            name = await asyncio.to_thread(self._engine.tables.keep, node, table)
        except OperatorError as error:
            log.error("partition table not kept", node=node, error=error.message, hint=error.hint)  # noqa: TRY400
            return text_error(507, error.message)
        if coordinator.planned_disks(node, table.session) != disks:  # it took a while: the node may have a new plan
            return text_error(409, "meanwhile this node was told something else")
        self._engine.run(coordinator.table_saved(node, table.session, f"{table.name}, {name},", place))
        return web.Response(status=204)

    async def _log(self, request: web.Request) -> web.Response:
        """Lines of the node's console; 204 when they are kept."""
        _token(request)
        message = control.decode_as(Log, await read_body(request, control.MAX_MESSAGE))
        self._check(request, message.node)
        if len(message.lines) > MAX_LINES:
            return text_error(400, f"{len(message.lines)} lines, at most {MAX_LINES} allowed")
        if self._engine.logs is None:
            return text_error(503, "logs are not kept here")
        try:
            await asyncio.to_thread(self._engine.logs.add, message)
        except OperatorError as error:
            log.error("log not kept", node=message.node, error=error.message, hint=error.hint)  # noqa: TRY400
            return text_error(507, error.message)
        fetched = next((line.text for line in message.lines if line.text.startswith("stage2 fetched")), "")
        if message.stage == "stage1" and fetched:  # from a peer or another server: the bulk port has not seen it
            self._engine.note("stage2", message.node, "", fetched)
        return web.Response(status=204)

    async def _output(self, request: web.Request) -> web.Response:
        """What an operator's command has printed; 410 when nobody wants that any more."""
        _token(request)
        message = control.decode_as(Output, await read_body(request, control.MAX_MESSAGE))
        self._check(request, message.node)
        task = self._engine.commands.output(message, self._engine.now())
        if task is None:
            return text_error(410, "nobody waits for this output")
        if task.is_over:
            self._engine.note_command(self._engine.commands.find(message.id), task)
        return web.Response(status=204)

    async def _put_manifest(self, request: web.Request) -> web.Response:
        session = request.query.get("session", "")
        self._check(request, HEAD + session)
        data = await read_body(request, MAX_ENCODED)
        self._engine.put_manifest(session, data, parse_manifest(data))
        return web.Response(status=204)

    async def _get_manifest(self, request: web.Request) -> web.Response:
        session = request.query.get("session", "")
        coordinator, token = self._engine.coordinator, _token(request)
        holders = [HEAD + session, *(node.mac for node in coordinator.nodes)]
        if not any(coordinator.check_token(holder, token) for holder in holders):
            raise web.HTTPUnauthorized(text="this token is not that of a node\n")
        data = self._engine.manifest(session)
        if data is None:
            return text_error(404, "no manifest of such a session yet")
        return web.Response(body=data, content_type="application/octet-stream")

    async def _get_layout(self, request: web.Request) -> web.Response:
        """The partition table that a session's plan is bound to; 409 when its file is not what it was."""
        coordinator, token = self._engine.coordinator, _token(request)
        session = coordinator.sessions.get(request.query.get("session", ""))
        if not any(coordinator.check_token(node.mac, token) for node in coordinator.nodes):
            raise web.HTTPUnauthorized(text="this token is not that of a node\n")
        if session is not None and session.plan.files is not None and not session.ended:
            return web.Response(body=session.plan.files.document.encode(), content_type="application/octet-stream")
        if session is None or session.ended or not session.plan.layout:
            return text_error(404, "no open session with a layout")
        try:
            data = await asyncio.to_thread(self._layout_of, session.plan.layout)
        except OperatorError as error:
            return text_error(409, error.message)
        if layout.digest(data) != session.plan.layout_digest:
            return text_error(409, f"{session.plan.layout} is not what it was when the session was made")
        return web.Response(body=data, content_type="application/octet-stream")

    def _layout_of(self, source: str) -> bytes:
        looked = Sources(self._engine.image_store)
        return order_sources.layout_of(looked.resolve(source), looked)

    async def _health(self, _request: web.Request) -> web.Response:
        """For load balancers and probes: no token, and no reasons either."""
        return web.Response(text="ok\n") if not self._engine.health() else text_error(503, "not healthy")

    async def _images(self, request: web.Request) -> web.Response:
        """Where this node may read images, and with what."""
        self._check(request, request.query.get("node", ""))
        if self._tickets is None:
            return text_error(503, "images are not kept here")
        ticket, end = self._tickets.issue(request.remote or "", time.time())
        return web.json_response({"url": f"{self._bulk}{IMAGES}", "ticket": ticket, "expires": end})

    async def _boot_file(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        answer = self._tree.resolve(path, request.query.get("mac", ""))
        if isinstance(answer, NotFound):
            return text_error(404, answer.reason)
        if isinstance(answer, File):
            if answer.size <= SMALL_FILE:
                return await send(request, answer, lambda *_: None)
            below = answer.path.relative_to(self._boot_dir.resolve()).as_posix()
            raise web.HTTPFound(f"{self._bulk}/{below}")
        if answer.mac:
            self._engine.note("configuration", answer.mac, "", f"{answer.what}, over HTTP")
        return web.Response(body=answer.content, content_type="text/plain", headers={"Cache-Control": "no-store"})

    def _check(self, request: web.Request, node: str) -> None:
        """401 unless the request carries the token of ``node``."""
        if not self._engine.coordinator.check_token(node, _token(request)):
            raise web.HTTPUnauthorized(text="this token is not that of the node\n")


def is_of(table: SavedTable, disk: Disk) -> bool:
    """Whether ``table`` is what lay on ``disk`` when it was planned: two disks may look alike at both ends."""
    if table.digest != disk.table_digest or table.size != disk.size:
        return False
    if disk.serial or disk.wwn:
        return (table.serial, table.wwn) == (disk.serial, disk.wwn)
    return table.name == disk.name


@web.middleware
async def _protocol_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """What a peer sent and the protocol does not allow: 400 with one line."""
    try:
        response: web.StreamResponse = await handler(request)
    except PeerProtocolError as error:
        log.warning("request refused", peer=request.remote, path=request.path[:200], reason=str(error)[:300])
        return text_error(400, str(error))
    return response


def _token(request: web.Request) -> str:
    """The bearer token; 401 without one, before any body is read."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or not token.isascii():
        raise web.HTTPUnauthorized(text="a boot token is needed: Authorization: Bearer TOKEN\n")
    return token.strip()
