"""Marks: what a chunk of a disk is known by without being read, so that its digest can be taken over.

A mark is a digest over the pieces of the chunk that files have, each by the identity of its file (inode, times with
nanoseconds, version) and its place in it, and over the bytes of everything else that is in use there: directories,
tables of inodes, trees of extents, symbolic links, what nobody owns. These bytes are read. A chunk of which too
much would have to be read has no mark, and neither has one of which two files say that it is theirs.

On its way to the server: a line of JSON, then `MARK_SIZE` bytes for each chunk, zeros for one without. The answer:
a byte for each chunk that was asked for, 1 where its digest is known, then these digests.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bootd.wire import headed
from bootd.wire.captured import CHUNK
from bootd.wire.digest import DIGEST_SIZE, digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.used import Range, total

MARK_SIZE = 16
NONE = bytes(MARK_SIZE)  # no mark
MARKED = 8192  # chunks of one question, at most
MAX_SOURCE = 1024  # characters
MAX_CLOCKS = 4096
MAX_QUESTION = (1 << 20) + MARKED * MARK_SIZE
MAX_REST = 256 << 10  # bytes of a chunk that are read for its mark
MAX_RESTS = 8  # and in how many pieces: each costs a request to the disk
_VERSION = 1
_PIECE = struct.Struct(">QQQ16s")

Read = Callable[[int, int], bytes | memoryview]
"""``length`` bytes from ``offset`` of the source."""


class Marker:
    """Collects what files have of each chunk of a source. Bytes from the begin of the source."""

    def __init__(self) -> None:
        self._pieces: dict[int, bytearray] = {}

    def add(self, start: int, length: int, position: int, identity: bytes) -> None:
        """A piece from ``start``: what lies from ``position`` on in the file of ``identity`` (16 bytes)."""
        while length > 0:
            index = start // CHUNK
            part = min(length, (index + 1) * CHUNK - start)
            pieces = self._pieces.get(index)
            if pieces is None:
                pieces = self._pieces[index] = bytearray()
            pieces += _PIECE.pack(start, part, position, identity)
            start, position, length = start + part, position + part, length - part

    def take(self, other: "Marker") -> None:
        """All that ``other`` has collected."""
        for index, pieces in other._pieces.items():
            self._pieces.setdefault(index, bytearray()).extend(pieces)

    def mark(self, index: int, used: Sequence[Range], read: Read) -> bytes:
        """Of chunk ``index``, of which ``used`` is in use; `NONE` when it has none."""
        known = self._pieces.get(index)
        if known is None:
            return NONE
        pieces = sorted(bytes(known[at : at + _PIECE.size]) for at in range(0, len(known), _PIECE.size))
        owned: list[Range] = []
        end = 0
        for piece in pieces:
            start, length, _, _ = _PIECE.unpack(piece)
            if start < end:
                return NONE
            if owned and start == end:
                owned[-1] = (owned[-1][0], owned[-1][1] + length)
            else:
                owned.append((start, length))
            end = start + length
        rest = _without(used, owned)
        if total(used) != total(owned) + total(rest):
            return NONE  # a file with blocks that are not in use
        if len(rest) > MAX_RESTS or total(rest) > MAX_REST:
            return NONE
        told = [b"".join(pieces)]
        for start, length in rest:
            told += (struct.pack(">QQ", start, length), digest(read(start, length)))
        return digest(b"".join(told))[:MARK_SIZE]


def _without(ranges: Sequence[Range], owned: Sequence[Range]) -> list[Range]:
    """What of ``ranges`` is in none of ``owned``; both rising and without overlap."""
    left: list[Range] = []
    index = 0
    for start, length in ranges:
        position, end = start, start + length
        while index < len(owned) and owned[index][0] < end:
            first, last = owned[index][0], sum(owned[index])
            if first > position:
                left.append((position, first - position))
            position = max(position, last)
            if last > end:
                break  # it may reach into the next range
            index += 1
        if position < end:
            left.append((position, end - position))
    return left


@dataclass(frozen=True)
class Clock:
    """Of a file system, seconds since the epoch: when it was mounted last, and written."""

    mounted: int
    written: int


@dataclass(frozen=True)
class Question:
    """``marks`` of the chunks from ``first`` on. ``source``: which disk or partition it is, for whoever keeps them;
    ``clocks``: of its file systems, by their UUID."""

    first: int
    source: str
    clocks: dict[str, Clock]
    marks: tuple[bytes, ...]


def encode(question: Question) -> bytes:
    """``question`` as it is sent."""
    header = {
        "version": _VERSION,
        "first": question.first,
        "source": question.source,
        "clocks": {key: [clock.mounted, clock.written] for key, clock in question.clocks.items()},
    }
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + b"".join(question.marks)


def decode(data: bytes) -> Question:
    """The question in ``data``; `PeerProtocolError` says what does not fit."""
    header, content = headed.split(data, "marks", version=_VERSION, limit=MAX_QUESTION)
    first, source = header.get("first"), header.get("source")
    if type(first) is not int or first < 0:
        raise PeerProtocolError("marks: of no chunk")
    if not isinstance(source, str) or not 1 <= len(source) <= MAX_SOURCE or not source.isprintable():
        raise PeerProtocolError("marks: of no source")
    count, left = divmod(len(content), MARK_SIZE)
    if left or not 1 <= count <= MARKED:
        raise PeerProtocolError(f"marks: {len(content)} bytes of them")
    marks = tuple(content[at : at + MARK_SIZE] for at in range(0, len(content), MARK_SIZE))
    return Question(first, source, read_clocks(header.get("clocks")), marks)


def read_clocks(value: object) -> dict[str, Clock]:
    """As they are in JSON; `PeerProtocolError`."""
    if not isinstance(value, dict) or len(value) > MAX_CLOCKS:
        raise PeerProtocolError("marks: no clocks")
    clocks = {}
    for key, item in value.items():
        is_pair = isinstance(item, list) and len(item) == 2 and all(type(one) is int for one in item)
        if len(key) > 64 or not key.isprintable() or not is_pair or not all(0 <= one < 1 << 41 for one in item):
            raise PeerProtocolError("marks: a clock that is none")
        clocks[key] = Clock(*item)
    return clocks


def encode_answer(known: Sequence[bytes | None]) -> bytes:
    """Answer to a question: the digest of each chunk, None where it is not known."""
    return bytes(item is not None for item in known) + b"".join(item for item in known if item is not None)


def decode_answer(data: bytes, asked: int) -> list[bytes | None]:
    """The opposite; `PeerProtocolError` for one that is not about ``asked`` chunks."""
    flags, digests = data[:asked], data[asked:]
    if len(flags) != asked or flags.translate(None, b"\0\1") or len(digests) != sum(flags) * DIGEST_SIZE:
        raise PeerProtocolError(f"an answer that is not about the {asked} marks that were told")
    return list(_matched(flags, digests))


def _matched(flags: bytes, digests: bytes) -> Iterator[bytes | None]:
    position = 0
    for flag in flags:
        yield digests[position : position + DIGEST_SIZE] if flag else None
        position += flag * DIGEST_SIZE
