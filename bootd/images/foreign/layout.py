"""What every foreign image of a disk comes down to: a table, bytes beside it, and a stream for each partition."""

import re
from dataclasses import dataclass, field
from typing import Protocol

from bootd.images.foreign.errors import ForeignError

SECTOR = 512
MAX_PARTITIONS = 256
MAX_SECTORS = 1 << 41  # 1 PiB
_SUFFIX = re.compile(r"(?:[a-z]{2,5}|[0-9]{2,5})\Z")  # as `split` counts
_WORD = re.compile(r"[A-Za-z0-9{}\-]{1,64}\Z")  # types, UUIDs, the id of the table
_LINE = re.compile(r"/dev/\S{1,60}?(?P<number>\d{1,3})\s*:\s*(?P<fields>.*)\Z")
_FIELD = re.compile(r"""\s*([A-Za-z-]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^,"]*))?\s*(?:,|\Z)""")
EXTENDED = frozenset({"5", "f", "85", "05", "0f"})


@dataclass(frozen=True)
class Partition:
    """A line of a dump of sfdisk. ``start`` and ``size`` in sectors; ``fields`` as sfdisk writes and reads them."""

    number: int
    start: int
    size: int
    type: str
    fields: str = ""

    @property
    def is_extended(self) -> bool:
        """Whether it only holds logical partitions (of a DOS table)."""
        return self.type in EXTENDED


@dataclass(frozen=True)
class Table:
    """A partition table as ``sfdisk --dump`` writes it. Partitions in the order of the dump."""

    label: str  # "dos" or "gpt"
    label_id: str
    partitions: tuple[Partition, ...]
    first_sector: int | None = None  # first-lba and last-lba of a GPT
    last_sector: int | None = None

    def script(self) -> str:
        """What sfdisk reads to write the table again; only words that were checked."""
        lines = [f"label: {self.label}", "unit: sectors", "sector-size: 512"]
        lines += [f"label-id: {self.label_id}"] if self.label_id else []
        lines += [f"first-lba: {self.first_sector}"] if self.first_sector is not None else []
        lines += [f"last-lba: {self.last_sector}"] if self.last_sector is not None else []
        for part in self.partitions:
            lines.append(f"{part.number} : start={part.start}, size={part.size}, type={part.type}{part.fields}")
        return "\n".join(lines) + "\n"

    @property
    def end(self) -> int:
        """The sector after the last partition."""
        return max((part.start + part.size for part in self.partitions), default=0)


@dataclass(frozen=True)
class Stream:
    """The content of a partition or disk: ``files`` one after the other, or ``content`` where there are none.

    ``start`` and ``size`` are its place on the disk in bytes; ``size`` None: as large as the stream says.
    """

    name: str
    start: int
    size: int | None
    files: tuple[str, ...] = ()
    content: bytes = b""


@dataclass(frozen=True)
class Disk:
    """A disk to be put together. ``size`` in bytes; ``beside`` are (offset, bytes) that go over sfdisk's table."""

    name: str
    size: int
    table: Table
    beside: tuple[tuple[int, bytes], ...]
    streams: tuple[Stream, ...]
    notes: tuple[str, ...] = field(default=())  # what an operator should know: what was not taken, or was supplied


def parse_table(text: str, name: str) -> Table:
    """A dump of sfdisk, also of before 2014 (``Id=``). ``name`` is the file's, for messages; `ForeignError`."""
    header: dict[str, str] = {}
    partitions: list[Partition] = []
    for line in text.splitlines():
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        if words.startswith("/dev/"):
            partition = _partition(words, name)
            if partition is not None:
                partitions.append(partition)
        elif ":" in words:
            key, _, value = words.partition(":")
            header[key.strip()] = value.strip()
        else:
            raise ForeignError(f"{name}: {words[:60]!r} is no line of a dump of sfdisk")
    if header.get("unit", "sectors") != "sectors" or header.get("sector-size", "512") != "512":
        raise ForeignError(f"{name}: only sectors of 512 bytes can be taken over")
    label = header.get("label", "dos")
    if label not in ("dos", "gpt"):
        raise ForeignError(f"{name}: a table of kind {label[:20]!r}: only dos and gpt can be taken over")
    if not 1 <= len(partitions) <= MAX_PARTITIONS or len({part.number for part in partitions}) != len(partitions):
        raise ForeignError(f"{name}: {len(partitions)} partitions, or two with one number")
    usable = [_sectors(header[key], name) if key in header else None for key in ("first-lba", "last-lba")]
    table = Table(label, _word(header.get("label-id", ""), name), tuple(partitions), *usable)
    _check_places(table, name)
    return table


