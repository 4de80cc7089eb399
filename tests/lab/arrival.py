"""One machine on the way from power-on to a marker on its console: which loader, over which firmware and card."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.machine import Machine, Specification
from tests.lab.room import SERVER_ADDRESS, Room
from tests.lab.server import Server, Tables
from tests.lab.story import GIVEN_UP, Step


class Dhcp(Enum):
    """Who gives addresses."""

    FOREIGN = "another server that knows nothing of booting"
    NEXT_SERVER = "another server that names us as next server"
    OURS = "bootd itself, and nobody else"


_OUR_POOL = {"subnet": "10.47.0.0/24", "range": ["10.47.0.100-10.47.0.199"]}


@contextmanager
def powered_on(
    folder: Path,
    specification: Specification,
    boot: Path,
    *,
    label: str = "",
    node_label: str = "",
    dhcp: Dhcp = Dhcp.FOREIGN,
    settings: Tables | None = None,
) -> Iterator[Machine]:
    """The machine, running in a room with bootd.

    ``label`` is the default label; ``node_label`` is set for the node, which makes it known before it asks.
    """
    tables = {name: dict(values) for name, values in (settings or {}).items()}
    if dhcp is Dhcp.OURS:
        tables.setdefault("dhcp", {}).update({"proxy": False, "pool": [_OUR_POOL]})
    with Room(folder, 1) as room:
        if dhcp is not Dhcp.OURS:
            room.start_dhcp(SERVER_ADDRESS if dhcp is Dhcp.NEXT_SERVER else "")
        with Server(room, boot, {specification.name: specification.mac}, tables) as server:
            if label:
                server.command("label", "set-default", label)
            if node_label:
                server.command("label", "set", node_label, "--node", specification.name)
            machine = Machine(specification, folder)
            room.own(machine)
            machine.power_on(room.network(0), room.inside(room.switch))
            yield machine


def follow(machine: Machine, steps: Sequence[Step]) -> dict[str, float]:
    """Seconds after power-on at which each step was reached; `LabError` at the first that was not in its time."""
    reached = {}
    for step in steps:
        marker = machine.wait_for(f"(?:{step.pattern})|({GIVEN_UP})", step.seconds, step.name)
        if marker.groups[-1]:
            raise LabError(machine.who, step.name, marker.text.strip(), machine.log)
        reached[step.name] = marker.at
    return reached
