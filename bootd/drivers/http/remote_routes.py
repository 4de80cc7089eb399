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
from bootd.session.commands import Command, check_command, view_command
from bootd.session.effects import AuditRecord, Persist
from bootd.wire.commands import MAX_SECONDS, StopCommand
from bootd.wire.control import Message, encode

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
    """Have nodes run a command; answers with it at once."""
    wanted, who, engine = await read_as(request, Exec), who_asks(request), owner.engine
    check_command(wanted.command, wanted.seconds)
    coordinator, now = engine.coordinator, engine.now()
    hosts = coordinator.nodes.host_set(wanted.nodes)
    macs = hosts.macs
    if macs is None:
        up = (node.mac for node in coordinator.nodes if engine.streams.listens(node.mac))
        macs = frozenset(up) - hosts.without
    named = [(mac, coordinator.nodes.name(mac)) for mac in sorted(macs)]
    id_ = secrets.token_hex(4)
    command = engine.commands.create(id_, who, wanted.command, seconds=wanted.seconds, nodes=named, now=now)
    detail = f"{command.id} on {' '.join(command.tasks)}: {shlex.join(wanted.command)}"
    engine.run([Persist(AuditRecord(who, "exec", detail))])  # before anybody hears of it
    for mac, task in command.tasks.items():
        node = coordinator.nodes.get(mac)
        if node is not None and node.session and not wanted.in_session:
            session = coordinator.sessions[node.session].title if node.session in coordinator.sessions else ""
            task.state, task.reason = "refused", f"session {session} is at it; to run it all the same: --in-session"
        elif not _send(owner, mac, command.order):
            task.state, task.reason = "refused", "it is not up in stage2"
        else:
            engine.note("exec", mac, "", f"{command.id} by {who}: {shlex.join(wanted.command)[:500]}")
    return web.json_response(view_command(command, 0, 0), status=201)


async def show_command(owner: Owner, request: web.Request) -> web.Response:
    """A command, and what it has printed behind ``after``."""
    command = owner.engine.commands.find(request.match_info["id"])
    after = number_of(request, "after", 0, 0, 1 << 62)
    return web.json_response(view_command(command, after, number_of(request, "limit", 500, 0, MOST_PIECES)))


async def stop_command(owner: Owner, request: web.Request) -> web.Response:
    """End a command wherever it runs; answers with it, whose nodes tell their end in a moment."""
    command: Command = owner.engine.commands.find(request.match_info["id"])
    owner.engine.run([Persist(AuditRecord(who_asks(request), "stop-exec", command.id))])
    for mac, task in command.tasks.items():
        if not task.is_over:
            _send(owner, mac, StopCommand(command.id))
    return web.json_response(view_command(command, 0, 0))


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
    Route(
        "POST", "/exec", start_command, "Have machines in stage2 run a command", answers.Command, Exec, status=201
    ),
    Route(
        "GET",
        "/exec/{id}",
        show_command,
        "A command: how far each machine is, and what it has printed",
        answers.Command,
        query=(("after", "Only output behind this number"), ("limit", "Pieces, 0 to 2,000; 500 without it")),
    ),
    Route("DELETE", "/exec/{id}", stop_command, "End a command wherever it runs", answers.Command),
)
