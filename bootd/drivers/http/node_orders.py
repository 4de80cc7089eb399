"""What operators ask of nodes that are up: their logs, and commands. Over HTTP."""

import asyncio
import secrets
import shlex
from typing import Annotated

import msgspec
from aiohttp import web

from bootd.drivers.http import answers
from bootd.drivers.http.requests import Owner, number_of, read_as, who_asks
from bootd.drivers.http.routes import Route
from bootd.drivers.http.session_orders import view_of
from bootd.drivers.http.streams import frame
from bootd.drivers.logs import LogStore
from bootd.errors import OperatorError
from bootd.session.effects import AuditRecord, Persist
from bootd.session.jobs import Job, check_command, view_job
from bootd.wire.control import Message, encode
from bootd.wire.jobs import MAX_SECONDS, StopJob

MOST_LINES = 5000
MOST_PIECES = 2000


class Exec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/exec. ``nodes``: names, ranges, MACs, or ``any``: whoever is up in stage2.

    ``command``: its words; no shell looks at them. ``in_session``: also on nodes that a session is at work on.
    """

    nodes: str
    command: tuple[str, ...]
    seconds: Annotated[int, msgspec.Meta(ge=1, le=MAX_SECONDS)] = 60
    in_session: bool = False


async def list_logs(owner: Owner, request: web.Request) -> web.Response:
    """Lines of a node's console."""
    mac = owner.engine.coordinator.nodes.find(request.match_info["node"])
    session = request.query.get("session", "")
    if session:
        session = view_of(owner.engine, session)["id"]
    after = number_of(request, "after", 0, 0, 1 << 62)
    limit = number_of(request, "limit", 1000, 1, MOST_LINES)
    lines = await asyncio.to_thread(_logs(owner).of, mac, session=session, after=after, limit=limit)
    return web.json_response(lines)


async def clear_logs(owner: Owner, request: web.Request) -> web.Response:
    """Forget what a node has said."""
    mac = owner.engine.coordinator.nodes.find(request.match_info["node"])
    count = await asyncio.to_thread(_logs(owner).clear, mac)
    owner.engine.run([Persist(AuditRecord(who_asks(request), "clear-logs", f"{mac} {count} lines"))])
    return web.Response(status=204)


async def start_command(owner: Owner, request: web.Request) -> web.Response:
    """Have nodes run a command; answers with the job at once."""
    wanted, who, engine = await read_as(request, Exec), who_asks(request), owner.engine
    check_command(wanted.command, wanted.seconds)
    coordinator, now = engine.coordinator, engine.now()
    macs = coordinator.nodes.resolve(wanted.nodes)
    if macs is None:
        macs = frozenset(node.mac for node in coordinator.nodes if engine.streams.listens(node.mac))
    named = [(mac, coordinator.nodes.name(mac)) for mac in sorted(macs)]
    id_ = secrets.token_hex(4)
    job = engine.jobs.create(id_, who, wanted.command, seconds=wanted.seconds, nodes=named, now=now)
    detail = f"{job.id} on {' '.join(job.tasks)}: {shlex.join(wanted.command)}"
    engine.run([Persist(AuditRecord(who, "exec", detail))])  # before anybody hears of it
    for mac, task in job.tasks.items():
        node = coordinator.nodes.get(mac)
        if node is not None and node.session and not wanted.in_session:
            session = coordinator.sessions[node.session].title if node.session in coordinator.sessions else ""
            task.state, task.reason = "refused", f"session {session} is at it; to run it all the same: --in-session"
        elif not _send(owner, mac, job.order):
            task.state, task.reason = "refused", "it is not up in stage2"
        else:
            engine.note("exec", mac, "", f"{job.id} by {who}: {shlex.join(wanted.command)[:500]}")
    return web.json_response(view_job(job, 0, 0), status=201)


async def show_command(owner: Owner, request: web.Request) -> web.Response:
    """A job, and what it has printed behind ``after``."""
    job = owner.engine.jobs.find(request.match_info["job"])
    after = number_of(request, "after", 0, 0, 1 << 62)
    return web.json_response(view_job(job, after, number_of(request, "limit", 500, 0, MOST_PIECES)))


async def stop_command(owner: Owner, request: web.Request) -> web.Response:
    """End a command wherever it runs; answers with the job, whose nodes tell their end in a moment."""
    job: Job = owner.engine.jobs.find(request.match_info["job"])
    owner.engine.run([Persist(AuditRecord(who_asks(request), "stop-exec", job.id))])
    for mac, task in job.tasks.items():
        if not task.is_over:
            _send(owner, mac, StopJob(job.id))
    return web.json_response(view_job(job, 0, 0))


def _send(owner: Owner, mac: str, message: Message) -> bool:
    return owner.engine.streams.publish(mac, frame(encode(message)))


def _logs(owner: Owner) -> LogStore:
    if owner.engine.logs is None:
        raise OperatorError("logs are not kept here", "see server.state_dir")
    return owner.engine.logs


ROUTES = (
    Route(
        "GET",
        "/nodes/{node}/logs",
        list_logs,
        "What a machine said on its console in stage1 and stage2",
        list[answers.LogLine],
        query=(
            ("session", "Only lines of this session, by id or name"),
            ("after", "Only lines behind this number, the first of them; without it the latest"),
            ("limit", "Lines, 1 to 5,000; 1,000 without it"),
        ),
    ),
    Route("DELETE", "/nodes/{node}/logs", clear_logs, "Forget what a machine said"),
    Route("POST", "/exec", start_command, "Have machines in stage2 run a command", answers.Job, Exec, status=201),
    Route(
        "GET",
        "/exec/{job}",
        show_command,
        "A command: how far each machine is, and what it has printed",
        answers.Job,
        query=(("after", "Only output behind this number"), ("limit", "Pieces, 0 to 2,000; 500 without it")),
    ),
    Route("DELETE", "/exec/{job}", stop_command, "End a command wherever it runs", answers.Job),
)
