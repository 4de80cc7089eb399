"""One session of a client, from the control connection to the answer. `bootd.dolly.client` decides."""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from blake3 import blake3

from bootd.dolly.client import (
    Action,
    ClientSession,
    Down,
    Failed,
    Forward,
    Parameters,
    State,
    Up,
    Whole,
    Write,
)
from bootd.dolly.config import Config, Trailer, read_trailer
from bootd.dolly.errors import DollyError
from bootd.dolly.grammar import parse
from bootd.dolly.lines import Meter
from bootd.dolly.place import children, find_client
from bootd.dolly.wire import NUMBER_BYTES, decode_number
from bootd.drivers.dolly.consumer import Consumer, Piece
from bootd.drivers.dolly.link import LinkError, Listeners, Successor, Tuning, Waker, dial, prepare
from bootd.drivers.dolly.target import Consent, Nothing, Target
from bootd.drivers.dolly.unpack import FAILURES
from bootd.errors import Exit, OperatorError

SETTLE_SECONDS = 3600.0  # for syncing and unpacking here, and behind us
_TICK = 0.5
_READ = 1 << 20
_TEXT_SECONDS = 10.0  # for the text, once there is a control connection
_MAX_NAMES = 64  # of the list that are looked up to find ourselves
Tell = Callable[[str], None]


@dataclass(frozen=True)
class ClientSettings:
    """``wait``: seconds for a head to come, ``tries`` times. ``silence``: seconds in which nothing comes, once it
    did. ``names``: what this host may be called in the list. ``heads``: addresses that may send; none is any."""

    names: tuple[str, ...]
    consent: Consent
    wait: float = 120.0
    tries: int = 3
    silence: float = 120.0
    address: str = "0.0.0.0"
    heads: tuple[str, ...] = ()
    is_dummy: bool = False
    tuning: Tuning = field(default=Tuning())


@dataclass(frozen=True)
class FileReport:
    """One file (or dummy run). ``is_whole``: our own copy is. ``lost``: successors that did not confirm theirs."""

    outfile: str
    received: int
    total: int | None
    blake3: str
    seconds: float
    is_whole: bool
    reason: str
    lost: tuple[str, ...]


class Again(Exception):  # noqa: N818 - not an error: this head did not get as far as data
    """The text says how far it got; wait for the next."""


class Client(Protocol):
    """What a session needs of the client that it is of."""

    settings: ClientSettings
    listeners: Listeners

    def tell(self, line: str) -> None:
        """For everybody."""

    def detail(self, line: str) -> None:
        """What -v adds."""

    def claim(self, config: Config, trailer: Trailer | None) -> tuple[Target, bool]:
        """The target of this session, and whether it is the last one. `OperatorError`: nobody has agreed to it."""