def _partition(line: str, name: str) -> Partition | None:
    match = _LINE.match(line)
    if match is None:
        raise ForeignError(f"{name}: {line[:60]!r} is no line of a dump of sfdisk")
    values: dict[str, str] = {}
    rest = match["fields"]
    position = 0
    while position < len(rest):
        found = _FIELD.match(rest, position)
        if found is None or found.end() == position:
            raise ForeignError(f"{name}: {line[:60]!r} is no line of a dump of sfdisk")
        values[found[1]] = (found[2] or "").strip()
        position = found.end()
    kind = _word(values.pop("type", values.pop("Id", "")), name)
    start, size = _sectors(values.pop("start", ""), name), _sectors(values.pop("size", ""), name)
    if not size:  # older dumps list the empty entries too
        return None
    fields = ""
    for key in ("uuid", "name", "attrs"):
        if value := values.pop(key, ""):
            fields += f", {key}={_quoted(value, name)}"
    if "bootable" in values:
        fields += ", bootable"
    return Partition(int(match["number"]), start, size, kind, fields)


def _check_places(table: Table, name: str) -> None:
    """No partition over another; logical ones within the extended one."""
    extended = [part for part in table.partitions if table.label == "dos" and part.is_extended]
    if len(extended) > 1:
        raise ForeignError(f"{name}: two extended partitions")
    end = 1
    for part in sorted(table.partitions, key=lambda part: part.start):
        if part in extended:
            continue
        if part.start < end:
            raise ForeignError(f"{name}: partition {part.number} begins at sector {part.start}, inside another")
        end = part.start + part.size
        if table.label == "dos" and part.number > 4:
            held = extended and extended[0].start < part.start and end <= extended[0].start + extended[0].size
            if not held:
                raise ForeignError(f"{name}: logical partition {part.number} is not in the extended one")
        elif extended and not (end <= extended[0].start or part.start >= extended[0].start + extended[0].size):
            raise ForeignError(f"{name}: partition {part.number} is over the extended one")


def _sectors(text: str, name: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 15 or int(text) > MAX_SECTORS:
        raise ForeignError(f"{name}: {text[:30]!r} is no number of sectors")
    return int(text)


def _word(text: str, name: str) -> str:
    text = text.strip().strip('"')
    if text and not _WORD.match(text):
        raise ForeignError(f"{name}: {text[:40]!r} is no type and no id")
    return text


def _quoted(text: str, name: str) -> str:
    """A name or attributes, in quotes, as sfdisk reads them back."""
    inner = text[1:-1] if text[:1] == '"' and text[-1:] == '"' and len(text) > 1 else text
    if not inner.isprintable() or len(inner) > 300:
        raise ForeignError(f"{name}: {inner[:40]!r} is no name of a partition")
    return f'"{inner}"'


class Folder(Protocol):
    """A directory of an image: its plain files, by name."""

    @property
    def names(self) -> frozenset[str]:
        """The names of its plain files."""
        ...

    def read(self, name: str, limit: int) -> bytes:
        """A whole small file; `ForeignError` when it is larger than ``limit`` bytes or cannot be read."""
        ...


def in_order(names: frozenset[str], prefix: str) -> tuple[str, ...]:
    """The files of `split` that begin with ``prefix`` (aa, ab, … or 000, 001, …); `ForeignError` for a gap."""
    found = (name[len(prefix) :] for name in names if name.startswith(prefix))
    suffixes = sorted(suffix for suffix in found if _SUFFIX.match(suffix) and suffix != "info")
    first = suffixes[0] if suffixes else ""
    letters = "0123456789" if first.isdigit() else "abcdefghijklmnopqrstuvwxyz"
    for count, suffix in enumerate(suffixes):
        value, wanted = count, ""
        for _ in first:
            value, digit = divmod(value, len(letters))
            wanted = letters[digit] + wanted
        if suffix != wanted or value:
            raise ForeignError(f"{prefix}{wanted} is not there: a part of the image is missing")
    return tuple(prefix + suffix for suffix in suffixes)
