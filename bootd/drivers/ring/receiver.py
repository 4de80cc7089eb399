"""A receiver by hand: waits for a sender that knows the token, runs a ring member on its target, and ends.

The main thread decides; others listen, shake hands, and read the one connection to the sender. The coordinator on
the sender's side is the daemon's, so what goes over the connection is what a node in stage2 says and hears.
"""

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bootd.drivers.ring.channel import Channel, ChannelError, Kind, accept_channel, link_token
from bootd.drivers.ring.target import TargetSet
from bootd.errors import Exit, OperatorError
from bootd.member.context import describe
from bootd.member.member import Member
from bootd.member.store import StoreError
from bootd.member.tls import TlsSettings
from bootd.wire import control, manifest
from bootd.wire.control import Arrange, Cancel, Disk, Finish, Join, MemberState, Message, Prepare, Report
from bootd.wire.errors import PeerProtocolError

BEAT_SECONDS = 0.9
SENDER_SILENCE = 8.0  # a sender says something every second
PATIENCE = 30.0  # seconds that a sender may be away once there is a plan
LINGER_SECONDS = 3.0
MAX_HANDSHAKES = 8  # at a time
INBOX = 256
MAX_LABEL = 200  # characters of it that the sender hears


@dataclass(frozen=True)
class Result:
    """How it ended. ``report``: the member's last one, None when no sender ever had a plan for it."""

    code: Exit
    text: str
    report: Report | None


@dataclass(frozen=True)
class _Up:
    channel: Channel


@dataclass(frozen=True)
class _Down:
    channel: Channel
    reason: str


@dataclass(frozen=True)
class _Heard:
    channel: Channel
    kind: Kind
    payload: bytes


def security_word(tls: TlsSettings | None) -> str:
    """What a receiver says in place of a method in its Join; with another word than the sender's it cannot talk to
    the other members."""
    return "" if tls is None else f"tls-{tls.authority}"


