"""Errors that an operator reads, and the exit codes that scripts rely on."""

from enum import IntEnum


class Exit(IntEnum):
    """Stable exit codes of the command line."""

    OK = 0
    ERROR = 1  # something failed; the text says what
    USAGE = 2  # the command line is wrong
    PARTLY = 3  # some nodes are verified, others not
    REFUSED = 4  # a safety rule said no; nothing was written
    CONFIG = 5  # the configuration file is wrong
    BUSY = 6  # port in use, second daemon, image in use
    UNREACHABLE = 7  # the daemon does not answer, or a registry
    INPUT = 8  # image unreadable, file missing


class OperatorError(Exception):
    """One sentence on what is wrong and one on what to do about it, with the exit code for scripts."""

    def __init__(self, message: str, hint: str = "", code: Exit = Exit.ERROR) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message
