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
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from bootd.drivers import boot_history, metrics, order_sources
from bootd.drivers.engine import Engine
from bootd.drivers.http import (
    answers,
    contents,
    kiosk,
    layouts,
    node_routes,
    openapi,
    remote_routes,
    session_orders,
    sync,
    systems,
)
from bootd.drivers.http.backups import BACKUP_ROUTES, Backups
from bootd.drivers.http.image_formats import FORMAT_ROUTES
from bootd.drivers.http.image_transfer import TRANSFER_ROUTES
from bootd.drivers.http.images import IMAGE_ROUTES, ImageRoutes
from bootd.drivers.http.power import POWER_ROUTES, PowerDesk
from bootd.drivers.http.requests import read_as, who_asks
from bootd.drivers.http.routes import CALLER, Caller, Denied, Route, Scope, add_routes
from bootd.drivers.http.server import Handler, counting, guard
from bootd.drivers.http.streams import Subscriber, frame, serve_stream
from bootd.drivers.http.trees import TREE_ROUTES
from bootd.drivers.notices import MOST_OF_SESSION, Notices
from bootd.drivers.power.control import PowerControl
from bootd.drivers.source import Sources
from bootd.drivers.systems import Systems
from bootd.drivers.tables import view_kept
from bootd.drivers.tokens import TokenStore
from bootd.errors import Exit, OperatorError
from bootd.netboot.labels import Label, foreign_labels
from bootd.session import cards, orders, selector
from bootd.session.notices import parse_target
from bootd.session.request import SessionRequest
from bootd.wire.control import FILES, GROW, Lock

MAX_AUDIT = 10_000  # lines of one answer
_STATUS = {Exit.USAGE: 400, Exit.CONFIG: 400, Exit.BUSY: 409, Exit.REFUSED: 409, Exit.INPUT: 422}


