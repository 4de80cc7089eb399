"""What went wrong in the virtual machine room: who, at which step, why, and which log file to read."""

from pathlib import Path


class LabError(Exception):
    """``who`` is a node's name or a part of the room ("server", "golden disk")."""

    def __init__(self, who: str, step: str, reason: str, log: Path | None = None) -> None:
        super().__init__(who, step, reason, log)
        self.who = who
        self.step = step
        self.reason = reason
        self.log = log

    def __str__(self) -> str:
        where = f" (log: {self.log})" if self.log else ""
        return f"{self.who}: {self.step}: {self.reason}{where}"
