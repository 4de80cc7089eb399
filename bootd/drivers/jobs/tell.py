"""How long work says where it stands, whoever listens: a job's process, or the command line itself."""

from typing import Any, Protocol


class Tell(Protocol):
    """Given to every piece of long work. Methods may be called from any thread, as often as there is news."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """``done`` of ``total`` bytes or pieces; ``total`` 0 while it is not known. ``text``: at what."""

    def note(self, text: str) -> None:
        """One line that is worth keeping: what was found, what was given up."""


Result = dict[str, Any]
