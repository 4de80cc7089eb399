"""What a node says on its console, on its way to the server. Part of the control messages."""

from dataclasses import dataclass

MAX_TEXT = 1000  # characters of one line
MAX_LINES = 150  # of one message, which stays below `control.MAX_MESSAGE` whatever is in them


@dataclass(frozen=True)
class LogLine:
    up: int  # milliseconds since the node's kernel started: its clock may tell any time of day
    session: str  # id of the session that the node was in; "" = none
    text: str


@dataclass(frozen=True)
class Log:
    """Lines of one boot, in order. They are counted from 0 for each stage, so that none is kept twice."""

    node: str
    boot: str  # the kernel's boot id: one run of the node
    stage: str  # "stage1" or "stage2"
    first: int  # number of the first line
    lines: tuple[LogLine, ...]


def printable(text: str) -> str:
    """``text`` as one line that no terminal takes for a command, cut to `MAX_TEXT`."""
    clean = "".join(character if character.isprintable() else "?" for character in text[: MAX_TEXT + 1])
    return clean if len(clean) <= MAX_TEXT else clean[: MAX_TEXT - 1] + "…"
