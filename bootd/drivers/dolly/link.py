"""The sockets between neighbours: listening, dialling in dolly's order, and the data links."""

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bootd.dolly.config import PORT_CONTROL, PORT_DATA, Config
from bootd.dolly.wire import BLOCK, encode_number
from bootd.drivers.dolly.consumer import Piece
from bootd.errors import Exit, OperatorError

_BACKLOG = 16
_REDIAL = 0.5  # seconds; clients may come up in any order
_DIAL = 5.0  # seconds for one attempt
_NOT_YET = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ECONNRESET)
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 4))


@dataclass(frozen=True)
class Tuning:
    """``buffer``: bytes of a socket's buffer, 0 is the system's; ``block``: bytes dealt to a data link in turn."""

    buffer: int = 0
    block: int = BLOCK


class LinkError(Exception):
    """No connection to a successor; the text says to whom and why."""


@dataclass(frozen=True)
class Listeners:
    """The control port is bound first: whoever has reached the data port will reach the other."""

    control: socket.socket
    data: socket.socket

    def close(self) -> None:
        self.control.close()
        self.data.close()


def listen(address: str, tuning: Tuning) -> Listeners:
    """`OperatorError` (BUSY) when a port is taken."""
    opened: list[socket.socket] = []
    for port in (PORT_CONTROL, PORT_DATA):
        try:
            server = socket.create_server((address, port), backlog=_BACKLOG)
        except OSError as error:
            for other in opened:
                other.close()
            text = f"{address}:{port}: {error.strerror or error}"
            raise OperatorError(
                text, "is another dolly running here? --listen names an address", Exit.BUSY
            ) from None
        if tuning.buffer:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, tuning.buffer)
        opened.append(server)
    return Listeners(opened[0], opened[1])


@dataclass(frozen=True)
class Successor:
    """The connections to one host that is sent to."""

    name: str
    data: tuple[socket.socket, ...]
    control: socket.socket

    def send(self, pieces: Iterator[Piece], block: int) -> None:
        """All pieces, dealt out in blocks when there are several links; then their end. `OSError`."""
        if len(self.data) == 1:
            for piece in pieces:
                self.data[0].sendall(piece)
        else:
            self._deal(pieces, block)
        for link in self.data:
            link.shutdown(socket.SHUT_WR)

    def break_off(self) -> None:
        """Whoever sends wakes up with an error."""
        for link in (*self.data, self.control):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for link in (*self.data, self.control):
            link.close()

    def _deal(self, pieces: Iterator[Piece], block: int) -> None:
        turn, left = 0, block
        for piece in pieces:
            view = memoryview(piece)
            while view:
                self.data[turn].sendall(view[:left])
                view, left = view[left:], left - min(left, len(view))
                if left == 0:
                    turn, left = (turn + 1) % len(self.data), block


def dial(config: Config, name: str, tuning: Tuning, deadline: float, check: Callable[[], None]) -> Successor:
    """All connections to ``name``: data first, then control, then the data links of other interfaces.

    ``deadline``: monotonic seconds. ``check`` is called now and then, and may raise. `LinkError`.
    """
    data: list[socket.socket] = []
    control: socket.socket | None = None
    try:
        for number in range(config.links):
            host = name if config.extra is None else config.extra.host(name, number)
            link = _connect(host, PORT_DATA, tuning, deadline, check, segsize=config.segsize)
            data.append(link)
            if config.extra is not None and config.extra.count:
                link.sendall(encode_number(number))
            if control is None:
                control = _connect(host, PORT_CONTROL, tuning, deadline, check)
    except OSError as error:
        _close((*data, control))
        raise LinkError(f"{name}: {error.strerror or error}") from None
    except BaseException:
        _close((*data, control))
        raise
    if control is None:
        raise LinkError(f"{name}: no link")
    return Successor(name, tuple(data), control)


def _connect(
    host: str, port: int, tuning: Tuning, deadline: float, check: Callable[[], None], *, segsize: int = 0
) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LinkError(f"{host} has no address: {error.strerror or error}") from None
    family, kind, protocol, _, address = found[0]
    with selectors.DefaultSelector() as pause:
        while True:
            check()
            link = socket.socket(family, kind, protocol)
            try:
                prepare(link, tuning)
                if segsize:
                    with contextlib.suppress(OSError):  # for benchmarks; the link works without
                        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segsize)
                link.settimeout(max(0.1, min(_DIAL, deadline - time.monotonic())))
                link.connect(address)
                link.settimeout(None)
            except OSError as error:
                link.close()
                is_early = isinstance(error, TimeoutError) or error.errno in _NOT_YET
                if not is_early:
                    raise LinkError(f"{host}:{port}: {error.strerror or error}") from None
                if time.monotonic() + _REDIAL > deadline:
                    why = error.strerror or str(error)
                    raise LinkError(f"{host}:{port} does not answer: {why}") from None
            else:
                return link
            pause.select(_REDIAL)


def prepare(link: socket.socket, tuning: Tuning) -> None:
    """Settings of every connection: a peer that has lost its power is noticed within a minute."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        link.setsockopt(socket.IPPROTO_TCP, name, value)
    if tuning.buffer:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, tuning.buffer)


def _close(links: Sequence[socket.socket | None]) -> None:
    for link in links:
        if link is not None:
            link.close()


class Waker:
    """Ends a `select` from another thread."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        self.receiver.setblocking(False)
        self._sender.setblocking(False)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full, or closed: it is awake
            self._sender.send(b"w")

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.receiver.recv(4096)

    def close(self) -> None:
        self.receiver.close()
        self._sender.close()
