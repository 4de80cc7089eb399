"""The lab of the bench: a sender, receivers, one payload in RAM, and what is measured of a run."""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tests.netns.room import Process, Room, RoomError

ROOT = Path(__file__).parents[2]
SECONDS = 180.0
PIECE = bytes(1 << 20)
MEMBER_BYTES = 64 << 20  # what a process of bootd has in memory, generously


@dataclass(frozen=True)
class Run:
    """One transfer. Seconds of wall and of CPU (all processes); 0 where a tool has no such moment.

    ``whole``: from the start of the sender's program to the end of the last receiver's. ``durable`` and
    ``verified``: from the first arrangement until the last receiver is so far. CPU of the latter two without what
    the processes used before they were ready. ``wire``, ``payload``: the share of the port's rate in ``durable``
    seconds (``whole`` for tools without that moment), of the receiver where it is least. ``packets``: on that port.
    """

    whole: float
    cpu_whole: float
    rss: int
    durable: float = 0.0
    verified: float = 0.0
    cpu_durable: float = 0.0
    cpu_verified: float = 0.0
    wire: float = 0.0
    payload: float = 0.0
    packets: int = 0


def median(runs: list[Run]) -> Run:
    return Run(**{field.name: statistics.median(getattr(run, field.name) for run in runs) for field in fields(Run)})


class Lab:
    """Sender ``s0`` and receivers ``r1``…, with the payload and a file for each in RAM.

    ``megabits`` per port; 0 for as fast as it goes.
    """

    def __init__(self, room: Room, folder: Path, receivers: int, megabits: int = 0) -> None:
        self.room, self.folder, self.count, self.megabits = room, folder, receivers, megabits
        self.source, self._warm = folder / "source", folder / "warm"
        self.size = self.source.stat().st_size
        room.address("s0", "10.88.0.1/24")
        for number in self.numbers:
            room.address(f"r{number}", f"{self.address(number)}/24")
        for who in ("s0", *(f"r{number}" for number in self.numbers)) if megabits else ():
            room.limit(who, megabits)

    @property
    def numbers(self) -> range:
        return range(1, self.count + 1)

    def address(self, number: int) -> str:
        """Of a receiver; 0 is the sender."""
        return f"10.88.0.{number + 1}"

    def target(self, number: int) -> Path:
        return self.folder / f"target{number}"

    def warm(self) -> None:
        """Touch as much memory as the run will need, and hold it until `release`.

        In a virtual machine memory that was never used, or was given back to the host, costs several times more at
        its first use than later; without this the bench measures the host. All tools alike.
        """
        with self._warm.open("wb") as file:
            for _ in range(((self.size + MEMBER_BYTES) * self.count + MEMBER_BYTES) // len(PIECE)):
                file.write(PIECE)

    def release(self) -> float:
        """Give it back right before the sender starts: free memory goes to the host within seconds. The time."""
        self._warm.unlink()
        return time.monotonic()

    def start(self, who: str, command: list[str], environment: dict[str, str] | None = None) -> Process:
        """A foreign program, whose use of the machine is recorded."""
        measured = [sys.executable, "-m", "tests.bench.measured", str(self.record(who)), *command]
        return self.room.start(who, measured, {"PYTHONPATH": str(ROOT), **(environment or {})})

    def start_bootd(self, who: str, words: list[str]) -> Process:
        """`bootd`, whose moments are recorded."""
        marked = [sys.executable, "-m", "tests.bench.marked", str(self.record(who)), *words]
        return self.room.start(who, marked, {"PYTHONPATH": str(ROOT)})

    def record(self, who: str) -> Path:
        return self.folder / f"used-{who}"

    def wait(self, processes: list[Process]) -> None:
        """Until all have ended well, and every target is the source."""
        for process in processes:
            code = process.wait(SECONDS)
            if code:
                raise RoomError(f"{process.who} ended with {code}:\n{process.output[-500:]}")
        for number in self.numbers:
            if subprocess.run(["cmp", "--silent", str(self.source), str(self.target(number))]).returncode:
                raise RoomError(f"receiver {number} has another content")

    def judge(self, began: float) -> Run:
        """A run of foreign programs that has ended."""
        used = [json.loads(self.record(name).read_text()) for name in self._names]
        seconds = max(record["ended"] for record in used) - began
        run = Run(seconds, sum(record["cpu"] for record in used), max(record["rss"] for record in used))
        return self._with_shares(run, [seconds] * self.count)

    def judge_bootd(self, began: float) -> Run:
        """A run of bootd that has ended."""
        records = [json.loads(self.record(name).read_text()) for name in self._names]
        sender, *receivers = [record["marks"] for record in records]
        first = min(marks["arranged"][0] for marks in receivers)
        last = {name: max(marks[name][0] for marks in receivers) for name in ("durable", "verified", "end")}
        cpu = {
            name: sum(marks[name][1] - marks["ready"][1] for marks in receivers)
            + sender["sent" if name == "durable" else "end"][1]
            - sender["ready"][1]
            for name in ("durable", "verified")
        }
        run = Run(
            max(last["end"], sender["end"][0]) - began,
            sum(marks["end"][1] for marks in (sender, *receivers)),
            max(record["rss"] for record in records),
            last["durable"] - first,
            last["verified"] - first,
            cpu["durable"],
            cpu["verified"],
        )
        return self._with_shares(run, [marks["durable"][0] - marks["arranged"][0] for marks in receivers])

    def clean(self) -> None:
        for path in [*self.folder.glob("target*"), *self.folder.glob("used-*"), self._warm]:
            path.unlink(missing_ok=True)

    @property
    def _names(self) -> list[str]:
        return ["s0", *(f"r{number}" for number in self.numbers)]

    def _with_shares(self, run: Run, seconds: list[float]) -> Run:
        """What went through the port of the slowest receiver, by the counters of its shaper.

        They count Ethernet frames with their header of 14 bytes, each segment of a large one by itself, and are
        what the shaper holds against its rate. A cable carries 24 bytes more for each (preamble, check sum, gap).
        """
        if not self.megabits:
            return run
        slowest = max(self.numbers, key=lambda number: seconds[number - 1])
        size, packets = self.room.passed(f"r{slowest}")
        possible = self.megabits * 1e6 / 8 * seconds[slowest - 1]
        return replace(run, wire=size / possible, payload=self.size / possible, packets=packets)


def make_source(path: Path, size: int) -> None:
    """Random data; every 4 KiB begin with their number, so a swapped or repeated block shows."""
    with path.open("wb") as file:
        for number in range(size // 4096):
            file.write(number.to_bytes(8, "big") + os.urandom(4088))