class Deploy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/sessions and of /api/v1/preview."""

    source: str
    nodes: str
    disk: str  # selector; "" = the one that ``parts`` names
    further: list[Annotated[str, msgspec.Meta(max_length=1024)]] = []  # selectors of a layout's other disks
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
    parts: list[Annotated[str, msgspec.Meta(max_length=4096)]] = []  # "sda5", "5", "sda6=IMAGE"
    grow: bool = False
    layout: str = ""  # path of a disk image or a table that the disk gets first
    erase: str = ""  # serial of the disk that may get a layout though it is not empty; "*" in a preview: any
    scheme: str = ""  # of an image of files: text of a layout for files, or "@source"
    scheme_name: Annotated[str, msgspec.Meta(max_length=1024)] = ""  # what to call it
    exclude: list[Annotated[str, msgspec.Meta(max_length=4096)]] = []  # its folders that stay empty
    loader: Literal["grub", "none"] = "grub"
    modules: list[Annotated[str, msgspec.Meta(max_length=64)]] = []  # more that its initramfs gets
    skip: list[Annotated[str, msgspec.Meta(max_length=64)]] = []  # steps of customise that are left out
    boot_code: Annotated[str, msgspec.Meta(max_length=892)] = ""  # of the boot sector, hex
    hooks: list[tuple[str, str]] = []  # name and content of scripts that are run in the new system
    erases: list[Annotated[str, msgspec.Meta(max_length=256)]] = []  # as ``erase``, for a room
    protect: list[
        Annotated[str, msgspec.Meta(max_length=256)]
    ] = []  # disks that are not written, whatever is chosen
    notify: list[str] = msgspec.field(default_factory=list)  # mailto:ADDRESS, webhooks: told of its end
    delay: float = 0.0
    at: float = 0.0  # seconds since the epoch; 0 = at once
    wake: bool = False  # the nodes are switched on at that time


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


class Operators:
    """Answers the requests of `ROUTES`."""

    def __init__(
        self,
        engine: Engine,
        labels: dict[str, Label],
        tokens: TokenStore,
        leases: Callable[[], list[dict[str, Any]]] = list,
        *,
        images: ImageRoutes | None = None,
        notices: Notices | None = None,
        power: PowerControl | None = None,
    ) -> None:
        self.notices = notices
        self.engine = self._engine = engine
        self._labels, self._leases = labels, leases
        self._power = PowerDesk(engine, power)
        engine.switch_on = self._power.switch_on
        self._backups = Backups(engine)
        self._watchers = 0
        self._watching: dict[Subscriber, str] = {}  # name of the token that opened the stream
        self.tokens = tokens
        self.images = images
        self.systems: Systems | None = None

    def application(self, authenticate: Callable[[web.Request], Caller]) -> web.Application:
        """For one transport. ``authenticate`` raises `Denied`, or says who asks."""

        @web.middleware
        async def recognise(request: web.Request, handler: Handler) -> web.StreamResponse:
            request[CALLER] = authenticate(request)
            return await handler(request)

        app = web.Application(middlewares=[counting("operators"), guard, _errors, recognise])
        add_routes(app, OWN_ROUTES, self)
        add_routes(app, POWER_ROUTES, self._power)
        add_routes(app, BACKUP_ROUTES, self._backups)
        if self.images is not None:
            add_routes(app, (*IMAGE_ROUTES, *FORMAT_ROUTES, *TRANSFER_ROUTES, *TREE_ROUTES), self.images)
        return app

    def end_streams(self) -> None:
        """Nobody watches any more: the daemon stops."""
        self._engine.watchers.close()

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response(self._engine.state())

    async def _health(self, _request: web.Request) -> web.Response:
        """200 when all is well, 503 with the reasons when it is not."""
        trouble = self._engine.health()
        return web.json_response({"ok": not trouble, "trouble": trouble}, status=503 if trouble else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = metrics.exposition(self._engine.state(), len(self._leases()), self._engine.health())
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

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
        return web.json_response(session_orders.view_of(self._engine, request.match_info["id"]))

    async def _preview(self, request: web.Request) -> web.Response:
        """What a deploy would do: image, nodes, and the disk of each node that is known. Changes nothing."""
        wanted = contents.replaced_last(await read_as(request, Deploy), self.engine)
        found = await self._measure(wanted)
        coordinator = self._engine.coordinator
        if wanted.label not in self._labels:
            raise OperatorError(
                f"label {wanted.label!r} is not defined", f"known labels: {', '.join(self._labels)}", Exit.USAGE
            )
        chosen = selector.parse(found.disk, several=found.files is not None)
        further = [selector.parse(text) for text in wanted.further]
        is_any = coordinator.nodes.host_set(wanted.nodes).macs is None
        nodes = []
        for mac in coordinator.nodes.select(wanted.nodes):
            known = coordinator.nodes.get(mac)
            join = known.join if known is not None else None
            held, name = coordinator.locks.of(mac), coordinator.nodes.name(mac)
            card = cards.card(
                mac,
                name,
                join,
                held,
                chosen,
                size=found.size,
                sector=found.sector,
                orders=found.parts,
                needs=(GROW,) if wanted.grow else (FILES,) if found.files else (),
                layout=found.layout,
                files=found.files,
                inherited=[one for _, one in coordinator.admission.inherited_locks(mac, self._engine.now())],
                veto=coordinator.admission.veto(mac, is_any=is_any),
                further=further,
            )
            nodes.append(card)
        return web.json_response(
            {
                "source": found.source,
                "size": found.size,
                "sector": found.sector,
                "disk": " and ".join([found.disk, *wanted.further]),
                "any": is_any,
                "nodes": nodes,
            }
        )

    async def _create(self, request: web.Request) -> web.Response:
        wanted = contents.replaced_last(await read_as(request, Deploy), self.engine)
        targets = [parse_target(text) for text in wanted.notify]
        if len(targets) > MOST_OF_SESSION:
            raise OperatorError(f"{len(targets)} are to be told", f"say at most {MOST_OF_SESSION}", Exit.USAGE)
        found = await self._measure(wanted)
        order = SessionRequest(
            source=found.source,
            source_size=found.size,
            source_sector=found.sector,
            nodes=wanted.nodes,
            disk=found.disk,
            parts=found.parts,
            grow=wanted.grow,
            layout=found.layout,
            files=found.files,
            further=tuple(wanted.further),
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
            delay=wanted.delay,
            start_at=orders.check_time(wanted.at, time.time()),
            wake=wanted.wake,
        )
        id_, effects = self._engine.coordinator.create(order, who_asks(request), self._engine.now())
        self._engine.run(effects)
        if self.notices is not None:
            for target in targets:
                self.notices.add(id_, target.text, who_asks(request))
        return web.json_response(session_orders.view_of(self._engine, id_), status=201)

    async def _measure(self, wanted: Deploy) -> order_sources.Measured:
        if wanted.scheme:
            return await asyncio.to_thread(
                order_sources.measure_files,
                wanted.source,
                wanted.disk,
                _files_wish(wanted),
                Sources(self._engine.image_store),
                further=len(wanted.further),
            )
        if wanted.further:
            raise OperatorError("several disks are for images of files", "say one --disk", Exit.USAGE)
        return await asyncio.to_thread(
            order_sources.measure,
            wanted.source,
            wanted.disk,
            wanted.parts,
            wanted.layout,
            erase=wanted.erase,
            looked=Sources(self._engine.image_store),
        )

    async def _change(self, request: web.Request) -> web.Response:
        change = await read_as(request, SessionChange)
        id_, who, now = request.match_info["id"], who_asks(request), self._engine.now()
        coordinator = self._engine.coordinator
        if change.expect is not None:
            self._engine.run(coordinator.set_expect(id_, change.expect, who, now))
        if change.start_now:
            self._engine.run(coordinator.start_now(id_, who, now))
        if change.close:
            self._engine.run(coordinator.close(id_, who, now))
        return web.json_response(session_orders.view_of(self._engine, id_))

    async def _cancel(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        reason = request.query.get("reason", "")[:500]
        self._engine.run(self._engine.coordinator.cancel(id_, reason, who_asks(request), self._engine.now()))
        return web.json_response(session_orders.view_of(self._engine, id_))

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
        change = await read_as(request, NameChange)
        node = request.match_info["node"]
        self._engine.run(self._engine.coordinator.name_node(node, change.name, who_asks(request)))
        return web.Response(status=204)

    async def _set_label(self, request: web.Request) -> web.Response:
        change = await read_as(request, LabelChange)
        node = request.match_info["node"]
        self._engine.run(self._engine.coordinator.set_label(node, change.label, change.once, who_asks(request)))
        return web.Response(status=204)

    async def _clear_label(self, request: web.Request) -> web.Response:
        self._engine.run(self._engine.coordinator.clear_label(request.match_info["node"], who_asks(request)))
        return web.Response(status=204)

    async def _unpark(self, request: web.Request) -> web.Response:
        node, now = request.match_info["node"], self._engine.now()
        self._engine.run(self._engine.coordinator.unpark(node, who_asks(request), now))
        return web.Response(status=204)

    async def _list_locks(self, request: web.Request) -> web.Response:
        mac = self._engine.coordinator.nodes.find(request.match_info["node"])
        return web.json_response([cards.view_lock(held) for held in self._engine.coordinator.locks.of(mac)])

    async def _add_lock(self, request: web.Request) -> web.Response:
        """Lock a partition or a disk; answers with all locks of the node."""
        order, who = await read_as(request, LockOrder), who_asks(request)
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
        self._engine.run(self._engine.coordinator.remove_lock(node, place, who_asks(request), self._engine.now()))
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
                        "protected": bool(label.password),
                        "hidden": label.hide,
                    }
                    for label in self._labels.values()
                ],
            }
        )

    async def _set_default(self, request: web.Request) -> web.Response:
        change = await read_as(request, LabelChange)
        if change.once:
            raise OperatorError("the default label is for every boot", "say once for a node only", Exit.USAGE)
        self._engine.run(self._engine.coordinator.set_default_label(change.label, who_asks(request)))
        return web.Response(status=204)

    async def _create_token(self, request: web.Request) -> web.Response:
        order = await read_as(request, TokenOrder)
        token = self.tokens.create(order.name, order.scope, order.seconds, who_asks(request))
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
        self.tokens.revoke(name, who_asks(request))
        for subscriber, token in list(self._watching.items()):
            if token == name:
                subscriber.close("the token is revoked")
        return web.Response(status=204)

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.json_response(describe())


def _files_wish(wanted: Deploy) -> order_sources.FilesWish:
    try:
        boot_code = bytes.fromhex(wanted.boot_code)
    except ValueError:
        raise OperatorError("boot_code is not hexadecimal", "see docs/files.md", Exit.USAGE) from None
    return order_sources.FilesWish(
        wanted.scheme,
        wanted.scheme_name or "a layout",
        tuple(wanted.exclude),
        wanted.loader,
        tuple(wanted.modules),
        tuple(wanted.skip),
        boot_code,
        tuple(wanted.hooks),
        tuple(wanted.erases),
        tuple(wanted.protect),
    )


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


def describe() -> dict[str, Any]:
    """The OpenAPI document of `ROUTES`."""
    return openapi.document(ROUTES)


OWN_ROUTES = (
    Route("GET", "/state", Operators._state, "Everything: sessions, nodes, default label", answers.State),
    Route("GET", "/health", Operators._health, "Whether all is well; 503 with the reasons if not", answers.Health),
    Route("GET", "/metrics", Operators._metrics, "Counters, in Prometheus' text format", str, media="text/plain"),
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
    *node_routes.ROUTES,
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
    *session_orders.ROUTES,
    *contents.ROUTES,
    *layouts.ROUTES,
    *kiosk.ROUTES,
    *remote_routes.ROUTES,
    *sync.ROUTES,
    *systems.ROUTES,
)
ROUTES = (
    *(*OWN_ROUTES, *POWER_ROUTES, *BACKUP_ROUTES, *IMAGE_ROUTES),
    *(*FORMAT_ROUTES, *TRANSFER_ROUTES, *TREE_ROUTES),
)
