"""``GET /nodes/NODE/layout``: the scheme of a machine's disk, out of its inventory."""

from aiohttp import web

from bootd.drivers.http import answers
from bootd.drivers.http.requests import Owner
from bootd.drivers.http.routes import Route
from bootd.errors import Exit, OperatorError
from bootd.wire.control import Disk
from bootd.wire.scheme.describing import of_inventory
from bootd.wire.scheme.model import SchemeError
from bootd.wire.scheme.text import format_toml


async def layout(owner: Owner, request: web.Request) -> web.Response:
    """Of the disk ``?disk=`` (name, serial or WWN), or of the only one that may be written."""
    nodes = owner.engine.coordinator.nodes
    known = nodes.get(nodes.find(request.match_info["node"]))
    disks = known.join.disks if known is not None and known.join is not None else ()
    disk = _chosen(disks, request.query.get("disk", ""))
    try:
        derived = of_inventory(disk)
    except SchemeError as error:
        raise OperatorError(str(error), "name a disk that has partitions", Exit.INPUT) from None
    answer = {"disk": disk.name, "serial": disk.serial, "toml": format_toml(derived.scheme)}
    return web.json_response({**answer, "notes": list(derived.notes)})


def _chosen(disks: tuple[Disk, ...], wanted: str) -> Disk:
    found = [disk for disk in disks if wanted in (disk.name, disk.serial, disk.wwn) and wanted]
    if not wanted:
        found = [disk for disk in disks if not disk.excluded]
    if len(found) != 1:
        there = (
            ", ".join(f"{disk.name} {disk.serial}".strip() for disk in disks) or "none: it has not shown its disks"
        )
        raise OperatorError(
            f"{wanted or 'the only disk'}: {len(found)} disks; there are: {there}", "say --disk NAME", Exit.INPUT
        )
    return found[0]


ROUTES = (
    Route(
        "GET", "/nodes/{node}/layout", layout, "The layout of a machine's disk, as it was shown", answers.NodeLayout
    ),
)
