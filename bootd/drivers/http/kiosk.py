"""``/api/v1/kiosk``: which machines are reset, to what, and when."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from bootd.drivers import order_sources
from bootd.drivers.http import answers
from bootd.drivers.http.requests import Owner, read_as, who_asks
from bootd.drivers.http.routes import Route
from bootd.drivers.source import Sources
from bootd.errors import Exit, OperatorError
from bootd.session import selector
from bootd.session.effects import AuditRecord, Effect, KioskRecord, Persist, RemovedKiosk
from bootd.session.kiosk import check_time


class KioskOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT /api/v1/kiosk. ``at``: time of day of the server, "03:00"; "" = at every boot."""

    nodes: str
    image: str
    disk: str = ""
    parts: list[str] = []
    at: str = ""
    label: str = "kamethod"


async def set_kiosk(owner: Owner, request: web.Request) -> web.Response:
    """These machines are reset to this image from now on; answers with all policies."""
    order, who = await read_as(request, KioskOrder), who_asks(request)
    coordinator = owner.engine.coordinator
    macs = _named(owner, order.nodes)
    if order.label not in coordinator.labels:
        raise OperatorError(f"label {order.label!r} is not defined", "see bootd label list", Exit.USAGE)
    check_time(order.at)
    looked = Sources(owner.engine.image_store)
    found = await asyncio.to_thread(order_sources.measure, order.image, order.disk, order.parts, looked=looked)
    selector.parse(found.disk)
    effects: list[Effect] = []
    for mac in sorted(macs):
        record = KioskRecord(
            mac=mac,
            image=order.image,
            disk=order.disk,
            parts=tuple(order.parts),
            at=order.at,
            label=order.label,
            who=who,
            is_due=not order.at,
        )
        node = coordinator.nodes.add(mac)
        coordinator.kiosks.set(record)
        effects += [Persist(node.record()), Persist(record)]
    when = order.at or "every boot"
    effects.append(Persist(AuditRecord(who, "kiosk", f"{order.nodes} {order.image} at {when}")))
    owner.engine.run(effects)
    return await list_kiosks(owner, request)


async def clear_kiosk(owner: Owner, request: web.Request) -> web.Response:
    """``?nodes=``: these machines are reset no more."""
    text, who = request.query.get("nodes", ""), who_asks(request)
    macs = _named(owner, text)
    gone = [mac for mac in sorted(macs) if owner.engine.coordinator.kiosks.remove(mac)]
    if not gone:
        raise OperatorError(f"{text}: no such policy", "see bootd kiosk list", Exit.USAGE)
    effects: list[Effect] = [Persist(RemovedKiosk(mac)) for mac in gone]
    owner.engine.run([*effects, Persist(AuditRecord(who, "kiosk-clear", " ".join(gone)))])
    return await list_kiosks(owner, request)


async def list_kiosks(owner: Owner, _request: web.Request) -> web.Response:
    coordinator = owner.engine.coordinator
    found: list[dict[str, Any]] = [
        {
            "node": mac,
            "name": coordinator.nodes.name(mac),
            "image": kiosk.record.image,
            "disk": kiosk.record.disk,
            "parts": list(kiosk.record.parts),
            "at": kiosk.record.at or None,
            "label": kiosk.record.label,
            "who": kiosk.record.who,
            "due": kiosk.is_due,
            "failures": kiosk.failures,
        }
        for mac, kiosk in coordinator.kiosks
    ]
    return web.json_response(found)


def _named(owner: Owner, text: str) -> frozenset[str]:
    macs = owner.engine.coordinator.nodes.host_set(text).macs
    if macs is None:
        raise OperatorError("'any' is no machine", "name the machines that are reset", Exit.USAGE)
    return macs


ROUTES = (
    Route("GET", "/kiosk", list_kiosks, "Which machines are reset, to what, and when", list[answers.KioskPolicy]),
    Route(
        "PUT", "/kiosk", set_kiosk, "Reset machines at every boot, or daily", list[answers.KioskPolicy], KioskOrder
    ),
    Route(
        "DELETE",
        "/kiosk",
        clear_kiosk,
        "Reset machines no more",
        list[answers.KioskPolicy],
        query=(("nodes", "Names, ranges, MACs"),),
    ),
)
