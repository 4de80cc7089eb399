"""What both roles of dolly 0.5x put on their sockets, and hear from them.

Between two neighbours: one data connection (or one for each interface, each of which begins with its number), and
one control connection, made in this order. Down the control connection: the text of dolly.cfg in one piece, later
the total as 8 bytes. Up: a line when a host has understood the text, one when it is ready, passed on by
everybody; at the end the total again, as an answer that all of a branch have written it. Numbers are
little-endian, as on the machines of then.
"""

import re
import struct
from dataclasses import dataclass

from bootd.dolly.errors import DollyError

BLOCK = 4096  # bytes; dolly reads and writes so much at once, and deals it out to the data links in turn
MAX_BLOCK = 1 << 20
TOTAL_BYTES = 8
NUMBER_BYTES = 4
# No total: what a bootd client answers with when its copy, or one behind it, is not whole. Every head of dolly
# compares the answer with what it has sent, and says that it is wrong.
NOT_WHOLE = 2**64 - 1
_MAX_LINE = 1 << 10
_MAX_REASON = 200  # characters
_LINE = re.compile(r"Host (got parameters|ready|failed) '(.*?)'(?:: (.*))?\.\Z")


def encode_total(total: int) -> bytes:
    return struct.pack("<Q", total)


def decode_total(data: bytes) -> int:
    """``data``: `TOTAL_BYTES`."""
    return int(struct.unpack("<Q", data)[0])


def encode_number(number: int) -> bytes:
    """What a data connection begins with when there are several."""
    return struct.pack("<i", number)


def decode_number(data: bytes) -> int:
    return int(struct.unpack("<i", data)[0])


def say_parameters(name: str) -> bytes:
    return f"Host got parameters '{name}'.\n".encode()


def say_ready(name: str) -> bytes:
    return f"Host ready '{name}'.\n".encode()


def say_failed(name: str, reason: str) -> bytes:
    """What a bootd client says before it leaves. Clients of dolly pass it on, where they would not pass on an end;
    its heads count the word «ready» wherever it stands, so it must not."""
    words = "".join(character if " " <= character <= "~" else "?" for character in reason)[:_MAX_REASON]
    return f"Host failed '{name}': {words.replace('ready', 'r_eady')}.\n".encode()


@dataclass(frozen=True)
class Said:
    """A host has understood the text (``is_ready`` False), is ready, or has failed, with its reason."""

    name: str
    is_ready: bool
    failure: str | None = None


class Lines:
    """The lines that come up a control connection, in whatever pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Said]:
        """What is said in whole lines by now. `DollyError` for what dolly does not say."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            raise DollyError(f"{len(self._rest)} bytes without the end of a line")
        said = []
        for line in whole:
            found = _LINE.match(line.decode("utf-8", "replace"))
            if found is None:
                raise DollyError(f"{line[:60]!r} is nothing that a client of dolly says")
            failure = (found[3] or "no reason") if found[1] == "failed" else None
            said.append(Said(found[2], found[1] == "ready", failure))
        return said
