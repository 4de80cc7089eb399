"""``bootd serve``: puts the daemon together, binds everything, says READY, serves until it is told to stop."""

import asyncio
import gc
import os
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from bootd.config import Settings
from bootd.drivers.boot_context import BootContext
from bootd.drivers.captures import CaptureStore
from bootd.drivers.dhcp.leases import addressing
from bootd.drivers.dhcp.router_advertisement import RouterAdvertisement
from bootd.drivers.dhcp.service import DhcpServer
from bootd.drivers.dns.names import NodeNames
from bootd.drivers.dns.service import DnsServer
from bootd.drivers.engine import TICK_SECONDS, Engine
from bootd.drivers.heads import Heads
from bootd.drivers.health import Health, free_space
from bootd.drivers.http.bulk import BulkService
from bootd.drivers.http.image_tickets import Tickets
from bootd.drivers.http.images import ImageRoutes
from bootd.drivers.http.network import NetworkInterface
from bootd.drivers.http.node import NodeInterface, bounds
from bootd.drivers.http.operator import Operators
from bootd.drivers.http.unix_socket import OperatorInterface
from bootd.drivers.interfaces import Interface, detect
from bootd.drivers.jobs.runner import Jobs
from bootd.drivers.journal import Journal
from bootd.drivers.kiosk import KioskKeeper
from bootd.drivers.lock import RunLock
from bootd.drivers.logging_setup import follow_sessions
from bootd.drivers.logs import LogStore
from bootd.drivers.notices import Notices
from bootd.drivers.notify import Notifier
from bootd.drivers.power.control import PowerControl
from bootd.drivers.rebound import Rebound
from bootd.drivers.service import Service
from bootd.drivers.sync.keeper import Folders, SyncKeeper
from bootd.drivers.sync.store import SyncStore
from bootd.drivers.systems import Systems
from bootd.drivers.tables import TableStore
from bootd.drivers.tftp.service import TftpServer
from bootd.drivers.timeline import TimelineStore
from bootd.drivers.tokens import TokenStore
from bootd.drivers.tree import VirtualTree
from bootd.netboot.labels import Label
from bootd.session.coordinator import Coordinator
from bootd.session.plan import Limits

log = structlog.get_logger(__name__)

_CLOSE_SECONDS = 8.0  # all services together; systemd's own patience is longer


class Stop(Exception):  # noqa: N818 - not an error: how the task group is told to end
    """SIGTERM or SIGINT."""


