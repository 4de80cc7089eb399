"""A layout: the partition table that a disk gets before its partitions, with the boot code before them.

Encoded: one line of JSON (the object ``partitiontable`` of sfdisk, and nothing else), then the first bytes of the
disk that the layout was taken from, up to its first partition: the boot sector, and the gap where boot loaders put
their second stage. No bytes there: the boot code of the disk goes, too.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bootd.wire import headed
from bootd.wire.errors import PeerProtocolError
from bootd.wire.table import PartitionTable, of_object

MAX_GAP = 1 << 20  # bytes before the first partition that are kept
MAX_LAYOUT = MAX_GAP + (1 << 20)  # bytes, encoded
BOOT_CODE = 440  # bytes at the beginning of the boot sector that are no table (UEFI 2.10, 5.2.1)
_VERSION = 1


@dataclass(frozen=True)
class Layout:
    """``start``: the first bytes of the disk, b"" for none."""

    table: PartitionTable
    start: bytes

    @property
    def gap(self) -> tuple[int, int]:
        """First byte and end of what lies between table and first partition, as far as it is kept."""
        table = self.table
        begin = 512
        if table.label == "gpt":
            begin = 2 * table.sector + max(table.length or 128, 128) * 128
        return begin, max(begin, min(gap_end(table), len(self.start)))


def gap_end(table: PartitionTable) -> int:
    """Where the first partition begins, in bytes, but no more than `MAX_GAP`."""
    first = min((entry.start for entry in table.entries), default=0) * table.sector
    return min(first, MAX_GAP) if first else MAX_GAP


def encode(table: Mapping[str, Any], start: bytes) -> bytes:
    """``table``: the object of ``sfdisk --json``; the same input gives the same bytes."""
    header = {"version": _VERSION, "table": dict(table)}
    return json.dumps(header, separators=(",", ":"), sort_keys=True).encode() + b"\n" + start


def digest(data: bytes) -> str:
    """What a plan is bound to, hex."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> Layout:
    """The layout in ``data``; `PeerProtocolError` says what does not fit."""
    value, start = headed.split(data, "layout", version=_VERSION, limit=MAX_LAYOUT)
    if not isinstance(value.get("table"), dict):
        raise PeerProtocolError("layout: it has no table")
    table = of_object(value["table"])
    if len(start) > gap_end(table):
        raise PeerProtocolError(f"layout: {len(start)} bytes do not fit before the first partition")
    return Layout(table, start)