def accept(server: socket.socket, deadline: float) -> tuple[socket.socket, str] | None:
    """A connection that is still alive, and who made it; None at the ``deadline`` (monotonic seconds)."""
    while (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            link, peer = server.accept()
        except TimeoutError:
            return None
        link.settimeout(None)
        link.setblocking(False)
        try:
            is_dead = link.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            is_dead = False
        except OSError:
            is_dead = True
        link.setblocking(True)
        if not is_dead:
            return link, str(peer[0])
        link.close()  # of a head that has given up meanwhile
    return None


class ClientRun:
    """One session, from the control connection on."""

    def __init__(self, client: Client, control: socket.socket) -> None:
        self._settings, self._listeners, self._claim = client.settings, client.listeners, client.claim
        self._tell, self._detail = client.tell, client.detail
        self._control = control
        self._session = ClientSession()
        self._data: list[socket.socket] = []
        self._successors: dict[int, Successor] = {}
        self._consumers: dict[int, Consumer] = {}
        self._writer: Consumer | None = None
        self._target: Target = Nothing()
        self._hasher = blake3()
        self._waker = Waker()
        self._selector = selectors.DefaultSelector()
        self._is_whole = self._is_quiet = False
        self._reason = ""
        self._began = self._heard = 0.0
        self._config: Config | None = None
        self._trailer: Trailer | None = None
        self.is_last = True

    @property
    def report(self) -> FileReport:
        session = self._session
        lost = tuple(f"{self._successors[number].name}: {why}" for number, why in sorted(session.lost.items()))
        seconds = time.monotonic() - self._began if self._began else 0.0
        digest = self._hasher.hexdigest() if session.received else ""
        return FileReport(
            self._target.label, session.received, session.total, digest, seconds, self._is_whole, self._reason, lost
        )

    def run(self) -> None:
        """`Again` when it ends before there was data; `OperatorError` when it must not begin."""
        try:
            config = self._read_text()
            self._link(config)
            self._transfer(config)
        finally:
            self._close()

    # --- building the ring -------------------------------------------------------------------------------

    def _read_text(self) -> Config:
        self._detail("Trying to read parameters...")
        self._control.settimeout(_TEXT_SECONDS)
        while True:
            try:
                data = self._control.recv(65536)
            except OSError as error:
                raise Again(f"no configuration came: {error.strerror or error}") from None
            for action in self._session.control(data) if data else self._session.control_end():
                if isinstance(action, Failed):
                    raise Again(action.reason)
                if isinstance(action, Parameters):
                    return self._judge(action.text)

    def _judge(self, text: str) -> Config:
        """`OperatorError` when it is not for us, or nobody has agreed to it."""
        try:
            self._config, self._trailer = parse(text), read_trailer(text)
        except DollyError as error:
            raise Again(f"what came is no configuration: {error.place('text')}") from None
        return self._config

    def _link(self, config: Config) -> None:
        """Takes the data connections, dials the successors."""
        local = str(self._control.getsockname()[0])
        place = self._find(config, local)
        name = config.clients[place]
        transfer = config.files[0] if config.files else None
        if self._trailer is not None and transfer is not None:
            announced = self._trailer.files[self._trailer.number - 1]
            if announced.outfile != transfer.outfile:
                raise Again("the head contradicts itself about its outfile")
        try:
            self._target, self.is_last = self._claim(config, self._trailer)
        except OperatorError as error:
            self._refuse(name, error.message)
            raise
        self._accept_data(config)
        size = self._trailer.files[self._trailer.number - 1].size if self._trailer is not None else None
        self._carry_out(self._session.linked(name, is_quiet=config.dummy == 0, size=size))
        deadline = time.monotonic() + self._settings.wait
        behind = children(config, place)
        self._session.expect(len(behind))
        for number, child in enumerate(behind):
            self._detail(f"Connecting to host {config.clients[child]}...")
            try:
                successor = dial(config, config.clients[child], self._settings.tuning, deadline, self._check_head)
            except LinkError as error:
                self._refuse(name, str(error))
                raise Again(f"the ring cannot be built: {error}") from None
            self._successors[number] = successor
        self._carry_out(self._session.ready())

    def _refuse(self, name: str, reason: str) -> None:
        for action in self._session.refuse(name, reason):
            if isinstance(action, Up):
                with contextlib.suppress(OSError):
                    self._control.sendall(action.data)

    def _find(self, config: Config, local: str) -> int:
        names = list(self._settings.names)
        try:
            return find_client(config, names, (local,))
        except DollyError as error:
            for place, client in enumerate(config.clients[:_MAX_NAMES]):
                with contextlib.suppress(OSError):
                    found = socket.getaddrinfo(client, None, type=socket.SOCK_STREAM)
                    if any(item[4][0] == local for item in found):
                        return place
            self._refuse(local, error.complaint.text)
            raise OperatorError(error.complaint.text, error.complaint.hint, Exit.REFUSED) from None

    def _accept_data(self, config: Config) -> None:
        """One for each interface, in their order; the first from where the control connection came from."""
        peer = self._control.getpeername()[0]
        deadline = time.monotonic() + _TEXT_SECONDS
        while len(self._data) < config.links:
            accepted = accept(self._listeners.data, deadline)
            if accepted is None:
                raise Again(f"only {len(self._data)} of {config.links} data connections came")
            link, host = accepted
            if host != peer and not self._data:
                self._tell(f"a data connection from {host}, which is not the head: not let in")
                link.close()
                continue
            prepare(link, self._settings.tuning)
            if config.links > 1:
                link.settimeout(_TEXT_SECONDS)
                number = _read_number(link)
                if number != len(self._data):
                    link.close()
                    raise Again(f"data connection {number} came as number {len(self._data)}")
                link.settimeout(None)
            self._data.append(link)
        self._detail("Connected data...done.")

    def _check_head(self) -> None:
        """While successors are dialled: is anybody still before us?"""
        self._control.setblocking(False)
        try:
            data = self._control.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            raise Again(f"the head is gone: {error.strerror or error}") from None
        finally:
            self._control.settimeout(None)
        if not data:
            raise Again("the head is gone before the ring was built")
        self._carry_out(self._session.control(data))

    # --- data --------------------------------------------------------------------------------------------

    def _transfer(self, config: Config) -> None:
        self._detail("Receiving...")
        self._began = self._heard = time.monotonic()
        self._is_quiet = config.dummy == 0
        self._writer = Consumer("write", self._write, self._waker.wake, FAILURES)
        for number, successor in self._successors.items():
            send = partial(successor.send, block=self._settings.tuning.block)
            self._consumers[number] = Consumer(f"link-{number}", send, self._waker.wake)
            self._selector.register(successor.control, selectors.EVENT_READ, number)
        self._selector.register(self._waker.receiver, selectors.EVENT_READ, "wake")
        self._control.settimeout(None)
        self._selector.register(self._control, selectors.EVENT_READ, "control")
        links = _Turn(self._selector, self._data, self._settings.tuning.block)
        meter = Meter(
            self._began, is_plus=self._trailer is not None and len(self._trailer.files) > 1, is_head=False
        )
        while self._session.state is not State.ENDED:
            self._step(links)
            if line := meter.line(self._session.received, time.monotonic()):
                self._detail(line)
            self._check_time()
        if self._reason:
            return
        if config.dummy == 0:
            self._is_whole = True  # nothing was to come
        else:
            self._tell(
                f"Transfered MB: {self._session.received / 1e6:.0f}, "
                f"MB/s: {self._session.received / 1e6 / max(time.monotonic() - self._began, 1e-9):.3f}"
            )
        self._detail("Transmitted.")

    def _step(self, links: "_Turn") -> None:
        ready = {key.data: key.fileobj for key, _ in self._selector.select(_TICK)}
        if "wake" in ready:
            self._waker.drain()
        # Control first: with the total known, no more is read than belongs to this session.
        if "control" in ready and self._session.state is not State.ENDED:
            data = _receive(self._control, 65536)
            self._heard = time.monotonic()
            if not data:
                self._selector.unregister(self._control)
                if not self._has_begun() and not self._is_quiet:
                    raise Again("the head, or a host before this one, left before there was data")
            self._carry_out(self._session.control(data) if data else self._session.control_end())
        for number, successor in self._successors.items():
            if number in ready and self._session.state is not State.ENDED:
                data = _receive(successor.control, 65536)
                if data:
                    self._carry_out(self._session.backflow(number, data))
                else:
                    self._selector.unregister(successor.control)
                    self._lose(number, "it has closed the connection")
        if "data" in ready and self._session.state is State.RECEIVING:
            piece = links.read(self._session.wanted)
            if piece is None:
                pass
            elif piece:
                self._heard = time.monotonic()
                self._carry_out(self._session.data(memoryview(piece)))
            else:
                links.stop()
                self._carry_out(self._session.data_end())
        if self._session.state is not State.RECEIVING:
            links.stop()
        self._look_at_threads()

    def _has_begun(self) -> bool:
        """Whether data or its total has come, be it read or not."""
        if self._session.received or self._session.total is not None:
            return True
        try:
            return bool(self._data[0].recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _look_at_threads(self) -> None:
        for number, consumer in self._consumers.items():
            if consumer.is_done and consumer.failure and number not in self._session.lost:
                self._lose(number, consumer.failure)
        is_open = self._session.state is State.SETTLING and not self._is_whole and not self._reason
        if is_open and self._writer is not None and self._writer.is_done:
            self._finish_target(self._writer)

    def _finish_target(self, writer: Consumer) -> None:
        fault = writer.failure
        if not fault:
            try:
                self._target.commit()
            except OSError as error:
                fault = error.strerror or str(error)
        if fault:
            self._reason = f"{self._target.label}: {fault}"
            self._tell(f"*** ERROR *** {self._reason}")
        else:
            self._is_whole = True
            self._detail("Synced.")
        self._carry_out(self._session.settled(fault))

    def _check_time(self) -> None:
        silent = time.monotonic() - self._heard
        if self._session.state is State.RECEIVING and silent > self._settings.silence:
            self._carry_out(self._session.give_up(f"nothing came for {self._settings.silence:g} s"))
        elif self._session.state is State.SETTLING and silent > SETTLE_SECONDS:
            for number in self._successors:
                self._lose(number, f"it did not confirm within {SETTLE_SECONDS:g} s")
            self._target.close()  # ends a program that hangs

    def _write(self, pieces: Iterator[Piece]) -> None:
        """Thread."""

        def counted() -> Iterator[Piece]:
            for piece in pieces:
                self._hasher.update(piece)
                yield piece

        self._target.take(counted())

    # --- what is done ------------------------------------------------------------------------------------

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Up(data):
                    with contextlib.suppress(OSError):  # its end is read, and judged there
                        self._control.sendall(data)
                case Down(data):
                    for number, successor in self._successors.items():
                        if number not in self._session.lost:
                            with contextlib.suppress(OSError):
                                successor.control.sendall(data)
                case Write(view):
                    if self._writer is not None and not self._writer.failure:
                        self._writer.give(view, SETTLE_SECONDS)
                case Forward(view):
                    for number, consumer in self._consumers.items():
                        if number not in self._session.lost and not consumer.give(view, self._settings.silence):
                            self._lose(number, consumer.failure or "it takes no more data")
                case Whole(total):
                    self._detail(f"Max. bytes will be {total} bytes. 0 bytes left.")
                    if self._writer is not None:
                        self._writer.end(SETTLE_SECONDS)
                    for consumer in self._consumers.values():
                        consumer.end(self._settings.silence)
                case Failed(reason):
                    self._reason = self._reason or reason
                    self._tell(f"*** ERROR *** {reason}")
                case Parameters():
                    pass

    def _lose(self, number: int, reason: str) -> None:
        """`Again` while there is no data yet: then nobody has begun, and the head hears of it by our end."""
        if number not in self._session.lost:
            if self._session.state is State.RECEIVING and self._session.received == 0 and not self._reason:
                self._refuse(self._session.name, f"{self._successors[number].name} left: {reason}")
                raise Again(f"{self._successors[number].name} left before there was data: {reason}")
            before = set(self._session.lost)
            actions = self._session.lose(number, reason)
            if set(self._session.lost) != before:
                self._tell(f"{self._successors[number].name} is lost, and whoever is behind it: {reason}")
            self._consumers[number].abort()
            self._successors[number].break_off()
            self._carry_out(actions)

    def _close(self) -> None:
        if self._writer is not None and not self._is_whole:
            self._writer.abort()
            self._writer.join(5.0)
        for number, consumer in self._consumers.items():
            if not consumer.is_done:
                consumer.abort()
                self._successors[number].break_off()
            consumer.join(2.0)
        for link in (*self._data, self._control):
            link.close()
        for successor in self._successors.values():
            successor.close()
        self._selector.close()
        self._waker.close()


class _Turn:
    """The data connections, read in turn, a block from each; one alone is read as it comes."""

    def __init__(self, selector: selectors.BaseSelector, links: Sequence[socket.socket], block: int) -> None:
        self._selector, self._links, self._block = selector, links, block
        self._number, self._left = 0, block
        self._is_stopped = False
        for link in links:
            link.setblocking(False)
        selector.register(links[0], selectors.EVENT_READ, "data")

    def read(self, wanted: int | None) -> bytes | None:
        """What has come, at most ``wanted`` bytes; b"" at the end, None when it was nothing."""
        count = _READ if len(self._links) == 1 else self._left
        count = count if wanted is None else min(count, wanted)
        try:
            data = self._links[self._number].recv(count)
        except BlockingIOError:
            return None
        except OSError:
            return b""  # what is missing is found by the total
        if len(self._links) > 1:
            self._left -= len(data)
            if self._left == 0:
                self._selector.unregister(self._links[self._number])
                self._number, self._left = (self._number + 1) % len(self._links), self._block
                self._selector.register(self._links[self._number], selectors.EVENT_READ, "data")
        return data

    def stop(self) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            self._selector.unregister(self._links[self._number])


def _receive(link: socket.socket, count: int) -> bytes:
    try:
        return link.recv(count)
    except OSError:
        return b""


def _read_number(link: socket.socket) -> int:
    data = b""
    try:
        while len(data) < NUMBER_BYTES:
            piece = link.recv(NUMBER_BYTES - len(data))
            if not piece:
                raise Again("a data connection ended before it said its number")
            data += piece
    except OSError as error:
        raise Again(f"a data connection said no number: {error.strerror or error}") from None
    return decode_number(data)
