"""What is wrong with a dolly.cfg: the line, what stands there, and what to write instead."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Complaint:
    """``line`` counts from 1; 0 is the file as a whole."""

    line: int
    text: str
    hint: str = ""


class DollyError(Exception):
    """A configuration that cannot be used, from a file or from the wire."""

    def __init__(self, text: str, hint: str = "", *, line: int = 0) -> None:
        super().__init__(text)
        self.complaint = Complaint(line, text, hint)

    def place(self, name: str) -> str:
        """``name:LINE: text``, as compilers say it."""
        line = self.complaint.line
        return f"{name}:{line}: {self.complaint.text}" if line else f"{name}: {self.complaint.text}"
