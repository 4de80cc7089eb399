"""One member of a ring: every decision that its threads need, none of their waiting.

Pure: time is an argument, bytes of chunks are touched by nobody here. The driver owns threads, sockets, buffers
and the disk; it asks, acts, and says what came of it. One caller at a time: the driver holds a lock. After each
call it takes `wakes`: which of its activities have something to do now.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from bootd.wire import link
from bootd.wire.control import Arrange, MemberState, Report
from bootd.wire.frames import Chunk, Frame, Hello
from bootd.wire.manifest import Manifest
from bootd.wire.ring.downstream import Downstream
from bootd.wire.ring.ledger import Ledger, Level
from bootd.wire.ring.rates import Rates
from bootd.wire.ring.standing import Standing
from bootd.wire.ring.upstream import Dial, Done, Place, Rest, Send, Take, Upstream
from bootd.wire.ring.window import Entry, Window

MAX_ATTEMPTS = 3  # times that one chunk is fetched because the disk did not keep it
MAX_SUCCESSORS = 8  # proven links at a time; each holds one buffer at most
SILENCE = 5.0  # seconds without a byte after which a predecessor is given up
PING_INTERVAL = 1.0  # seconds after which a predecessor with nothing to send says so
REPORT_INTERVAL = 0.9  # seconds between two reports when there is no news: one per second is promised
PATIENCE = 60.0  # seconds that a successor may take no byte


@dataclass(frozen=True)
class Limits:
    """Time limits of a member, seconds."""

    silence: float = SILENCE
    ping_interval: float = PING_INTERVAL
    patience: float = PATIENCE
    report_interval: float = REPORT_INTERVAL


class Wake(Enum):
    """Activities of a driver."""

    RECEIVE = "receive"
    WRITE = "write"
    SYNC = "sync"
    CHECK = "check"
    SERVE = "serve"
    REPORT = "report"


class Claim(Enum):
    """How a chunk for a successor is to be had when it is not in the window."""

    READ = "read"
    WAIT = "wait"


@dataclass(frozen=True)
class Admitted:
    """A successor has proven itself: send ``data``, serve it with ``downstream``; ``former`` is its dead link."""

    data: bytes
    downstream: Downstream
    former: Downstream | None


@dataclass(frozen=True)
class Turned:
    """A successor is turned away for ``reason``: send ``data`` and close. ``who`` is what it calls itself."""

    data: bytes
    who: str
    reason: str


class RingMember:
    """``is_head``: the store is the source and has everything. ``compare``: the target is digested before READY,
    and what it has already is not received. ``completes``: the target has an end of its own (a command that
    unpacks), and only `completed` makes the member verified. ``capacity``: chunks of the window."""

    def __init__(
        self,
        *,
        node: str,
        session: str,
        token: str,
        manifest: Manifest,
        capacity: int,
        limits: Limits,
        is_head: bool = False,
        compare: bool = False,
        completes: bool = False,
    ) -> None:
        self.node, self.session, self.manifest, self.is_head, self.limits = node, session, manifest, is_head, limits
        self.ledger = Ledger(manifest, complete=is_head)
        self.standing = Standing(MemberState.PREPARING if compare else MemberState.READY)
        self.window = Window(capacity)
        self.upstream = Upstream(
            node=node,
            session=session,
            token=token,
            manifest=manifest,
            ledger=self.ledger,
            standing=self.standing,
        )
        self.wakes: set[Wake] = set()
        self.is_stopping = False
        self.sent = 0  # bytes of image sent to successors, repetitions counted
        self._token = token
        self._successors: dict[str, Downstream] = {}
        self._attempts: dict[int, int] = {}
        self._cursor = 0  # the next chunk to compare, or to read back
        self._checking = 0  # chunks that are being compared or read back
        self._checked = 0  # bytes read back, ever
        self._digested = 0
        self._completes = completes
        self._is_completing = False
        self._reading: set[int] = set()  # chunks on their way from the disk to a successor
        self._rates = Rates()
        self._blocked = 0.0  # milliseconds, ever
        self._blocked_since: float | None = None

    # --- place and state ---------------------------------------------------------------------------------

    @property
    def is_going(self) -> bool:
        return not self.is_stopping and not self.standing.has_failed

    @property
    def is_settled(self) -> bool:
        """Verified, failed or stopped."""
        return self.is_stopping or self.standing.state in (MemberState.VERIFIED, MemberState.FAILED)

    def arrange(self, message: Arrange) -> bool:
        """Take the place that the message gives; False when its epoch is over, known, or of another session."""
        if message.session != self.session or not self.upstream.arrange(message):
            return False
        self.ledger.open(message.phase)
        self.standing.has_news = True
        self._wake(Wake.RECEIVE, Wake.CHECK, Wake.REPORT)
        return True

    def fail(self, reason: str) -> None:
        """For good. A failed member takes nothing more in; what it has can still be asked for."""
        if self.standing.fail(reason):
            self.window.is_closed = True
            self._wake(*Wake)

    def stop(self, reason: str = "") -> None:
        """The end. With a ``reason`` a member that is not verified has failed for it."""
        if reason and self.standing.state is not MemberState.VERIFIED:
            self.fail(reason)
        self.is_stopping = True
        self.window.is_closed = True
        self._wake(*Wake)

    def snapshot(self, port: int, now: float) -> Report:
        """Where the member stands. Rates and ``sent`` count bytes of image, not bytes on the wire."""
        sums = self.ledger.sums()
        disk = sums.durable - self.ledger.kept + self._checked
        rates = self._rates.update(now, self.ledger.received, self.sent, disk, self._blocked_until(now))
        return Report(
            node=self.node,
            session=self.session,
            state=self.standing.state,
            epoch=self.upstream.place.epoch,
            port=port,
            total=self.manifest.size,
            written=sums.written,  # the head: digested
            durable=0 if self.is_head else sums.durable,
            verified=0 if self.is_head else sums.verified,
            rate=rates.received,
            rate_out=rates.sent,
            rate_disk=0 if self.is_head else rates.disk,
            sent=self.sent,
            blocked=min(1000, rates.blocked),
            digested=self._digested,
            kept=self.ledger.kept,
            phases=self.ledger.phases_done,
            reason=self.standing.reason,
            trouble=self.standing.trouble,
        )

    # --- receiving: see also `upstream` ------------------------------------------------------------------

    def next_dial(self, now: float) -> Dial | Rest:
        """`Upstream.next`."""
        return self.upstream.next(now, len(self._successors))

    def receive(self, frame: Frame) -> Send | Take | Done | None:
        """`Upstream.receive`, with the news that it may make."""
        step = self.upstream.receive(frame)
        self._spread_news()
        return step

    def reserve(self, now: float) -> bool:
        """A place in the window for the chunk that is due; False while the disk has to be waited for."""
        has_place = self.window.reserve()
        if has_place:
            self._blocked, self._blocked_since = self._blocked_until(now), None
        elif self._blocked_since is None:
            self._blocked_since = now
        return has_place

    def accept(self, chunk: Chunk, raw: memoryview | bytes, found: bytes, slot: object) -> bool:
        """A chunk has arrived in the place that `window` reserved; ``found`` is the digest of ``raw``.

        True when it is the one of the image and is kept. Else it is wanted again and the place is given up;
        `PeerProtocolError` ends the link when that happens too often.
        """
        header = chunk.header
        index = header.index
        if found != header.digest or found != self.manifest.digest(index):
            self.window.unreserve()
            self._wake(Wake.REPORT)
            words = "arrived damaged" if found != header.digest else "is not the one of the image"
            self.upstream.reject_copy(index, words)
            return False
        self.ledger.hold(index)
        self.window.put(Entry(header, chunk.payload, raw, slot))
        self._wake(Wake.WRITE, Wake.SERVE)
        return True

    def break_off(self, place: Place, words: str, now: float) -> None:
        """`Upstream.break_off`, with the news that it may make."""
        self.upstream.break_off(place, words, now)
        self._spread_news()

    # --- writing -----------------------------------------------------------------------------------------

    def wrote(self, entry: Entry, now: float) -> None:
        """``entry`` is written. From here on it may leave the window, for it can be read from the disk."""
        is_first = self.ledger.sync_due is None
        self.ledger.write(entry.header.index, now)
        entry.is_written = True
        self._wake(Wake.RECEIVE)
        if is_first or self.ledger.is_sync_due:
            self._wake(Wake.SYNC)

    def synced(self, batch: Iterable[int]) -> None:
        """fdatasync has returned for what was written before."""
        self.ledger.sync(batch)
        if self.ledger.is_durable:
            self._wake(Wake.CHECK, Wake.REPORT)

    # --- comparing and reading back ----------------------------------------------------------------------

    def next_check(self) -> int | None:
        """The next chunk to read past the page cache, for `checked`; None while there is none.

        Before READY that is every chunk of a target that is compared; later what is durable, once all is: a disk
        may lose what it had when more is written to it.
        """
        if not self.is_going:
            return None
        if self.standing.state is MemberState.PREPARING:
            if self._cursor >= self.manifest.count:
                return None
            self._cursor += 1
            self._checking += 1
            return self._cursor - 1
        if not self.ledger.is_durable or not self.upstream.place.epoch:
            return None
        if self.standing.state is not MemberState.VERIFYING:
            if self.ledger.is_verified and (self.standing.state is MemberState.VERIFIED or not self._is_at_end):
                return None
            self.standing.enter(MemberState.VERIFYING)
            self._cursor = 0
            self._wake(Wake.REPORT)
        index = self.ledger.next_durable(self._cursor)
        if index is not None:
            self._cursor = index + 1
            self._checking += 1
            return index
        self._conclude()
        return None

    def checked(self, index: int, found: bytes) -> None:
        """Chunk ``index`` was read; ``found`` is the digest of what the disk gave."""
        self._checking -= 1
        matches = found == self.manifest.digest(index)
        if self.standing.state is MemberState.PREPARING:
            self._digested += self.manifest.length(index)
            if matches:
                self.ledger.keep(index)
            if self._cursor >= self.manifest.count and not self._checking:
                self.standing.enter(MemberState.READY)
                self._cursor = 0
                self._wake(Wake.REPORT, Wake.RECEIVE, Wake.CHECK)
            return
        self._checked += self.manifest.length(index)
        if matches:
            self.ledger.verify(index)
        else:
            self.lose(index)
        self._conclude()

    def take_completion(self) -> bool:
        """True, once, when everything is verified and only the target's own end is missing: `completed` is due."""
        is_due = (
            self._completes
            and not self._is_completing
            and self.standing.state is MemberState.VERIFYING
            and self.ledger.phases_done == self.manifest.phases
        )
        self._is_completing = self._is_completing or is_due
        return is_due

    def completed(self, reason: str) -> None:
        """The target has come to its own end; ``reason`` says why not, if it did not."""
        self._completes = False
        if reason:
            self.fail(reason)
        else:
            self._conclude()

    def lose(self, index: int) -> None:
        """The disk gave back something else than was written: fetch the chunk again, a bounded number of times."""
        self._attempts[index] = self._attempts.get(index, 0) + 1
        if self._attempts[index] >= MAX_ATTEMPTS:
            self.fail(
                f"the target does not keep what is written: chunk {index} at byte {self.manifest.offset(index)} "
                f"reads back different, {self._attempts[index]} times"
            )
        elif self.ledger.lose(index):
            if self.standing.state in (MemberState.VERIFYING, MemberState.VERIFIED):
                self.standing.enter(MemberState.RECEIVING)
            self._wake(Wake.RECEIVE, Wake.REPORT)

    # --- successors --------------------------------------------------------------------------------------

    def challenge(self, nonce: bytes) -> link.AcceptLink:
        """For somebody who has dialled. ``nonce``: 32 fresh random bytes."""
        return link.AcceptLink(
            session=self.session,
            epoch=self.upstream.place.epoch,
            token=self._token,
            nonce=nonce,
            chunk_count=self.manifest.count,
        )

    def admit(self, machine: link.AcceptLink, frame: Frame) -> Admitted | Turned:
        """Judge the first frame of somebody who has dialled; `PeerProtocolError` ends the link."""
        event = machine.receive(frame, epoch=self.upstream.place.epoch)
        who = frame.member if isinstance(frame, Hello) else ""
        if isinstance(event, link.Refused):
            return Turned(event.data, who, event.reason)
        if not isinstance(event, link.Established):
            return Turned(machine.reject("HELLO is awaited"), who, "HELLO is awaited")
        former = self._successors.pop(event.member, None)
        if len(self._successors) >= MAX_SUCCESSORS:
            return Turned(machine.reject("too many successors"), who, "too many successors")
        downstream = Downstream(
            machine,
            manifest=self.manifest,
            ledger=self.ledger,
            standing=self.standing,
            is_head=self.is_head,
            ping_interval=self.limits.ping_interval,
        )
        self._successors[event.member] = downstream
        self._wake(Wake.RECEIVE)
        return Admitted(event.data, downstream, former)

    def leave(self, downstream: Downstream) -> None:
        """The link of a successor is over."""
        self._successors = {name: own for name, own in self._successors.items() if own is not downstream}

    def count_sent(self, downstream: Downstream, index: int) -> None:
        """Chunk ``index`` has gone out to a successor."""
        downstream.sent(index)
        self.sent += self.manifest.length(index)

    def reread(self, index: int, found: bytes) -> bool:
        """Whether chunk ``index``, read again for a successor, is still the one of the image."""
        if found == self.manifest.digest(index):
            return True
        if self.is_head:
            self.fail(
                "image changed while it was being sent: "
                f"chunk {index} at byte {self.manifest.offset(index)} is not what was digested"
            )
        else:
            self.lose(index)
        return False

    def claim(self, index: int) -> Entry | Claim:
        """Chunk ``index`` for a successor: from the window (then `Window.give_back` is due), or the order to read
        it (then `offer` or `release` is due), or to wait because it is being read for another one."""
        entry = self.window.borrow(index)
        if entry is not None:
            return entry
        if index in self._reading:
            return Claim.WAIT
        self._reading.add(index)
        return Claim.READ

    def offer(self, entry: Entry) -> bool:
        """Put a chunk that was read for one successor into the window, for the others: then it is as if it had been
        borrowed. False without room or use."""
        index = entry.header.index
        self.release(index)
        entry.is_written = True
        if len(self._successors) < 2 or self.ledger.level(index) < Level.WRITTEN or not self.window.reserve():
            return False
        entry.readers += 1
        self.window.put(entry)
        return True

    def release(self, index: int) -> None:
        """Chunk ``index`` is not being read any more."""
        self._reading.discard(index)
        self._wake(Wake.SERVE)

    # --- reports -----------------------------------------------------------------------------------------

    def reported(self, report: Report, received: int) -> None:
        """``report`` was made when ``received`` bytes had arrived, and has been sent: a trouble that is over is
        forgotten."""
        if report.trouble and self.ledger.received > received:
            self.standing.forgive(report.trouble)

    # --- small parts -------------------------------------------------------------------------------------

    @property
    def _is_at_end(self) -> bool:
        return self.ledger.opened == self.manifest.phases - 1

    def _conclude(self) -> None:
        """What follows when the last chunk of the open phases has been read back."""
        if self._checking or self.standing.state is not MemberState.VERIFYING or not self.ledger.is_verified:
            return
        if not self._is_at_end:
            self.standing.enter(MemberState.RECEIVING)
            self._wake(Wake.RECEIVE, Wake.REPORT)
        elif self._completes:
            self._wake(Wake.CHECK)
        else:
            self.standing.enter(MemberState.VERIFIED)
            self._wake(Wake.REPORT)

    def _blocked_until(self, now: float) -> float:
        return self._blocked + (0.0 if self._blocked_since is None else 1000 * (now - self._blocked_since))

    def _spread_news(self) -> None:
        if self.standing.has_news:
            self._wake(Wake.REPORT)

    def _wake(self, *activities: Wake) -> None:
        self.wakes.update(activities)
