"""The operators' interface: JSON under /api/v1 on a unix socket that only root, or the daemon's own user, may use.

Errors are ``{"error": {"message", "hint", "code"}}`` with the exit code of the command line. Who asked is taken
from the socket (SO_PEERCRED) and goes into the audit.
"""

import asyncio
import base64
import contextlib
import json
import os
import pwd
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import structlog
from aiohttp import web

from bootd.drivers import boot_history, source
from bootd.drivers.engine import Engine
from bootd.drivers.http.server import Handler, HttpServer, guard, read_body
from bootd.drivers.http.streams import frame, serve_stream
from bootd.drivers.tables import view_kept
from bootd.errors import Exit, OperatorError
from bootd.netboot.labels import Label, foreign_labels
from bootd.session import cards, selector
from bootd.session.request import SessionRequest
from bootd.session.view import view_past, view_session
from bootd.wire.control import Lock

log = structlog.get_logger(__name__)

MAX_BODY = 1 << 20
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_STATUS = {Exit.USAGE: 400, Exit.CONFIG: 400, Exit.BUSY: 409, Exit.REFUSED: 409, Exit.INPUT: 422}


class Deploy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/sessions and of /api/v1/preview."""

    source: str
    nodes: str
    disk: str
    expect: int = 0
    start_now: bool = False
    label: str = "kamethod"
    name: str = ""
    after: Literal["reboot", "stay"] = "reboot"
    fan_out: int = 1
    order: str = "ip"
    compare: bool = False
    zeros: str = "write"
    keep_open: float = 0.0


class SessionChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PATCH /api/v1/sessions/ID."""

    expect: int | None = None
    start_now: bool = False
    close: bool = False


class LabelChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT /api/v1/labels/default and of PUT /api/v1/nodes/NODE/label."""

    label: str
    once: bool = False


class NameChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT /api/v1/nodes/NODE/name."""

    name: str


class LockOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT /api/v1/nodes/NODE/locks. ``disk`` "" and no partition: every disk of the node."""

    reason: str
    owner: str = ""  # "" = who asks
    disk: str = ""  # serial or WWN
    partition: int = 0  # number; 0 = none
    partuuid: str = ""
    seconds: float = 0.0  # 0 = for good


Body = TypeVar("Body")


class OperatorInterface:
    """The server on the unix socket. A `bootd.drivers.service.Service`."""

    name = "operators"

    def __init__(
        self,
        engine: Engine,
        labels: dict[str, Label],
        path: Path,
        leases: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._engine, self._labels, self._path, self._leases = engine, labels, path, leases
        self._server: HttpServer | None = None
        self._watchers = 0

    async def bind(self) -> None:
        """Make the socket, mode 0600. A socket that an earlier daemon left is replaced: the lock is ours."""
        self._server = HttpServer(_listen_unix(self._path), self._application())
        await self._server.prepare()

    async def serve(self) -> None:
        """Accept connections; aiohttp runs them as tasks of the loop."""
        if self._server is not None:
            await self._server.serve()

    async def close(self) -> None:
        """End the streams and the connections, and take the socket away."""
        self._engine.watchers.close()
        if self._server is not None:
            await self._server.close()
            self._server = None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[guard, _errors])
        app.add_routes(
            [
                web.get("/api/v1/state", self._state),
                web.get("/api/v1/events", self._events, allow_head=False),
                web.post("/api/v1/preview", self._preview),
                web.get("/api/v1/sessions", self._sessions),
                web.post("/api/v1/sessions", self._create),
                web.get("/api/v1/sessions/{id}", self._session),
                web.patch("/api/v1/sessions/{id}", self._change),
                web.delete("/api/v1/sessions/{id}", self._cancel),
                web.get("/api/v1/nodes", self._nodes),
                web.get("/api/v1/timeline", self._timeline),
                web.get("/api/v1/nodes/{node}/boots", self._boots),
                web.get("/api/v1/leases", self._list_leases),
                web.put("/api/v1/nodes/{node}/name", self._name),
                web.put("/api/v1/nodes/{node}/label", self._set_label),
                web.delete("/api/v1/nodes/{node}/label", self._clear_label),
                web.delete("/api/v1/nodes/{node}/parked", self._unpark),
                web.get("/api/v1/nodes/{node}/locks", self._list_locks),
                web.put("/api/v1/nodes/{node}/locks", self._add_lock),
                web.delete("/api/v1/nodes/{node}/locks", self._remove_lock),
                web.get("/api/v1/nodes/{node}/tables", self._list_tables),
                web.get("/api/v1/nodes/{node}/tables/{disk}/{time}", self._table),
                web.get("/api/v1/labels", self._list_labels),
                web.put("/api/v1/labels/default", self._set_default),
            ]
        )
        return app

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response(self._engine.state())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self._watchers += 1
        first = [frame(json.dumps(self._engine.state()).encode(), "state")]
        subscriber = self._engine.watchers.attach(f"watcher-{self._watchers}", first)
        try:
            return await serve_stream(request, subscriber)
        finally:
            self._engine.watchers.detach(subscriber)

    async def _list_leases(self, _request: web.Request) -> web.Response:
        return web.json_response(self._leases())

    async def _sessions(self, _request: web.Request) -> web.Response:
        return web.json_response(self._engine.state()["sessions"])

    async def _session(self, request: web.Request) -> web.Response:
        return web.json_response(self._view(request.match_info["id"]))

    async def _preview(self, request: web.Request) -> web.Response:
        """What a deploy would do: image, nodes, and the disk of each node that is known. Changes nothing."""
        wanted = await _body(request, Deploy)
        size = await asyncio.to_thread(source.measure, wanted.source)
        sector = await asyncio.to_thread(source.sector_of, wanted.source)
        coordinator = self._engine.coordinator
        if wanted.label not in self._labels:
            raise OperatorError(
                f"label {wanted.label!r} is not defined", f"known labels: {', '.join(self._labels)}", Exit.USAGE
            )
        chosen = selector.parse(wanted.disk)
        macs = coordinator.nodes.resolve(wanted.nodes)
        nodes = []
        for mac in sorted(macs) if macs is not None else [node.mac for node in coordinator.nodes]:
            known = coordinator.nodes.get(mac)
            disks = known.join.disks if known is not None and known.join is not None else None
            held, name = coordinator.locks.of(mac), coordinator.nodes.name(mac)
            nodes.append(cards.card(mac, name, disks, held, chosen, size=size, sector=sector))
        return web.json_response(
            {"source": wanted.source, "size": size, "sector": sector, "any": macs is None, "nodes": nodes}
        )

    async def _create(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Deploy)
        size = await asyncio.to_thread(source.measure, wanted.source)
        order = SessionRequest(
            source=wanted.source,
            source_size=size,
            source_sector=await asyncio.to_thread(source.sector_of, wanted.source),
            nodes=wanted.nodes,
            disk=wanted.disk,
            expect=wanted.expect,
            start_now=wanted.start_now,
            label=wanted.label,
            name=wanted.name,
            after=wanted.after,
            fan_out=wanted.fan_out,
            order=wanted.order,
            compare=wanted.compare,
            zeros=wanted.zeros,
            keep_open=wanted.keep_open,
        )
        id_, effects = self._engine.coordinator.create(order, _who(request), self._engine.now())
        self._engine.run(effects)
        return web.json_response(self._view(id_), status=201)

    async def _change(self, request: web.Request) -> web.Response:
        change = await _body(request, SessionChange)
        id_, who, now = request.match_info["id"], _who(request), self._engine.now()
        coordinator = self._engine.coordinator
        if change.expect is not None:
            self._engine.run(coordinator.set_expect(id_, change.expect, who, now))
        if change.start_now:
            self._engine.run(coordinator.start_now(id_, who, now))
        if change.close:
            self._engine.run(coordinator.close(id_, who, now))
        return web.json_response(self._view(id_))

    async def _cancel(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        reason = request.query.get("reason", "")[:500]
        self._engine.run(self._engine.coordinator.cancel(id_, reason, _who(request), self._engine.now()))
        return web.json_response(self._view(id_))

    async def _nodes(self, _request: web.Request) -> web.Response:
        return web.json_response(self._engine.state()["nodes"])

    async def _timeline(self, request: web.Request) -> web.Response:
        node = request.query.get("node", "")
        return web.json_response(
            self._engine.timeline_of(self._engine.coordinator.nodes.find(node) if node else "")
        )

    async def _boots(self, request: web.Request) -> web.Response:
        mac = self._engine.coordinator.nodes.find(request.match_info["node"])
        return web.json_response(
            {
                "node": mac,
                "name": self._engine.coordinator.nodes.name(mac),
                "boots": boot_history.boots_of(self._engine, mac, foreign=foreign_labels(self._labels)),
            }
        )

    async def _name(self, request: web.Request) -> web.Response:
        change = await _body(request, NameChange)
        node = request.match_info["node"]
        self._engine.run(self._engine.coordinator.name_node(node, change.name, _who(request)))
        return web.Response(status=204)

    async def _set_label(self, request: web.Request) -> web.Response:
        change = await _body(request, LabelChange)
        node = request.match_info["node"]
        self._engine.run(self._engine.coordinator.set_label(node, change.label, change.once, _who(request)))
        return web.Response(status=204)

    async def _clear_label(self, request: web.Request) -> web.Response:
        self._engine.run(self._engine.coordinator.clear_label(request.match_info["node"], _who(request)))
        return web.Response(status=204)

    async def _unpark(self, request: web.Request) -> web.Response:
        node, now = request.match_info["node"], self._engine.now()
        self._engine.run(self._engine.coordinator.unpark(node, _who(request), now))
        return web.Response(status=204)

    async def _list_locks(self, request: web.Request) -> web.Response:
        mac = self._engine.coordinator.nodes.find(request.match_info["node"])
        return web.json_response([cards.view_lock(held) for held in self._engine.coordinator.locks.of(mac)])

    async def _add_lock(self, request: web.Request) -> web.Response:
        """Lock a partition or a disk; answers with all locks of the node."""
        order, who = await _body(request, LockOrder), _who(request)
        lock = Lock(order.disk, order.partition, order.partuuid, order.owner or who, order.reason)
        effects = self._engine.coordinator.add_lock(
            request.match_info["node"],
            lock,
            who,
            self._engine.now(),
            seconds=order.seconds,
            expires=time.time() + order.seconds,
        )
        self._engine.run(effects)
        return await self._list_locks(request)

    async def _remove_lock(self, request: web.Request) -> web.Response:
        """``?place=`` as the list of locks tells it."""
        node, place = request.match_info["node"], request.query.get("place", "")
        self._engine.run(self._engine.coordinator.remove_lock(node, place, _who(request), self._engine.now()))
        return web.Response(status=204)

    async def _list_tables(self, request: web.Request) -> web.Response:
        mac = self._engine.coordinator.nodes.find(request.match_info["node"])
        kept = await asyncio.to_thread(self._engine.tables.kept, mac) if self._engine.tables is not None else []
        return web.json_response([view_kept(one) for one in kept])

    async def _table(self, request: web.Request) -> web.Response:
        """One table with the bytes of both ends of the disk, in base64."""
        mac = self._engine.coordinator.nodes.find(request.match_info["node"])
        disk, name = request.match_info["disk"], request.match_info["time"]
        if self._engine.tables is None:
            raise OperatorError("partition tables are not kept here", "see server.state_dir")
        kept = await asyncio.to_thread(self._engine.tables.find, mac, disk, name)
        content = base64.b64encode(kept.table.content).decode() if kept.table is not None else ""
        return web.json_response({**view_kept(kept), "content": content})

    async def _list_labels(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "default": self._engine.coordinator.default_label,
                "labels": [
                    {
                        "name": label.name,
                        "kind": label.kind.value,
                        "title": label.title,
                        "append": label.append,
                        "kernel": label.kernel,
                        "initrd": label.initrd,
                    }
                    for label in self._labels.values()
                ],
            }
        )

    async def _set_default(self, request: web.Request) -> web.Response:
        change = await _body(request, LabelChange)
        if change.once:
            raise OperatorError("the default label is for every boot", "say once for a node only", Exit.USAGE)
        self._engine.run(self._engine.coordinator.set_default_label(change.label, _who(request)))
        return web.Response(status=204)

    def _view(self, text: str) -> dict[str, Any]:
        """One session, by id or name; of an earlier run of the daemon if there is none in this one."""
        coordinator = self._engine.coordinator
        try:
            session = coordinator.find_session(text)
        except OperatorError:
            for record in reversed(coordinator.past.values()):
                if text and text in (record.id, record.name):
                    return view_past(record)
            raise
        return view_session(session, coordinator.nodes.name, self._engine.now())


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let only root and the daemon's own user in; answer what an operator did wrong as JSON."""
    credentials = _credentials(request)
    if credentials not in (0, os.geteuid()):
        return _error(403, OperatorError("only root may command bootd", "use sudo", Exit.REFUSED))
    try:
        return await handler(request)
    except OperatorError as error:
        return _error(_STATUS.get(error.code, 400), error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _error(error.status, OperatorError((error.text or error.reason).strip(), "", Exit.USAGE))


def _error(status: int, error: OperatorError) -> web.Response:
    value = {"message": error.message, "hint": error.hint, "code": int(error.code)}
    return web.json_response({"error": value}, status=status)


async def _body(request: web.Request, kind: type[Body]) -> Body:
    data = await read_body(request, MAX_BODY)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise OperatorError(f"request: {error}", "see docs/architecture.md", Exit.USAGE) from None
    except UnicodeDecodeError:
        raise OperatorError("request: not UTF-8", "see docs/architecture.md", Exit.USAGE) from None


def _credentials(request: web.Request) -> int:
    """User id of the peer; -1 when the connection is gone already."""
    peer = request.transport.get_extra_info("socket") if request.transport is not None else None
    if peer is None:
        return -1
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def _who(request: web.Request) -> str:
    """The peer's user, for the audit."""
    uid = _credentials(request)
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except (KeyError, OverflowError):
        return f"uid {uid}"


def _listen_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if path.is_socket():
            path.unlink()
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise OperatorError(
            f"cannot listen on {path}: {error.strerror or error}", "see server.run_dir in bootd.toml", Exit.CONFIG
        ) from None
    return sock
