"""Imported systems, for operators: which there are, and to look again. Over HTTP."""

import asyncio

from aiohttp import web

from bootd.drivers.http import answers
from bootd.drivers.http.requests import Owner, who_asks
from bootd.drivers.http.routes import Route
from bootd.errors import OperatorError
from bootd.session.effects import AuditRecord, Persist


async def list_systems(owner: Owner, _request: web.Request) -> web.Response:
    """What was imported, or made of a folder."""
    if owner.systems is None:
        raise OperatorError("systems are not kept here", "see server.boot_dir")
    found = await asyncio.to_thread(owner.systems.look)
    return web.json_response([item.view() for item in found])


async def refresh(owner: Owner, request: web.Request) -> web.Response:
    """Take over what `bootd stage import`, `bootd stage remove` or `bootd ramboot` has changed."""
    if owner.systems is None:
        raise OperatorError("systems are not kept here", "see server.boot_dir")
    found = await asyncio.to_thread(owner.systems.look)
    owner.systems.take_over(found)
    owner.engine.run([Persist(AuditRecord(who_asks(request), "systems", ", ".join(item.name for item in found)))])
    return web.json_response([item.view() for item in found])


ROUTES = (
    Route("GET", "/systems", list_systems, "Systems that nodes boot in place of stage2", list[answers.System]),
    Route("POST", "/systems", refresh, "Look again which systems there are", list[answers.System]),
)
