"""What an importer found in another program's configuration: settings for bootd.toml, and a word on every line.

Sans-IO. The text of bootd.toml is made here; that it is valid is up to the settings' own parser.
"""

from dataclasses import dataclass, field

Value = str | int | bool | list[str]

MAX_CHARACTERS = 1 << 20  # of a file: more is none of these


class NotReadable(ValueError):  # noqa: N818 - what is wrong with the file, for a person
    """The file as a whole makes no sense; the text says where."""


@dataclass(frozen=True)
class Remark:
    """One statement of the source: ``line`` is counted from 1, ``text`` as it stands, ``what`` became of it."""

    line: int
    text: str
    what: str


@dataclass
class Imported:
    """``tables`` by name in order of appearance; a name in ``arrays`` may have several."""

    source: str
    tables: dict[str, dict[str, Value]] = field(default_factory=dict)
    arrays: dict[str, list[dict[str, Value]]] = field(default_factory=dict)
    comments: dict[str, list[str]] = field(default_factory=dict)  # below the table of that name
    taken: list[Remark] = field(default_factory=list)
    left: list[Remark] = field(default_factory=list)

    def put(self, table: str, key: str, value: Value) -> None:
        self.tables.setdefault(table, {})[key] = value

    def add(self, table: str, row: dict[str, Value]) -> None:
        self.arrays.setdefault(table, []).append(row)

    def take(self, line: int, text: str, what: str) -> None:
        self.taken.append(Remark(line, text, what))

    def leave(self, line: int, text: str, why: str) -> None:
        self.left.append(Remark(line, text, why))

    def to_toml(self) -> str:
        """The settings, then what was taken over and what was not, line by line, as comments."""
        lines = [f"# From {_plain(self.source)}, by bootd import."]
        for name, table in self.tables.items():
            lines += ["", f"[{name}]", *_pairs(table), *self._comments(name)]
        for name, rows in self.arrays.items():
            for row in rows:
                lines += ["", f"[[{name}]]", *_pairs(row)]
            lines += self._comments(name)
        for title, remarks in (("Taken over", self.taken), ("Not taken over", self.left)):
            if remarks:
                lines += ["", f"# {title}, by line:"]
                ordered = sorted(remarks, key=lambda remark: remark.line)
                lines += [f"#   {one.line}: {_plain(one.text)} -> {_plain(one.what)}" for one in ordered]
        return "\n".join(lines) + "\n"

    def _comments(self, name: str) -> list[str]:
        return [f"# {_plain(comment)}" for comment in self.comments.get(name, ())]


def _pairs(table: dict[str, Value]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return '"' + "".join(_escaped(character) for character in value) + '"'


def _escaped(character: str) -> str:
    """TOML 1.0, basic strings: quotation mark, backslash and control characters are escaped."""
    if character in '"\\':
        return "\\" + character
    if character < " " or character == "\x7f":
        return f"\\u{ord(character):04x}"
    return character


def _plain(text: str) -> str:
    """One line of printable characters, for a comment."""
    return "".join(character if character.isprintable() else "?" for character in text)[:200]
