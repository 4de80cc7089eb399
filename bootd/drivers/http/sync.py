"""``/api/v1/sync…``: files of nodes kept alike: sets, runs, schedules, agents of running systems."""

import asyncio
import re
import secrets
import time
from dataclasses import asdict
from typing import Annotated

import msgspec
from aiohttp import web

from bootd.drivers.http import answers
from bootd.drivers.http.requests import Owner, read_as, who_asks
from bootd.drivers.http.routes import Route, Scope
from bootd.drivers.sync.keeper import SyncKeeper
from bootd.drivers.sync.sources import check_source
from bootd.drivers.sync.store import BOOT, LOGON, Schedule
from bootd.errors import Exit, OperatorError
from bootd.session.effects import AuditRecord, Persist
from bootd.session.kiosk import check_time
from bootd.session.sync import DEFAULT_CAP, MAX_CAP, Options, view_run

Cap = Annotated[int, msgspec.Meta(ge=1, le=MAX_CAP)]
MAX_SCHEDULES = 1000


class SyncOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/syncs. ``max_delete``: per cent; null = as the set says. ``few``: also from a source
    with fewer files than the set expects."""

    set: str
    nodes: str
    collect: bool = False
    dry_run: bool = False
    freeze: bool = False
    full: bool = False
    staged: bool = False
    reboot: bool = False
    cap: Cap = DEFAULT_CAP
    max_delete: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    few: bool = False


class SyncScheduleOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/sync-schedules. ``at``: time of day of the server, "boot" or "logon"."""

    set: str
    nodes: str
    at: str
    freeze: bool = False
    staged: bool = False
    reboot: bool = False
    cap: Cap = DEFAULT_CAP


class SyncAgentOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/sync-agents."""

    node: str


async def list_sets(owner: Owner, _request: web.Request) -> web.Response:
    found = []
    for wanted in _keeper(owner).sets.values():
        trouble = ""
        try:
            await asyncio.to_thread(check_source, wanted)
        except OperatorError as error:
            trouble = error.message
        fields = asdict(wanted)
        keys = ("name", "source", "target", "include", "exclude", "unique", "update", "max_delete")
        found.append({**{key: fields[key] for key in keys}, "trouble": trouble})
    return web.json_response(found)


async def list_runs(owner: Owner, _request: web.Request) -> web.Response:
    return web.json_response([view_run(run) for run in _keeper(owner).syncs])


async def begin(owner: Owner, request: web.Request) -> web.Response:
    """Begins at once; answers with the run."""
    order, keeper = await read_as(request, SyncOrder), _keeper(owner)
    macs = owner.engine.coordinator.nodes.host_set(order.nodes).macs
    if macs is None:
        raise OperatorError("'any' is no machine", "name the machines", Exit.USAGE)
    options = Options(
        collect=order.collect,
        dry=order.dry_run,
        freeze=order.freeze,
        full=order.full,
        staged=order.staged,
        reboot=order.reboot,
        cap=order.cap,
        max_delete=order.max_delete,
        few=order.few,
    )
    run = await keeper.begin(order.set, macs, options, who_asks(request))
    return web.json_response(view_run(run), status=201)


async def show_run(owner: Owner, request: web.Request) -> web.Response:
    """With the lines of what changed, as far as they are kept."""
    return web.json_response(view_run(_keeper(owner).syncs.find(request.match_info["id"]), changes=True))


async def stop_run(owner: Owner, request: web.Request) -> web.Response:
    return web.json_response(view_run(_keeper(owner).stop(request.match_info["id"], who_asks(request))))


async def list_schedules(owner: Owner, _request: web.Request) -> web.Response:
    nodes = owner.engine.coordinator.nodes
    return web.json_response(
        [
            {**asdict(one), "due": [nodes.name(mac) for mac in one.due]}
            for one in _keeper(owner).store.schedules.values()
        ]
    )


async def add_schedule(owner: Owner, request: web.Request) -> web.Response:
    """Answers with all of them."""
    order, keeper, who = await read_as(request, SyncScheduleOrder), _keeper(owner), who_asks(request)
    keeper.set_named(order.set)
    if not order.at:
        raise OperatorError("when?", "say --at 03:00, --at boot or --at logon", Exit.USAGE)
    if order.at not in (BOOT, LOGON):
        check_time(order.at)
    if owner.engine.coordinator.nodes.host_set(order.nodes).macs is None:
        raise OperatorError("'any' is no machine", "name the machines", Exit.USAGE)
    if len(keeper.store.schedules) >= MAX_SCHEDULES:
        raise OperatorError(f"{MAX_SCHEDULES} schedules", "remove some", Exit.REFUSED)
    schedule = Schedule(
        secrets.token_hex(3),
        order.set,
        order.nodes,
        order.at,
        order.freeze,
        order.staged,
        order.reboot,
        order.cap,
        who,
    )
    owner.engine.run([Persist(AuditRecord(who, "sync-schedule", f"{order.set} on {order.nodes} at {order.at}"))])
    keeper.store.keep(schedule)
    return await list_schedules(owner, request)


async def remove_schedule(owner: Owner, request: web.Request) -> web.Response:
    keeper, id_ = _keeper(owner), request.match_info["id"]
    gone = keeper.store.remove(id_)
    if gone is None:
        raise OperatorError(f"there is no schedule {id_[:40]!r}", "see bootd sync schedules", Exit.USAGE)
    detail = f"{gone.set} on {gone.nodes} at {gone.at}"
    owner.engine.run([Persist(AuditRecord(who_asks(request), "sync-unschedule", detail))])
    return await list_schedules(owner, request)


async def list_agents(owner: Owner, _request: web.Request) -> web.Response:
    keeper, nodes = _keeper(owner), owner.engine.coordinator.nodes
    return web.json_response(
        [
            {
                "node": agent.node,
                "name": nodes.name(agent.node),
                "created": agent.created,
                "who": agent.who,
                "up": keeper.streams.listens(agent.node),
            }
            for agent in keeper.store.agents.values()
        ]
    )


async def enrol_agent(owner: Owner, request: web.Request) -> web.Response:
    """A new key for the agent of a machine; an earlier one counts no more."""
    order, keeper, who = await read_as(request, SyncAgentOrder), _keeper(owner), who_asks(request)
    coordinator = owner.engine.coordinator
    mac = coordinator.nodes.find(order.node)
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac):
        raise OperatorError(f"{order.node[:80]!r} is no machine", "see bootd node list", Exit.USAGE)
    node = coordinator.nodes.add(mac)
    owner.engine.run([Persist(node.record()), Persist(AuditRecord(who, "sync-agent", mac))])
    key = keeper.store.enrol(mac, time.time(), who)
    answer = {"node": mac, "name": coordinator.nodes.name(mac), "server": keeper.server, "key": key}
    return web.json_response(answer, status=201)


async def revoke_agent(owner: Owner, request: web.Request) -> web.Response:
    """Its key counts no more, and its connection ends."""
    keeper, mac = _keeper(owner), owner.engine.coordinator.nodes.find(request.match_info["node"])
    if not keeper.store.revoke(mac):
        raise OperatorError(f"{mac} has no agent", "see bootd sync agents", Exit.USAGE)
    owner.engine.run([Persist(AuditRecord(who_asks(request), "sync-agent-revoke", mac))])
    keeper.streams.attach(mac, []).close("revoked")
    return await list_agents(owner, request)


def _keeper(owner: Owner) -> SyncKeeper:
    if owner.engine.sync is None:
        raise OperatorError("no syncs here", "see the log of bootd")
    return owner.engine.sync


ROUTES = (
    Route("GET", "/sync-sets", list_sets, "Sync sets of the settings", list[answers.SyncSetView]),
    Route("GET", "/syncs", list_runs, "Syncs of this run of the daemon", list[answers.SyncRun]),
    Route(
        "POST", "/syncs", begin, "Make files of machines as a set has them", answers.SyncRun, SyncOrder, status=201
    ),
    Route("GET", "/syncs/{id}", show_run, "A sync: how far each machine is, and what changes", answers.SyncRun),
    Route("DELETE", "/syncs/{id}", stop_run, "End a sync wherever it runs", answers.SyncRun),
    Route("GET", "/sync-schedules", list_schedules, "What is synced when", list[answers.SyncScheduleView]),
    Route(
        "POST",
        "/sync-schedules",
        add_schedule,
        "Sync machines daily, or when they have booted",
        list[answers.SyncScheduleView],
        SyncScheduleOrder,
    ),
    Route("DELETE", "/sync-schedules/{id}", remove_schedule, "Do not any more", list[answers.SyncScheduleView]),
    Route(
        "GET", "/sync-agents", list_agents, "Machines whose running system may be synced", list[answers.SyncAgent]
    ),
    Route(
        "POST",
        "/sync-agents",
        enrol_agent,
        "A key for the agent of a running system",
        answers.NewSyncAgent,
        SyncAgentOrder,
        status=201,
        needs=Scope.ADMIN,
    ),
    Route("DELETE", "/sync-agents/{node}", revoke_agent, "That key counts no more", list[answers.SyncAgent]),
)
