"""The process that carries TFTP transfers: one epoll loop, one connected socket for each client.

Run as a module: one JSON line on standard input, ``{"control": FD}``, FD being a SOCK_SEQPACKET socket. On it come
orders, one JSON object each: ``{"id", "client", "local", "mode", "options", "block", "window"}`` with the file's
descriptor beside it, or ``{"cancel": ID}``. What is over goes back as ``{"id", "result", "detail", "size",
"seconds", "resent"}``; datagrams that are no TFTP, at most once a second, as ``{"malformed", "address", "count"}``.
The process ends with its standard input.

asyncio is not used here: per packet it costs as much as everything else together.
"""

import contextlib
import errno
import heapq
import json
import os
import resource
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from bootd.drivers.tftp.content import Cache, Packets
from bootd.netboot.files import tftp
from bootd.netboot.files.tftp import Action, Cap, Request, Result, SendOptions, Transfer
from bootd.wire.errors import PeerProtocolError

_IP_MTU = 14
_IPV6_MTU = 24
_UDP_SEGMENT = 103  # cut one buffer into datagrams in the kernel
_SEGMENTS = 64  # at most in one such buffer (UDP_MAX_SEGMENTS of older kernels)
_LARGEST_SEND = 65000  # bytes in one such buffer
_SEND_BUFFER = 1 << 20  # a whole window must fit
_SLACK = 0.002  # seconds that a timer may be late
_LARGEST_ANSWER = 400  # bytes: an ACK has 4, the text of an error may be cut; small objects are made faster
_EVENTS = 512
_ORDERS = 64  # taken per wake-up
_PASSING = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN,
                      errno.EPERM, errno.ECONNREFUSED})  # fmt: skip
_NO_SEGMENTS = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP})


