"""The operators' interface to machines and groups: handlers and their part of the route table."""

import time
from typing import Annotated

import msgspec
from aiohttp import web

from bootd.drivers.http import answers
from bootd.drivers.http.contents import view_contents
from bootd.drivers.http.requests import Owner, read_as, who_asks
from bootd.drivers.http.routes import Route
from bootd.errors import Exit, OperatorError
from bootd.session.host_file import Written
from bootd.session.inventory import view_group, view_groups, view_machine, view_strangers
from bootd.session.node_orders import NodeRow
from bootd.session.view import view_node


class Hosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host set: names, MACs, ranges, @groups; what has a ! is left out."""

    hosts: str


class GroupChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT /api/v1/groups/GROUP. ``label`` "" = back to the configuration's, null = as it is."""

    add: str = ""
    drop: str = ""
    label: str | None = None


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One machine of an import; what is left out stays as it is."""

    mac: str
    name: str = ""
    number: Annotated[int, msgspec.Meta(ge=0, le=999_999)] | None = None
    switch: str = ""
    label: str = ""
    groups: list[str] = msgspec.field(default_factory=list)


class Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/nodes."""

    nodes: list[Row]


class HostFileText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT /api/v1/nodes/NODE/hostfile, as CloneSys wrote it."""

    text: str


async def list_nodes(owner: Owner, request: web.Request) -> web.Response:
    engine = owner.engine
    coordinator, now = engine.coordinator, engine.now()
    if request.query.get("unknown", "") not in ("", "0"):
        return web.json_response(view_strangers(coordinator, now))
    hosts = request.query.get("hosts", "")
    wanted = set(coordinator.nodes.select(hosts)) if hosts else None
    nodes = [node for node in coordinator.nodes if wanted is None or node.mac in wanted]
    return web.json_response([view_node(coordinator, node, now) for node in nodes])


async def resolve_hosts(owner: Owner, request: web.Request) -> web.Response:
    """Who is meant by a host set, also machines that have never been seen."""
    nodes = owner.engine.coordinator.nodes
    macs = nodes.select(request.query.get("hosts", ""))
    return web.json_response(
        [{"mac": mac, "name": nodes.name(mac), "number": nodes.number(mac)} for mac in macs],
    )


async def show_node(owner: Owner, request: web.Request) -> web.Response:
    coordinator = owner.engine.coordinator
    mac = coordinator.nodes.find(request.match_info["node"])
    node = coordinator.nodes.get(mac)
    if node is None:
        raise OperatorError(f"nothing is known of {coordinator.nodes.name(mac)}", "see bootd node list", Exit.USAGE)
    return web.json_response(view_machine(coordinator, node, owner.engine.now()))


async def import_nodes(owner: Owner, request: web.Request) -> web.Response:
    """All rows or none."""
    order = await read_as(request, Rows)
    rows = [NodeRow(row.mac, row.name, row.number, row.switch, row.label, tuple(row.groups)) for row in order.nodes]
    owner.engine.run(owner.engine.node_orders.import_rows(rows, who_asks(request)))
    return web.Response(status=204)


async def forget_node(owner: Owner, request: web.Request) -> web.Response:
    owner.engine.run(owner.engine.node_orders.forget(request.match_info["node"], who_asks(request)))
    return web.Response(status=204)


async def approve_nodes(owner: Owner, request: web.Request) -> web.Response:
    """``any``: all that wait for it."""
    order, engine = await read_as(request, Hosts), owner.engine
    macs, effects = engine.node_orders.approve(order.hosts, who_asks(request), engine.now())
    engine.run(effects)
    return web.json_response(
        [{"mac": mac, "name": engine.coordinator.nodes.name(mac), "number": None} for mac in macs]
    )


async def accept_machine(owner: Owner, request: web.Request) -> web.Response:
    engine, node = owner.engine, request.match_info["node"]
    engine.run(engine.node_orders.accept_change(node, who_asks(request), engine.now()))
    return web.Response(status=204)


async def get_host_file(owner: Owner, request: web.Request) -> web.Response:
    """What bootd has written itself is told by the kernel's names, as far as the machine has shown its disks."""
    engine, node = owner.engine, request.match_info["node"]
    written = []
    for place in view_contents(engine, node):
        actual = place["actual"]
        if actual is None or not place["device"]:
            continue
        path, _, image = actual["image"].rpartition("/")
        day = time.strftime("%m/%d/%y", time.localtime(actual["time"]))
        is_proven = actual["state"] == "installed"
        user = actual["who"].split(" ")[0]
        written.append(Written(place["device"], path, image if is_proven else "", day, user))
    return web.json_response({"text": engine.node_orders.export_host_file(node, written)})