class Daemon:
    """Everything of one run. `run` once."""

    def __init__(
        self,
        settings: Settings,
        source: str,
        notifier: Notifier,
        *,
        may_reload: Callable[[], bool] = lambda: False,
    ) -> None:
        """``source`` is where the settings come from, for the log. SIGHUP asks ``may_reload``; if so `run` ends
        as at SIGTERM, with ``reload_wanted`` set: whoever called it starts anew."""
        self.reload_wanted = False
        self._may_reload = may_reload
        self._settings, self._source, self._notifier = settings, source, notifier
        self._lock = RunLock(Path(settings.server.run_dir))
        self._services: list[Service] = []

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. `OperatorError` when it cannot start."""
        self._lock.acquire()
        try:
            interfaces = detect(self._settings.server)
            journal = Journal(Path(self._settings.server.state_dir) / "bootd.db")
            try:
                await self._serve(interfaces, journal)
            finally:
                journal.close()
        finally:
            self._lock.release()

    async def _serve(self, interfaces: Sequence[Interface], journal: Journal) -> None:
        interface = interfaces[0]  # the ring's head is reached here
        systems = Systems(self._settings.boot_dir, self._settings.labels)
        engine = Engine(_coordinator(self._settings, interface.address, systems.labels), journal)
        context = BootContext(engine, self._settings, interface.address, systems.labels)
        context.check()
        server = f"{interface.address}:{self._settings.server.http_port}"
        cache = str(Path(self._settings.server.state_dir) / "digests")
        heads = Heads(
            server, interface.address, engine.head_ended, cache=cache, images=str(self._settings.image_dir)
        )
        engine.attach_heads(heads)
        engine.history = TimelineStore(Path(self._settings.server.state_dir) / "timeline.db")
        engine.captures = CaptureStore(self._settings.image_dir)
        engine.tables = TableStore(Path(self._settings.server.state_dir) / "tables")
        engine.health = self._health(engine, context)
        follow_sessions(engine.session_of)
        notices = Notices(engine, journal, self._settings.notify)
        engine.logs = LogStore(Path(self._settings.server.state_dir) / "logs.db")
        engine.sync = self._sync(engine, server)
        tokens = TokenStore(journal)
        composed = self._compose(engine, context, interfaces, tokens, notices, systems=systems)
        self._services = [notices, engine.sync, *composed]
        try:
            for service in self._services:
                await service.bind()
            engine.restore()
            await self._until_stopped(engine, context, interface)
        finally:
            if not self.reload_wanted:
                self._notifier.stopping()
            await self._close(heads)
            await asyncio.to_thread(engine.captures.close)
            engine.logs.close()

    def _compose(
        self,
        engine: Engine,
        context: BootContext,
        interfaces: Sequence[Interface],
        tokens: TokenStore,
        notices: Notices,
        *,
        systems: Systems,
    ) -> list[Service]:
        settings, labels = self._settings, systems.labels

        def on_event(kind: str, mac: str, client: str, detail: str) -> None:
            engine.note(kind, mac, "", f"{detail} ({client})" if client else detail, logged=True)

        def files(address: str) -> list[Service]:
            """What is made for one address, since it tells clients where to go on."""
            own = BootContext(engine, settings, address, labels)
            tree = VirtualTree(settings.boot_dir, own, address, settings.server.http_port)
            served: list[Service] = [
                NodeInterface(engine, tree, settings, address, tickets, labels=labels),
                BulkService(
                    address,
                    settings.server.bulk_port,
                    settings.boot_dir,
                    on_event,
                    bounds=bounds(settings),
                    workers=settings.server.bulk_workers,
                    images=settings.image_dir,
                    tickets=tickets,
                ),
                TftpServer(settings, address, tree, on_event),
            ]
            if settings.dns.enabled:
                served.append(
                    DnsServer(settings.dns, address, NodeNames(engine.coordinator, settings, dhcp.list_leases))
                )
            return served

        tickets = Tickets()
        names = [interface.name for interface in interfaces]
        dhcp = DhcpServer(settings, names, context.policy, on_event)
        power = PowerControl(settings, names)
        jobs = Jobs(lambda job: engine.note("job", "", "", f"{job.kind} {job.detail}: {job.state}"))
        images = ImageRoutes(engine, settings.image_dir, settings.images, jobs, settings.registry)
        images.tickets, images.bulk_port = tickets, settings.server.bulk_port
        operators = Operators(engine, labels, tokens, dhcp.list_leases, images=images, notices=notices, power=power)
        operators.systems = systems
        services: list[Service] = [
            jobs,
            *([engine.history] if engine.history is not None else []),
            OperatorInterface(operators, settings.socket_path),
            *([NetworkInterface(operators, settings.api)] if settings.api.enabled else []),
            KioskKeeper(engine),
            *(Rebound(interface, settings.server.address, files) for interface in interfaces),
        ]
        if settings.dhcp.proxy or settings.dhcp.pool:
            services.append(dhcp)
        ours = [item.name for item in interfaces if addressing(settings).gives_on((item.address,))]
        if ours and settings.dhcp.router_advertisement:
            services.append(RouterAdvertisement(ours))
        return services

    def _sync(self, engine: Engine, server: str) -> SyncKeeper:
        settings, state = self._settings, Path(self._settings.server.state_dir)
        folders = Folders(
            Path(settings.sync.overlay or state / "sync-overlay"),
            Path(settings.sync.collected or state / "sync-collected"),
        )
        return SyncKeeper(engine, settings.sync_sets, folders, SyncStore(state / "sync.db"), server=server)

    def _health(self, engine: Engine, context: BootContext) -> Health:
        def journal() -> str:
            return f"the journal cannot be written: {engine.journal_trouble}" if engine.journal_trouble else ""

        def boot_files() -> str:
            missing = context.missing_artefacts()
            return f"boot files are missing: {', '.join(missing)}: bootd stage build" if missing else ""

        state = partial(free_space, Path(self._settings.server.state_dir))
        return Health((journal, boot_files, state), lambda: self._services)

    async def _until_stopped(self, engine: Engine, context: BootContext, interface: Interface) -> None:
        missing = context.missing_artefacts()
        if missing:
            log.warning(
                "boot files are missing: nodes cannot boot from here",
                folder=str(self._settings.boot_dir),
                missing=missing,
                hint=f"bootd stage build --out {self._settings.boot_dir}",
            )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload, stop)
        try:
            async with asyncio.TaskGroup() as group:
                for service in self._services:
                    group.create_task(service.serve(), name=service.name)
                group.create_task(_tick(engine), name="ticker")
                group.create_task(self._notifier.feed_watchdog(), name="watchdog")
                group.create_task(_raise_stop(stop), name="signals")
                status = f"serves {interface.name} ({interface.address})"
                # What there is now stays: a full collection that went through all of it would hold up every offer.
                gc.unfreeze()  # of a run before a reload
                gc.collect()
                gc.freeze()
                self._notifier.ready(status)
                log.info(
                    "ready",
                    interface=interface.name,
                    address=interface.address,
                    settings=self._source,
                    socket=str(self._settings.socket_path),
                    pid=os.getpid(),
                )
        except* Stop:
            log.info("stopping")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes while we end, or begin anew, does no harm

    def _reload(self, stop: asyncio.Event) -> None:
        if not stop.is_set() and self._may_reload():
            log.info("reloading")
            self.reload_wanted = True
            self._notifier.reloading(time.monotonic_ns() // 1000)
            stop.set()

    async def _close(self, heads: Heads) -> None:
        """End heads and services side by side; a service that cannot close does not hinder the others."""
        closing: list[Coroutine[Any, Any, None]] = [heads.close(), *(service.close() for service in self._services)]
        names = ["heads", *(service.name for service in self._services)]
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                results = await asyncio.gather(*closing, return_exceptions=True)
        except TimeoutError:
            log.error("did not close in time", seconds=_CLOSE_SECONDS)  # noqa: TRY400
            return
        for name, result in zip(names, results, strict=True):
            if isinstance(result, BaseException):
                log.error("service did not close", service=name, error=repr(result))


def _coordinator(settings: Settings, address: str, labels: dict[str, Label]) -> Coordinator:
    session = settings.session
    return Coordinator(
        labels=labels,
        default_label=settings.boot.default,
        names={node.mac.lower(): node.name for node in settings.node},
        node_labels={node.mac.lower(): node.label for node in settings.node if node.label},
        switches={node.mac.lower(): node.switch for node in settings.node if node.switch},
        groups=settings.groups,
        numbers={node.mac.lower(): node.number for node in settings.node if node.number is not None},
        addresses={node.mac.lower(): node.address for node in settings.node if node.address},
        prefix=settings.dns.prefix,
        unknown=settings.nodes.unknown,
        head_host=address,
        draw=secrets.token_hex,
        limits=Limits(silence=session.silence_seconds, ready=session.ready_seconds, attempts=session.attempts),
    )


async def _tick(engine: Engine) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        try:
            engine.tick()
        except Exception:  # a defect in one session must not end the boot service of the room
            log.exception("tick failed")


async def _raise_stop(stop: asyncio.Event) -> None:
    await stop.wait()
    raise Stop
