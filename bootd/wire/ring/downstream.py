"""The side towards a successor: what one proven link still has to bring, in which order."""

from dataclasses import dataclass

from bootd.wire import frames, link
from bootd.wire.frames import ChunkRange, Frame
from bootd.wire.manifest import Manifest
from bootd.wire.ring.ledger import Ledger
from bootd.wire.ring.standing import Standing


@dataclass(frozen=True)
class SendChunk:
    """Send chunk ``index``, then `Downstream.sent`; or `Downstream.missed` when it is not here after all."""

    index: int


@dataclass(frozen=True)
class SendFrame:
    """Send ``data``; close the link afterwards if ``is_last``."""

    data: bytes
    is_last: bool = False


@dataclass(frozen=True)
class Listen:
    """The successor has what it asked for: wait for its next frame."""


@dataclass(frozen=True)
class Await:
    """The next chunk is not here yet: ask again when something changes, or at ``until`` to say PING."""

    until: float


class Downstream:
    """Serves every WANT in ascending order as far as the chunks are here; a later one does not wait for them."""

    def __init__(
        self,
        machine: link.AcceptLink,
        *,
        manifest: Manifest,
        ledger: Ledger,
        standing: Standing,
        is_head: bool,
        ping_interval: float,
    ) -> None:
        self._machine = machine
        self._manifest, self._ledger, self._standing = manifest, ledger, standing
        self._is_head = is_head
        self._ping_interval = ping_interval
        self._pending = bytearray(manifest.count)
        self._remaining = 0
        self._is_serving = False
        self._start = 0
        self._spoke = 0.0

    def receive(self, frame: Frame, now: float) -> None:
        """A frame of the successor; `PeerProtocolError` ends the link."""
        event = self._machine.receive(frame)
        if isinstance(event, link.Serve):
            self._want(event.ranges)
            self._spoke = now

    def next(self, now: float) -> SendChunk | SendFrame | Listen | Await:
        """What to do now."""
        if not self._is_serving:
            return Listen()
        if not self._remaining:
            self._is_serving = False
            return SendFrame(self._machine.served())
        failed = self._standing.has_failed
        if failed and self._is_head:
            return self._refuse(self._standing.reason)
        index = self._ledger.first_available(self._pending, self._start)
        if index is not None:
            self._spoke = now
            return SendChunk(index)
        if failed:
            return self._refuse(f"has failed: {self._standing.reason}")
        if now >= self._spoke + self._ping_interval:
            self._spoke = now
            return SendFrame(frames.encode(frames.Ping()))
        return Await(self._spoke + self._ping_interval)

    def sent(self, index: int) -> None:
        """Chunk ``index`` has gone out."""
        self._pending[index] = 0
        self._remaining -= 1
        self._start = index + 1

    def _want(self, ranges: tuple[ChunkRange, ...]) -> None:
        for item in ranges:
            self._pending[item.first : item.first + item.count] = b"\1" * item.count
            self._remaining += item.count
        self._start = 0
        self._is_serving = True

    def _refuse(self, reason: str) -> SendFrame:
        self._is_serving = False
        return SendFrame(self._machine.reject(reason), is_last=True)
