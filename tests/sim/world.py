"""Virtual time, hosts that die and freeze, and connections that carry frames between them."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from bootd.wire.frames import Chunk, ChunkHeader, Frame

LATENCY = 0.0005  # seconds
BUFFER = 4  # frames on their way or unread, per direction, before the sender waits
CONNECT_SECONDS = 3.0


class World:
    """The event queue. ``say`` keeps a trace, from which a failure can be read."""

    def __init__(self, seed: int, *, is_loud: bool = False) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.trace: deque[str] = deque(maxlen=None if is_loud else 400)
        self.steps = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._queue, (time, self._number, action, arguments))

    def run(self, until: float, is_over: Callable[[], bool]) -> None:
        """Until nothing is left to happen, ``until`` seconds, or ``is_over``."""
        while self._queue and self._queue[0][0] <= until and not is_over():
            self.now, _, action, arguments = heapq.heappop(self._queue)
            self.steps += 1
            action(*arguments)

    def say(self, text: str) -> None:
        self.trace.append(f"{self.now:9.4f} {text}")


class Host:
    """A machine. What was asked for before it died never happens; what falls due while it is frozen, later."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_alive = True
        self.is_frozen = False
        self.listeners: dict[int, Callable[[Connection], None]] = {}
        self.connections: set[Connection] = set()
        self._life = 0
        self._late: list[tuple[int, Callable[..., None], tuple[Any, ...]]] = []

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        self.world.at(self.world.now + seconds, self._due, self._life, action, arguments)

    def restart(self) -> None:
        """The program ends: its connections are reset, what it had planned is void."""
        self._life += 1
        self._late.clear()
        self.is_frozen = False
        self.listeners.clear()
        for connection in list(self.connections):
            connection.reset()

    def lose_power(self) -> None:
        """Nothing is sent any more, not even that it is over."""
        self._life += 1
        self.is_alive = self.is_frozen = False
        self.listeners.clear()
        for connection in list(self.connections):
            connection.fall_silent()

    def power_up(self) -> None:
        self.is_alive = True

    def freeze(self) -> None:
        self.is_frozen = self.is_alive

    def thaw(self) -> None:
        self.is_frozen = False
        late, self._late = self._late, []
        for life, action, arguments in late:
            self._due(life, action, arguments)

    def _due(self, life: int, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if life != self._life:
            return
        if self.is_frozen:
            self._late.append((life, action, arguments))
        else:
            action(*arguments)


class End:
    """One side of a connection: what has arrived and is unread, and who is told of news."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.inbox: deque[Frame] = deque()
        self.is_closed = False  # the peer has closed, or the connection was reset
        self.words = ""
        self.heard = host.world.now
        self.on_news: Callable[[], None] = lambda: None
        self.on_way = 0  # frames that this side has sent and the other has not read


class Connection:
    """Two ends. ``rate``: bytes per second of each direction; ``mangle`` may change a chunk on its way down."""

    def __init__(self, world: World, dialler: Host, acceptor: Host, rate: float) -> None:
        self.world = world
        self.down, self.up = End(acceptor), End(dialler)  # as seen by predecessor and successor
        self.rate = rate
        self.mangle: Callable[[Chunk], Chunk] | None = None
        self._free_at = {id(self.down): 0.0, id(self.up): 0.0}
        self._is_silent = False
        dialler.connections.add(self)
        acceptor.connections.add(self)

    def peer(self, end: End) -> End:
        return self.up if end is self.down else self.down

    def has_room(self, end: End) -> bool:
        return end.on_way < BUFFER

    def send(self, end: End, frame: Frame) -> None:
        """``end`` sends; it must have room."""
        size = 64
        if isinstance(frame, Chunk):
            size += frame.header.payload_length
            if self.mangle is not None and end is self.down:
                frame = self.mangle(frame)
        end.on_way += 1
        start = max(self.world.now, self._free_at[id(end)])
        self._free_at[id(end)] = start + size / self.rate
        self.world.at(start + size / self.rate + LATENCY, self._arrive, end, frame)

    def take(self, end: End) -> Frame:
        """``end`` reads the next frame."""
        frame = end.inbox.popleft()
        sender = self.peer(end)
        sender.on_way -= 1
        if sender.on_way == BUFFER - 1 and not sender.is_closed:
            sender.host.after(LATENCY, sender.on_news)
        return frame

    def close(self, end: End) -> None:
        """``end`` closes: the other side learns it after what is on its way."""
        if not end.is_closed:
            end.is_closed = True
            self._forget(end)
            self.world.at(
                max(self.world.now, self._free_at[id(end)]) + LATENCY, self._end, self.peer(end), "closed"
            )

    def reset(self) -> None:
        """Broken, for both sides."""
        for end in (self.down, self.up):
            self.world.at(self.world.now + LATENCY, self._end, end, "connection reset by peer")

    def fall_silent(self) -> None:
        """Nothing arrives any more."""
        self._is_silent = True

    def _arrive(self, sender: End, frame: Frame) -> None:
        end = self.peer(sender)
        if self._is_silent or end.is_closed:
            return
        end.inbox.append(frame)
        end.heard = self.world.now
        end.host.after(0.0, end.on_news)

    def _end(self, end: End, words: str) -> None:
        if self._is_silent or end.is_closed:
            return
        end.is_closed, end.words = True, words
        self._forget(end)
        end.host.after(0.0, end.on_news)

    def _forget(self, end: End) -> None:
        end.host.connections.discard(self)


def flip_bit(chunk: Chunk, chance: random.Random) -> Chunk:
    """One bit of the payload, or of the digest of a chunk that has none."""
    if len(chunk.payload):
        damaged = bytearray(chunk.payload)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        return Chunk(chunk.header, memoryview(bytes(damaged)))
    header = chunk.header
    digest = bytearray(header.digest)
    digest[chance.randrange(len(digest))] ^= 1 << chance.randrange(8)
    return Chunk(
        ChunkHeader(header.index, header.encoding, header.raw_length, bytes(digest), header.payload_length),
        chunk.payload,
    )
