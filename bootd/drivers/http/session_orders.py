"""Orders to a session that is there, over HTTP: more nodes, fewer, another try. See `bootd.session.orders`."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from bootd.drivers import order_sources
from bootd.drivers.engine import Engine
from bootd.drivers.http import answers
from bootd.drivers.http.requests import Owner, read_as, who_asks
from bootd.drivers.http.routes import Route
from bootd.drivers.notices import Notices
from bootd.drivers.source import Sources
from bootd.errors import OperatorError
from bootd.session import orders
from bootd.session.view import view_past, view_session


class Nodes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/sessions/ID/nodes: names, ranges, MACs."""

    nodes: str


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/sessions/ID/retry. ``nodes`` "": every one that is not cloned and was not taken out."""

    nodes: str = ""


class NoticeOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/sessions/ID/notices: ``mailto:ADDRESS`` or the URL of a webhook."""

    target: str


def view_of(engine: Engine, text: str) -> dict[str, Any]:
    """One session, by id or name; of an earlier run of the daemon if there is none in this one."""
    coordinator = engine.coordinator
    try:
        session = coordinator.find_session(text)
    except OperatorError:
        for record in reversed(coordinator.past.values()):
            if text and text in (record.id, record.name):
                return view_past(record)
        raise
    return view_session(session, coordinator.nodes.name, engine.now())


async def add_nodes(owner: Owner, request: web.Request) -> web.Response:
    """More nodes; answers with the session."""
    hosts, text, engine = (await read_as(request, Nodes)).nodes, request.match_info["id"], owner.engine
    engine.run(orders.add_nodes(engine.coordinator, text, hosts, who_asks(request), engine.now()))
    return web.json_response(view_of(engine, text))


async def eject_nodes(owner: Owner, request: web.Request) -> web.Response:
    """Fewer nodes; answers with the session."""
    hosts, text, engine = request.query.get("nodes", ""), request.match_info["id"], owner.engine
    engine.run(orders.eject_nodes(engine.coordinator, text, hosts, who_asks(request), engine.now()))
    return web.json_response(view_of(engine, text))


async def retry_session(owner: Owner, request: web.Request) -> web.Response:
    """A child session for the nodes that are not cloned; answers with it."""
    hosts, engine = (await read_as(request, Retry)).nodes, owner.engine
    record = orders.ended_record(engine.coordinator, request.match_info["id"])
    size, sector = await asyncio.to_thread(order_sources.measure_again, record, Sources(owner.engine.image_store))
    who, now = who_asks(request), engine.now()
    id_, effects = orders.retry(engine.coordinator, record.id, hosts, who, now, size=size, sector=sector)
    engine.run(effects)
    return web.json_response(view_of(engine, id_), status=201)


async def list_notices(owner: Owner, request: web.Request) -> web.Response:
    """Who is told of the session's end."""
    id_ = view_of(owner.engine, request.match_info["id"])["id"]
    return web.json_response(_notices(owner).listing(id_))


async def add_notice(owner: Owner, request: web.Request) -> web.Response:
    """One more to be told of the session's end; answers with all of them."""
    target = (await read_as(request, NoticeOrder)).target
    id_ = view_of(owner.engine, request.match_info["id"])["id"]
    _notices(owner).add(id_, target, who_asks(request))
    return await list_notices(owner, request)


def _notices(owner: Owner) -> Notices:
    if owner.notices is None:
        raise OperatorError("nobody can be told from here", "this daemon keeps no notices")
    return owner.notices


ROUTES = (
    Route("GET", "/sessions/{id}/notices", list_notices, "Who is told of its end", list[answers.Notice]),
    Route("POST", "/sessions/{id}/notices", add_notice, "Tell somebody of it", list[answers.Notice], NoticeOrder),
    Route("POST", "/sessions/{id}/nodes", add_nodes, "Take more nodes in", answers.Session, Nodes),
    Route(
        "DELETE",
        "/sessions/{id}/nodes",
        eject_nodes,
        "Take nodes out",
        answers.Session,
        query=(("nodes", "Names, ranges, MACs"),),
    ),
    Route(
        "POST",
        "/sessions/{id}/retry",
        retry_session,
        "Clone those that are not cloned, under the same plan",
        answers.Session,
        Retry,
        status=201,
    ),
)
