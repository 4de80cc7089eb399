"""The operators' interface: JSON under /api/v1, whatever carries it.

`unix_socket.py` and `network.py` carry it; they say who asks. Errors are ``{"error": {"message", "hint", "code"}}``
with the exit code of the command line.
"""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web

from bootd.drivers import boot_history, source
from bootd.drivers.engine import Engine
from bootd.drivers.http import answers, openapi
from bootd.drivers.http.backups import BackupOrder, Backups
from bootd.drivers.http.routes import CALLER, Caller, Denied, Route, Scope, add_routes
from bootd.drivers.http.server import Handler, guard, read_body
from bootd.drivers.http.streams import Subscriber, frame, serve_stream
from bootd.drivers.tables import view_kept
from bootd.drivers.tokens import TokenStore
from bootd.errors import Exit, OperatorError
from bootd.netboot.labels import Label, foreign_labels
from bootd.session import cards, selector
from bootd.session.request import SessionRequest
from bootd.session.view import view_past, view_session
from bootd.wire.control import Lock

MAX_BODY = 1 << 20
MAX_AUDIT = 10_000  # lines of one answer
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


class TokenOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/tokens. Valid for ``seconds``; null = until it is revoked."""

    name: str
    scope: Scope
    seconds: Annotated[float, msgspec.Meta(gt=0, le=864_000_000)] | None = None


class LockOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT /api/v1/nodes/NODE/locks. ``disk`` "" and no partition: every disk of the node."""

    reason: str
    owner: str = ""  # "" = who asks
    disk: str = ""  # serial or WWN
    partition: int = 0  # number; 0 = none
    partuuid: str = ""
    seconds: float = 0.0  # 0 = for good


Body = TypeVar("Body")


