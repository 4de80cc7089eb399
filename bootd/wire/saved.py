"""What a node sends to the server before its first write: the old partition table, and both ends of the target.

Encoded: one line of JSON (`_Header`), then the bytes of the regions one after the other. The regions are what the
table digest of a plan is made of, so whoever has them can say whether they are those of the disk that was planned.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from bootd.wire import headed
from bootd.wire.errors import PeerProtocolError

TABLE_REGION = 1 << 20  # bytes at either end of the disk
MAX_SAVED = 4 << 20  # bytes of one encoded table
MAX_DUMP = 256 << 10  # characters of the output of sfdisk
MAX_NAME = 256
_VERSION = 1


@dataclass(frozen=True)
class SavedTable:
    """The two ends of one disk. ``content``: the bytes of `table_regions` of ``size``, joined."""

    session: str
    name: str  # kernel name, "sda"
    serial: str
    wwn: str
    size: int  # bytes of the disk
    sector: int  # bytes
    dump: str  # what ``sfdisk --dump`` said; "" = no table that it knows
    content: bytes

    @property
    def digest(self) -> str:
        """The table digest, as in `bootd.wire.control.Disk`."""
        return table_digest(self.size, [self.content])


def table_regions(size: int) -> list[tuple[int, int]]:
    """Offset and length of what the table digest covers: the whole of a disk below 2 MiB."""
    if size <= 2 * TABLE_REGION:
        return [(0, size)]
    return [(0, TABLE_REGION), (size - TABLE_REGION, TABLE_REGION)]


def table_digest(size: int, parts: Iterable[bytes]) -> str:
    """SHA-256 over the size of a disk and the bytes of its `table_regions`, hex."""
    digest = hashlib.sha256(b"bootd table 1")
    digest.update(size.to_bytes(8, "big"))
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def encode(table: SavedTable) -> bytes:
    """``table`` as it is sent and kept."""
    header = {
        "version": _VERSION,
        "session": table.session,
        "name": table.name,
        "serial": table.serial,
        "wwn": table.wwn,
        "size": table.size,
        "sector": table.sector,
        "dump": table.dump,
    }
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + table.content


def decode(data: bytes) -> SavedTable:
    """The table in ``data``; `PeerProtocolError` says what does not fit."""
    value, content = headed.split(data, "saved table", version=_VERSION, limit=MAX_SAVED)
    table = SavedTable(
        session=_text(value, "session", MAX_NAME),
        name=_text(value, "name", MAX_NAME),
        serial=_text(value, "serial", MAX_NAME),
        wwn=_text(value, "wwn", MAX_NAME),
        size=_number(value, "size"),
        sector=_number(value, "sector"),
        dump=_text(value, "dump", MAX_DUMP),
        content=content,
    )
    expected = sum(length for _, length in table_regions(table.size))
    if len(content) != expected:
        raise PeerProtocolError(f"saved table: {len(content)} bytes of a disk that has {expected} at its ends")
    return table


def _text(value: dict[str, object], key: str, limit: int) -> str:
    text = value.get(key)
    if not isinstance(text, str) or len(text) > limit:
        raise PeerProtocolError(f"saved table: {key} is no text of at most {limit} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PeerProtocolError(f"saved table: {key}: half a surrogate pair is no text") from None
    return text


def _number(value: dict[str, object], key: str) -> int:
    number = value.get(key)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 1 << 63:
        raise PeerProtocolError(f"saved table: {key} is no positive number")
    return number
