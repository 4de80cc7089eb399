"""What one successor asks for, from the window while it is there and from the disk after that.

So a successor that lags behind costs nobody else anything, and one that dials anew loses nothing.
"""

from collections.abc import Callable

from bootd.member.context import Context, describe
from bootd.member.encoding import ChunkEncoder
from bootd.member.sockets import FrameSocket, PeerSilentError
from bootd.wire import frames, link
from bootd.wire.control import MemberState
from bootd.wire.digest import digest
from bootd.wire.frames import ChunkHeader, ChunkRange


class Successor:
    """A proven link. ``count`` is told the bytes of image of every chunk that was sent."""

    def __init__(
        self, context: Context, peer: FrameSocket, machine: link.AcceptLink, count: Callable[[int], None]
    ) -> None:
        self._context = context
        self._peer = peer
        self._machine = machine
        self._count = count
        self._encoder = ChunkEncoder()

    def converse(self) -> None:
        """Serve every WANT until the successor closes; raises what ends the link otherwise."""
        while not self._context.standing.stopping.is_set():
            try:
                frame = self._peer.receive(1.0)
            except PeerSilentError:
                continue  # it has what it wants for now; a dead peer is found by keep-alive
            if frame is None:
                return
            event = self._machine.receive(frame)
            if isinstance(event, link.Serve) and not self._serve(event.ranges):
                return

    def _serve(self, ranges: tuple[ChunkRange, ...]) -> bool:
        """Every chunk of ``ranges``, in ascending order as far as it is here; False when the link is over."""
        progress, standing = self._context.progress, self._context.standing
        pending = bytearray(self._context.manifest.count)
        remaining = 0
        for item in ranges:
            pending[item.first : item.first + item.count] = b"\1" * item.count
            remaining += item.count
        start = 0
        while remaining:
            if standing.state is MemberState.FAILED and self._context.is_head:
                self._send(self._machine.reject(standing.reason))
                return False
            patience = 0.0 if standing.state is MemberState.FAILED else self._context.limits.ping_interval
            index = progress.wait_available(pending, start, patience)
            if standing.stopping.is_set():
                return False
            if index is None:
                if standing.state is MemberState.FAILED:
                    self._send(self._machine.reject(f"has failed: {standing.reason}"))
                    return False
                self._send(frames.encode(frames.Ping()))
                continue
            if self._send_chunk(index):
                pending[index] = 0
                remaining -= 1
                start = index + 1
        self._send(self._machine.served())
        return True

    def _send_chunk(self, index: int) -> bool:
        """False when the chunk turned out not to be here."""
        entry = self._context.window.borrow(index)
        if entry is None:
            return self._send_from_disk(index)
        try:
            self._send(frames.encode_chunk_header(entry.header), entry.payload)
        finally:
            self._context.window.give_back(entry)
        self._count(entry.header.raw_length)
        return True

    def _send_from_disk(self, index: int) -> bool:
        """Reads a chunk again and checks it before it goes out."""
        context, manifest = self._context, self._context.manifest
        if manifest.is_zero(index) and not context.is_head:
            self._send_zeros(index)
            return True
        slot = context.pool.take()
        try:
            view = slot.memory[: manifest.length(index)]
            try:
                context.store.read(manifest.offset(index), view)
            except OSError as error:
                context.standing.fail(f"reading at byte {manifest.offset(index)}: {describe(error)}")
                return False
            found = digest(view)
            if found != manifest.digest(index):
                self._note_mismatch(index)
                return False
            header, payload = self._encoder.encode(index, view, found, is_zero=manifest.is_zero(index))
            self._send(frames.encode_chunk_header(header), payload)
        finally:
            context.pool.put(slot)
        self._count(header.raw_length)
        return True

    def _send_zeros(self, index: int) -> None:
        """A chunk of zeros needs no reading: what is promised are the bytes of the image."""
        length = self._context.manifest.length(index)
        header = ChunkHeader(index, frames.Encoding.ZERO, length, self._context.manifest.digest(index), 0)
        self._send(frames.encode_chunk_header(header))
        self._count(length)

    def _note_mismatch(self, index: int) -> None:
        if self._context.is_head:
            self._context.standing.fail(
                "image changed while it was being sent: "
                f"chunk {index} at byte {self._context.manifest.offset(index)} is not what was digested"
            )
        else:
            self._context.lose(index)

    def _send(self, data: bytes, payload: bytes | memoryview = b"") -> None:
        self._peer.send(data, payload, patience=self._context.limits.patience)
