"""fstab(5), and /proc/PID/mountinfo of proc(5): text in, lines out. What a caller leaves out of them is its own."""

import posixpath
import re
from dataclasses import dataclass

DEFAULTS = "defaults"


@dataclass(frozen=True)
class Entry:
    """A line of fstab. ``device`` as it stands there, ``UUID=…`` or a path; ``point`` may be ``none``."""

    device: str
    point: str
    kind: str
    options: str = DEFAULTS


@dataclass(frozen=True)
class Mounted:
    """A line of mountinfo. ``inner``: which folder of the file system is at ``point``."""

    point: str
    number: str  # MAJOR:MINOR
    inner: str
    kind: str
    device: str


def parse_fstab(text: str) -> list[Entry]:
    """The lines that mean something, in their order; escapes undone, places as `normal` has them."""
    found = []
    for line in text.split("\n"):
        words = line.split()
        words = words[: next((place for place, word in enumerate(words) if word.startswith("#")), None)]
        if len(words) >= 3:
            found.append(Entry(unescape(words[0]), normal(unescape(words[1])), *words[2:4]))
    return found


def parse_mountinfo(text: str) -> list[Mounted]:
    """All of it, in the order of mounting: of two at one point, the later one is seen."""
    found = []
    for line in text.split("\n"):
        before, _, after = line.partition(" - ")
        words, rest = before.split(" "), after.split(" ")
        if len(words) >= 5 and len(rest) >= 2:
            found.append(Mounted(unescape(words[4]), words[2], unescape(words[3]), rest[0], unescape(rest[1])))
    return found


def unescape(field: str) -> str:
    r"""``\040`` and such, as getmntent(3) reads them."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda match: chr(int(match[1], 8)), field)


def escape(text: str) -> str:
    return re.sub(r"[ \t\n\\#]", lambda match: f"\\{ord(match[0]):03o}", text)


def normal(point: str) -> str:
    """An absolute path without empty parts and dots, never above ``/``; ``none`` and ``swap`` stay as they are."""
    if not point.startswith("/"):
        return point
    return "/" + posixpath.normpath(point).lstrip("/")
