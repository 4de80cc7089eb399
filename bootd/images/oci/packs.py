"""Chunks on their way through a registry: many in one blob.

A pack is the stored form of chunks (`bootd.wire.stored`), one after the other, nothing between them. The index of
an image says what is in each pack that it needs. A pack never changes; a later image names the packs of earlier
ones and adds packs of what is new, so only that travels. Why packs: docs/decisions/0009-packs-of-chunks.md.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from bootd.images.oci.artefact import Descriptor, wrong
from bootd.wire.manifest import MAX_CHUNK_SIZE

FORMAT = 1
PACK_BYTES = 32 << 20  # a new pack is closed when it has so many, or more
MAX_PACK = 1 << 30
WHOLE_SHARE = 0.5  # of a pack: if more of it is wanted it is fetched whole, and its own digest is checked too
GAP_BYTES = 256 << 10  # what is wanted on both sides of a smaller gap comes in one request

_PACK = re.compile(r"sha256:[a-f0-9]{64}")
_CHUNK = re.compile(r"[a-f0-9]{64}")


class PackedChunk(msgspec.Struct, frozen=True, array_like=True):
    """``digest``: BLAKE3-256 of the raw bytes in hexadecimal; ``length``: bytes in the pack."""

    digest: str
    length: int


class Pack(msgspec.Struct, frozen=True):
    """``digest`` as ``sha256:HEX``; chunks in the order in which they lie in it."""

    digest: str
    size: int
    chunks: tuple[PackedChunk, ...]


class PackIndex(msgspec.Struct, frozen=True):
    """The packs of one image, in the order of the artefact's layers."""

    format: int
    packs: tuple[Pack, ...]


@dataclass(frozen=True)
class Piece:
    """Bytes ``start`` to ``stop`` of a pack, and the chunks that lie there; not all of them may be wanted."""

    start: int
    stop: int
    chunks: tuple[PackedChunk, ...]


@dataclass(frozen=True)
class PackFetch:
    """What is to be fetched of a pack: all of it if ``whole``."""

    pack: Pack
    pieces: tuple[Piece, ...]
    whole: bool

    @property
    def size(self) -> int:
        """Bytes that travel."""
        return sum(piece.stop - piece.start for piece in self.pieces)


def encode_index(packs: Sequence[Pack]) -> bytes:
    """The index blob."""
    return msgspec.json.encode(PackIndex(FORMAT, tuple(packs)))


def parse_index(data: bytes, layers: Sequence[Descriptor], where: str) -> PackIndex:
    """The index blob of an artefact with the packs ``layers``; `ImageError` when they do not agree."""
    try:
        index = msgspec.json.decode(data, type=PackIndex)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise wrong(where, f"its index cannot be read: {error}") from None
    if index.format != FORMAT:
        raise wrong(where, f"its index has format {index.format}, this bootd knows {FORMAT}")
    if [(pack.digest, pack.size) for pack in index.packs] != [(layer.digest, layer.size) for layer in layers]:
        raise wrong(where, "its index and its manifest name different packs")
    for pack in index.packs:
        if not _PACK.fullmatch(pack.digest) or pack.size > MAX_PACK:
            raise wrong(where, f"its index names a pack {pack.digest[:80]!r} of {pack.size} bytes")
        for chunk in pack.chunks:
            if not _CHUNK.fullmatch(chunk.digest) or not 0 < chunk.length <= MAX_CHUNK_SIZE:
                raise wrong(where, f"its index names a chunk {chunk.digest[:80]!r} of {chunk.length} bytes")
        if sum(chunk.length for chunk in pack.chunks) != pack.size:
            raise wrong(where, f"the chunks of pack {pack.digest} do not add up to its {pack.size} bytes")
    return index


def choose_packs(needed: Iterable[str], known: Iterable[Pack]) -> tuple[list[Pack], list[str]]:
    """Packs of ``known`` to use, and the chunks that none of them holds, in the order of ``needed``, each once.

    A chunk in several packs is taken from the first.
    """
    holders: dict[str, Pack] = {}
    for pack in known:
        for chunk in pack.chunks:
            holders.setdefault(chunk.digest, pack)
    used: dict[str, Pack] = {}
    missing: dict[str, None] = {}
    for digest in needed:
        pack_of = holders.get(digest)
        if pack_of is None:
            missing[digest] = None
        else:
            used[pack_of.digest] = pack_of
    return list(used.values()), list(missing)


def plan_fetch(wanted: Collection[str], packs: Iterable[Pack]) -> tuple[list[PackFetch], set[str]]:
    """How to get the chunks ``wanted``, each from the first pack that has it; and those that are in no pack."""
    left = set(wanted)
    fetches = []
    for pack in packs:
        pieces = tuple(_pieces(pack, left))
        left -= {chunk.digest for chunk in pack.chunks}
        if not pieces:
            continue
        if sum(piece.stop - piece.start for piece in pieces) > pack.size * WHOLE_SHARE:
            fetches.append(PackFetch(pack, (Piece(0, pack.size, pack.chunks),), whole=True))
        else:
            fetches.append(PackFetch(pack, pieces, whole=False))
    return fetches, left


def _pieces(pack: Pack, wanted: Collection[str]) -> Iterator[Piece]:
    start = stop = position = 0
    inside: list[PackedChunk] = []
    gap: list[PackedChunk] = []
    for chunk in pack.chunks:
        end = position + chunk.length
        if chunk.digest not in wanted:
            gap.append(chunk)
        elif inside and position - stop <= GAP_BYTES:
            inside += [*gap, chunk]
            stop, gap = end, []
        else:
            if inside:
                yield Piece(start, stop, tuple(inside))
            start, stop, inside, gap = position, end, [chunk], []
        position = end
    if inside:
        yield Piece(start, stop, tuple(inside))
