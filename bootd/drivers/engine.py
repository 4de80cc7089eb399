"""The coordinator's hands: carries out its effects in order, and gives it the time.

Everything here runs on the daemon's loop; nothing is awaited between a decision and its effects, so no two
decisions interleave.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import structlog

from bootd.drivers import metrics
from bootd.drivers.captures import CaptureStore
from bootd.drivers.heads import Heads
from bootd.drivers.http.streams import Streams, frame
from bootd.drivers.images.store import ImageStore
from bootd.drivers.journal import AuditLine, Journal
from bootd.drivers.logs import LogStore
from bootd.drivers.tables import TableStore
from bootd.drivers.timeline import TimelineStore
from bootd.errors import OperatorError
from bootd.session.commands import Command, Commands, Task
from bootd.session.coordinator import Coordinator
from bootd.session.effects import (
    Effect,
    Event,
    ManifestRecord,
    Persist,
    PolicyChanged,
    Record,
    Send,
    StartHead,
    StopHead,
    SwitchOn,
)
from bootd.session.member import Image
from bootd.session.node_orders import NodeOrders
from bootd.session.orders import open_due
from bootd.session.view import view
from bootd.wire.control import encode
from bootd.wire.manifest import Manifest

if TYPE_CHECKING:
    from bootd.drivers.sync.keeper import SyncKeeper

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.5
MAX_TIMELINE = 2000  # lines kept in memory, of all nodes together


class Engine:
    """Holds the coordinator, the manifests of its sessions, the streams to nodes and to operators."""

    def __init__(
        self, coordinator: Coordinator, journal: Journal, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.coordinator = coordinator
        self.node_orders = NodeOrders(coordinator)
        self.streams = Streams()
        self.watchers = Streams(limit=64)
        self.timeline: deque[dict[str, Any]] = deque(maxlen=MAX_TIMELINE)
        self.history: TimelineStore | None = None
        self.tables: TableStore | None = None
        self.image_store: Callable[[], ImageStore] | None = None
        self.captures: CaptureStore | None = None
        self.logs: LogStore | None = None
        self.commands = Commands()
        self.sync: SyncKeeper | None = None
        self.switch_on: Callable[[SwitchOn], None] = lambda _: None  # the daemon says who can
        self.health: Callable[[], list[str]] = list  # what is wrong; the daemon says who knows
        self.journal_trouble = ""
        self._tally = metrics.RingTally()
        self._opened: set[str] = set()  # ids of sessions
        self._journal = journal
        self._clock = clock
        self._heads: Heads | None = None
        self._manifests: dict[str, bytes] = {}

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def attach_heads(self, heads: Heads) -> None:
        """Say who starts the heads."""
        self._heads = heads

    def restore(self) -> None:
        """Take over what the journal kept. `OperatorError` when it cannot be read."""
        saved = self._journal.load()
        self._manifests = {record.session: record.encoded for record in saved.manifests}
        self.coordinator.restore_locks(saved.locks, self.now(), time.time())
        for kiosk in saved.kiosks:
            self.coordinator.kiosks.set(kiosk)
        self.coordinator.captures.restore(saved.captures, self.now())
        for group in saved.groups:
            self.coordinator.nodes.groups.restore(group)
            if group.macs and self.coordinator.nodes.groups.is_configured(group.name):
                log.warning("a group of operators is in bootd.toml now, which counts", group=group.name)
        self.node_orders.host_files = {record.mac: record for record in saved.host_files}
        kept = self.coordinator.restore(saved.nodes, saved.default_label, saved.sessions, saved.members, self.now())
        self.run(kept)
        self._journal.keep_copy()

    def run(self, effects: Iterable[Effect]) -> None:
        """Carry ``effects`` out, in order. A journal that fails is logged; the rest is carried out."""
        records: list[Record] = []
        for effect in effects:
            if isinstance(effect, Persist):
                records.append(effect.record)
                continue
            self._write(records)
            records = []
            self._carry_out(effect)
        self._write(records)
        self._count_ended()

    def tick(self) -> None:
        """Deadlines, and news for those who watch."""
        self.run(self.coordinator.tick(self.now()))
        for command, task in self.commands.tick(self.now()):
            self.note_command(command, task)
        self._tally.update(self._counters(self._opened))
        self.run(open_due(self.coordinator, time.time(), self.now()))
        self._forget_manifests()
        if len(self.watchers):
            self.watchers.broadcast(frame(json.dumps(self.state()).encode(), "state"))

    def state(self) -> dict[str, Any]:
        """What ``bootd state --json`` prints."""
        state = view(self.coordinator, self.now())
        state["journal"] = self.journal_trouble or "ok"
        return state

    def timeline_of(self, node: str) -> list[dict[str, Any]]:
        """What was noted of ``node`` (a MAC), or of everything for "", oldest first, as far as it is kept."""
        if self.history is not None:
            return self.history.of(node)
        return [line for line in self.timeline if not node or line["node"] == node]

    def session_of(self, mac: str) -> str:
        """Id of the open session that a node is a live member of, or ""."""
        node = self.coordinator.nodes.get(mac)
        return node.session if node is not None else ""

    def audit(self, limit: int, since: float, who: str) -> list[AuditLine]:
        """See `Journal.audit`; `OperatorError` when it cannot be read."""
        return self._journal.audit(limit, since=since, who=who)

    def contents(self, mac: str) -> list[dict[str, Any]]:
        """See `Journal.contents`; `OperatorError` when it cannot be read."""
        return self._journal.contents(mac)

    def head_ended(self, session: str, reason: str) -> None:
        """The process of a head is gone, though nobody ended it."""
        log.info("head is gone", session=session, reason=reason)
        self.run(self.coordinator.head_ended(session, f"the head {reason}", self.now()))

    def put_manifest(self, session: str, data: bytes, manifest: Manifest) -> None:
        """The head of ``session`` has digested its source."""
        known = self.coordinator.sessions.get(session)
        if known is None or known.ended:
            return
        self._manifests[session] = data
        self._write([ManifestRecord(session, data)])
        image = Image(manifest.root, manifest.size, manifest.chunk_size, manifest.phases)
        self.run(self.coordinator.manifest(session, image, self.now()))

    def manifest(self, session: str) -> bytes | None:
        """The manifest of an open session, as the head sent it."""
        return self._manifests.get(session)

    def commands_for(self, node: str) -> list[bytes]:
        """Frames of everything in force for ``node``."""
        return [frame(encode(message)) for message in self.coordinator.commands_for(node)]

    def note(self, kind: str, node: str, session: str, text: str, *, logged: bool = False) -> None:
        """One line of the timeline: kept for a while, told to those who watch, logged unless it has been."""
        metrics.count_event(kind)
        line = {"time": time.time(), "kind": kind, "node": node, "session": session, "text": text}
        self.timeline.append(line)
        if self.history is not None:
            self.history.add(line)
        if not logged:
            log.info(kind, node=node, session=session, text=text)
        if len(self.watchers):
            self.watchers.broadcast(frame(json.dumps(line).encode(), "line"))

    def note_command(self, command: Command, task: Task) -> None:
        """The end of a command on one node, for its timeline."""
        how = f"status {task.code}" if task.code is not None else task.state
        self.note("exec", task.node, "", f"{command.id}: {how}{f', {task.reason}' if task.reason else ''}")

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send(node, message):
                self.streams.publish(node, frame(encode(message)))
            case StartHead():
                if self._heads is not None:
                    self._heads.start(effect)
            case SwitchOn():
                self.switch_on(effect)
            case StopHead(session):
                if self._heads is not None:
                    self._heads.stop(session)
            case PolicyChanged(node, label, why):
                self.note(
                    "policy", node, "", f"{'default' if not node else 'boots'} {label or 'the default'}: {why}"
                )
            case Event(kind, node, session, text):
                self.note(kind, node, session, text)
            case Persist():
                raise TypeError("records are written in batches")

    def _write(self, records: list[Record]) -> None:
        if not records:
            return
        try:
            self._journal.batch(records)
            self.journal_trouble = ""
        except OperatorError as error:
            if error.message != self.journal_trouble:
                log.error("journal cannot be written", error=error.message, hint=error.hint)  # noqa: TRY400
            self.journal_trouble = error.message

    def _count_ended(self) -> None:
        opened = {session.id for session in self.coordinator.sessions.values() if not session.ended}
        ended_now = self._opened - opened
        if ended_now:  # their last bytes may have come since the last tick
            self._tally.update(self._counters(opened | ended_now))
        for id_ in ended_now:
            ended = self.coordinator.sessions.get(id_)
            if ended is not None:
                metrics.SESSIONS_ENDED.labels(ended.state.value).inc()
        self._opened = opened

    def _counters(self, sessions: set[str]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for session in self.coordinator.sessions.values():
            if session.id in sessions:
                for mac, member in session.members.items():
                    yield session.id, mac, tuple(member.counter(kind) for kind in metrics.RingTally.KINDS)

    def _forget_manifests(self) -> None:
        for session in list(self._manifests):
            known = self.coordinator.sessions.get(session)
            if known is None or known.ended:
                del self._manifests[session]
