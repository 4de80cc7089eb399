"""The sender by hand: a file to a list of receivers, without a daemon.

It arranges the chain with the daemon's own coordinator (`bootd.session`), fed by connections to the receivers in
place of HTTP, and runs the head of the ring in this process. The coordinator keys nodes by MAC: each receiver gets
one made of its place in the list (02:00:…), and is shown by the name it was called with.
"""

import contextlib
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bootd.drivers.ring_channel import Kind, link_token
from bootd.drivers.ring_host import Down, Heard, Host, HostEvent, Name, Up
from bootd.errors import Exit, OperatorError
from bootd.member.context import describe
from bootd.member.member import Member
from bootd.member.sources import digest_source
from bootd.member.store import SourceStore, StoreError
from bootd.session.coordinator import Coordinator
from bootd.session.effects import Effect, Event, Send
from bootd.session.member import Image
from bootd.session.plan import Limits
from bootd.session.request import SessionRequest
from bootd.session.states import SessionState, Standing
from bootd.session.view import view_session
from bootd.wire import control
from bootd.wire.control import Address, Arrange, Cancel, Finish, Join, MemberState, Message, Prepare, Report
from bootd.wire.errors import LocalProtocolError, PeerProtocolError
from bootd.wire.manifest import Manifest

TICK_SECONDS = 0.25
SHOW_SECONDS = 0.25
DRAIN_SECONDS = 2.0
INBOX = 4096
_UNSAID = {"created", "done", "joined"}  # events in the daemon's words, or that say nothing here
_LABEL = "ring"  # the coordinator wants a boot label; nothing boots here


@dataclass(frozen=True)
class _Digested:
    done: int  # bytes


@dataclass(frozen=True)
class _Ready:
    image: Manifest


@dataclass(frozen=True)
class _Broken:
    reason: str


@dataclass(frozen=True)
class _HeadSays:
    report: Report


class _Stopped(Exception):  # noqa: N818 - not an error: the session ended while the source was being digested
    pass


@dataclass(frozen=True)
class Timing:
    """Seconds a receiver may be silent, may stand still, and may take to answer for the first time."""

    silence: float = 5.0
    stall: float = 20.0
    wait: float = 60.0


