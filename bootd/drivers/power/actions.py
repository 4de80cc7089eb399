"""What can be asked of a management controller, and how its answer reads."""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    ON = "on"
    OFF = "off"  # at once, as by holding the button
    SHUTDOWN = "shutdown"  # ask the operating system
    CYCLE = "cycle"  # off and on again
    RESET = "reset"  # without losing power
    STATUS = "status"
    PXE = "pxe"  # boot from the network once, at the next start
    WAKE = "wake"  # a magic packet: needs no controller


DISRUPTIVE = frozenset({Action.OFF, Action.SHUTDOWN, Action.CYCLE, Action.RESET})


@dataclass(frozen=True)
class Answer:
    """``state`` "on", "off" or "" (not known); ``text`` one line for an operator."""

    state: str
    text: str


class ControllerError(Exception):
    """The controller refused, or did not answer as its protocol says; one line, without any secret."""
