"""Kiosk policies at work: the clock that makes them due, and the sessions that reset the machines."""

import asyncio
import re
import time
from collections.abc import Callable

import structlog

from bootd.drivers import order_sources
from bootd.drivers.engine import Engine
from bootd.drivers.source import Sources
from bootd.errors import OperatorError
from bootd.session.effects import Effect, Event, Persist
from bootd.session.kiosk import PAUSE, TRIES, Kiosk, groups
from bootd.session.request import SessionRequest
from bootd.wire.stored import IMAGE

log = structlog.get_logger(__name__)

SECONDS = 1.0  # between two looks
WHO = "kiosk"


class KioskKeeper:
    """A `bootd.drivers.service.Service` without sockets. ``clock``: seconds since the epoch."""

    name = "kiosk"

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._clock = engine, clock
        self._struck = self._minute()

    async def bind(self) -> None:
        """Nothing to acquire."""

    async def serve(self) -> None:
        while True:
            await asyncio.sleep(SECONDS)
            try:
                await self.look()
            except Exception:  # a defect here must not end the boot service of the room
                log.exception("kiosk policies were not looked at")

    async def close(self) -> None:
        """Nothing to release."""

    async def look(self) -> None:
        """Strike the clock, and make sessions for machines that wait to be reset.

        All that wait for one image go together; those that come while they are at it go in the next session.
        """
        self._strike()
        for group in groups(self._waiting()):
            if not self._is_busy(group):
                await self._reset(group)

    def _minute(self) -> int:
        return int(self._clock() // 60)

    def _strike(self) -> None:
        """Every minute since the last look, an hour at most: a daemon that was busy misses none."""
        now = self._minute()
        for minute in range(max(self._struck + 1, now - 60), now + 1):
            clock = time.strftime("%H:%M", time.localtime(minute * 60))
            records = self._engine.coordinator.kiosks.strike(clock)
            effects: list[Effect] = [Persist(record) for record in records]
            effects += [Event("kiosk", record.mac, "", f"due: {record.image}") for record in records]
            self._engine.run(effects)
        self._struck = now

    def _waiting(self) -> list[Kiosk]:
        """Machines in stage2 that nobody else wants, whose policy is due."""
        coordinator, now = self._engine.coordinator, self._engine.now()
        found = []
        for mac, kiosk in coordinator.kiosks:
            node = coordinator.nodes.get(mac)
            if node is None or node.parked or node.session or not kiosk.is_due:
                continue
            if not node.told:  # nobody has told it to wait: it is on its way into its own disk
                continue
            is_recent = kiosk.begun is not None and now - kiosk.begun < PAUSE
            if node.present(now, coordinator.limits.silence) and not is_recent and not self._is_wanted(mac):
                found.append(kiosk)
        return found

    def _is_wanted(self, mac: str) -> bool:
        sessions = self._engine.coordinator.sessions.values()
        node = self._engine.coordinator.nodes.get(mac)
        return node is not None and any(session.wants(node) for session in sessions)

    def _is_busy(self, group: list[Kiosk]) -> bool:
        """Whether a session of the same policy is open: of its image, or for one of its machines."""
        image, macs = group[0].record.image, {kiosk.record.mac for kiosk in group}
        return any(
            session.plan.who == WHO
            and not session.ended
            and (sends(session.plan.source, image) or bool(macs & (session.plan.nodes or frozenset())))
            for session in self._engine.coordinator.sessions.values()
        )

    async def _reset(self, group: list[Kiosk]) -> None:
        record, coordinator = group[0].record, self._engine.coordinator
        tired = [kiosk for kiosk in group if kiosk.failures >= TRIES]
        for kiosk in tired:
            reason = f"kiosk: {kiosk.failures} sessions did not reset it to {record.image}"
            kiosk.failures = 0
            self._engine.run(coordinator.park(kiosk.record.mac, reason))
        group = [kiosk for kiosk in group if kiosk not in tired]
        if not group:
            return
        now = self._engine.now()
        for kiosk in group:
            kiosk.failures, kiosk.begun = kiosk.failures + 1, now
        try:
            looked = Sources(self._engine.image_store)
            found = await asyncio.to_thread(
                order_sources.measure, record.image, record.disk, record.parts, looked=looked
            )
            request = SessionRequest(
                source=found.source,
                source_size=found.size,
                source_sector=found.sector,
                nodes=",".join(kiosk.record.mac for kiosk in group),
                disk=found.disk,
                parts=found.parts,
                label=record.label,
                compare=True,
                flip_default=False,
            )
            _, effects = coordinator.create(request, WHO, self._engine.now())
        except OperatorError as error:
            for kiosk in group:
                self._engine.note("kiosk", kiosk.record.mac, "", f"cannot be reset: {error.message}")
            return
        self._engine.run(effects)


def sends(source: str, image: str) -> bool:
    """Whether the source of a session is what a policy calls ``image``: a file, or a version of that name."""
    if not source.startswith(IMAGE):
        return source == image
    name = re.split("[:@#]", image.removeprefix(IMAGE))[0]
    return source.removeprefix(IMAGE).startswith(f"{name}@")
