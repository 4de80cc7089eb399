"""The receiving thread: dials the predecessor, asks for what is lacking, checks every chunk on arrival."""

import os
import threading
from dataclasses import dataclass

from bootd.member.buffers import Slot
from bootd.member.context import Context, describe
from bootd.member.sockets import FrameSocket, PeerSilentError, dial
from bootd.member.window import Entry, WindowClosedError
from bootd.wire import frames, link
from bootd.wire.control import Address, Arrange, MemberState
from bootd.wire.digest import Decompressor, digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, Decoder, Encoding

CONNECT_SECONDS = 3.0
MAX_BAD_COPIES = 3  # of one chunk over one link, before the link is given up and dialled anew
FIRST_PAUSE = 0.1  # seconds before the same predecessor is dialled again
LONGEST_PAUSE = 2.0


@dataclass(frozen=True)
class Place:
    """Where a member stands in the chain."""

    epoch: int
    predecessor: Address | None
    predecessor_node: str


class Receiver:
    """`run` is the body of the thread; `arrange` and `interrupt` are called from others."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Condition()
        self._place = Place(0, None, "")
        self._socket: FrameSocket | None = None
        self._link: link.DialLink | None = None
        self._slot: Slot | None = None
        self._is_reserved = False
        self._bad_copies: dict[int, int] = {}
        self._decompressor = Decompressor()
        self._zeros = memoryview(bytes(0))

    @property
    def epoch(self) -> int:
        return self._place.epoch

    def arrange(self, message: Arrange) -> bool:
        """Take a place of a higher epoch; False for one that is over or known."""
        place = Place(message.epoch, message.predecessor, message.predecessor_node)
        with self._lock:
            if place.epoch <= self._place.epoch:
                return False
            stays = (place.predecessor, place.predecessor_node) == (
                self._place.predecessor,
                self._place.predecessor_node,
            )
            self._place = place
            if self._socket is not None and not stays:
                self._socket.interrupt()
            self._lock.notify_all()
        self._context.progress.wake()
        return True

    def interrupt(self) -> None:
        """End the link in hand, if any."""
        with self._lock:
            if self._socket is not None:
                self._socket.interrupt()
            self._lock.notify_all()

    def run(self) -> None:
        """Until the member stops or fails: be connected while a chunk is lacking."""
        context = self._context
        pause = FIRST_PAUSE
        attempted: Place | None = None
        while self._is_going():
            place = self._place
            if place.predecessor is None:
                with self._lock:
                    if self._place == place and self._is_going():
                        self._lock.wait()
                continue
            if not context.progress.wait_lacking(timeout=1.0):
                continue
            if place != attempted:
                attempted, pause = place, FIRST_PAUSE
            received = context.progress.received
            try:
                self._follow(place, place.predecessor)
            except WindowClosedError:
                return
            except (OSError, PeerSilentError, PeerProtocolError) as error:
                if self._place != place or not self._is_going():
                    continue
                words = describe(error) if isinstance(error, OSError) else str(error)
                self._complain(place, words)
                pause = FIRST_PAUSE if context.progress.received > received else min(pause * 2, LONGEST_PAUSE)
                with self._lock:
                    if self._place == place and self._is_going():
                        self._lock.wait(pause)

    def _is_going(self) -> bool:
        standing = self._context.standing
        return not standing.stopping.is_set() and standing.state is not MemberState.FAILED

    def _is_placed(self, place: Place) -> bool:
        """Whether the link to this predecessor is still wanted; a later epoch may keep the predecessor."""
        now = self._place
        return self._is_going() and (now.predecessor, now.predecessor_node) == (
            place.predecessor,
            place.predecessor_node,
        )

    def _complain(self, place: Place, words: str) -> None:
        self._context.standing.complain(f"predecessor {place.predecessor_node}: {words}")

    def _follow(self, place: Place, address: Address) -> None:
        """One link, until nothing is lacking; raises when it breaks."""
        context = self._context
        connection = dial(address.host, address.port, CONNECT_SECONDS, lambda: self._is_placed(place))
        decoder = Decoder(max_chunk=context.manifest.chunk_size, allocate=self._allocate)
        socket = FrameSocket(connection, decoder)
        with self._lock:
            self._socket = socket
            if not self._is_placed(place):
                socket.interrupt()
        self._link = link.DialLink(
            session=context.session,
            epoch=place.epoch,
            member=context.node,
            token=context.token,
            nonce=os.urandom(frames.NONCE_SIZE),
            manifest=context.manifest,
        )
        self._bad_copies.clear()
        try:
            while (frame := socket.receive(context.limits.silence)) is not None:
                match self._link.receive(frame):
                    case link.Send(data):
                        socket.send(data, patience=context.limits.silence)
                    case link.Refused(reason):
                        raise PeerProtocolError(f"refuses: {reason}")
                    case link.Arrived(chunk):
                        self._take(place, chunk)
                    case link.Established() | link.Served():
                        if context.standing.state is MemberState.READY:
                            context.standing.enter(MemberState.RECEIVING)
                        lacking = context.progress.lacking(frames.MAX_RANGES)
                        if not lacking:
                            return
                        socket.send(self._link.want(lacking), patience=context.limits.silence)
                    case link.Alive():
                        pass
            raise PeerProtocolError("closed the connection")
        finally:
            with self._lock:
                self._socket = None
            socket.close()
            self._give_up_reservation()

    def _allocate(self, header: ChunkHeader) -> memoryview:
        """Memory for the payload of a chunk that is due; waits while the window is full of unwritten ones."""
        if self._link is None:
            raise PeerProtocolError("CHUNK before a link")
        self._link.check_chunk(header)
        self._context.window.reserve()
        self._is_reserved = True
        if header.encoding is not Encoding.ZERO:
            self._slot = self._context.pool.take()
        if header.encoding is Encoding.RAW and self._slot is not None:
            return self._slot.memory[: header.raw_length]
        return memoryview(bytearray(header.payload_length))

    def _take(self, place: Place, chunk: Chunk) -> None:
        """Checks a chunk and puts it in the window; a bad one is left lacking, to be wanted again after END."""
        context, header = self._context, chunk.header
        found, raw = self._open(chunk)
        if found != header.digest:
            self._note_bad(place, header.index, "arrived damaged")
        elif found != context.manifest.digest(header.index):
            self._note_bad(place, header.index, "is not the one of the image")
        else:
            entry = Entry(header, chunk.payload, raw, self._slot)
            context.window.publish(entry)
            self._slot, self._is_reserved = None, False
            context.progress.mark_held(header.index)
            context.window.queue(entry)
            return
        self._give_up_reservation()

    def _open(self, chunk: Chunk) -> tuple[bytes, memoryview]:
        """Digest and raw bytes of a chunk."""
        header = chunk.header
        if header.encoding is Encoding.ZERO or self._slot is None:
            raw = self._zero_view(header.raw_length)
        else:
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

    def _note_bad(self, place: Place, index: int, words: str) -> None:
        copies = self._bad_copies[index] = self._bad_copies.get(index, 0) + 1
        self._complain(place, f"chunk {index} {words}")
        if copies >= MAX_BAD_COPIES:
            raise PeerProtocolError(f"chunk {index} {words}, {copies} times")

    def _give_up_reservation(self) -> None:
        if self._slot is not None:
            self._context.pool.put(self._slot)
            self._slot = None
        if self._is_reserved:
            self._context.window.unreserve()
            self._is_reserved = False
