"""A chunk as an image store keeps it: the raw bytes, or one Zstandard frame that is shorter.

Nothing marks which: the length of the raw bytes is known to whoever asks for a chunk, and stored bytes as long as
that are the raw ones. So a ring's head passes them on as they are. A frame is kept only where it saves at least
`BLOCK` bytes, what file systems count in: else it would cost every reader time and save no room.
"""

from bootd.wire.digest import Buffer, Compressor, Decompressor, digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.manifest import MAX_CHUNK_SIZE

BLOCK = 4096  # bytes
IMAGE = "image:"  # begins the name of a source that is in the image store
SLICE = "slice:"  # begins the name of a source that is a piece of another: slice:START:SIZE:SOURCE
MAGIC = b"\x28\xb5\x2f\xfd"  # of a Zstandard frame, RFC 8878, section 3.1.1


def pack(raw: Buffer, compressor: Compressor) -> Buffer:
    """What is kept of ``raw``."""
    packed = compressor.compress(raw)
    return packed if len(packed) + BLOCK <= len(raw) else raw


def unpack(data: Buffer, length: int, decompressor: Decompressor) -> Buffer:
    """The ``length`` raw bytes of a stored chunk, not compared with any digest; `PeerProtocolError`."""
    if len(data) == length:
        return data
    if len(data) > length:
        raise PeerProtocolError(f"stored chunk of {len(data)} bytes, {length} were expected")
    return decompressor.decompress(data, length)


def open_stored(data: Buffer, wanted: bytes, decompressor: Decompressor) -> Buffer:
    """The raw bytes, of any length up to the largest chunk, whose digest is ``wanted``; `PeerProtocolError`."""
    if len(data) > MAX_CHUNK_SIZE:
        raise PeerProtocolError(f"stored chunk of {len(data)} bytes")
    raw = data
    if digest(raw) != wanted and bytes(data[:4]) == MAGIC:
        raw = decompressor.expand(data, MAX_CHUNK_SIZE)
    if digest(raw) != wanted:
        raise PeerProtocolError("stored chunk is not what its digest says")
    return raw


def image_source(name: str, id_: str) -> str:
    """A source as sessions, their journal and their head write it: ``image:NAME@ID``, NAME for people only."""
    return f"{IMAGE}{name}@{id_}"


def image_of(source: str) -> str:
    """The id of the image that ``source``, or the piece of one, is; "" for a file."""
    text = source
    if text.startswith(SLICE):
        text = text.split(":", 3)[3] if text.count(":") >= 3 else ""
    return text.rpartition("@")[2] if text.startswith(IMAGE) and "@" in text else ""
