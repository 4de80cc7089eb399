"""Blocking TCP sockets that carry frames: deadlines, stalls, and a way to be woken from another thread.

A reader sleeps until there is something worth waking for: `_GULP`, or the rest of the frame (SO_RCVLOWAT). Woken by
every packet, a member at the rate of a wire spends most of its time on waking. The receive window is a multiple of
that: where both are the same, the sender stands still for a round trip whenever the reader wakes.

CUBIC is asked for. BBR takes the queue that data of the predecessor makes before our acknowledgements for a slower
wire, and every ten seconds it pauses to look at it: in a chain each hop loses what the one before it has lost.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Decoder, Frame

_GULP = 128 << 10  # bytes
_WINDOW = 1 << 20  # bytes that may be under way, from the beginning
_TICK = 0.1  # seconds; how soon a dial notices that it is no longer wanted
_ONE_SECOND = struct.pack("ll", 1, 0)
_CONGESTION = b"cubic"
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class PeerSilentError(Exception):
    """No byte came, or none was taken, within the deadline."""


def dial(host: str, port: int, timeout: float, wanted: Callable[[], bool]) -> socket.socket:
    """A connected socket; `OSError` when refused or after ``timeout`` seconds, or when no longer ``wanted``."""
    if not 0 < port < 1 << 16 or not host.isascii() or not 0 < len(host) < 254:
        raise OSError(errno.EINVAL, f"{host[:40]}:{port} is not an address")
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        connection.connect_ex(address)
        _await_connection(connection, timeout, wanted)
        connection.setblocking(True)
    except BaseException:
        connection.close()
        raise
    return connection


def _await_connection(connection: socket.socket, timeout: float, wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + timeout
    poller = select.poll()
    poller.register(connection, select.POLLOUT)
    while not poller.poll(_TICK * 1000):
        if not wanted():
            raise ConnectionAbortedError("no longer wanted")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {timeout:g} s")
    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


class FrameSocket:
    """A connected socket and the decoder of what it brings. One thread reads and writes; any may `interrupt`."""

    def __init__(self, connection: socket.socket, decoder: Decoder) -> None:
        self._connection = connection
        self._decoder = decoder
        self._least = 1  # bytes that wake the reader
        self._poller = select.poll()
        self._poller.register(connection, select.POLLIN)
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _ONE_SECOND)
        # There is no other way to a large window that may still grow: a mark raises it, and a lower one leaves it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _WINDOW)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._least)
        with contextlib.suppress(OSError):  # not in this kernel, or not for this user: whatever it has
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION)

    def handshake(self, seconds: float) -> None:
        """What comes before the first frame: nothing, unless the connection is secured (see `bootd.member.tls`)."""

    def receive(self, silence: float, deadline: float | None = None) -> Frame | None:
        """The next frame; None when the peer has closed between frames.

        `PeerSilentError` after ``silence`` seconds without a byte, or at ``deadline`` (monotonic) whatever comes.
        """
        while True:
            count = self.take(self._decoder.buffer(), silence)
            if count == 0:
                if self._decoder.inside_frame:
                    raise PeerProtocolError("connection closed inside a frame")
                return None
            frame = self._decoder.advance(count)
            if frame is not None:
                return frame
            if deadline is not None and time.monotonic() > deadline:
                raise PeerSilentError("too slow to say who it is")

    def take(self, buffer: memoryview, silence: float) -> int:
        """Bytes taken into ``buffer``, 0 at the end; `PeerSilentError` after ``silence`` seconds without one."""
        # Never more than this read still lacks: a peer that has sent all and waits would not be heard.
        least = min(len(buffer), _GULP)
        if least != self._least:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            self._least = least
        self._poller.poll(silence * 1000)
        try:
            return self._connection.recv_into(buffer, len(buffer), socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise PeerSilentError(f"silent for {silence:g} s") from None

    def send(self, data: bytes, payload: bytes | memoryview = b"", *, patience: float) -> None:
        """All of ``data`` and ``payload``; `PeerSilentError` when none is taken for ``patience`` seconds."""
        parts = [memoryview(data), memoryview(payload)]
        taken = time.monotonic()
        while parts:
            try:
                count = self._connection.sendmsg(parts)
            except BlockingIOError:
                if time.monotonic() - taken >= patience:
                    raise PeerSilentError(f"takes nothing for {patience:g} s") from None
                continue
            taken = time.monotonic()
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][count:]

    def interrupt(self) -> None:
        """Ends whatever another thread is waiting for on this socket."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # not connected any more, which is what was asked for

    def close(self) -> None:
        self._connection.close()
