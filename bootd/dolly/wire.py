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
_LINE = re.compile(r"Host (got parameters|ready) '(.*)'\.\Z")


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


@dataclass(frozen=True)
class Said:
    """A host has understood the text (``is_ready`` False), or is ready."""

    name: str
    is_ready: bool


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
            said.append(Said(found[2], found[1] == "ready"))
        return said
