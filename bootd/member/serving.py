"""The listener: lets successors in, one thread each, and refuses who does not belong."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

from bootd.member.context import MAX_SUCCESSORS, Context
from bootd.member.sockets import FrameSocket, PeerSilentError
from bootd.member.successor import Successor
from bootd.wire import frames, link
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Decoder

HANDSHAKE_SECONDS = 5.0
CLOSE_SECONDS = 5.0
MAX_CONNECTIONS = 24  # proven or not; more are closed at once


class Server:
    """Listens for successors. ``epoch`` gives the lowest epoch that is let in at the moment."""

    def __init__(self, context: Context, host: str, epoch: Callable[[], int]) -> None:
        self._context = context
        self._host = host
        self._epoch = epoch
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._connections: set[FrameSocket] = set()
        self._proven: dict[str, FrameSocket] = {}
        self._threads: set[threading.Thread] = set()
        self._sent = 0

    @property
    def sent(self) -> int:
        """Bytes of image sent to successors, repetitions counted."""
        return self._sent

    def open(self) -> int:
        """Bind and listen; the port."""
        self._listener = socket.create_server((self._host, 0), backlog=16)
        port: int = self._listener.getsockname()[1]
        return port

    def run(self) -> None:
        """Accept until `close`."""
        listener = self._listener
        while listener is not None and not self._context.standing.stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._context.standing.stopping.wait(0.05):  # closed; or out of descriptors: not in a tight loop
                    return
                continue
            peer = FrameSocket(connection, Decoder(max_chunk=0))
            with self._lock:
                if self._context.standing.stopping.is_set() or len(self._connections) >= MAX_CONNECTIONS:
                    peer.close()
                    continue
                self._connections.add(peer)
                thread = threading.Thread(target=self._attend, args=(peer,), name="bootd-serve", daemon=True)
                self._threads.add(thread)
                thread.start()  # under the lock: `close` joins only what has started

    def close(self) -> None:
        """Stop listening and end every link; `Standing.stopping` must be set before."""
        if self._listener is not None:
            with contextlib.suppress(OSError):  # closed before
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            for peer in self._connections:
                peer.interrupt()
            threads = list(self._threads)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _attend(self, peer: FrameSocket) -> None:
        """One link from challenge to end. Whatever the successor does wrong ends its link and nothing else."""
        context = self._context
        member = ""
        machine = link.AcceptLink(
            session=context.session,
            epoch=self._epoch(),
            token=context.token,
            nonce=os.urandom(frames.NONCE_SIZE),
            chunk_count=context.manifest.count,
        )
        try:
            member = self._shake_hands(peer, machine)
            if member:
                Successor(context, peer, machine, self._count_sent).converse()
        except (OSError, PeerSilentError, PeerProtocolError):
            pass  # the successor says in its own report what is wrong with us, and dials again
        finally:
            with self._lock:
                self._connections.discard(peer)
                self._threads.discard(threading.current_thread())
                if self._proven.get(member) is peer:
                    del self._proven[member]
            peer.close()

    def _shake_hands(self, peer: FrameSocket, machine: link.AcceptLink) -> str:
        """The proven name of the successor; "" when it was refused."""
        peer.send(machine.challenge(), patience=HANDSHAKE_SECONDS)
        frame = peer.receive(HANDSHAKE_SECONDS, time.monotonic() + HANDSHAKE_SECONDS)
        if frame is None:
            return ""
        event = machine.receive(frame, epoch=self._epoch())
        if isinstance(event, link.Refused):
            peer.send(event.data, patience=HANDSHAKE_SECONDS)
        if not isinstance(event, link.Established):
            return ""
        with self._lock:
            former = self._proven.pop(event.member, None)
            if former is not None:
                former.interrupt()  # the same successor has dialled anew: its old link is dead
            is_full = len(self._proven) >= MAX_SUCCESSORS
            if not is_full:
                self._proven[event.member] = peer
        if is_full:
            peer.send(machine.reject("too many successors"), patience=HANDSHAKE_SECONDS)
            return ""
        peer.send(event.data, patience=HANDSHAKE_SECONDS)
        return event.member

    def _count_sent(self, count: int) -> None:
        with self._lock:
            self._sent += count
