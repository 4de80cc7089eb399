"""The sender by hand: files, devices and streams to a list of receivers, without a daemon.

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

from bootd.drivers.ring.channel import Kind, link_token
from bootd.drivers.ring.host import Down, Heard, Host, HostEvent, Name, Up
from bootd.drivers.ring.receiver import security_word
from bootd.member.context import describe
from bootd.member.member import Member
from bootd.member.sources import Source, SourceError, describe_sources, join_stores, suitable_chunk_size
from bootd.member.tls import TlsSettings
from bootd.session.coordinator import Coordinator
from bootd.session.effects import Effect, Event, Send
from bootd.session.member import Image
from bootd.session.plan import Limits
from bootd.session.request import SessionRequest
from bootd.session.states import SessionState, Standing
from bootd.session.view import view_session
from bootd.wire import control
from bootd.wire.control import Address, Arrange, Cancel, Finish, Join, MemberState, Message, Prepare, Report
from bootd.wire.errors import PeerProtocolError
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
class Course:
    """How the session runs. ``fan_out``: 1 is a chain, up to 4 a tree; ``order``: "given" or "ip".

    ``barrier``: each source is received everywhere before the next begins. ``delta``: only what differs is sent.
    ``zeros``: "write" or "discard". ``keep_open``: seconds after the end in which a receiver that was named may
    still come.
    """

    fan_out: int = 1
    order: str = "given"
    barrier: bool = False
    delta: bool = False
    zeros: str = "write"
    keep_open: float = 0.0


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
        sources: Sequence[Source],
        names: Sequence[Name],
        token: str,
        *,
        timing: Timing,
        show: Callable[[dict[str, Any]], None],
        tell: Callable[[str], None],
        course: Course | None = None,
        tls: TlsSettings | None = None,
    ) -> None:
        """``sources`` are taken in, and are closed at the end of `run`."""
        self._sources, self._size = tuple(sources), sum(source.size for source in sources)
        self._course, self._tls = course or Course(), tls
        self._token, self._timing, self._show, self._tell = token, timing, show, tell
        self._inbox: queue.Queue[Any] = queue.Queue(INBOX)
        self._hosts = {name.mac: Host(name, token, self._hosts_inbox) for name in names}
        self._by_mac = {name.mac: name.text for name in names}
        self._hopeless: set[str] = set()
        self._misfits: dict[str, str] = {}  # receivers that cannot take part, and why
        self._finishing: set[str] = set()
        self._coordinator = Coordinator(
            labels=[_LABEL],
            default_label="local",
            names=self._by_mac,
            node_labels={},
            head_host="0.0.0.0",  # each receiver is told the address that it sees, in `_send`
            draw=secrets.token_hex,
            # By hand there is no server that could keep what was on the targets.
            limits=Limits(
                silence=timing.silence, stall=timing.stall, rejoin=timing.silence, attempts=3, saves=False
            ),
            # The order of the list: the place in it stands for a switch, for receivers join in any order.
            switches={name.mac: f"{number:06}" for number, name in enumerate(names)},
        )
        request = SessionRequest(
            ", ".join(source.name for source in sources),
            self._size,
            ",".join(self._by_mac),
            "only",
            label=_LABEL,
            after="stay",
            fan_out=self._course.fan_out,
            order="switch" if self._course.order == "given" else self._course.order,
            compare=self._course.delta,
            zeros=self._course.zeros,
            keep_open=self._course.keep_open,
            flip_default=False,
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
        value["order"] = self._course.order
        for row in value["outcome"]["nodes"]:
            host = self._hosts[row["node"]]
            if row["node"] in self._misfits:
                row["reason"] = self._misfits[row["node"]]
            elif row["state"] == Standing.ABSENT.value:
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
                if report.state is MemberState.FAILED:
                    for source in self._sources:
                        source.mistrust()
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
                if message.method != security_word(self._tls):
                    self._turn_away(mac, message.method, now)
                    return
                joined = replace(message, node=mac, address=host.name.address, session="")
                self._carry_out(self._coordinator.join(joined, now))
            elif isinstance(message, Report):
                if mac in self._finishing and message.state is MemberState.VERIFIED:
                    return  # a heartbeat from before it heard Finish: the target has no name yet
                self._carry_out(self._coordinator.report(replace(message, node=mac), now))
        except PeerProtocolError as error:
            self._tell(f"{host.name.text}: {error}")

    def _turn_away(self, mac: str, security: str, now: float) -> None:
        """A receiver that cannot talk to the others."""
        if security and self._tls is not None:
            words = "it trusts another authority than this sender: give both the same --tls-ca"
        else:
            who = "it has TLS and this sender has not" if security else "this sender has TLS and it has not"
            words = f"{who}: say --tls-cert, --tls-key and --tls-ca on both"
        self._misfits[mac] = words
        self._hosts[mac].send(Kind.MESSAGE, control.encode(Cancel(self.session, words)))
        self._lose(mac, words, False, True, now)

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
        verified = sum(member.standing is Standing.VERIFIED for member in session.members.values())
        if self._course.keep_open and session.open and verified == len(self._hosts):
            self._carry_out(self._coordinator.close(self.session, "operator", now))  # nobody else can come
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

        sources, chunk_size = self._sources, suitable_chunk_size(self._sources)
        try:
            image = describe_sources(sources, chunk_size, progress, is_phased=self._course.barrier)
            self._inbox.put(_Ready(image))
        except _Stopped:
            return
        except SourceError as error:
            self._inbox.put(_Broken(str(error)))

    def _start_head(self, image: Manifest, now: float) -> None:
        session = self._coordinator.sessions[self.session]
        head = Member(
            node=session.head.node,
            session=self.session,
            join_token=link_token(self._token, self.session),
            manifest=image,
            store=join_stores(image, self._sources),
            listen_host="0.0.0.0",
            report=lambda report: self._inbox.put(_HeadSays(report)),
            is_head=True,
            tls=self._tls,
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
        return Report(head, self.session, MemberState.PREPARING, total=self._size, written=done)

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
        for source in self._sources:
            source.close()

    def _discard(self) -> None:
        while True:
            self._inbox.get()
