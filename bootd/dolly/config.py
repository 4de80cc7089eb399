"""What a dolly.cfg says, as values; and the text of it that goes over the wire.

Facts of 0.5x: its clients want the entries in one fixed order, lines of at most 254 bytes, and all of the text
within 4095 bytes. What is written behind ``endconfig`` they do not read: there a bootd head tells bootd clients
the sizes.
"""

import re
from dataclasses import dataclass, field
from enum import Enum

from bootd.dolly.errors import DollyError

MAX_FANOUT = 8  # also of data links
MAX_CLIENTS = 10000
MAX_LINE = 254  # bytes
MAX_TEXT = 4095  # bytes
# A client of 0.5x reads on as long as it gets exactly this much (the payload of a full Ethernet segment): a text of
# such a length, or a multiple, would leave it waiting.
_SEGMENT = 1448
PORT_DATA = 9998
PORT_CONTROL = 9997
_END, _MARK = "endconfig", "bootd"
_ANNOUNCEMENT = re.compile(rf" {_MARK} ([0-9]{{1,3}}) of ([0-9]{{1,3}})\Z")
_ROW = re.compile(r"(-|[0-9]{1,19}) (\S+) (\S+)\Z")


class Packing(Enum):
    """How a stream is compressed; the value is the suffix that says so."""

    NONE = ""
    GZIP = "gz"
    COMPRESS = "Z"
    XZ = "xz"
    ZSTD = "zst"
    BZIP2 = "bz2"


class Archive(Enum):
    """What a stream is when it is unpacked; the value is the suffix that says so."""

    NONE = ""
    TAR = "tar"
    CPIO = "cpio"


@dataclass(frozen=True)
class Cooking:
    """What happens to a stream on its arrival: it is decompressed, and unpacked if it is an archive."""

    packing: Packing = Packing.NONE
    archive: Archive = Archive.NONE

    @property
    def is_raw(self) -> bool:
        return self == RAW

    def __str__(self) -> str:
        return ".".join(filter(None, (self.archive.value, self.packing.value))) or "raw"


RAW = Cooking()
_ABBREVIATED = {"tgz": ("tar", "gz"), "txz": ("tar", "xz"), "tbz2": ("tar", "bz2")}


def cooking_of(name: str) -> Cooking:
    """By the end of a file's name, as dolly+ goes by it; `RAW` when nothing is known of it."""
    words = name.rsplit("/", 1)[-1].split(".")[1:]
    words[-1:] = _ABBREVIATED.get(words[-1], (words[-1],)) if words else ()
    packings = {item.value: item for item in Packing if item.value}
    archives = {item.value: item for item in Archive if item.value}
    packing = packings.get(words[-1], Packing.NONE) if words else Packing.NONE
    if packing is not Packing.NONE:
        words.pop()
    archive = archives.get(words[-1], Archive.NONE) if words else Archive.NONE
    return Cooking(packing, archive)


def read_cooking(word: str) -> Cooking:
    """The opposite of ``str(cooking)``; `DollyError` for another word."""
    cooking = RAW if word == "raw" else cooking_of(f"x.{word}")
    if str(cooking) != word:
        raise DollyError(f"{word!r} is nothing that can be unpacked here", f"known: {', '.join(COOKINGS)}")
    return cooking


COOKINGS = tuple(
    str(Cooking(packing, archive)) for archive in Archive for packing in Packing if Cooking(packing, archive) != RAW
)


@dataclass(frozen=True)
class Transfer:
    """One file: what the head reads, what clients write.

    ``is_split``: the head reads ``infile_0``, ``infile_1``, … as one stream. ``piece``: clients write
    ``outfile_0``, … of at most so many bytes; 0 is one file. ``compress``: the head compresses (gzip) what it
    sends.
    """

    infile: str
    outfile: str
    cooking: Cooking = RAW
    is_split: bool = False
    piece: int = 0
    compress: bool = False


@dataclass(frozen=True)
class Extra:
    """``add``: more interfaces of the clients. ``names`` are put behind a host's name, or before its first digit
    (``is_midfix``, ``add2``). ``count`` 0: the one link goes to that interface."""

    count: int
    names: tuple[str, ...]
    is_midfix: bool = False

    def host(self, name: str, number: int) -> str:
        """What link ``number`` (0 is the first) to the client ``name`` dials."""
        if self.count and number == 0:
            return name
        extra = self.names[number - 1 if self.count else 0]
        if not self.is_midfix:
            return name + extra
        digit = next((place for place, character in enumerate(name) if character.isdigit()), len(name))
        return name[:digit] + extra + name[digit:]