class Operators:
    """Answers the requests of `ROUTES`."""

    def __init__(
        self,
        engine: Engine,
        labels: dict[str, Label],
        tokens: TokenStore,
        leases: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._engine, self._labels, self._leases = engine, labels, leases
        self._backups = Backups(engine)
        self._watchers = 0
        self._watching: dict[Subscriber, str] = {}  # name of the token that opened the stream
        self.tokens = tokens

    def application(self, authenticate: Callable[[web.Request], Caller]) -> web.Application:
        """For one transport. ``authenticate`` raises `Denied`, or says who asks."""

        @web.middleware
        async def recognise(request: web.Request, handler: Handler) -> web.StreamResponse:
            request[CALLER] = authenticate(request)
            return await handler(request)

        app = web.Application(middlewares=[guard, _errors, recognise])
        add_routes(app, ROUTES, self)
        return app

    def end_streams(self) -> None:
        """Nobody watches any more: the daemon stops."""
        self._engine.watchers.close()

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response(self._engine.state())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        caller: Caller = request[CALLER]
        self._watchers += 1
        first = [frame(json.dumps(self._engine.state()).encode(), "state")]
        subscriber = self._engine.watchers.attach(f"watcher-{self._watchers}", first)
        self._watching[subscriber] = caller.token
        end = None
        if caller.expires is not None:
            left = min(caller.expires - time.time(), 86400.0 * 30)  # the loop counts no longer than that reliably
            end = asyncio.get_running_loop().call_later(max(0.0, left), subscriber.close, "the token has expired")
        try:
            return await serve_stream(request, subscriber)
        finally:
            if end is not None:
                end.cancel()
            del self._watching[subscriber]
            self._engine.watchers.detach(subscriber)

    async def _list_leases(self, _request: web.Request) -> web.Response:
        return web.json_response(self._leases())

    async def _audit(self, request: web.Request) -> web.Response:
        """Who did what: the latest ``limit`` lines from ``since`` on (seconds since the epoch)."""
        query = request.query
        try:
            limit, since = int(query.get("limit", "100")), float(query.get("since", "0"))
        except ValueError:
            raise OperatorError(
                "audit: limit and since are numbers", "see docs/architecture.md", Exit.USAGE
            ) from None
        if not 1 <= limit <= MAX_AUDIT:
            raise OperatorError(f"audit: {limit} lines", f"ask for 1 to {MAX_AUDIT}", Exit.USAGE)
        lines = self._engine.audit(limit, since, query.get("who", ""))
        return web.json_response([asdict(line) for line in lines])

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

    async def _list_backups(self, _request: web.Request) -> web.Response:
        return web.json_response(self._backups.all())

    async def _backup(self, request: web.Request) -> web.Response:
        return web.json_response(self._backups.one(request.match_info["id"]))

    async def _order_backup(self, request: web.Request) -> web.Response:
        return web.json_response(self._backups.order(await _body(request, BackupOrder), request), status=201)

    async def _cancel_backup(self, request: web.Request) -> web.Response:
        return web.json_response(self._backups.cancel(request.match_info["id"], request))

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

    async def _create_token(self, request: web.Request) -> web.Response:
        order = await _body(request, TokenOrder)
        token = self.tokens.create(order.name, order.scope, order.seconds, _who(request))
        return web.json_response(
            {"name": order.name, "scope": order.scope.value, "token": token},
            status=201,
            headers={"Cache-Control": "no-store"},
        )

    async def _list_tokens(self, _request: web.Request) -> web.Response:
        return web.json_response(self.tokens.listing())

    async def _revoke_token(self, request: web.Request) -> web.Response:
        """Counts at once: also streams that it has opened end."""
        name = request.match_info["name"]
        self.tokens.revoke(name, _who(request))
        for subscriber, token in list(self._watching.items()):
            if token == name:
                subscriber.close("the token is revoked")
        return web.Response(status=204)

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.json_response(describe())

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
    """Answer what an operator did wrong as JSON."""
    try:
        return await handler(request)
    except Denied as error:
        return _error(error.status, error, error.headers)
    except OperatorError as error:
        return _error(_STATUS.get(error.code, 400), error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _error(error.status, OperatorError((error.text or error.reason).strip(), "", Exit.USAGE))


def _error(status: int, error: OperatorError, headers: dict[str, str] | None = None) -> web.Response:
    value = {"message": error.message, "hint": error.hint, "code": int(error.code)}
    return web.json_response({"error": value}, status=status, headers=headers)


async def _body(request: web.Request, kind: type[Body]) -> Body:
    data = await read_body(request, MAX_BODY)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise OperatorError(f"request: {error}", "see docs/api.md", Exit.USAGE) from None
    except UnicodeDecodeError:
        raise OperatorError("request: not UTF-8", "see docs/api.md", Exit.USAGE) from None


def _who(request: web.Request) -> str:
    """Who asks, for the audit."""
    caller: Caller = request[CALLER]
    return caller.who


def describe() -> dict[str, Any]:
    """The OpenAPI document of `ROUTES`."""
    return openapi.document(ROUTES)


ROUTES = (
    Route("GET", "/state", Operators._state, "Everything: sessions, nodes, default label", answers.State),
    Route(
        "GET",
        "/events",
        Operators._events,
        "Server-sent events: `state` (State, twice a second) and `line` (Line)",
        str,
        media="text/event-stream",
    ),
    Route(
        "POST", "/preview", Operators._preview, "What a deploy would do; nothing happens", answers.Preview, Deploy
    ),
    Route("GET", "/sessions", Operators._sessions, "All sessions, oldest first", list[answers.Session]),
    Route("POST", "/sessions", Operators._create, "Open a session", answers.Session, Deploy, status=201),
    Route("GET", "/sessions/{id}", Operators._session, "One session, by id or name", answers.Session),
    Route(
        "PATCH",
        "/sessions/{id}",
        Operators._change,
        "Expect so many, start now, close",
        answers.Session,
        SessionChange,
    ),
    Route(
        "DELETE",
        "/sessions/{id}",
        Operators._cancel,
        "Cancel a session",
        answers.Session,
        query=(("reason", "One sentence, for the record"),),
    ),
    Route("GET", "/nodes", Operators._nodes, "All machines that booted from here", list[answers.Node]),
    Route(
        "GET",
        "/timeline",
        Operators._timeline,
        "What machines did and were told",
        list[answers.Line],
        query=(("node", "Name or MAC; all without it"),),
    ),
    Route("GET", "/nodes/{node}/boots", Operators._boots, "How a machine booted, step by step", answers.Boots),
    Route(
        "GET",
        "/audit",
        Operators._audit,
        "Who did what, oldest first",
        list[answers.AuditLine],
        query=(
            ("limit", "Lines, 1 to 10,000; 100 without it"),
            ("since", "Seconds since the epoch"),
            ("who", "Only what this one did"),
        ),
    ),
    Route("GET", "/nodes/{node}/locks", Operators._list_locks, "What nobody overwrites", list[answers.Lock]),
    Route(
        "PUT",
        "/nodes/{node}/locks",
        Operators._add_lock,
        "Lock a partition or a disk",
        list[answers.Lock],
        LockOrder,
    ),
    Route(
        "DELETE",
        "/nodes/{node}/locks",
        Operators._remove_lock,
        "Remove a lock",
        query=(("place", "Which one, as the list tells it"),),
    ),
    Route("GET", "/nodes/{node}/tables", Operators._list_tables, "Old partition tables", list[answers.Table]),
    Route(
        "GET",
        "/nodes/{node}/tables/{disk}/{time}",
        Operators._table,
        "One old partition table, with both ends of the disk",
        answers.WholeTable,
    ),
    Route("GET", "/backups", Operators._list_backups, "Disks that are read into images", list[answers.Backup]),
    Route(
        "POST",
        "/backups",
        Operators._order_backup,
        "Read a disk or a partition of a machine into an image",
        answers.Backup,
        BackupOrder,
        status=201,
    ),
    Route("GET", "/backups/{id}", Operators._backup, "One backup", answers.Backup),
    Route("DELETE", "/backups/{id}", Operators._cancel_backup, "Cancel a backup", answers.Backup),
    Route("GET", "/leases", Operators._list_leases, "Addresses that bootd has given", list[answers.Lease]),
    Route("PUT", "/nodes/{node}/name", Operators._name, "Name a machine", body=NameChange),
    Route("PUT", "/nodes/{node}/label", Operators._set_label, "What a machine boots", body=LabelChange),
    Route("DELETE", "/nodes/{node}/label", Operators._clear_label, "A machine boots the default"),
    Route("DELETE", "/nodes/{node}/parked", Operators._unpark, "Let a machine that gave up be tried again"),
    Route("GET", "/labels", Operators._list_labels, "All labels, and the default", answers.Labels),
    Route("PUT", "/labels/default", Operators._set_default, "What machines without a label boot", body=LabelChange),
    Route("GET", "/tokens", Operators._list_tokens, "All tokens", list[answers.TokenLine], needs=Scope.ADMIN),
    Route(
        "POST",
        "/tokens",
        Operators._create_token,
        "Make a token; it is shown this once",
        answers.NewToken,
        TokenOrder,
        status=201,
        needs=Scope.ADMIN,
    ),
    Route("DELETE", "/tokens/{name}", Operators._revoke_token, "Revoke a token, at once", needs=Scope.ADMIN),
    Route("GET", "/openapi.json", Operators._openapi, "This description", dict[str, Any]),
)
