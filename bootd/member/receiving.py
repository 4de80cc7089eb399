"""The receiving thread: dials the predecessor, brings what is lacking, hashes every chunk on arrival."""

import os
import threading
import time

from bootd.member.buffers import Slot
from bootd.member.context import Context, describe
from bootd.member.sockets import FrameSocket, PeerSilentError, dial
from bootd.wire import frames
from bootd.wire.control import Address, Arrange
from bootd.wire.digest import Decompressor, digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, Decoder, Encoding
from bootd.wire.ring.member import Wake
from bootd.wire.ring.upstream import Dial, Done, Place, Rest, Send, Take

CONNECT_SECONDS = 3.0


class _StoppedError(Exception):
    """The member stops or has failed: nothing more is taken in."""


class Receiver:
    """`run` is the body of the thread; `arrange` and `interrupt` are called from others."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._monitor = context.monitor
        self._lock = threading.Lock()
        self._socket: FrameSocket | None = None
        self._place: Place | None = None  # that the socket belongs to
        self._slot: Slot | None = None
        self._is_reserved = False
        self._decompressor = Decompressor()
        self._zeros = memoryview(bytes(0))

    def arrange(self, message: Arrange) -> bool:
        """Take a place of a higher epoch; False for one that is over or known."""
        with self._monitor as core:
            taken = core.arrange(message)
            with self._lock:
                if (
                    self._socket is not None
                    and self._place is not None
                    and not core.upstream.is_wanted(self._place)
                ):
                    self._socket.interrupt()
        return taken

    def interrupt(self) -> None:
        """End the link in hand, if any."""
        with self._lock:
            if self._socket is not None:
                self._socket.interrupt()

    def run(self) -> None:
        """Until the member stops or fails: be connected while a chunk is lacking."""
        while (step := self._next()) is not None:
            try:
                self._follow(step.place, step.address)
            except _StoppedError:
                return
            except (OSError, PeerSilentError, PeerProtocolError) as error:
                words = describe(error) if isinstance(error, OSError) else str(error)
                with self._monitor as core:
                    if core.is_going:
                        core.break_off(step.place, words, time.monotonic())

    def _next(self) -> Dial | None:
        with self._monitor as core:
            while core.is_going:
                step = core.next_dial(time.monotonic())
                if isinstance(step, Dial):
                    return step
                self._monitor.wait(Wake.RECEIVE, step.until if isinstance(step, Rest) else None)
        return None

    def _is_wanted(self, place: Place) -> bool:
        with self._monitor as core:
            return core.is_going and core.upstream.is_wanted(place)

    def _follow(self, place: Place, address: Address) -> None:
        """One link, until nothing is lacking; raises when it breaks."""
        silence = self._context.limits.silence
        connection = dial(address.host, address.port, CONNECT_SECONDS, lambda: self._is_wanted(place))
        decoder = Decoder(max_chunk=self._context.manifest.chunk_size, allocate=self._allocate)
        socket = self._context.socket(connection, decoder, is_accepting=False)
        try:
            with self._monitor as core:
                with self._lock:
                    self._socket, self._place = socket, place
                if not core.is_going or not core.upstream.is_wanted(place):
                    return
            socket.handshake(CONNECT_SECONDS)
            with self._monitor as core:
                core.upstream.connect(place, os.urandom(frames.NONCE_SIZE))
            while (frame := socket.receive(silence)) is not None:
                with self._monitor as core:
                    step = core.receive(frame)
                match step:
                    case Send(data):
                        socket.send(data, patience=silence)
                    case Take(chunk):
                        self._take(chunk)
                    case Done():
                        with self._monitor as core:
                            core.upstream.hang_up()
                        return
            raise PeerProtocolError("closed the connection")
        finally:
            with self._lock:
                self._socket = None
            socket.close()
            self._give_up_reservation()

    def _allocate(self, header: ChunkHeader) -> memoryview:
        """Memory for the payload of a chunk that is due; waits while the window is full of unwritten ones."""
        with self._monitor as core:
            core.upstream.check_chunk(header)
            while core.is_going and not core.reserve(time.monotonic()):
                self._monitor.wait(Wake.RECEIVE)
            if not core.is_going:
                raise _StoppedError
        self._is_reserved = True
        if header.encoding is not Encoding.ZERO:
            self._slot = self._context.pool.take()
        if header.encoding is Encoding.RAW and self._slot is not None:
            return self._slot.memory[: header.raw_length]
        return memoryview(bytearray(header.payload_length))

    def _take(self, chunk: Chunk) -> None:
        """Hashes a chunk and hands it over; one that is not kept is wanted again after END."""
        found, raw = self._open(chunk)
        with self._monitor as core:
            self._is_reserved = False  # `accept` uses the place or gives it up
            if core.accept(chunk, raw, found, self._slot):
                self._slot = None
        self._give_up_reservation()

    def _open(self, chunk: Chunk) -> tuple[bytes, memoryview]:
        """Digest and raw bytes of a chunk."""
        header = chunk.header
        if header.encoding is Encoding.ZERO or self._slot is None:
            raw = self._zero_view(header.raw_length)
            return self._context.monitor.core.manifest.zero_digest(header.raw_length), raw
        raw = self._slot.memory[: header.raw_length]
        if header.encoding is Encoding.ZSTD:
            try:
                raw[:] = self._decompressor.decompress(chunk.payload, header.raw_length)
            except PeerProtocolError:
                return b"", raw  # damaged: no digest matches
        return digest(raw), raw

    def _zero_view(self, length: int) -> memoryview:
        if len(self._zeros) < self._context.manifest.chunk_size:
            slot = Slot(self._context.manifest.chunk_size)  # aligned as direct writes want it
            self._zeros = slot.memory.toreadonly()
        return self._zeros[:length]

    def _give_up_reservation(self) -> None:
        if self._slot is not None:
            self._context.pool.put(self._slot)
            self._slot = None
        if self._is_reserved:
            with self._monitor as core:
                core.window.unreserve()
            self._is_reserved = False