async def put_host_file(owner: Owner, request: web.Request) -> web.Response:
    order, engine = await read_as(request, HostFileText), owner.engine
    node = request.match_info["node"]
    locks, effects = engine.node_orders.import_host_file(node, order.text, who_asks(request), engine.now())
    engine.run(effects)
    return web.json_response({"locks": locks})


async def list_groups(owner: Owner, _request: web.Request) -> web.Response:
    return web.json_response(view_groups(owner.engine.coordinator))


async def show_group(owner: Owner, request: web.Request) -> web.Response:
    return web.json_response(view_group(owner.engine.coordinator, request.match_info["group"]))


async def change_group(owner: Owner, request: web.Request) -> web.Response:
    """Add machines, drop some, set the label; the group is made by adding to it."""
    order, engine = await read_as(request, GroupChange), owner.engine
    group, who, orders = request.match_info["group"], who_asks(request), engine.node_orders
    if order.add:
        engine.run(orders.add_to_group(group, order.add, who))
    if order.drop:
        engine.run(orders.drop_from_group(group, order.drop, who))
    if order.label is not None:
        engine.run(orders.set_group_label(group, order.label, who))
    return web.json_response(view_group(engine.coordinator, group))


async def remove_group(owner: Owner, request: web.Request) -> web.Response:
    """Its machines stay."""
    owner.engine.run(owner.engine.node_orders.remove_group(request.match_info["group"], who_asks(request)))
    return web.Response(status=204)


ROUTES = (
    Route(
        "GET",
        "/nodes",
        list_nodes,
        "Machines",
        list[answers.Node],
        query=(("hosts", "Only this host set"), ("unknown", "1: only those that are not approved, or ignored")),
    ),
    Route("POST", "/nodes", import_nodes, "Import machines, all or none", body=Rows),
    Route("GET", "/nodes/{node}", show_node, "All that is known of a machine", answers.Machine),
    Route("DELETE", "/nodes/{node}", forget_node, "Forget a machine"),
    Route("PUT", "/nodes/{node}/machine", accept_machine, "The machine that answers under this MAC now is right"),
    Route(
        "GET",
        "/nodes/{node}/hostfile",
        get_host_file,
        "What is on each partition, and its lock, as CloneSys writes it",
        answers.HostFile,
    ),
    Route(
        "PUT",
        "/nodes/{node}/hostfile",
        put_host_file,
        "Take over what CloneSys knew of a machine",
        answers.HostFileTaken,
        HostFileText,
    ),
    Route("POST", "/approvals", approve_nodes, "These machines belong here", list[answers.Host], Hosts),
    Route(
        "GET",
        "/hosts",
        resolve_hosts,
        "Who is meant by a host set",
        list[answers.Host],
        query=(("hosts", "Names, MACs, ranges, @groups, any; what has a ! is left out"),),
    ),
    Route("GET", "/groups", list_groups, "All groups of machines", list[answers.Group]),
    Route("GET", "/groups/{group}", show_group, "One group", answers.Group),
    Route(
        "PUT",
        "/groups/{group}",
        change_group,
        "Add machines to a group, drop some, set its label",
        answers.Group,
        GroupChange,
    ),
    Route("DELETE", "/groups/{group}", remove_group, "Forget a group; its machines stay"),
)
