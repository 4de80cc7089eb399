"""The sender's line to one receiver: dials until it answers, and again when it is cut; reads and writes.

Two threads for each host. What happens goes into the sender's inbox as values; nothing is decided here.
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bootd.drivers.ring.channel import Channel, ChannelError, Kind, open_channel
from bootd.errors import Exit, OperatorError
from bootd.wire import control
from bootd.wire.control import Message
from bootd.wire.errors import PeerProtocolError

PING_SECONDS = 1.0
SILENCE = 8.0  # a receiver says something every second
REDIAL_SECONDS = 0.5
JOIN_SECONDS = 2.0
MAX_OUTBOX = 64
MAX_HOSTS = 1000


@dataclass(frozen=True)
class Up:
    """Connected and proven."""

    mac: str


@dataclass(frozen=True)
class Heard:
    mac: str
    message: Message


@dataclass(frozen=True)
class Down:
    """``dead``: nobody listens there any more. ``hopeless``: it is not dialled again."""

    mac: str
    reason: str
    dead: bool = False
    hopeless: bool = False


HostEvent = Up | Heard | Down


@dataclass(frozen=True)
class Name:
    """A receiver: as written, its IPv4 address and port, and the MAC made up for it."""

    text: str
    address: str
    port: int
    mac: str


def resolve(texts: Sequence[str], port: int) -> list[Name]:
    """The receivers that ``texts`` (``HOST`` or ``HOST:PORT``) mean; `OperatorError` names the wrong one."""
    if not 0 < len(texts) <= MAX_HOSTS:
        raise OperatorError(f"{len(texts)} hosts", f"name 1 to {MAX_HOSTS}", Exit.USAGE)
    names: list[Name] = []
    for number, text in enumerate(texts, start=1):
        host, colon, digits = text.rpartition(":")
        if not colon:
            host, digits = text, str(port)
        if not digits.isdecimal() or not 0 < int(digits) < 1 << 16:
            raise OperatorError(f"{text}: no port", "say HOST or HOST:PORT", Exit.USAGE)
        try:
            found = socket.getaddrinfo(host, int(digits), socket.AF_INET, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise OperatorError(f"{text}: {error}", "name hosts that have an IPv4 address", Exit.USAGE) from None
        address = str(found[0][4][0])
        mac = "02:00:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(4, "big"))
        if any((other.address, other.port) == (address, int(digits)) for other in names):
            raise OperatorError(f"{text} is named twice", "name each receiver once", Exit.USAGE)
        names.append(Name(text, address, int(digits), mac))
    return names


class Host:
    """One receiver. ``problem``: why it is not connected, "" while it is."""

    def __init__(self, name: Name, token: str, inbox: "queue.Queue[HostEvent]") -> None:
        self.name = name
        self.problem = "not dialled yet"
        self.local = ""  # our address as seen from there
        self._token = token
        self._inbox = inbox
        self._outbox: queue.Queue[tuple[Kind, bytes]] = queue.Queue(MAX_OUTBOX)
        self._channel: Channel | None = None
        self._stopping = threading.Event()
        self._cut = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bootd-host", daemon=True)

    @property
    def is_up(self) -> bool:
        return self._channel is not None

    def start(self) -> None:
        self._thread.start()

    def send(self, kind: Kind, payload: bytes) -> None:
        """Put a message in line; a receiver that takes nothing is cut off."""
        if self._channel is None:
            return
        try:
            self._outbox.put_nowait((kind, payload))
        except queue.Full:
            self._channel.interrupt()

    def drain(self, deadline: float) -> None:
        """Wait until all is sent, or for the ``deadline`` (monotonic)."""
        while self.is_up and self._outbox.unfinished_tasks and time.monotonic() < deadline:
            self._stopping.wait(0.02)

    def stop(self) -> None:
        """Hang up; `join` waits for the end of it."""
        self._stopping.set()
        channel = self._channel
        if channel is not None:
            channel.interrupt()

    def join(self) -> None:
        self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        was_up = False
        while not self._stopping.is_set():
            try:
                channel = open_channel(
                    self.name.address, self.name.port, self._token, lambda: not self._stopping.is_set()
                )
            except ChannelError as error:
                self.problem = str(error)
                if (was_up and error.refused) or error.is_final:
                    self._inbox.put(Down(self.name.mac, str(error), error.refused, error.is_final))
                    was_up = False
                if error.is_final:
                    return
                self._stopping.wait(REDIAL_SECONDS)
                continue
            self._converse(channel)
            was_up = True

    def _converse(self, channel: Channel) -> None:
        while not self._outbox.empty():  # meant for a connection that is no more
            self._outbox.get_nowait()
            self._outbox.task_done()
        self.local, self.problem = channel.local, ""
        self._channel = channel
        self._cut.clear()
        writer = threading.Thread(target=self._write, args=(channel,), name="bootd-write", daemon=True)
        writer.start()
        self._inbox.put(Up(self.name.mac))
        reason = ""
        try:
            while not self._stopping.is_set():
                kind, payload = channel.receive(SILENCE)
                if kind is Kind.MESSAGE:
                    self._inbox.put(Heard(self.name.mac, control.decode(payload)))
        except (ChannelError, PeerProtocolError) as error:
            reason = str(error)
        self.problem = reason
        self._channel = None
        self._cut.set()
        channel.interrupt()
        with contextlib.suppress(queue.Full):
            self._outbox.put_nowait((Kind.PING, b""))  # wakes the writer
        writer.join()
        channel.close()
        if not self._stopping.is_set():
            self._inbox.put(Down(self.name.mac, reason))

    def _write(self, channel: Channel) -> None:
        while not self._cut.is_set():
            try:
                kind, payload = self._outbox.get(timeout=PING_SECONDS)
            except queue.Empty:
                self._outbox.put((Kind.PING, b""))
                continue
            try:
                channel.send(kind, payload)
            except ChannelError:
                channel.interrupt()  # the reading thread notices
                return
            finally:
                self._outbox.task_done()
