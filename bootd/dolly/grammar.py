"""dolly.cfg to values: all of 0.5x, and dolly+'s list of files. Errors say the line and what to write instead.

More is read than dolly takes: empty lines, comments (#), white space around words, and the entries before the
list of hosts in any order. What goes over the wire is written anew (`config.render`), so clients of dolly never
see that.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from bootd.dolly.config import (
    MAX_CLIENTS,
    MAX_FANOUT,
    RAW,
    Config,
    Cooking,
    Extra,
    Packing,
    Transfer,
    cooking_of,
)
from bootd.dolly.errors import DollyError

MAX_FILES = 64
_MAX_SEGMENT = 32767  # MAX_TCP_WINDOW, include/net/tcp.h
_LEAST_SEGMENT = 88  # TCP_MIN_MSS, the same
_UNITS = {"k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,63}\Z")  # myhostname has room for 63 bytes
_FILE = re.compile(r"(?P<infile>.*?\S)\s*(?P<arrow>>+)\s*(?P<outfile>\S.*)\Z")
_MAX_DIGITS = 9
_ONCE = "say it once"
_COUNTED_BY_READER = ("infile", "outfile", "compressed", "add", "add2")
_KEYWORDS = (
    "infile", "outfile", "compressed", "dummy", "iofiles", "segsize", "add", "add2", "fanout", "hyphennormal",
    "hypheninterface", "server", "firstclient", "lastclient", "clients", "endconfig",
)  # fmt: skip


def parse(text: str) -> Config:
    """A whole file. `DollyError` with the line that is wrong."""
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._lines = _lines(text)
        self._line = 0
        self._said: dict[str, int] = {}  # entry -> line
        self._infile: tuple[str, bool, bool] | None = None  # path, is_split, is_compressed
        self._outfile: tuple[str, int, bool] | None = None  # path, piece, is_compressed
        self._files: tuple[Transfer, ...] = ()
        self._dummy: int | None = None
        self._numbers = {"segsize": 0, "fanout": 1}
        self._names = {"server": "", "firstclient": "", "lastclient": ""}
        self._extra: Extra | None = None
        self._hyphennormal = False
        self._clients: tuple[str, ...] = ()
        self._warnings: list[str] = []

    def parse(self) -> Config:
        readers: dict[str, Callable[[str], None]] = {
            "infile": self._read_infile,
            "outfile": self._read_outfile,
            "compressed": self._read_compressed,
            "dummy": self._read_dummy,
            "iofiles": self._read_files,
            "segsize": lambda rest: self._read_number("segsize", rest, _LEAST_SEGMENT, _MAX_SEGMENT),
            "fanout": lambda rest: self._read_number("fanout", rest, 1, MAX_FANOUT),
            "add": lambda rest: self._read_extra(rest, is_midfix=False),
            "add2": lambda rest: self._read_extra(rest, is_midfix=True),
            "hyphennormal": self._read_hyphen,
            "hypheninterface": self._read_hyphen,
            "server": lambda rest: self._read_name("server", rest),
            "firstclient": lambda rest: self._read_name("firstclient", rest),
            "lastclient": lambda rest: self._read_name("lastclient", rest),
            "clients": self._read_clients,
        }
        for number, line in self._lines:
            self._line = number
            word, _, rest = line.partition(" ")
            if word == "endconfig":
                return self._finish()
            reader = readers.get(word)
            if reader is None:
                raise self._wrong(f"{word!r} is no entry of a dolly.cfg", f"known: {', '.join(_KEYWORDS)}")
            if word not in _COUNTED_BY_READER:
                self._once(word)
            reader(rest.strip())
        raise DollyError("'endconfig' is missing at the end", "write it as the last line", line=self._line)

    # --- entries -----------------------------------------------------------------------------------------

    def _read_infile(self, rest: str, is_compressed: bool = False) -> None:
        self._once("infile")
        words = rest.split()
        is_split = len(words) == 2 and words[1] == "split"
        if not words or (len(words) > 1 and not is_split):
            raise self._wrong("infile wants one path", "write: [compressed] infile PATH [split]")
        if is_compressed and not words[0].endswith(".gz"):
            self._warnings.append(f"line {self._line}: compressed infile {words[0]} does not end with .gz")
        self._infile = (words[0], is_split, is_compressed)

    def _read_outfile(self, rest: str, is_compressed: bool = False) -> None:
        self._once("outfile")
        words = rest.split()
        piece = 0
        if len(words) == 3 and words[1] == "split":
            piece = self._amount(words[2])
        elif len(words) != 1:
            raise self._wrong(
                "outfile wants one path", "write: [compressed] outfile PATH [split N(k|M|G|T)], as in split 2G"
            )
        if is_compressed and not words[0].endswith(".gz"):
            self._warnings.append(f"line {self._line}: compressed outfile {words[0]} does not end with .gz")
        self._outfile = (words[0], piece, is_compressed)

    def _read_compressed(self, rest: str) -> None:
        word, _, rest = rest.partition(" ")
        if word == "infile":
            self._read_infile(rest, is_compressed=True)
        elif word == "outfile":
            self._read_outfile(rest, is_compressed=True)
        else:
            raise self._wrong("compressed what?", "write: compressed infile PATH, or: compressed outfile PATH")

    def _read_dummy(self, rest: str) -> None:
        if rest and not _is_number(rest):
            raise self._wrong(f"{rest!r} is no number of megabytes", "write: dummy 128, or: dummy, with -t SECONDS")
        self._dummy = int(rest) if rest else -1

    def _read_files(self, rest: str) -> None:
        if not _is_number(rest) or not 1 <= int(rest) <= MAX_FILES:
            raise self._wrong(f"iofiles {rest}", f"write how many files follow, 1 to {MAX_FILES}: iofiles 3")
        files: list[Transfer] = []
        for _ in range(int(rest)):
            line = self._next(f"file {len(files) + 1} of {rest}")
            found = _FILE.match(line)
            if found is None or line.split(" ")[0] in _KEYWORDS:
                hint = f"write: SOURCE > TARGET, or >> to unpack it; or correct the number: iofiles {len(files)}"
                raise self._wrong(f"{line!r} is not file {len(files) + 1} of {rest}", hint)
            files.append(self._file(found["infile"], found["arrow"], found["outfile"].rstrip()))
        self._files = tuple(files)

    def _file(self, infile: str, arrow: str, outfile: str) -> Transfer:
        for name in (infile, outfile):
            if re.search(r"\s", name):
                raise self._wrong(f"white space within {name!r}", "rename the file: dolly has no quotes")
        if arrow == ">":
            return Transfer(infile, outfile)
        if arrow != ">>":
            raise self._wrong(f"{arrow!r} between two files", "write > for a copy, >> to unpack it on arrival")
        cooking = cooking_of(infile)
        if cooking == RAW:
            hint = "use > for a copy; known: .gz .Z .xz .zst .bz2, and .tar and .cpio, also with one of them"
            raise self._wrong(f">> cannot tell by its name how {infile} is unpacked", hint)
        return Transfer(infile, outfile, cooking)

    def _read_number(self, name: str, rest: str, least: int, most: int) -> None:
        if not _is_number(rest) or not least <= int(rest) <= most:
            raise self._wrong(f"{name} {rest}", f"write a number from {least} to {most}")
        self._numbers[name] = int(rest)

    def _read_extra(self, rest: str, *, is_midfix: bool) -> None:
        self._once("add")
        count, *names = rest.split(":")
        word = "add2" if is_midfix else "add"
        if not _is_number(count.strip()) or int(count) >= MAX_FANOUT:
            hint = f"write: {word} NUMBER:SUFFIX[:SUFFIX…], NUMBER at most {MAX_FANOUT - 1}, as in {word} 1:-fast"
            raise self._wrong(f"{word} {rest}", hint)
        names = [name for name in names if name]  # dolly ends the last one with a colon, too
        wanted = max(int(count), 1)
        if len(names) != wanted or not all(re.match(r"[A-Za-z0-9._-]{1,31}\Z", name) for name in names):
            hint = "suffixes: letters, digits, - . _; 31 at most; as many as the number says, and one for add 0"
            raise self._wrong(f"{word} {count} with {len(names)} suffixes", hint)
        self._extra = Extra(int(count), tuple(names), is_midfix)

    def _read_hyphen(self, rest: str) -> None:
        if rest:
            raise self._wrong(f"{rest!r} behind hyphennormal", "write the word alone")
        self._hyphennormal = "hyphennormal" in self._said

    def _read_name(self, word: str, rest: str) -> None:
        self._names[word] = self._host(rest)

    def _read_clients(self, rest: str) -> None:
        if not _is_number(rest) or not 1 <= int(rest) <= MAX_CLIENTS:
            raise self._wrong(f"clients {rest}", f"write how many hosts follow, 1 to {MAX_CLIENTS}")
        names: list[str] = []
        for _ in range(int(rest)):
            name = self._next(f"client {len(names) + 1} of {rest}")
            if name in _KEYWORDS:
                hint = f"write: clients {len(names)}, or name {int(rest) - len(names)} more"
                raise self._wrong(f"clients {rest}, but only {len(names)} follow", hint)
            name = self._host(name)
            if name in names:
                raise self._wrong(f"{name} is named twice", "name every client once")
            names.append(name)
        self._clients = tuple(names)

    # --- the whole ---------------------------------------------------------------------------------------

    def _finish(self) -> Config:
        if not self._clients:
            raise self._missing("clients", "write: clients N, and the N hosts, a line each")
        if not self._names["server"]:
            raise self._missing("server", "write: server NAME, the host that sends")
        files = self._transfers()
        if self._extra is not None and self._extra.count and self._numbers["fanout"] > 1:
            raise self._wrong("add and fanout exclude each other", "leave one of them away")
        config = Config(
            self._names["server"],
            self._clients,
            files,
            self._names["firstclient"],
            self._names["lastclient"],
            self._dummy,
            self._numbers["segsize"],
            self._extra,
            self._numbers["fanout"],
            self._hyphennormal,
            is_plus="iofiles" in self._said,
            warnings=tuple(self._warnings),
        )
        return self._check_ends(config)

    def _transfers(self) -> tuple[Transfer, ...]:
        kinds = [word for word in ("infile", "iofiles", "dummy") if word in self._said]
        if len(kinds) != 1:
            text = " and ".join(kinds) if kinds else "no infile"
            raise self._wrong(f"{text}: what is to be sent?", "write infile and outfile, or iofiles, or dummy")
        if kinds != ["infile"]:
            if "outfile" in self._said:
                raise self._wrong(f"outfile belongs to infile, not to {kinds[0]}", "leave it away")
            return self._files
        if self._infile is None or self._outfile is None:
            raise self._missing("outfile", "write: outfile PATH, what the clients write")
        (infile, is_split, is_packed), (outfile, piece, compress) = self._infile, self._outfile
        if is_packed and compress:
            hint = "clients would unpack what they shall keep packed: leave compressed away at both"
            raise self._wrong("compressed infile and compressed outfile", hint)
        cooking = Cooking(Packing.GZIP) if is_packed else RAW
        return (Transfer(infile, outfile, cooking, is_split, piece, compress),)

    def _check_ends(self, config: Config) -> Config:
        """A client of dolly that is called like lastclient passes nothing on: elsewhere it cuts the chain."""
        last, first = config.lastclient, config.firstclient
        warnings = list(config.warnings)
        if config.fanout == 1 and last in config.clients[:-1]:
            line = self._said.get("lastclient", 0)
            hint = f"write: lastclient {config.clients[-1]}"
            raise DollyError(
                f"{last} is not the last client: whoever follows it would get nothing", hint, line=line
            )
        if not config.is_plus and (not first or not last):
            missing = "firstclient" if not first else "lastclient"
            raise self._missing(missing, f"write: {missing} NAME, before clients")
        ends = [("firstclient", first, config.clients[0])]
        if config.fanout == 1:
            ends.append(("lastclient", last, config.clients[-1]))
        for word, name, counted in ends:
            if name and name not in (counted, counted.split("-")[0]):
                warnings.append(f"{word} {name}: the list of clients says {counted}, which counts")
        if config.server in config.clients:
            raise DollyError(f"{config.server} is the server and a client", "leave it out of the list of clients")
        return replace(config, warnings=tuple(warnings))

    # --- small things ------------------------------------------------------------------------------------

    def _once(self, word: str) -> None:
        if word in self._said:
            raise self._wrong(f"{word} again, first in line {self._said[word]}", _ONCE)
        self._said[word] = self._line

    def _next(self, what: str) -> str:
        self._line, line = next(self._lines, (self._line, ""))
        if not line:
            raise self._wrong(f"the file ends before {what}", "write a line for each")
        return line

    def _host(self, name: str) -> str:
        if not _NAME.match(name):
            raise self._wrong(f"{name!r} is no host name", "write one name or address, 63 characters at most")
        return name

    def _amount(self, word: str) -> int:
        if not _is_number(word[:-1]) or word[-1:] not in _UNITS or int(word[:-1]) == 0:
            raise self._wrong(f"split {word}", "write a number and k, M, G or T, as in split 2G")
        return int(word[:-1]) * _UNITS[word[-1]]

    def _wrong(self, text: str, hint: str) -> DollyError:
        return DollyError(text, hint, line=self._line)

    def _missing(self, word: str, hint: str) -> DollyError:
        return DollyError(f"{word!r} is missing", hint, line=self._line)


def _is_number(word: str) -> bool:
    """Digits, few enough for anything that is meant seriously (and for `int`)."""
    return word.isdecimal() and word.isascii() and len(word) <= _MAX_DIGITS


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbers from 1, and lines with something in them; a single space behind the first word."""
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if "\0" in stripped:
            raise DollyError("a zero byte", "dolly.cfg is plain text", line=number)
        if stripped and not stripped.startswith("#"):
            word, *rest = stripped.split(None, 1)
            yield number, " ".join((word, *rest))
