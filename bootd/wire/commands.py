"""Commands that an operator has nodes run, and what they print. Part of the control messages.

A command is sent once. It is not in force afterwards, so nothing is sent again to a node that connects anew: a node
that was told to reboot does not reboot twice.
"""

from dataclasses import dataclass

MAX_WORDS = 256  # of a command
MAX_COMMAND = 8000  # characters of all of them
MAX_PIECES = 32  # of output, of at most 4 KiB each, in one message
MAX_OUTPUT = 1 << 20  # bytes of output of one node; what comes after is counted, not sent
MAX_SECONDS = 86400
HEARTBEAT = 5.0  # seconds; a command that prints nothing is told of so often


@dataclass(frozen=True)
class Execute:
    """Run a command, without a shell, as the agent's user, with nothing on its standard input."""

    id: str
    command: tuple[str, ...]
    seconds: int  # then it is ended, and all that it has started


@dataclass(frozen=True)
class StopCommand:
    """End a command, and all that it has started."""

    id: str


@dataclass(frozen=True)
class Piece:
    stream: str  # "out" or "err"
    text: str


@dataclass(frozen=True)
class Output:
    """What a command has printed since the last message, and its end."""

    node: str
    id: str
    number: int  # of this message, from 1: one that comes twice counts once
    pieces: tuple[Piece, ...]
    ended: bool = False
    code: int = 0  # exit status; 128 and the number of the signal that ended it
    reason: str = ""  # why it ended otherwise: "time limit", "stopped", "cannot be started: ..."
    dropped: int = 0  # bytes of output so far that were not sent
