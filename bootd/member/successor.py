"""What one successor asks for, from the window while it is there and from the disk after that.

So a successor that lags behind costs nobody else anything, and one that dials anew loses nothing.
"""

import time

from bootd.member.context import Context, describe
from bootd.member.encoding import ChunkEncoder
from bootd.member.sockets import FrameSocket, PeerSilentError
from bootd.wire import frames
from bootd.wire.digest import digest
from bootd.wire.frames import ChunkHeader, Encoding
from bootd.wire.ring.downstream import Await, Downstream, Listen, SendChunk, SendFrame
from bootd.wire.ring.member import Claim, Wake
from bootd.wire.ring.window import Entry


class Successor:
    """A proven link."""

    def __init__(self, context: Context, peer: FrameSocket, downstream: Downstream) -> None:
        self._context = context
        self._monitor = context.monitor
        self._peer = peer
        self._downstream = downstream
        self._encoder = ChunkEncoder()

    def converse(self) -> None:
        """Serve every WANT until the successor closes; raises what ends the link otherwise."""
        while (step := self._next()) is not None:
            match step:
                case SendFrame(data, is_last):
                    self._send(data)
                    if is_last:
                        return
                case SendChunk(index):
                    self._send_from_disk(index)
                case Entry():
                    self._send_from_window(step)
                case Listen() if not self._listen():
                    return

    def _next(self) -> SendChunk | SendFrame | Listen | Entry | None:
        """What to do, waiting for it if need be; an entry of the window is borrowed. None at the member's end."""
        with self._monitor as core:
            while not core.is_stopping:
                step = self._downstream.next(time.monotonic())
                if isinstance(step, SendChunk):
                    claim = core.claim(step.index)
                    if claim is Claim.READ:
                        return step
                    if isinstance(claim, Entry):
                        return claim
                    self._monitor.wait(Wake.SERVE, time.monotonic() + self._context.limits.ping_interval)
                elif isinstance(step, Await):
                    self._monitor.wait(Wake.SERVE, step.until)
                else:
                    return step
        return None

    def _listen(self) -> bool:
        """Take in what the successor says next; False when it has closed."""
        try:
            frame = self._peer.receive(1.0)
        except PeerSilentError:
            return True  # it has what it wants for now; a dead peer is found by keep-alive
        if frame is None:
            return False
        with self._monitor:
            self._downstream.receive(frame, time.monotonic())
        return True

    def _send_from_window(self, entry: Entry) -> None:
        index = entry.header.index
        try:
            self._send(frames.encode_chunk_header(entry.header), entry.payload)
        finally:
            with self._monitor as core:
                core.window.give_back(entry)
        with self._monitor as core:
            core.count_sent(self._downstream, index)

    def _send_from_disk(self, index: int) -> None:
        """Reads a chunk again and checks it before it goes out; nothing goes out when it is not what it was."""
        context, manifest = self._context, self._context.manifest
        if manifest.is_zero(index) and not self._monitor.core.is_head:
            # No reading: what is promised are the bytes of the image.
            length = manifest.length(index)
            header = ChunkHeader(index, Encoding.ZERO, length, manifest.digest(index), 0)
            with self._monitor as core:
                core.release(index)
            self._send(frames.encode_chunk_header(header))
        else:
            slot = context.pool.take()
            entry, is_shared = None, False
            try:
                entry = self._read(index, slot.memory[: manifest.length(index)])
                if entry is None:
                    return
                with self._monitor as core:
                    entry.slot = slot
                    is_shared = core.offer(entry)
                if is_shared:
                    self._send_from_window(entry)
                    return
                self._send(frames.encode_chunk_header(entry.header), entry.payload)
            finally:
                if not is_shared:
                    context.pool.put(slot)
                if entry is None:
                    with self._monitor as core:
                        core.release(index)
        with self._monitor as core:
            core.count_sent(self._downstream, index)

    def _read(self, index: int, view: memoryview) -> Entry | None:
        """Chunk ``index`` from the disk, as it goes out; None when it is not the one of the image any more."""
        manifest = self._context.manifest
        try:
            packed = self._context.store.packed(manifest.offset(index), manifest.length(index))
            if packed is not None:  # not looked into: the successor does
                encoding, data = packed
                header = ChunkHeader(index, encoding, manifest.length(index), manifest.digest(index), len(data))
                return Entry(header, data, data)
            self._context.store.read(manifest.offset(index), view)
        except OSError as error:
            self._monitor.fail(f"reading at byte {manifest.offset(index)}: {describe(error)}")
            return None
        found = digest(view)
        with self._monitor as core:
            if not core.reread(index, found):
                return None
        header, payload = self._encoder.encode(index, view, found, is_zero=manifest.is_zero(index))
        return Entry(header, payload, view)

    def _send(self, data: bytes, payload: bytes | memoryview = b"") -> None:
        self._peer.send(data, payload, patience=self._context.limits.patience)
