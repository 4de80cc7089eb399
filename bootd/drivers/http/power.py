"""``POST /api/v1/power``: nodes switched on and off, on record, and never by accident in a session."""

import asyncio

import msgspec
from aiohttp import web

from bootd.drivers import metrics
from bootd.drivers.engine import Engine
from bootd.drivers.http import answers
from bootd.drivers.http.requests import read_as, who_asks
from bootd.drivers.http.routes import Route
from bootd.drivers.power.actions import DISRUPTIVE, Action
from bootd.drivers.power.control import PowerControl
from bootd.errors import Exit, OperatorError
from bootd.session.effects import AuditRecord, Effect, Event, Persist, SwitchOn


class PowerOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/power. ``confirmed``: also nodes that a session is at work on lose their power."""

    nodes: str
    action: Action
    confirmed: bool = False


class PowerDesk:
    """Takes the orders; ``control`` carries them out, None where nothing can be switched."""

    def __init__(self, engine: Engine, control: PowerControl | None) -> None:
        self._engine, self._control = engine, control
        self._tasks: set[asyncio.Task[None]] = set()

    def switch_on(self, effect: SwitchOn) -> None:
        """Begin to switch nodes on; what became of each is told in its timeline."""
        if self._control is not None:
            task = asyncio.create_task(self._switch_on(self._control, effect), name=f"power of {effect.session}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _switch_on(self, control: PowerControl, effect: SwitchOn) -> None:
        for one in await control.carry_out(effect.nodes, Action.ON, self._is_uefi):
            metrics.POWER.labels(Action.ON.value, "ok" if one.ok else "failed").inc()
            self._engine.run([Event("power", one.mac, effect.session, f"on, its session begins: {one.text}")])

    async def switch(self, request: web.Request) -> web.Response:
        """A result per node. Refused as a whole (409) when a node is in a session and that is not confirmed."""
        order, who = await read_as(request, PowerOrder), who_asks(request)
        coordinator = self._engine.coordinator
        macs = coordinator.nodes.host_set(order.nodes).macs
        if macs is None:
            raise OperatorError("'any' cannot be switched", "name the nodes", Exit.USAGE)
        if self._control is None:
            raise OperatorError("nothing can be switched here", "this is no daemon")
        chosen = sorted(macs, key=lambda mac: (coordinator.nodes.name(mac), mac))
        if order.action in DISRUPTIVE and not order.confirmed:
            self._refuse_in_session(chosen)
        if order.action is not Action.STATUS:  # what is asked for is on record, whatever comes of it
            self._engine.run(
                Persist(AuditRecord(who, f"power-{order.action}", f"{mac} {coordinator.nodes.name(mac)}"))
                for mac in chosen
            )
        results = await self._control.carry_out(chosen, order.action, self._is_uefi)
        for one in results:
            metrics.POWER.labels(order.action.value, "ok" if one.ok else "failed").inc()
        if order.action is not Action.STATUS:
            notes: list[Effect] = [
                Event("power", one.mac, self._engine.session_of(one.mac), f"{order.action} by {who}: {one.text}")
                for one in results
            ]
            self._engine.run(notes)
        return web.json_response(
            [
                {
                    "node": one.mac,
                    "name": coordinator.nodes.name(one.mac),
                    "ok": one.ok,
                    "state": one.state or None,
                    "text": one.text,
                }
                for one in results
            ]
        )

    def _refuse_in_session(self, macs: list[str]) -> None:
        coordinator = self._engine.coordinator
        busy = [
            f"{coordinator.nodes.name(mac)} ({self._engine.session_of(mac)})"
            for mac in macs
            if self._engine.session_of(mac)
        ]
        if busy:
            more = f" and {len(busy) - 5} more" if len(busy) > 5 else ""
            raise OperatorError(
                f"a session is at work on {', '.join(busy[:5])}{more}: nothing was switched",
                "cancel the session first, or confirm it: --yes",
                Exit.REFUSED,
            )

    def _is_uefi(self, mac: str) -> bool:
        node = self._engine.coordinator.nodes.get(mac)
        return node is not None and node.join is not None and node.join.firmware == "uefi"


POWER_ROUTES = (
    Route(
        "POST",
        "/power",
        PowerDesk.switch,
        "Switch machines on or off, by controller or magic packet",
        list[answers.Switched],
        PowerOrder,
    ),
)
