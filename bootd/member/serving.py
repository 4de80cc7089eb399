"""The listener: lets successors in, one thread each, and refuses who does not belong."""

import contextlib
import logging
import os
import socket
import threading
import time

from bootd.member.context import Context
from bootd.member.sockets import FrameSocket, PeerSilentError
from bootd.member.successor import Successor
from bootd.wire import frames
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Decoder
from bootd.wire.ring.downstream import Downstream
from bootd.wire.ring.member import Admitted, Turned

HANDSHAKE_SECONDS = 5.0
CLOSE_SECONDS = 5.0
MAX_CONNECTIONS = 24  # proven or not; more are closed at once
_log = logging.getLogger("bootd.member")


class Server:
    """Listens for successors."""

    def __init__(self, context: Context, host: str) -> None:
        self._context = context
        self._host = host
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._connections: set[FrameSocket] = set()
        self._proven: dict[Downstream, FrameSocket] = {}
        self._threads: set[threading.Thread] = set()
        self._refused = ""  # the last refusal: one that is repeated is logged once

    def open(self) -> int:
        """Bind and listen; the port."""
        self._listener = socket.create_server((self._host, 0), backlog=16)
        port: int = self._listener.getsockname()[1]
        return port

    def run(self) -> None:
        """Accept until `close`."""
        listener, stopping = self._listener, self._context.monitor.stopping
        while listener is not None and not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                if stopping.wait(0.05):  # closed; or out of descriptors: not in a tight loop
                    return
                continue
            peer = self._context.socket(connection, Decoder(max_chunk=0), is_accepting=True)
            with self._lock:
                if stopping.is_set() or len(self._connections) >= MAX_CONNECTIONS:
                    peer.close()
                    continue
                self._connections.add(peer)
                thread = threading.Thread(target=self._attend, args=(peer,), name="bootd-serve", daemon=True)
                self._threads.add(thread)
                thread.start()  # under the lock: `close` joins only what has started

    def close(self) -> None:
        """Stop listening and end every link; the member must be stopping."""
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
        downstream = None
        try:
            peer.handshake(HANDSHAKE_SECONDS)
            downstream = self._shake_hands(peer)
            if downstream is not None:
                Successor(self._context, peer, downstream).converse()
        except (OSError, PeerSilentError, PeerProtocolError):
            pass  # the successor says in its own report what is wrong with us, and dials again
        finally:
            if downstream is not None:
                with self._context.monitor as core:
                    core.leave(downstream)
            with self._lock:
                self._connections.discard(peer)
                self._threads.discard(threading.current_thread())
                if downstream is not None:
                    self._proven.pop(downstream, None)
            peer.close()

    def _shake_hands(self, peer: FrameSocket) -> Downstream | None:
        """What serves the successor from now on; None when it was turned away."""
        with self._context.monitor as core:
            machine = core.challenge(os.urandom(frames.NONCE_SIZE))
        peer.send(machine.challenge(), patience=HANDSHAKE_SECONDS)
        frame = peer.receive(HANDSHAKE_SECONDS, time.monotonic() + HANDSHAKE_SECONDS)
        if frame is None:
            return None
        with self._context.monitor as core:
            answer = core.admit(machine, frame)
        if not isinstance(answer, Admitted):
            self._note_refusal(answer)
            peer.send(answer.data, patience=HANDSHAKE_SECONDS)
            return None
        with self._lock:
            former = self._proven.pop(answer.former, None) if answer.former is not None else None
            if former is not None:
                former.interrupt()  # the same successor has dialled anew: its old link is dead
            self._proven[answer.downstream] = peer
        peer.send(answer.data, patience=HANDSHAKE_SECONDS)
        return answer.downstream

    def _note_refusal(self, answer: Turned) -> None:
        text = f"{answer.who!r}: {answer.reason}"
        if text != self._refused:
            self._refused = text
            _log.warning("refused a successor that calls itself %s", text)
