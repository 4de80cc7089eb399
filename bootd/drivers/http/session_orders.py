"""Orders to a session that is there, over HTTP: more nodes, fewer, another try. See `bootd.session.orders`."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from bootd.drivers import source
from bootd.drivers.engine import Engine
from bootd.drivers.http import answers
from bootd.drivers.http.requests import Owner, read_as, who_asks
from bootd.drivers.http.routes import Route
from bootd.errors import OperatorError
from bootd.session import orders
from bootd.session.view import view_past, view_session


class Nodes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/sessions/ID/nodes: names, ranges, MACs."""

    nodes: str


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/sessions/ID/retry. ``nodes`` "": every one that is not cloned and was not taken out."""

    nodes: str = ""


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
    size = await asyncio.to_thread(source.measure, record.source)
    sector = await asyncio.to_thread(source.sector_of, record.source)
    who, now = who_asks(request), engine.now()
    id_, effects = orders.retry(engine.coordinator, record.id, hosts, who, now, size=size, sector=sector)
    engine.run(effects)
    return web.json_response(view_of(engine, id_), status=201)


ROUTES = (
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
