"""Syncs at work: runs are begun, told to nodes as their turn comes, followed to their end; schedules begin some."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from bootd.drivers.engine import Engine
from bootd.drivers.http.streams import Streams, frame
from bootd.drivers.sync.server import Module, Servers, modules_of
from bootd.drivers.sync.sources import check_source, overlay_folder, own_files
from bootd.drivers.sync.store import BOOT, LOGON, Schedule, SyncStore
from bootd.errors import Exit, OperatorError
from bootd.session import selector
from bootd.session.effects import AuditRecord, Effect, Persist
from bootd.session.sync import Options, Run, Syncs, SyncSet, Task, order_of
from bootd.wire.control import SYNC, StopSync, Sync, SyncReport, encode

log = structlog.get_logger(__name__)

SECONDS = 0.5  # between two looks
LOGON_SECONDS = 60.0  # that a user waits at most
LOCAL = "local"  # the label that boots a node's own disk


@dataclass(frozen=True)
class Folders:
    """``overlay``: OVERLAY/NODE/..., ``collected``: COLLECTED/SET/NODE/..."""

    overlay: Path
    collected: Path


class SyncKeeper:
    """A `bootd.drivers.service.Service` without sockets. ``server``: HOST:PORT of the node interface, for agents;
    ``clock``: seconds since the epoch."""

    name = "sync"

    def __init__(
        self,
        engine: Engine,
        sets: dict[str, SyncSet],
        folders: Folders,
        store: SyncStore,
        *,
        server: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine, self.sets, self.folders, self.store, self.server = engine, sets, folders, store, server
        self.streams = Streams()  # of agents on running systems
        self.abilities: dict[str, frozenset[str]] = {}  # of agents, as each said it when it connected
        self.servers = Servers()
        self.syncs = Syncs()
        self._clock = clock
        self._struck = int(clock() // 60)
        self._present: set[str] = set()
        self._wake, self._looked = asyncio.Event(), asyncio.Event()

    async def bind(self) -> None:
        """Nothing to acquire."""

    async def serve(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # a defect here must not end the boot service of the room
                log.exception("syncs were not looked at")
            self._wake.clear()
            try:
                async with asyncio.timeout(SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        self.streams.close()
        await self.servers.close()
        self.store.close()

    async def look(self) -> None:
        """Deadlines, turns, schedules."""
        for task in self.syncs.tick(self.engine.now()):
            self._ended(task)
        self._dispatch()
        self._strike()
        self._greet()
        for schedule in list(self.store.schedules.values()):
            await self._carry_out(schedule)
        self._looked.set()  # for those who wait at this moment
        self._looked.clear()

    # --- operators -----------------------------------------------------------------------------------------

    def set_named(self, name: str) -> SyncSet:
        known = self.sets.get(name)
        if known is None:
            there = ", ".join(sorted(self.sets)) or "none"
            raise OperatorError(
                f"there is no sync set {name[:80]!r}", f"known: {there}; see [[sync.set]] in bootd.toml", Exit.USAGE
            )
        return known

    async def begin(self, name: str, macs: Iterable[str], options: Options, who: str) -> Run:
        """A new run; nodes that are not up, or whose disk cannot be chosen, are refused in it."""
        wanted = self.set_named(name)
        if not options.collect:
            await asyncio.to_thread(check_source, wanted, few=options.few)
        run = Run(secrets.token_hex(4), wanted, options, who)
        for mac in sorted(set(macs)):
            run.tasks[mac] = await self._task(run, mac)
        self.syncs.add(run)
        kind = (
            "collect" if options.collect else "dry run" if options.dry else "freeze" if options.freeze else "update"
        )
        self.engine.run([Persist(AuditRecord(who, "sync", f"{run.id} {name} {kind} on {' '.join(run.tasks)}"))])
        for task in run.tasks.values():
            if task.is_over:
                self.engine.note("sync", task.mac, "", f"{name} {task.state}: {task.reason}")
        self._dispatch()
        return run

    def stop(self, id_: str, who: str) -> Run:
        run = self.syncs.find(id_)
        self.engine.run([Persist(AuditRecord(who, "stop-sync", run.id))])
        for task in self.syncs.stop(run):
            self._send(task.mac, StopSync(task.id))
        return run

    def is_up(self, mac: str) -> bool:
        """In stage2, or running with an agent."""
        return self.engine.streams.listens(mac) or self.streams.listens(mac)

    async def _task(self, run: Run, mac: str) -> Task:
        coordinator, now = self.engine.coordinator, self.engine.now()
        name, id_ = coordinator.nodes.name(mac), secrets.token_hex(8)
        wanted, options, node = run.wanted, run.options, coordinator.nodes.get(mac)
        own: tuple[str, ...] = ()
        disk = reason = ""
        try:
            if not options.collect:
                own = await asyncio.to_thread(own_files, overlay_folder(self.folders.overlay, name, wanted.target))
        except OperatorError as error:
            reason = f"{error.message}: {error.hint}"
        locks = coordinator.admission.locks_for(mac, now)
        in_stage2 = self.engine.streams.listens(mac)
        if not self.is_up(mac):
            reason = reason or "it is neither in stage2 nor running with an agent"
        elif not options.collect and (veto := coordinator.admission.veto(mac, is_any=False)):
            reason = reason or veto
        elif in_stage2 and node is not None and node.session:
            reason = reason or "a session is at it"
        elif in_stage2 and coordinator.captures.wanting(mac):
            reason = reason or "a backup is at it"
        elif in_stage2 and node is not None:
            join = node.join
            choice = selector.choose(join.disks if join is not None else (), selector.parse(wanted.disk), 0)
            if join is not None and SYNC not in join.abilities:
                reason = reason or "its stage2 knows no syncs: bootd stage build, and boot it anew"
            elif isinstance(choice, selector.Refusal):
                reason = reason or choice.reason
            else:
                disk = choice.serial or choice.wwn or choice.name
        order = order_of(wanted, options, id_, own=own, disk=disk, locks=locks)
        task = Task(mac, name, id_, order, heard=now)
        if reason:
            task.state, task.reason = "refused", reason
        return task

    # --- nodes ---------------------------------------------------------------------------------------------

    def reported(self, message: SyncReport) -> bool:
        """False when nobody wants to know it (any more)."""
        task = self.syncs.report(message, self.engine.now())
        if task is None:
            return False
        if task.is_over:
            self._ended(task)
            self._wake.set()
        return True

    async def logon(self, mac: str) -> bool:
        """A user of this running system logs on: what is scheduled for that is done first. False when it did not
        come to its end in time."""
        for schedule in list(self.store.schedules.values()):
            if schedule.at == LOGON and mac in self._named(schedule):
                self.store.set_due(schedule.id, tuple(sorted({*schedule.due, mac})))
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOGON_SECONDS):
                while self.syncs.is_waited_for(mac) or any(mac in one.due for one in self.store.schedules.values()):
                    await self._looked.wait()
                return True
        return False

    def modules(self, mac: str, id_: str) -> tuple[Module, ...]:
        """What the task ``id_`` of this node may reach now; () = there is no such task at work."""
        task = self.syncs.task(id_, mac)
        run = self.syncs.run_of(task) if task is not None else None
        if task is None or run is None or task.state == "waiting":
            return ()
        overlay = overlay_folder(self.folders.overlay, task.name, run.wanted.target) if task.order.own else ""
        collected = self.folders.collected / run.wanted.name / task.name
        if task.order.collect:
            collected.mkdir(parents=True, exist_ok=True, mode=0o700)
        return modules_of(run.wanted.source, str(overlay), str(collected), collect=task.order.collect)

    def _dispatch(self) -> None:
        for task in self.syncs.due():
            task.heard = self.engine.now()
            if self._send(task.mac, task.order):
                task.state = "sent"
                self.engine.note("sync", task.mac, "", f"{task.order.name} begins")
            else:
                task.state, task.reason = "refused", "it is not up any more"
                self._ended(task)

    def _send(self, mac: str, message: Sync | StopSync) -> bool:
        data = frame(encode(message))
        if self.engine.streams.listens(mac):
            return self.engine.streams.publish(mac, data)
        return self.streams.publish(mac, data)

    def _ended(self, task: Task) -> None:
        self.servers.end(task.id)
        report = task.report
        counts = ""
        if report is not None:
            counts = (
                f", {report.created} new, {report.changed} changed, {report.attributes} attributes, "
                f"{report.deleted} deleted"
            )
        text = f"{task.order.name} {task.state}{counts}{f': {task.reason}' if task.reason else ''}"
        effects: list[Effect] = [Persist(AuditRecord("sync", "sync-ended", f"{task.mac} {text}"))]
        order = task.order
        goes_round = (
            order.reboot and task.state == "done" and not order.dry and self.engine.streams.listens(task.mac)
        )
        if goes_round and LOCAL in self.engine.coordinator.labels:  # else it would come back here
            effects += self.engine.coordinator.set_label(task.mac, LOCAL, True, "sync")
        self.engine.run(effects)
        self.engine.note("sync", task.mac, "", text)

    # --- schedules -----------------------------------------------------------------------------------------

    def _strike(self) -> None:
        """Every minute since the last look, an hour at most: a daemon that was busy misses none."""
        now = int(self._clock() // 60)
        for minute in range(max(self._struck + 1, now - 60), now + 1):
            clock = time.strftime("%H:%M", time.localtime(minute * 60))
            for schedule in list(self.store.schedules.values()):
                if schedule.at == clock:
                    self.store.set_due(schedule.id, tuple(sorted(self._named(schedule))))
        self._struck = now

    def _greet(self) -> None:
        """Who has come up since the last look, and is to be synced then."""
        nodes = self.engine.coordinator.nodes
        up = {node.mac for node in nodes if self.is_up(node.mac)}
        up |= {mac for mac in self.store.agents if self.streams.listens(mac)}
        for schedule in list(self.store.schedules.values()):
            if schedule.at == BOOT and (new := self._named(schedule) & (up - self._present)):
                self.store.set_due(schedule.id, tuple(sorted(set(schedule.due) | new)))
        self._present = up

    async def _carry_out(self, schedule: Schedule) -> None:
        """All that are due and up go together; those that come while they are at it, afterwards."""
        ready = [mac for mac in schedule.due if self.is_up(mac) and not self.syncs.is_busy(mac)]
        if not ready:
            return
        self.store.set_due(schedule.id, tuple(mac for mac in schedule.due if mac not in ready))
        options = Options(freeze=schedule.freeze, staged=schedule.staged, reboot=schedule.reboot, cap=schedule.cap)
        try:
            await self.begin(schedule.set, ready, options, f"schedule {schedule.id}")
        except OperatorError as error:
            for mac in ready:
                self.engine.note("sync", mac, "", f"{schedule.set} cannot be begun: {error.message}")

    def _named(self, schedule: Schedule) -> set[str]:
        try:
            macs = self.engine.coordinator.nodes.host_set(schedule.nodes).macs
        except OperatorError:  # a group that is gone
            return set()
        return set(macs or ())
