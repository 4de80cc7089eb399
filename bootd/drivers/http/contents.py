"""What lies where on a machine, for ``GET /nodes/NODE/contents`` and for ``@last``."""

from dataclasses import replace
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from bootd.drivers.engine import Engine
from bootd.drivers.http import answers
from bootd.drivers.http.requests import Owner
from bootd.drivers.http.routes import Route
from bootd.errors import Exit, OperatorError
from bootd.session import selector
from bootd.session.cards import view_partition
from bootd.session.parts import disk_of, parse_wish
from bootd.session.selector import Refusal
from bootd.wire.control import Disk, Lock, Partition
from bootd.wire.locks import holding as holding_disk
from bootd.wire.locks import reason
from bootd.wire.targets import exclusion, holding, partition_name

LAST = "@last"


class Order(Protocol):
    """What `replaced_last` needs of a deploy."""

    @property
    def source(self) -> str: ...
    @property
    def nodes(self) -> str: ...
    @property
    def disk(self) -> str: ...
    @property
    def parts(self) -> list[str]: ...


async def contents(owner: Owner, request: web.Request) -> web.Response:
    """What lies where on a machine."""
    return web.json_response(view_contents(owner.engine, request.match_info["node"]))


OrderT = TypeVar("OrderT", bound=Order)


def view_contents(engine: Engine, node: str) -> list[dict[str, Any]]:
    """Every place that is known: what was put there, and what the machine shows. `OperatorError`: no such node."""
    coordinator = engine.coordinator
    mac = coordinator.nodes.find(node)
    known = coordinator.nodes.get(mac)
    disks = known.join.disks if known is not None and known.join is not None else ()
    locks = [held.lock for held in coordinator.locks.of(mac)]
    places: dict[tuple[str, int], dict[str, Any]] = {}
    for row in engine.contents(mac):
        places[row["disk"], row["partition"]] = {**_place(row["disk"], row["partition"]), **row}
    for disk in disks:
        identity = _identity(disk)
        for partition in (None, *disk.partitions):
            number = partition.number if partition is not None else 0
            entry = places.get((identity, number))
            if entry is None:
                if partition is None:
                    continue  # a disk by its partitions, unless something is known of the whole
                entry = places[identity, number] = _place(identity, number)
            entry["device"] = partition_name(disk.name, number) if number else disk.name
            entry["seen"] = view_partition(partition) if partition is not None else None
            entry["partuuid"] = partition.partuuid if partition is not None else ""
            entry["locked"] = _locked(locks, disk, partition, disks)
    return [places[key] for key in sorted(places)]


def replaced_last(order: OrderT, engine: Engine) -> OrderT:
    """``order`` with every ``@last`` replaced. All its nodes must have had the same image there: one session sends
    one. `OperatorError` names those that differ, and those that have none."""
    texts = order.parts or [""]
    images = [order.source if "=" not in text else text.partition("=")[2] for text in texts]
    if LAST not in images:
        return order
    macs = engine.coordinator.nodes.host_set(order.nodes).macs
    if macs is None:
        raise OperatorError("'any' has no last image", "name the nodes", Exit.USAGE)
    found = [
        _common(engine, sorted(macs), order, text) if image == LAST else image
        for text, image in zip(texts, images, strict=True)
    ]
    if not order.parts:
        return msgspec.structs.replace(order, source=found[0])  # type: ignore[type-var]
    parts = [f"{text.partition('=')[0]}={image}" for text, image in zip(texts, found, strict=True)]
    return msgspec.structs.replace(order, source=found[0], parts=parts)  # type: ignore[type-var]


def _common(engine: Engine, macs: list[str], order: Order, part: str) -> str:
    """The one image that was put last on the place that ``part`` means ("" = the disk), on all nodes."""
    wishes = [parse_wish(text) for text in order.parts]
    chosen = selector.parse(disk_of(wishes, order.disk) if wishes else order.disk)
    number = parse_wish(part).number if part else 0
    by_image: dict[str, list[str]] = {}
    for mac in macs:
        name = engine.coordinator.nodes.name(mac)
        node = engine.coordinator.nodes.get(mac)
        disks = node.join.disks if node is not None and node.join is not None else ()
        disk = selector.choose([replace(one, excluded=exclusion(one)) for one in disks], chosen, 0)
        if isinstance(disk, Refusal):
            raise OperatorError(f"{name}: which disk {LAST} means is not known: {disk.reason}", "", Exit.REFUSED)
        rows = engine.contents(mac)
        image = next(
            (
                row["actual"]["image"]
                for row in rows
                if row["disk"] == _identity(disk) and row["partition"] == number and row["actual"] is not None
            ),
            "",
        )
        if not image:
            place = f"partition {number} of {disk.name}" if number else disk.name
            raise OperatorError(f"{name}: nothing was put on {place} from here", "name an image", Exit.USAGE)
        by_image.setdefault(image, []).append(name)
    if len(by_image) > 1:
        groups = "; ".join(f"{', '.join(names)}: {image}" for image, names in sorted(by_image.items()))
        raise OperatorError(f"{LAST} is not the same everywhere: {groups}", "one command for each", Exit.USAGE)
    return next(iter(by_image))


def _place(disk: str, number: int) -> dict[str, Any]:
    return {
        "disk": disk,
        "device": None,
        "partition": number,
        "partuuid": "",
        "wanted": None,
        "actual": None,
        "seen": None,
        "locked": None,
    }


def _locked(locks: list[Lock], disk: Disk, partition: Partition | None, disks: tuple[Disk, ...]) -> str | None:
    lock = holding(locks, disk, partition, disks) if partition is not None else holding_disk(locks, disk, disks)
    return reason(lock) if lock is not None else None


def _identity(disk: Disk) -> str:
    return disk.serial or disk.wwn or disk.name


ROUTES = (
    Route(
        "GET",
        "/nodes/{node}/contents",
        contents,
        "What the disks and partitions of a machine should hold, and hold",
        list[answers.Place],
    ),
)