@dataclass(frozen=True)
class Config:
    """``dummy``: megabytes (MiB) of nothing to send in place of files; 0 ends the clients, -1 leaves it to a time.

    ``warnings``: what was accepted and means nothing here.
    """

    server: str
    clients: tuple[str, ...]
    files: tuple[Transfer, ...] = ()
    firstclient: str = ""
    lastclient: str = ""
    dummy: int | None = None
    segsize: int = 0
    extra: Extra | None = None
    fanout: int = 1
    hyphennormal: bool = False
    is_plus: bool = False  # dolly+'s grammar
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def links(self) -> int:
        """Data connections to a client."""
        return 1 if self.extra is None else self.extra.count + 1


@dataclass(frozen=True)
class Announced:
    """What a bootd head says of one file. ``size`` in bytes on the wire; None: it does not know."""

    size: int | None
    cooking: Cooking
    outfile: str


@dataclass(frozen=True)
class Trailer:
    """All files of the run, and which of them (from 1) comes in this session."""

    number: int
    files: tuple[Announced, ...]


def render(config: Config, transfer: Transfer | None, trailer: Trailer | None = None) -> bytes:
    """The text for one session over the wire, in the order and form that 0.5x parses.

    `DollyError` when its clients could not read it: lines or text too long, words that it has not.
    """
    lines: list[str] = []
    if transfer is None:
        lines.append("dummy" if config.dummy in (None, -1) else f"dummy {config.dummy}")
    else:
        compressed = transfer.cooking == Cooking(Packing.GZIP)
        lines.append(f"{'compressed ' * compressed}infile {transfer.infile}{' split' * transfer.is_split}")
        piece = f" split {_amount(transfer.piece)}" if transfer.piece else ""
        lines.append(f"{'compressed ' * transfer.compress}outfile {transfer.outfile}{piece}")
    if config.segsize:
        lines.append(f"segsize {config.segsize}")
    if config.extra is not None:
        word = "add2" if config.extra.is_midfix else "add"
        lines.append(f"{word} {config.extra.count}:{':'.join(config.extra.names)}")
    if config.fanout != 1:
        lines.append(f"fanout {config.fanout}")
    if config.hyphennormal:
        lines.append("hyphennormal")
    lines.append(f"server {config.server}")
    lines.append(f"firstclient {config.firstclient or config.clients[0]}")
    lines.append(f"lastclient {config.lastclient or config.clients[-1]}")
    lines.append(f"clients {len(config.clients)}")
    lines += config.clients
    if trailer is None:
        lines.append(_END)
    else:
        lines.append(f"{_END} {_MARK} {trailer.number} of {len(trailer.files)}")
        for item in trailer.files:
            lines.append(f"{'-' if item.size is None else item.size} {item.cooking} {item.outfile}")
    for line in lines:
        if len(line.encode()) > MAX_LINE:
            raise DollyError(f"{line[:60]}… is longer than dolly reads", f"at most {MAX_LINE} bytes a line")
    text = "".join(f"{line}\n" for line in lines).encode()
    if len(text) % _SEGMENT == 0:
        text += b"\n"
    if len(text) > MAX_TEXT:
        hint = "clone in several runs, or with --ring, which has no such limit"
        raise DollyError(f"the configuration has {len(text)} bytes, dolly's clients read {MAX_TEXT}", hint)
    return text


def announcement(text: str) -> tuple[int, int] | None:
    """Number and count of files, from the last line of a bootd head's text; None when the head is another."""
    found = _ANNOUNCEMENT.match(_behind_end(text).partition("\n")[0])
    return (int(found[1]), int(found[2])) if found else None


def is_whole(text: str) -> bool:
    """Whether nothing is missing of a text that comes over the wire: its last line, and what that announces."""
    if f"\n{_END}" not in f"\n{text}":
        return False
    first, newline, rest = _behind_end(text).partition("\n")
    announced = announcement(text)
    if announced is None:
        return bool(newline) or not first  # a file may end without a newline
    return bool(newline) and rest.count("\n") >= announced[1]


def read_trailer(text: str) -> Trailer | None:
    """What a bootd head says from ``endconfig`` on; None when the head is another. `DollyError` when it is
    damaged."""
    announced = announcement(text)
    if announced is None:
        return None
    number, count = announced
    rows = [_ROW.match(line) for line in _behind_end(text).splitlines()[1 : count + 1]]
    found = [row for row in rows if row is not None]
    if len(found) != count or not 1 <= number <= count:
        raise DollyError("the lines behind endconfig are damaged", "is the head another version of bootd?")
    files = tuple(Announced(None if row[1] == "-" else int(row[1]), read_cooking(row[2]), row[3]) for row in found)
    return Trailer(number, files)


def _behind_end(text: str) -> str:
    return f"\n{text}".partition(f"\n{_END}")[2]


def _amount(count: int) -> str:
    for letter, unit in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("k", 1 << 10)):
        if count % unit == 0:
            return f"{count // unit}{letter}"
    raise DollyError(f"pieces of {count} bytes", "use whole k, M, G or T")
