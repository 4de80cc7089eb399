"""The last subject of the fuzz, a whole ring member, and the list of all.

Its predecessor knows the token and lies: damaged chunks, chunks of other places, frames left out or repeated.
"""

from collections.abc import Callable
from random import Random

from bootd.wire import control, frames
from bootd.wire.control import Address, Arrange, MemberState
from bootd.wire.digest import Compressor, Decompressor, digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, Decoder, Encoding
from bootd.wire.ring.ledger import Level
from bootd.wire.ring.member import Limits, RingMember
from bootd.wire.ring.upstream import Dial, Done, Send, Take
from tests.property.wire_mutants import mutate
from tests.property.wire_subjects import (
    CHUNK,
    COUNT,
    DOWN,
    DOWN_DONORS,
    EPOCH,
    IMAGE,
    MEMBER,
    NONCES,
    SESSION,
    TOKEN,
    accepted_link,
    control_messages,
    dialled_link,
    expect,
    frame_stream,
    manifests,
    schemes,
    tree_orders,
)

RAW = [index.to_bytes(4, "big") * (CHUNK // 4) for index in range(COUNT)]
ROUNDS = 6  # answers to a WANT; three bad copies of one chunk end the link before
_DECOMPRESSOR = Decompressor()


def _chunks(index: int) -> tuple[bytes, bytes]:
    """Both ways to say chunk ``index``."""
    packed = Compressor().compress(RAW[index])
    said = []
    for encoding, payload in ((Encoding.RAW, RAW[index]), (Encoding.ZSTD, packed)):
        header = ChunkHeader(index, encoding, CHUNK, digest(RAW[index]), len(payload))
        said.append(frames.encode_chunk_header(header) + payload)
    return said[0], said[1]


CHUNKS = [_chunks(index) for index in range(COUNT)]


class _Victim:
    """A member as its driver treats it, without threads: what it keeps is what the image has, and nothing else."""

    def __init__(self) -> None:
        self.core = RingMember(
            node=MEMBER, session=SESSION, token=TOKEN, manifest=IMAGE, capacity=COUNT, limits=Limits()
        )
        self.core.arrange(Arrange(SESSION, EPOCH, Address("10.0.0.8", 4711), "head"))
        self.decoder = Decoder(max_chunk=CHUNK, allocate=self._allocate)
        self.is_reserved = False
        step = self.core.next_dial(0.0)
        if isinstance(step, Dial):
            self.place = step.place
            self.core.upstream.connect(step.place, NONCES[1])

    def hear(self, data: bytes) -> list[bytes]:
        """What it says to ``data``."""
        said: list[bytes] = []
        rest = memoryview(data)
        while rest:  # frame by frame, as a driver does: what one means decides whether the next is due
            buffer = self.decoder.buffer()
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            rest = rest[count:]
            frame = self.decoder.advance(count)
            if frame is None:
                continue
            match self.core.receive(frame):
                case Send(answer):
                    said.append(answer)
                case Take(chunk):
                    self._take(chunk)
                case Done():
                    expect(not self.core.ledger.is_lacking, "done with chunks lacking")
        return said

    def _allocate(self, header: ChunkHeader) -> memoryview:
        self.core.upstream.check_chunk(header)
        expect(self.core.reserve(0.0), "a window as large as the image is full")
        self.is_reserved = True
        return memoryview(bytearray(header.payload_length))

    def _take(self, chunk: Chunk) -> None:
        index = chunk.header.index
        found, raw = _open(chunk)
        self.is_reserved = False
        is_kept = self.core.accept(chunk, raw, found, None)
        expect(is_kept == (raw == RAW[index] and chunk.header.digest == digest(raw)), "kept, or not, wrongly")
        entry = self.core.window.take_unwritten()
        expect((entry is not None) == is_kept, "the writer has something else to do")
        if entry is not None:
            self.core.wrote(entry, 0.0)


def _open(chunk: Chunk) -> tuple[bytes, bytes]:
    """Digest and raw bytes, as the driver finds them."""
    match chunk.header.encoding:
        case Encoding.ZERO:
            raw = bytes(chunk.header.raw_length)
        case Encoding.RAW:
            raw = bytes(chunk.payload)
        case _:
            try:
                raw = _DECOMPRESSOR.decompress(bytes(chunk.payload), chunk.header.raw_length)
            except PeerProtocolError:
                return b"", b""
    return digest(raw), raw


def ring_member(random: Random) -> bool:
    """A predecessor that lies now and then: True when the member has the image all the same."""
    victim = _Victim()
    words = "closed the connection"
    try:
        victim.hear(DOWN[0])
        wants = victim.hear(DOWN[1])
        for _ in range(ROUNDS):
            if not wants:
                break
            (want,) = Decoder().feed(wants[0])
            wants = [] if not isinstance(want, frames.Want) else victim.hear(_answer(random, want))
    except PeerProtocolError as error:
        words = str(error)
    if victim.is_reserved:
        victim.core.window.unreserve()
    victim.core.break_off(victim.place, words, 0.0)
    held = [index for index in range(COUNT) if victim.core.ledger.level(index) >= Level.WRITTEN]
    report = victim.core.snapshot(4711, 0.0)
    expect(report.written == len(held) * CHUNK, "the books do not agree")
    expect(report.state in (MemberState.READY, MemberState.RECEIVING), "a neighbour can fail a member")
    expect(control.decode(control.encode(report)) == report, "a report that cannot be told")
    return len(held) == COUNT


def _answer(random: Random, want: frames.Want) -> bytes:
    """The chunks and END, with something wrong in half of all answers."""
    said = [
        random.choice(CHUNKS[index]) for item in want.ranges for index in range(item.first, item.first + item.count)
    ]
    said.append(frames.encode(frames.End()))
    at = random.randrange(len(said))
    match random.randrange(8):
        case 0:
            said[at] = mutate(random, said[at], random.choice(DOWN_DONORS))
        case 1:
            body = bytearray(said[at])
            body[-1 - random.randrange(min(len(body), CHUNK))] ^= 1 << random.randrange(8)
            said[at] = bytes(body)
        case 2:
            said[at] = random.choice(random.choice(CHUNKS))
        case 3:
            del said[at]
        case _:
            pass
    return b"".join(said)


Subject = Callable[[Random], bool]
# Subject and its share of the cases, in eightieths.
SUBJECTS: tuple[tuple[Subject, int], ...] = (
    (frame_stream, 32),
    (dialled_link, 7),
    (accepted_link, 8),
    (manifests, 9),
    (control_messages, 21),
    (schemes, 2),
    (tree_orders, 2),
    (ring_member, 1),
)