class Session:
    """One transfer's socket, packets and machine."""

    __slots__ = (
        "address",
        "armed",
        "began",
        "number",
        "opened",
        "over",
        "packets",
        "per_send",
        "receive",
        "step",
        "transfer",
        "transmit",
        "upcoming",
    )

    def __init__(self, order: dict[str, Any], descriptor: int, cache: Cache, now: float) -> None:
        """`OSError` when there is no way to the client; ``descriptor`` is then still the caller's."""
        client = tuple(order["client"])
        self.number: int = order["id"]
        self.address: str = client[0]
        self.began = now
        self.armed = float("inf")  # when the timer goes off
        self.over = False
        six = ":" in self.address
        self.opened = socket.socket(
            socket.AF_INET6 if six else socket.AF_INET,
            socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        )
        try:
            self.opened.bind(tuple(order["local"]))
            self.opened.connect(client)
            level, name = (socket.IPPROTO_IPV6, _IPV6_MTU) if six else (socket.IPPROTO_IP, _IP_MTU)
            mtu = self.opened.getsockopt(level, name)
            request = Request(tftp.Opcode.READ, "", order["mode"], order["options"])
            size = os.fstat(descriptor).st_size
            headers = tftp.HEADERS_IPV6 if six else tftp.HEADERS
            terms = tftp.negotiate(request, size, mtu, Cap(order["block"], order["window"]), headers)
            self.packets = Packets(descriptor, terms.block, terms.rollover, cache, lockstep=terms.window == 1)
        except OSError:
            self.opened.close()
            raise
        self.transfer = Transfer(size, terms)
        self.receive, self.transmit = self.opened.recv, self.opened.send
        self.step = self.transfer.step
        self.upcoming: Iterator[bytes] = iter(())  # what follows the packet that was sent last
        self.per_send = 1
        if terms.window > 1:
            self.opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self._segment(terms.block + tftp.HEADER_BYTES)

    def _segment(self, size: int) -> None:
        try:
            self.opened.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, size)
            self.per_send = max(1, min(_SEGMENTS, _LARGEST_SEND // size)) if size else 1
        except OSError:
            self.per_send = 1

    def send(self, action: Action) -> None:
        """`OSError` when there is no point in going on. What the network refuses is left to the timer."""
        try:
            if isinstance(action, SendOptions):
                self.opened.send(action.packet)
            elif self.transfer.terms.window == 1:
                self.upcoming = self.packets.row(action.first)
                self.opened.send(next(self.upcoming))
            else:
                for piece in self.packets.pieces(action.first, action.blocks, self.per_send):
                    self.opened.send(piece)
        except OSError as error:
            if error.errno in _PASSING:
                return
            if error.errno not in _NO_SEGMENTS or self.per_send == 1:
                raise
            self._segment(0)
            self.send(action)

    def close(self) -> None:
        self.over = True
        self.opened.close()
        self.packets.close()


class Carrier:
    """All transfers of this process."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.epoll()
        self._poll.register(control, select.EPOLLIN)
        self._poll.register(0, select.EPOLLIN)
        self._sessions: dict[int, Session] = {}  # by descriptor
        self._numbers: dict[int, Session] = {}
        self._timers: list[tuple[float, int, Session]] = []
        self._cache = Cache()
        self._order = 0
        self._malformed = 0
        self._malformed_told = float("-inf")

    def run(self) -> None:
        """Until standard input or the control socket closes."""
        sessions, control, timers, receive = self._sessions, self._control.fileno(), self._timers, self._receive
        now = time.monotonic()
        while True:
            patience = max(0.0, timers[0][0] - now) if timers else -1
            ready = self._poll.poll(patience, _EVENTS)
            now = time.monotonic()
            for descriptor, _ in ready:
                session = sessions.get(descriptor)
                if session is not None:
                    receive(session, now)
                elif descriptor == control:
                    if not self._orders():
                        return
                elif descriptor == 0 and not os.read(0, 4096):
                    return
            if timers and timers[0][0] <= now:
                self._tick(now)

    def _orders(self) -> bool:
        for _ in range(_ORDERS):
            try:
                line, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 1)
            except BlockingIOError:
                return True
            if not line:
                return False
            order = json.loads(line)
            if "cancel" in order:
                known = self._numbers.get(order["cancel"])
                if known is not None:
                    known.transfer.detail = "the client asked again"
                    self._end(known, Result.ABORTED)
                continue
            self._begin(order, descriptors[0])
        return True

    def _begin(self, order: dict[str, Any], descriptor: int) -> None:
        now = time.monotonic()
        try:
            session = Session(order, descriptor, self._cache, now)
        except OSError as error:
            os.close(descriptor)
            detail = f"cannot be sent: {error.strerror}"
            failed = {"result": Result.ABORTED.name, "detail": detail, "size": 0, "seconds": 0.0, "resent": 0}
            self._tell({"id": order["id"], **failed})
            return
        self._sessions[session.opened.fileno()] = session
        self._numbers[session.number] = session
        self._poll.register(session.opened, select.EPOLLIN)
        self._act(session, session.transfer.start(now))

    def _receive(self, session: Session, now: float) -> None:
        """One datagram that came before ``now``; the poll names the socket again if there are more."""
        transfer = session.transfer
        try:
            data = session.receive(_LARGEST_ANSWER)
        except BlockingIOError:
            return
        except OSError as error:  # ICMP: nobody listens on the client's port any more
            transfer.detail = f"client is gone: {error.strerror}"
            self._end(session, Result.UNCONFIRMED if transfer.last_under_way else Result.ABORTED)
            return
        if session.step(data, now):
            try:
                session.transmit(next(session.upcoming))
            except (StopIteration, OSError):
                self._act(session, transfer.current)  # the next run of the file; or what is refused, told apart
            return
        try:
            action = transfer.receive(data, now)
        except PeerProtocolError as error:
            self._count_malformed(session, str(error))
            return
        self._act(session, action)

    def _count_malformed(self, session: Session, reason: str) -> None:
        self._malformed += 1
        now = time.monotonic()
        if now >= self._malformed_told + 1:
            self._tell({"malformed": reason[:200], "address": session.address, "count": self._malformed})
            self._malformed, self._malformed_told = 0, now

    def _act(self, session: Session, action: Action | None) -> None:
        """Send, end, or wait."""
        if action is not None:
            try:
                session.send(action)
            except OSError as error:
                session.transfer.detail = f"reading or sending failed: {error.strerror}"
                self._end(session, Result.ABORTED)
                return
        transfer = session.transfer
        if transfer.result is not None:
            self._end(session, transfer.result)
        elif transfer.deadline < session.armed - _SLACK:
            # A timer that is too early is let run out and set anew: no work with the heap at every packet.
            session.armed = transfer.deadline
            self._order += 1
            heapq.heappush(self._timers, (session.armed, self._order, session))

    def _tick(self, now: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            when, _, session = heapq.heappop(timers)
            if session.over or when != session.armed:
                continue
            session.armed = float("inf")
            self._act(session, session.transfer.tick(now))

    def _end(self, session: Session, result: Result) -> None:
        self._sessions.pop(session.opened.fileno(), None)
        self._numbers.pop(session.number, None)
        self._poll.unregister(session.opened)
        session.close()
        transfer = session.transfer
        self._tell(
            {
                "id": session.number,
                "result": result.name,
                "detail": transfer.detail,
                "size": transfer.size,
                "seconds": round(time.monotonic() - session.began, 4),
                "resent": transfer.retransmissions,
            }
        )

    def _tell(self, words: dict[str, Any]) -> None:
        """The daemon reads soon; what it does not read in time is lost only for a malformed packet."""
        line = json.dumps(words).encode()
        try:
            self._control.send(line)
        except BlockingIOError:
            if "id" in words:
                select.select([], [self._control], [], 1.0)
                with contextlib.suppress(OSError):
                    self._control.send(line)
        except OSError:
            return  # the daemon is gone; standard input says so, too


def main() -> None:
    """Entry of the worker process."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < 4096:
        byte = os.read(0, 1)  # nothing beyond the line may be taken: the rest of the input is only its end
        if not byte:
            sys.exit(0)
        line += byte
    control = socket.socket(fileno=int(json.loads(line)["control"]))
    control.setblocking(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    Carrier(control).run()


if __name__ == "__main__":
    main()
