"""Partition tables as values: read from what ``sfdisk --json`` says, written as a script for sfdisk.

DOS tables with extended and logical partitions, hidden (0x1x) types and active flags; GPT with names, attributes
and identifiers. Numbers stay what they are, gaps among them too: boot loaders and fstab files know partitions by
them.
Starts and sizes are in sectors of `PartitionTable.sector` bytes; everything else that is said of sizes is in bytes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from bootd.wire.errors import PeerProtocolError

MAX_TEXT = 1 << 20  # bytes of JSON
MAX_ENTRIES = 1024
MAX_DOS_SECTORS = (1 << 32) - 1  # a start or a size of a DOS table has 32 bits
ALIGNMENT = 1 << 20  # bytes: where a partition that grows may end
GPT_BACKUP = 33  # sectors of 512 at the end: 128 entries and a header (UEFI 2.10, 5.3.1)
EXTENDED = frozenset({"5", "f", "85"})
_NUMBER = re.compile(r"(\d{1,4})\Z")
_GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")
_DOS_ID = re.compile(r"0x[0-9a-fA-F]{1,8}\Z")
_DOS_TYPE = re.compile(r"[0-9a-fA-F]{1,2}\Z")
_ATTRIBUTES = re.compile(r"[A-Za-z0-9:, ]*\Z")


@dataclass(frozen=True)
class Entry:
    """One partition. ``type``: hexadecimal of a DOS table ("83", "17"), a GUID of a GPT."""

    number: int
    start: int
    size: int
    type: str
    uuid: str = ""  # GPT only
    name: str = ""  # GPT only
    attributes: str = ""  # GPT only, as sfdisk writes them: "RequiredPartition GUID:63"
    active: bool = False  # DOS only

    @property
    def end(self) -> int:
        """The sector after the last one."""
        return self.start + self.size

    @property
    def is_extended(self) -> bool:
        return self.type.lower() in EXTENDED


@dataclass(frozen=True)
class PartitionTable:
    """``label``: "dos" or "gpt". ``id``: "0x1234abcd", or a GUID."""

    label: str
    id: str
    sector: int
    entries: tuple[Entry, ...]
    first: int = 0  # first and last usable sector of a GPT; 0 = as sfdisk likes
    last: int = 0
    length: int = 0  # entries that a GPT has room for; 0 = 128

    def entry(self, number: int) -> Entry | None:
        return next((entry for entry in self.entries if entry.number == number), None)

    @property
    def least(self) -> int:
        """Bytes that a disk must have for it."""
        end = max((entry.end for entry in self.entries), default=0) * self.sector
        return end + (self._backup * self.sector if self.label == "gpt" else 0)

    @property
    def contents(self) -> tuple[Entry, ...]:
        """The partitions that hold something of their own, in the order of their numbers: no containers."""
        return tuple(
            entry
            for entry in sorted(self.entries, key=lambda entry: entry.number)
            if self.label != "dos" or not entry.is_extended
        )

    @property
    def _backup(self) -> int:
        """Sectors at the end of the disk that a GPT keeps for its second copy."""
        entries = max(self.length or 128, 128) * 128
        return 1 + -(-entries // self.sector)

    def script(self) -> str:
        """What sfdisk makes this table of, on a disk of whatever size that is large enough."""
        lines = [f"label: {self.label}", f"label-id: {self.id}", "unit: sectors"]
        if self.label == "gpt":
            lines += [f"first-lba: {self.first}"] if self.first else []
            lines += [f"table-length: {self.length}"] if self.length else []
        lines.append("")
        lines += [_line(entry) for entry in self.entries]
        return "\n".join(lines) + "\n"

    def same_as(self, other: "PartitionTable") -> bool:
        """Whether both are one table; the usable end of a GPT follows the disk and is not compared."""
        return replace(self, first=0, last=0) == replace(other, first=0, last=0)


def parse(text: str | bytes) -> PartitionTable:
    """The table in the output of ``sfdisk --json``; `PeerProtocolError` says what does not fit."""
    if len(text) > MAX_TEXT:
        raise PeerProtocolError(f"partition table of {len(text)} bytes of JSON, at most {MAX_TEXT} allowed")
    words = text if isinstance(text, str) else text.decode("utf-8", "replace")
    try:
        value = json.loads(words[max(0, words.find("{")) :])  # it may remark on an empty logical partition first
    except (ValueError, RecursionError) as error:
        raise PeerProtocolError(f"partition table: {error}") from None
    table = value.get("partitiontable") if isinstance(value, dict) else None
    if not isinstance(table, dict):
        raise PeerProtocolError("partition table: no object `partitiontable`")
    return of_object(table)


def of_object(table: Mapping[str, Any]) -> PartitionTable:
    """The table that the object ``partitiontable`` of ``sfdisk --json`` describes. Errors as `parse`."""
    label = table.get("label")
    if label not in ("dos", "gpt"):
        raise PeerProtocolError(f"partition table of kind {str(label)[:20]!r}: only dos and gpt are known")
    if table.get("unit", "sectors") != "sectors":
        raise PeerProtocolError("partition table: its unit is not sectors")
    identifier = str(table.get("id", ""))
    if not (_DOS_ID if label == "dos" else _GUID).match(identifier):
        raise PeerProtocolError(f"partition table: {identifier[:50]!r} is no identifier of a {label} table")
    found = table.get("partitions", [])
    if not isinstance(found, list) or len(found) > MAX_ENTRIES:
        raise PeerProtocolError(f"partition table: its partitions are no list of at most {MAX_ENTRIES}")
    made = PartitionTable(
        label=label,
        id=identifier,
        sector=_integer(table, "sectorsize", 512),
        entries=tuple(_entry(one, label, str(table.get("device", ""))) for one in found),
        first=_integer(table, "firstlba", 0),
        last=_integer(table, "lastlba", 0),
        length=_integer(table, "table-length", 0),
    )
    _check(made)
    return made


def as_object(table: PartitionTable) -> dict[str, Any]:
    """``table`` as the object that `of_object` reads."""
    partitions = []
    for entry in table.entries:
        value: dict[str, Any] = {"node": str(entry.number), "start": entry.start, "size": entry.size}
        value["type"] = entry.type
        for key, text in (("uuid", entry.uuid), ("name", entry.name), ("attrs", entry.attributes)):
            if text:
                value[key] = text
        if entry.active:
            value["bootable"] = True
        partitions.append(value)
    made = {"label": table.label, "id": table.id, "sectorsize": table.sector, "partitions": partitions}
    more = {"firstlba": table.first, "lastlba": table.last, "table-length": table.length}
    return {**made, **{key: number for key, number in more.items() if number}}


def grown(table: PartitionTable, size: int) -> tuple[PartitionTable, Entry]:
    """``table`` with its last partition as large as a disk of ``size`` bytes allows, and that partition.

    A logical partition grows with the extended one around it. `LookupError` says why nothing can grow; a table that
    fills the disk already comes back as it is.
    """
    if not table.contents:
        raise LookupError("there is no partition")
    last = max(table.contents, key=lambda entry: entry.end)
    around = next((entry for entry in table.entries if _contains(table, entry, last)), None)
    sectors = size // table.sector
    end = sectors - (table._backup if table.label == "gpt" else 0)
    unit = max(1, ALIGNMENT // table.sector)
    end -= end % unit
    if table.label == "dos":
        outer = around or last
        end = min(end, outer.start + MAX_DOS_SECTORS)
    if end <= last.end:
        return table, last
    larger = replace(last, size=end - last.start)
    changed = {last.number: larger}
    if around is not None and around.end < end:
        changed[around.number] = replace(around, size=end - around.start)
    entries = tuple(changed.get(entry.number, entry) for entry in table.entries)
    return replace(table, entries=entries, last=0), larger


def _contains(table: PartitionTable, outer: Entry, inner: Entry) -> bool:
    is_container = table.label == "dos" and outer.is_extended
    return is_container and outer.start < inner.start and inner.end <= outer.end


def _entry(value: Any, label: str, device: str) -> Entry:
    if not isinstance(value, dict):
        raise PeerProtocolError("partition table: a partition is no object")
    node = str(value.get("node", ""))
    number = _NUMBER.search(node.removeprefix(device) if device and node != device else node)
    if number is None:
        raise PeerProtocolError(f"partition table: {node[:80]!r} has no number")
    kind, name = str(value.get("type", "")), str(value.get("name", ""))
    if not (_DOS_TYPE if label == "dos" else _GUID).match(kind):
        raise PeerProtocolError(f"partition table: {kind[:50]!r} is no type of a {label} table")
    uuid, attributes = str(value.get("uuid", "")), str(value.get("attrs", ""))
    if label == "gpt" and not _GUID.match(uuid):
        raise PeerProtocolError(f"partition table: {uuid[:50]!r} is no GUID")
    if len(name) > 36 or any(ord(character) < 32 for character in name):
        raise PeerProtocolError("partition table: a name is longer than 36 characters, or none of text")
    if not _ATTRIBUTES.match(attributes) or len(attributes) > 500:
        raise PeerProtocolError(f"partition table: {attributes[:50]!r} are no attributes")
    return Entry(
        number=int(number[1]),
        start=_integer(value, "start"),
        size=_integer(value, "size"),
        type=kind,
        uuid=uuid if label == "gpt" else "",
        name=name if label == "gpt" else "",
        attributes=attributes if label == "gpt" else "",
        active=value.get("bootable") is True and label == "dos",
    )


def _check(table: PartitionTable) -> None:
    """Every partition has a place of its own, and logical ones lie in the extended one."""
    if table.sector not in (512, 1024, 2048, 4096):
        raise PeerProtocolError(f"partition table: sectors of {table.sector} bytes")
    numbers = [entry.number for entry in table.entries]
    if len(set(numbers)) != len(numbers) or 0 in numbers:
        raise PeerProtocolError("partition table: a number stands twice, or is 0")
    if any(entry.start == 0 or entry.size == 0 for entry in table.entries):
        raise PeerProtocolError("partition table: a partition is empty, or begins at the table itself")
    places = sorted((entry.start, entry.end, entry.number) for entry in table.contents)
    for before, after in pairwise(places):
        if after[0] < before[1]:
            raise PeerProtocolError(f"partition table: partitions {before[2]} and {after[2]} overlap")
    if table.label != "dos":
        return
    for entry in table.entries:
        if entry.number > 4 and not any(_contains(table, outer, entry) for outer in table.entries):
            raise PeerProtocolError(f"partition table: partition {entry.number} lies in no extended one")


def _integer(value: Mapping[str, Any], key: str, default: int | None = None) -> int:
    number = value.get(key, default)
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 20:
        number = int(number)  # sfdisk writes table-length so
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 63:
        raise PeerProtocolError(f"partition table: {key} is no number")
    return number


def _line(entry: Entry) -> str:
    words = [f"{entry.number} : start={entry.start}", f"size={entry.size}", f"type={entry.type}"]
    if entry.uuid:
        words.append(f"uuid={entry.uuid}")
    if entry.name:
        words.append(f"name={_quoted(entry.name)}")
    if entry.attributes:
        words.append(f'attrs="{entry.attributes}"')
    if entry.active:
        words.append("bootable")
    return ", ".join(words)


def _quoted(name: str) -> str:
    """As sfdisk writes a name: what would end it early is escaped by its code."""
    return '"' + "".join(f"\\x{ord(one):02x}" if one in '"\\' else one for one in name) + '"'