class RingSender:
    """One run. ``show`` gets the view of the session (`bootd.session.view`) a few times a second, ``tell`` a line
    for every event; both are called from the thread that runs `run`."""

    def __init__(
        self,
        path: str,
        names: Sequence[Name],
        token: str,
        *,
        timing: Timing,
        show: Callable[[dict[str, Any]], None],
        tell: Callable[[str], None],
    ) -> None:
        try:
            self._source = SourceStore(path)
        except StoreError as error:
            raise OperatorError(str(error), "name a file with content, or a block device", Exit.INPUT) from None
        self._token, self._timing, self._show, self._tell = token, timing, show, tell
        self._inbox: queue.Queue[Any] = queue.Queue(INBOX)
        self._hosts = {name.mac: Host(name, token, self._hosts_inbox) for name in names}
        self._by_mac = {name.mac: name.text for name in names}
        self._hopeless: set[str] = set()
        self._finishing: set[str] = set()
        self._coordinator = Coordinator(
            labels=[_LABEL],
            default_label="local",
            names=self._by_mac,
            node_labels={},
            head_host="0.0.0.0",  # each receiver is told the address that it sees, in `_send`
            draw=secrets.token_hex,
            limits=Limits(silence=timing.silence, stall=timing.stall, rejoin=timing.silence, attempts=3),
        )
        request = SessionRequest(
            path, self._source.size, ",".join(self._by_mac), "only", label=_LABEL, after="stay", flip_default=False
        )
        self._began = time.monotonic()
        self.session, effects = self._coordinator.create(request, "operator", self._began)
        self._head: Member | None = None
        self._image: Manifest | None = None
        self._stopping = threading.Event()
        self._carry_out(effects)

    @property
    def _hosts_inbox(self) -> "queue.Queue[HostEvent]":
        return self._inbox

    def run(self) -> dict[str, Any]:
        """Until every receiver has a verdict; the last view, whose ``outcome`` has the exit code.

        `KeyboardInterrupt` cancels the session: the receivers are told.
        """
        for host in self._hosts.values():
            host.start()
        threading.Thread(target=self._digest, name="bootd-digest", daemon=True).start()
        session = self._coordinator.sessions[self.session]
        ticked = shown = 0.0
        try:
            while not session.ended:
                with contextlib.suppress(queue.Empty):
                    self._react(self._inbox.get(timeout=TICK_SECONDS))
                now = time.monotonic()
                if now - ticked >= TICK_SECONDS:
                    ticked = now
                    self._carry_out(self._coordinator.tick(now))
                    self._judge_absence(now)
                if now - shown >= SHOW_SECONDS:
                    shown = now
                    self._show(self.view())
        except KeyboardInterrupt:
            self._cancel("interrupted by the operator")
        finally:
            self._stop()
        view = self.view()
        self._show(view)
        return view

    def view(self) -> dict[str, Any]:
        """`view_session`, with the receivers' names for MACs, and why an absent one is absent."""
        session = self._coordinator.sessions[self.session]
        value = view_session(session, self._coordinator.nodes.name, time.monotonic())
        for row in value["outcome"]["nodes"]:
            host = self._hosts[row["node"]]
            if row["state"] == Standing.ABSENT.value:
                row["reason"] = f"it never joined: {host.problem}" if host.problem else "it never joined"
            elif row["state"] == Standing.DONE.value:
                row["reason"] = "every byte read back and matched"
        for row in [*value["members"], *value["outcome"]["nodes"]]:
            row.update({key: self._named(row[key]) for key in ("reason", "trouble", "predecessor") if row.get(key)})
        return value

    # --- what happens ------------------------------------------------------------------------------------

    def _react(self, event: object) -> None:
        now = time.monotonic()
        coordinator = self._coordinator
        match event:
            case Up(mac):
                self._tell(f"{self._by_mac[mac]}: connected")
            case Heard(mac, message):
                self._hear(mac, message, now)
            case Down(mac, reason, dead, hopeless):
                self._lose(mac, reason, dead, hopeless, now)
            case _HeadSays(report):
                self._carry_out(coordinator.report(report, now))
            case _Digested(done):
                self._carry_out(coordinator.report(self._preparing(done), now))
            case _Broken(reason):
                self._carry_out(coordinator.head_ended(self.session, reason, now))
            case _Ready(image):
                self._start_head(image, now)

    def _hear(self, mac: str, message: Message, now: float) -> None:
        host = self._hosts[mac]
        try:
            if isinstance(message, Join):
                joined = replace(message, node=mac, address=host.name.address, session="")
                self._carry_out(self._coordinator.join(joined, now))
            elif isinstance(message, Report):
                if mac in self._finishing and message.state is MemberState.VERIFIED:
                    return  # a heartbeat from before it heard Finish: the target has no name yet
                self._carry_out(self._coordinator.report(replace(message, node=mac), now))
        except PeerProtocolError as error:
            self._tell(f"{host.name.text}: {error}")

    def _lose(self, mac: str, reason: str, dead: bool, hopeless: bool, now: float) -> None:
        """A cut line alone is no verdict: it is dialled again, and silence has its deadline. A refused dial is."""
        self._tell(f"{self._by_mac[mac]}: {reason}")
        if hopeless:
            self._hopeless.add(mac)
        member = self._coordinator.sessions[self.session].members.get(mac)
        if (dead or hopeless) and member is not None and member.live:
            words = f"its process has ended: {reason}" if dead else reason
            self._carry_out(
                self._coordinator.report(Report(mac, self.session, MemberState.FAILED, reason=words), now)
            )

    def _judge_absence(self, now: float) -> None:
        """Who has not joined in time, or never can, holds nobody up."""
        session = self._coordinator.sessions[self.session]
        if session.state not in (SessionState.PREPARING, SessionState.WAITING):
            return
        possible = len(self._hosts) - len(self._hopeless - set(session.members))
        if possible < 1:
            self._cancel("no receiver takes part")
        elif possible < session.expect:
            self._carry_out(self._coordinator.set_expect(self.session, possible, "operator", now))
        elif now - self._began > self._timing.wait and session.state is SessionState.WAITING:
            if not session.members:
                self._cancel(f"no receiver answered within {self._timing.wait:g} s")
            elif not session.start_now:
                self._carry_out(self._coordinator.start_now(self.session, "operator", now))

    def _cancel(self, reason: str) -> None:
        session = self._coordinator.sessions[self.session]
        if session.open:
            self._carry_out(self._coordinator.cancel(self.session, reason, "operator", time.monotonic()))

    # --- what is done ------------------------------------------------------------------------------------

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(effect.node, effect.message)
            elif isinstance(effect, Event) and effect.kind not in _UNSAID:
                who = f"{self._named(effect.node)}: " if effect.node else ""
                self._tell(who + self._named(effect.text))

    def _send(self, node: str, message: Message) -> None:
        host = self._hosts.get(node)
        if host is None:
            if isinstance(message, Arrange) and self._head is not None:
                self._head.arrange(message)
            return
        if isinstance(message, Prepare) and self._image is not None:
            host.send(Kind.MANIFEST, self._image.encoded)
            message = replace(message, token="")  # both sides make it themselves
            self._finishing.discard(node)
        elif isinstance(message, Arrange) and message.predecessor is not None:
            if message.predecessor_node not in self._hosts:
                message = replace(message, predecessor=Address(host.local, message.predecessor.port))
        elif isinstance(message, Finish):
            self._finishing.add(node)
        elif isinstance(message, Cancel):
            message = replace(message, reason=self._named(message.reason))
        host.send(Kind.MESSAGE, control.encode(message))

    def _named(self, text: str) -> str:
        """``text`` with the receivers' names in place of their MACs."""
        return re.sub(r"02:00(:[0-9a-f]{2}){4}", lambda found: self._by_mac.get(found[0], found[0]), text)

    def _digest(self) -> None:
        """Thread: reads all of the source once, for the digests that every chunk is judged by."""
        reported = 0.0

        def progress(done: int) -> None:
            nonlocal reported
            if self._stopping.is_set():
                raise _Stopped
            if time.monotonic() - reported >= 1.0:
                reported = time.monotonic()
                self._inbox.put(_Digested(done))

        try:
            self._inbox.put(_Ready(digest_source(self._source, progress)))
        except _Stopped:
            return
        except (OSError, LocalProtocolError) as error:
            words = describe(error) if isinstance(error, OSError) else str(error)
            self._inbox.put(_Broken(f"reading the source: {words}"))

    def _start_head(self, image: Manifest, now: float) -> None:
        session = self._coordinator.sessions[self.session]
        head = Member(
            node=session.head.node,
            session=self.session,
            join_token=link_token(self._token, self.session),
            manifest=image,
            store=self._source,
            listen_host="0.0.0.0",
            report=lambda report: self._inbox.put(_HeadSays(report)),
            is_head=True,
        )
        try:
            head.start()
        except OSError as error:
            self._carry_out(self._coordinator.head_ended(self.session, f"cannot listen: {describe(error)}", now))
            return
        self._head, self._image = head, image
        self._carry_out(
            self._coordinator.manifest(
                self.session, Image(image.root, image.size, image.chunk_size, image.phases), now
            )
        )
        self._carry_out(self._coordinator.report(head.snapshot(), now))

    def _preparing(self, done: int) -> Report:
        head = self._coordinator.sessions[self.session].head.node
        return Report(head, self.session, MemberState.PREPARING, total=self._source.size, written=done)

    def _stop(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + DRAIN_SECONDS
        for host in self._hosts.values():
            host.drain(deadline)
        drainer = threading.Thread(target=self._discard, name="bootd-discard", daemon=True)
        drainer.start()  # the threads that end may still have something to say
        for host in self._hosts.values():
            host.stop()
        for host in self._hosts.values():
            host.join()
        if self._head is not None:
            self._head.stop()
        self._source.close()

    def _discard(self) -> None:
        while True:
            self._inbox.get()