class RingReceiver:
    """One session onto its targets. ``tell`` is called with a line of text for each step, from the main thread.
    ``tls``: links to other members are encrypted, and only with those that know it too."""

    def __init__(
        self,
        target: TargetSet,
        host: str,
        port: int,
        token: str,
        tell: Callable[[str], None],
        *,
        tls: TlsSettings | None = None,
    ) -> None:
        self._target = target
        self._host = host
        self._token = token
        self._tell = tell
        self._tls = tls
        self._inbox: queue.Queue[_Up | _Down | _Heard] = queue.Queue(INBOX)
        self._handshakes = threading.Semaphore(MAX_HANDSHAKES)
        self._channel: Channel | None = None
        self._heard = 0.0
        self._image: bytes = b""
        self._session = ""
        self._node = ""
        self._member: Member | None = None
        self._stopping = threading.Event()
        try:
            self._listener = socket.create_server((host, port), backlog=16)
        except OSError as error:
            code = Exit.BUSY
            raise OperatorError(f"{host}:{port}: {describe(error)}", "choose another --port", code) from None
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> Result:
        """Until the sender says that it is over, or is gone for `PATIENCE` seconds."""
        threading.Thread(target=self._accept, name="bootd-accept", daemon=True).start()
        gone_since = time.monotonic()
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    event = self._inbox.get(timeout=BEAT_SECONDS)
                    result = self._react(event)
                    if result is not None:
                        self._linger()
                        return result
                if self._channel is not None:
                    gone_since = time.monotonic()
                    if self._member is None:
                        self._report(Report("", "", MemberState.WAITING))
                elif self._member is not None and time.monotonic() - gone_since > PATIENCE:
                    return self._deserted()
        finally:
            self._close()

    # --- what happens ------------------------------------------------------------------------------------

    def _react(self, event: _Up | _Down | _Heard) -> Result | None:
        match event:
            case _Up(channel):
                self._begin(channel)
            case _Down(channel, reason) if channel is self._channel:
                self._channel = None
                self._tell(f"sender: {reason}")
            case _Heard(channel, kind, payload) if channel is self._channel:
                self._heard = time.monotonic()
                return self._hear(kind, payload)
        return None

    def _begin(self, channel: Channel) -> None:
        if self._channel is not None:
            if time.monotonic() - self._heard < SENDER_SILENCE:
                channel.interrupt()  # one sender at a time; its own thread closes it
                return
            self._channel.interrupt()
        self._channel, self._heard = channel, time.monotonic()
        if self._member is not None:
            self._report(self._member.snapshot())
            return
        self._tell("sender connected")
        disk = Disk(self._target.label[:MAX_LABEL], self._target.capacity(), 512, "", "", "", "", False, "", "")
        self._say(Join("", "", os.uname().machine, "", "", "", security_word(self._tls), 0, (disk,)))

    def _hear(self, kind: Kind, payload: bytes) -> Result | None:
        if kind is Kind.MANIFEST:
            self._image = payload
        if kind is not Kind.MESSAGE:
            return None
        try:
            message = control.decode(payload)
            match message:
                case Prepare():
                    return self._prepare(message)
                case Arrange() if self._member is not None and self._member.arrange(message):
                    self._tell(f"epoch {message.epoch}")
                case Finish(session=session) if session == self._session:
                    return self._finish()
                case Cancel(session, reason) if session == self._session or self._member is None:
                    return Result(Exit.ERROR, f"the sender gave this receiver up: {reason}", self._last())
        except PeerProtocolError as error:
            self._tell(f"sender: {error}")
        return None

    def _prepare(self, message: Prepare) -> Result | None:
        plan = message.plan
        if self._member is not None:
            if plan.session == self._session:
                self._report(self._member.snapshot())
            return None
        image = manifest.parse(self._image)
        if (image.root, image.size, image.chunk_size) != (plan.image_root, plan.image_size, plan.chunk_size):
            raise PeerProtocolError("plan and manifest differ")
        try:
            store = self._target.open(image, message)
        except (StoreError, OSError) as error:
            words = describe(error) if isinstance(error, OSError) else str(error)
            self._say(Report(plan.node, plan.session, MemberState.REFUSED, reason=words))
            return Result(Exit.REFUSED, words, None)
        self._session, self._node = plan.session, plan.node
        member = Member(
            node=plan.node,
            session=plan.session,
            join_token=link_token(self._token, plan.session),
            manifest=image,
            store=store,
            listen_host=self._host,
            report=self._report,
            is_head=False,
            compare=message.compare,
            tls=self._tls,
        )
        try:
            member.start()
        except OSError as error:
            words = f"cannot listen on {self._host}: {describe(error)}"
            self._say(Report(plan.node, plan.session, MemberState.FAILED, reason=words))
            return Result(Exit.ERROR, words, None)
        self._member = member
        self._tell(f"session {plan.session}: {image.size} bytes for {self._target.label}")
        self._report(member.snapshot())
        return None

    def _finish(self) -> Result:
        last = self._last()
        if last is None or last.state is not MemberState.VERIFIED:
            return Result(Exit.ERROR, "the sender ended the session before all was verified", last)
        try:
            self._target.commit()
        except OSError as error:
            words = f"{self._target.label}: {describe(error)}"
            self._say(replace(last, state=MemberState.FAILED, reason=words))
            return Result(Exit.ERROR, words, last)
        self._say(replace(last, state=MemberState.FINISHING, rate=0))
        return Result(Exit.OK, f"{self._target.label}: {last.verified} bytes verified", last)

    def _deserted(self) -> Result:
        """The sender is gone. What was verified against its manifest is complete all the same."""
        last = self._last()
        if last is not None and last.state is MemberState.VERIFIED:
            result = self._finish()
            return replace(result, text=f"{result.text}; the sender went away before it said so")
        return Result(Exit.ERROR, f"the sender is gone for {PATIENCE:g} s", last)

    def _linger(self) -> None:
        """Until the sender has taken the last word in: a socket closed with bytes unread would tear it up."""
        deadline = time.monotonic() + LINGER_SECONDS
        while self._channel is not None and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                event = self._inbox.get(timeout=left)
                if isinstance(event, _Down) and event.channel is self._channel:
                    return
                if isinstance(event, _Heard) and event.kind is Kind.MESSAGE and b'"cancel"' in event.payload:
                    return

    def _last(self) -> Report | None:
        return self._member.snapshot() if self._member is not None else None

    # --- the connection ----------------------------------------------------------------------------------

    def _say(self, message: Message) -> None:
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(ChannelError):  # the reading thread says that it is over
                channel.send(Kind.MESSAGE, control.encode(message))

    def _report(self, report: Report) -> None:
        self._say(report)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._stopping.wait(0.05):
                    return
                continue
            if not self._handshakes.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._attend, args=(connection,), name="bootd-sender", daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        """A thread for each connection: handshake, then messages into the inbox until it ends."""
        try:
            channel = accept_channel(connection, self._token)
        except ChannelError:
            return  # a stranger, or a sender that shows the reason itself
        finally:
            self._handshakes.release()
        self._inbox.put(_Up(channel))
        reason = ""
        try:
            while not self._stopping.is_set():
                kind, payload = channel.receive(SENDER_SILENCE)
                if kind is not Kind.PING:
                    self._inbox.put(_Heard(channel, kind, payload))
                elif channel is self._channel:
                    self._heard = time.monotonic()
        except ChannelError as error:
            reason = str(error)
        self._inbox.put(_Down(channel, reason))
        channel.close()

    def _close(self) -> None:
        self._stopping.set()
        if self._member is not None:
            self._member.stop()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._channel is not None:
            self._channel.interrupt()
        self._target.close()
