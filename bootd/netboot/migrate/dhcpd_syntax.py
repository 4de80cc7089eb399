"""The syntax of ISC dhcpd's configuration: statements and blocks, each with the line that it begins in.

dhcpd.conf(5): words, strings in quotation marks, ``;`` ends a statement, ``{`` and ``}`` enclose a block, ``#``
begins a comment. Expressions stay words.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bootd.netboot.migrate.imported import MAX_CHARACTERS, NotReadable

_DEEPEST = 16
_MOST_WORDS = 200_000


@dataclass(frozen=True)
class Statement:
    """``words`` without quotation marks; ``block`` is None for a statement that ends with ``;``."""

    line: int
    words: tuple[str, ...]
    block: "tuple[Statement, ...] | None" = None

    @property
    def text(self) -> str:
        """One line, for a person."""
        return " ".join(self.words) + (" { ... }" if self.block is not None else "")

    def starts(self, *words: str) -> bool:
        return self.words[: len(words)] == words


@dataclass(frozen=True)
class _Token:
    line: int
    text: str
    quoted: bool = False


def parse(text: str) -> tuple[Statement, ...]:
    """All statements of a file; `NotReadable` names the line where it stops making sense."""
    if len(text) > MAX_CHARACTERS:
        raise NotReadable("the file is too large for a dhcpd.conf")
    tokens = list(_tokens(text))
    if len(tokens) > _MOST_WORDS:
        raise NotReadable("the file has too many words for a dhcpd.conf")
    statements, position = _block(tokens, 0, 0)
    if position < len(tokens):
        raise NotReadable(f"line {tokens[position].line}: a }} without its {{")
    return statements


def _tokens(text: str) -> Iterator[_Token]:
    line, position = 1, 0
    while position < len(text):
        character = text[position]
        if character == "\n":
            line += 1
            position += 1
        elif character.isspace():
            position += 1
        elif character == "#":
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
        elif character == '"':
            begun, start = line, position + 1
            position = start
            while position < len(text) and text[position] != '"':
                line += text[position] == "\n"
                position += 2 if text[position] == "\\" else 1
            if position >= len(text):
                raise NotReadable(f"line {begun}: a string without its end")
            yield _Token(begun, text[start:position].replace('\\"', '"'), True)
            position += 1
        elif character in "{};,":
            yield _Token(line, character)
            position += 1
        else:
            start = position
            while position < len(text) and not text[position].isspace() and text[position] not in '{};,"#':
                position += 1
            yield _Token(line, text[start:position])


def _block(tokens: list[_Token], position: int, depth: int) -> tuple[tuple[Statement, ...], int]:
    """Statements from ``position`` up to the end of the block, and where that is."""
    if depth > _DEEPEST:
        raise NotReadable(f"line {tokens[position - 1].line}: blocks are nested too deeply")
    statements: list[Statement] = []
    words: list[_Token] = []
    while position < len(tokens):
        token = tokens[position]
        if token.quoted or token.text not in "{};":
            words.append(token)
            position += 1
            continue
        if token.text == "}":
            break
        position += 1
        line = words[0].line if words else token.line
        names = tuple(word.text for word in words)
        words = []
        if token.text == ";":
            if names:
                statements.append(Statement(line, names))
            continue
        inner, position = _block(tokens, position, depth + 1)
        if position >= len(tokens):
            raise NotReadable(f"line {line}: a {{ without its }}")
        position += 1
        statements.append(Statement(line, names, inner))
    if words:
        raise NotReadable(f"line {words[0].line}: a statement without its ;")
    return tuple(statements), position
