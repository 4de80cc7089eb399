"""What a node tells of a disk or partition before its bytes: sizes, partition table, file systems, ranges in use.

Encoded: one line of JSON, then the ranges, each as two big-endian numbers of 64 bits (offset, length). The digests
of the chunks follow in requests of their own: `DIGEST_SIZE` bytes each, in order, all zeros for a chunk of zeros.
"""

import json
import struct
from dataclasses import dataclass
from typing import Any

from bootd.wire.digest import DIGEST_SIZE
from bootd.wire.errors import PeerProtocolError
from bootd.wire.tree import decode_tree
from bootd.wire.used import MAX_RANGES, Range

CHUNK = 1 << 20  # bytes; the last chunk may be shorter
ASKED = 1024  # chunks of one question, at most
MAX_HEADER = 1 << 20  # bytes
MAX_DESCRIPTION = MAX_HEADER + MAX_RANGES * 16
MAX_SIZE = 1 << 44  # bytes: 16 TiB
MAX_WORD = 255  # characters
MAX_FILESYSTEMS = 4096
ZEROS = bytes(DIGEST_SIZE)  # stands for a chunk of zeros
_SECTORS = (512, 1024, 2048, 4096)
_RANGE = struct.Struct(">QQ")


@dataclass(frozen=True)
class Volume:
    """A file system, as blkid names it. ``start`` and ``size`` in bytes from the begin of the source."""

    start: int
    size: int
    type: str
    label: str
    uuid: str


@dataclass(frozen=True)
class Description:
    """A source. ``ranges``: what is in use, rising; all else is to read as zeros."""

    kind: str  # "disk" or "partition"
    size: int  # bytes
    sector: int  # bytes
    table: dict[str, Any] | None  # "partitiontable" of sfdisk --json
    volumes: tuple[Volume, ...]
    ranges: tuple[Range, ...]
    tree: dict[str, Any] | None = None  # of files (`bootd.wire.tree`), whose archive has no size before its end

    @property
    def chunks(self) -> int:
        """How many chunks it has; of files: may have."""
        return -(-self.size // CHUNK) if self.tree is None else MAX_SIZE // CHUNK


def encode(description: Description) -> bytes:
    """``description`` as it is sent."""
    header = {
        "kind": description.kind,
        "size": description.size,
        "sector": description.sector,
        "table": description.table,
        "volumes": [vars(volume) for volume in description.volumes],
        "ranges": len(description.ranges),
    }
    if description.tree is not None:
        header["tree"] = description.tree
    line = json.dumps(header, separators=(",", ":")).encode()
    return b"\n".join([line, b"".join(_RANGE.pack(*part) for part in description.ranges)])


def decode(data: bytes) -> Description:
    """The description in ``data``; `PeerProtocolError` says what does not fit."""
    line, separator, rest = data.partition(b"\n")
    if len(line) > MAX_HEADER or len(data) > MAX_DESCRIPTION + 1:
        raise PeerProtocolError(f"description of {len(data)} bytes")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PeerProtocolError(f"description: {error}") from None
    if not separator or not isinstance(value, dict):
        raise PeerProtocolError("description: its first line is no header")
    kind, table = value.get("kind"), value.get("table")
    if kind not in ("disk", "partition", "files"):
        raise PeerProtocolError("description: of neither a disk, a partition nor files")
    tree = value.get("tree")
    if (kind == "files") is (tree is None):
        raise PeerProtocolError("description: files have a tree, and nothing else has")
    if tree is not None:
        decode_tree(tree)
    if table is not None and not isinstance(table, dict):
        raise PeerProtocolError("description: a partition table that is none")
    size, sector, count = (_number(value, key) for key in ("size", "sector", "ranges"))
    least, most = (0, 0) if kind == "files" else (1, MAX_SIZE)
    if not least <= size <= most or sector not in _SECTORS:
        raise PeerProtocolError(f"description: {size} bytes in sectors of {sector}")
    if count > MAX_RANGES or len(rest) != count * _RANGE.size:
        raise PeerProtocolError(f"description: {count} ranges in {len(rest)} bytes")
    volumes = value.get("volumes")
    if not isinstance(volumes, list) or len(volumes) > MAX_FILESYSTEMS:
        raise PeerProtocolError("description: no list of file systems")
    return Description(
        kind=kind,
        size=size,
        sector=sector,
        table=table,
        volumes=tuple(_volume(item, size) for item in volumes),
        ranges=_ranges(rest, size),
        tree=tree,
    )


def _ranges(data: bytes, size: int) -> tuple[Range, ...]:
    end = 0
    found = []
    for offset, length in _RANGE.iter_unpack(data):
        if length < 1 or offset < end or offset + length > size:
            raise PeerProtocolError(f"description: range {offset} {length} overlaps, is empty or ends outside")
        end = offset + length
        found.append((offset, length))
    return tuple(found)


def _volume(value: Any, size: int) -> Volume:
    if not isinstance(value, dict):
        raise PeerProtocolError("description: a file system that is none")
    words = [value.get(key) for key in ("type", "label", "uuid")]
    for word in words:
        if not isinstance(word, str) or len(word) > MAX_WORD or not word.isprintable():
            raise PeerProtocolError("description: a file system with words that are none")
    start, length = _number(value, "start"), _number(value, "size")
    if start + length > size:
        raise PeerProtocolError("description: a file system that ends outside")
    return Volume(start, length, *words)  # type: ignore[arg-type] # all of them str


def _number(value: dict[str, Any], key: str) -> int:
    number = value.get(key)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise PeerProtocolError(f"description: {key} is no number")
    return number


def encode_answer(missing: list[int]) -> bytes:
    """Answer to a question: which of its chunks, counted from its first, the server wants to have."""
    return json.dumps({"missing": missing}, separators=(",", ":")).encode()


def decode_answer(data: bytes, asked: int) -> list[int]:
    """The opposite; `PeerProtocolError` for one that is not about ``asked`` chunks."""
    try:
        value = json.loads(data)
        missing = value["missing"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise PeerProtocolError("no answer to which chunks are missing") from None
    if not isinstance(missing, list) or not all(type(item) is int and 0 <= item < asked for item in missing):
        raise PeerProtocolError(f"an answer that is not about the {asked} chunks that were asked for")
    return sorted(set(missing))
