"""``make bench-ring``: the ring by hand against what else sends one file to many, in one run and one lab.

Namespaces on a bridge; random data with block numbers, from RAM (tmpfs) to files in RAM; every copy is compared.
Seconds run from the start of the sender's program to the end of the last receiver's, so bootd's include the start
of Python, the digest of the source, and reading every copy back, which nobody else does. A tool that is not
installed is named and left out. The share of the wire is payload over what tbf lets through, headers included: TCP
itself cannot pass 95.6 % (1448 of 1514 bytes). CPU is that of whole programs, start included. One JSON line per
result goes to build/bench/ring.jsonl.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.netns.room import Process, Room, RoomError

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
PORT = 7469
SECONDS = 180.0


@dataclass(frozen=True)
class Run:
    """One transfer. Seconds; CPU seconds of all programs; bytes of the largest one."""

    seconds: float
    cpu: float
    rss: int
    ring: float = 0.0  # bootd: from the first arrangement until every receiver has read everything back


class Lab:
    """Sender ``s0`` and receivers ``r1``…, with the payload and a folder for each in RAM."""

    def __init__(self, room: Room, folder: Path, receivers: int) -> None:
        self.room, self.folder, self.count = room, folder, receivers
        self.source = folder / "source"
        room.address("s0", "10.88.0.1/24")
        for number in self.numbers:
            room.address(f"r{number}", f"{self.address(number)}/24")

    @property
    def numbers(self) -> range:
        return range(1, self.count + 1)

    def address(self, number: int) -> str:
        return f"10.88.0.{number + 1}"

    def target(self, number: int) -> Path:
        return self.folder / f"target{number}"

    def start(self, who: str, command: list[str]) -> Process:
        record = self.folder / f"used-{who}"
        measured = [sys.executable, "-m", "tests.bench.measured", str(record), *command]
        return self.room.start(who, measured, {"PYTHONPATH": str(ROOT)})

    def finish(self, began: float, receivers: list[Process], sender: Process, ring: float = 0.0) -> Run:
        for process in [sender, *receivers]:
            code = process.wait(SECONDS)
            if code:
                raise RoomError(f"{process.who} ended with {code}:\n{process.output[-500:]}")
        names = ["s0", *(f"r{number}" for number in self.numbers)]
        used = [json.loads((self.folder / f"used-{name}").read_text()) for name in names]
        for number in self.numbers:
            same = subprocess.run(["cmp", "--silent", str(self.source), str(self.target(number))]).returncode
            if same:
                raise RoomError(f"receiver {number} has another content")
        ended = max(record["ended"] for record in used)
        return Run(ended - began, sum(r["cpu"] for r in used), max(r["rss"] for r in used), ring)

    def clean(self) -> None:
        for path in [*self.folder.glob("target*"), *self.folder.glob("used-*")]:
            path.unlink()


def bootd_receivers(lab: Lab) -> list[Process]:
    token = lab.folder / "token"
    token.write_text("a secret for the bench only\n")
    command = [sys.executable, "-c", "from bootd.cli.main import main; main()", "ring"]
    made = []
    for number in lab.numbers:
        words = [*command, "receive", str(lab.target(number)), "--token-file", str(token)]
        made.append(lab.start(f"r{number}", words))
    for process in made:
        process.wait_for("waiting on", 30)
    return made


def bootd_sender(lab: Lab) -> Process:
    command = [sys.executable, "-c", "from bootd.cli.main import main; main()", "ring", "send", str(lab.source)]
    hosts = [lab.address(number) for number in lab.numbers]
    return lab.start("s0", [*command, *hosts, "--token-file", str(lab.folder / "token"), "--json"])


def bootd(lab: Lab) -> Run:
    receivers = bootd_receivers(lab)
    began = time.monotonic()
    sender = bootd_sender(lab)
    sender.wait_for("epoch 1", SECONDS)
    arranged = time.monotonic()
    sender.wait_for(r"\d+ nodes verified", SECONDS)
    ring = time.monotonic() - arranged
    return lab.finish(began, receivers, sender, ring)


def udpcast(lab: Lab) -> Run:
    """In its full-duplex mode for switched networks, as its manual asks for."""
    receivers = [
        lab.start(f"r{n}", ["udp-receiver", "--nokbd", "--interface", "eth0", "--file", str(lab.target(n))])
        for n in lab.numbers
    ]
    for process in receivers:
        process.wait_for("(?i)receiver", 10)
    began = time.monotonic()
    words = ["udp-sender", "--nokbd", "--interface", "eth0", "--full-duplex", "--file", str(lab.source)]
    sender = lab.start("s0", [*words, "--min-receivers", str(lab.count), "--max-wait", "5"])
    return lab.finish(began, receivers, sender)


def netcat(lab: Lab) -> Run:
    """``nc | tee | nc``, the last one into its file; nothing is checked or flushed."""
    receivers = []
    for number in lab.numbers:
        take = f"nc -l -N {PORT}"
        if number < lab.count:
            line = f"{take} | tee {lab.target(number)} | nc -N {lab.address(number + 1)} {PORT}"
        else:
            line = f"{take} > {lab.target(number)}"
        receivers.append((number, line))
    made: dict[int, Process] = {}
    for number, line in reversed(receivers):  # who is dialled listens first
        made[number] = lab.start(f"r{number}", ["sh", "-c", line])
        _listening(lab, number)
    began = time.monotonic()
    sender = lab.start("s0", ["sh", "-c", f"nc -N {lab.address(1)} {PORT} < {lab.source}"])
    return lab.finish(began, list(made.values()), sender)


def _listening(lab: Lab, number: int) -> None:
    deadline = time.monotonic() + 10
    while f":{PORT}" not in lab.room.run(f"r{number}", ["ss", "-Hltn"]):
        if time.monotonic() > deadline:
            raise RoomError(f"receiver {number} does not listen")
        time.sleep(0.02)


TOOLS: dict[str, tuple[str, Callable[[Lab], Run]]] = {
    "bootd": ("", bootd),
    "udpcast": ("udp-sender", udpcast),
    "nc | tee | nc": ("nc", netcat),
}


def repair(lab: Lab) -> float:
    """Seconds: the longest time in which the successor of a killed member's file did not grow."""
    receivers = bootd_receivers(lab)
    sender = bootd_sender(lab)
    sender.wait_for("epoch 1", SECONDS)
    part = lab.folder / "target3.part"
    size = lab.source.stat().st_size
    while _written(part) < size // 3:
        time.sleep(0.005)
    victim = int(lab.room.run("r2", ["pgrep", "-P", str(receivers[1].pid)]).split()[0])
    os.kill(victim, 9)
    longest, last, grown = 0.0, _written(part), time.monotonic()
    while last < size and sender.running():
        time.sleep(0.005)
        now, written = time.monotonic(), _written(part)
        if written > last:
            longest, last, grown = max(longest, now - grown), written, now
    sender.wait(SECONDS)
    return longest


def _written(path: Path) -> int:
    """Bytes that a sparse file in RAM really has: it is as long as the image from the start."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 1 << 62 if path.with_suffix("").exists() else 0  # verified, and so renamed


def make_source(path: Path, size: int) -> None:
    """Random data; every 4 KiB begin with their number, so a swapped or repeated block shows."""
    with path.open("wb") as file:
        for number in range(size // 4096):
            file.write(number.to_bytes(8, "big") + os.urandom(4088))


def main() -> int:
    options = parse()
    if os.geteuid() != 0:
        print("bench-ring makes network namespaces: run it as root", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=140)
    out = ROOT / "build/bench/ring.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    tools = {name: run for name, (program, run) in TOOLS.items() if not program or shutil.which(program)}
    for name in TOOLS.keys() - tools.keys():
        console.print(f"left out: {name} is not installed")
    for name in ("dolly", "kascade"):
        if shutil.which(name):
            console.print(f"left out: {name} is on PATH, and this bench does not drive it yet")
    size = options.size * MIB
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bootd-bench-", dir="/dev/shm") as name:
        make_source(Path(name) / "source", size)
        with out.open("w") as file:
            for shaped in options.shape:
                for count in options.receivers:
                    for tool, run in tools.items():
                        row = measure(Path(name), tool, run, count, shaped, times=options.runs, size=size)
                        rows.append(row)
                        file.write(json.dumps(row) + "\n")
                        file.flush()
            if max(options.receivers) >= 3:
                with Room("s0", "r1", "r2", "r3") as room:
                    for who in ("s0", "r1", "r2", "r3"):
                        room.limit(who, 300)
                    stall = repair(Lab(room, Path(name), 3))
                file.write(json.dumps({"tool": "bootd", "case": "repair", "stall": stall}) + "\n")
                console.print(f"middle one of three killed, 300 Mbit/s: its successor stood still {stall:.2f} s")
    console.print(shown(rows))
    return 1 if any("error" in row for row in rows) else 0


def measure(
    folder: Path, tool: str, run: Callable[[Lab], Run], count: int, shaped: int, *, times: int, size: int
) -> dict[str, Any]:
    """Medians of several runs, as a row."""
    row: dict[str, Any] = {"tool": tool, "receivers": count, "mbit": shaped, "bytes": size, "runs": times}
    names = ["s0", *(f"r{number}" for number in range(1, count + 1))]
    done: list[Run] = []
    for _ in range(times):
        with Room(*names) as room:
            for who in names if shaped else ():
                room.limit(who, shaped)
            lab = Lab(room, folder, count)
            try:
                done.append(run(lab))
            except RoomError as error:
                return {**row, "error": str(error)}
            finally:
                room.close()
                lab.clean()
    median = {key: statistics.median(asdict(one)[key] for one in done) for key in asdict(done[0])}
    rate = size / 1e6 / median["seconds"]
    row |= {"seconds": median["seconds"], "mb_per_second": rate, "rss": median["rss"]}
    row |= {"cpu_per_gb_hop": median["cpu"] / (size / 1e9) / count}
    if median["ring"]:
        row["ring_mb_per_second"] = size / 1e6 / median["ring"]
    if shaped:
        row["share"] = (row.get("ring_mb_per_second") or rate) * 8 / shaped
    return row


def shown(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "tool", "to", "Mbit/s", "MB/s", "ring MB/s", "of wire", "CPU s/GB/hop", "RSS MB", "t(N)/t(1)", "bootd is"
    )
    for row in rows:
        key = (row["receivers"], row["mbit"])
        head = [row["tool"], str(row["receivers"]), str(row["mbit"] or "-")]
        if "error" in row:
            table.add_row(*head, f"failed: {row['error'].splitlines()[0]}")
            continue
        one = find(rows, row["tool"], 1, row["mbit"])
        ours = find(rows, "bootd", *key)
        table.add_row(
            *head,
            f"{row['mb_per_second']:.1f}",
            f"{row['ring_mb_per_second']:.1f}" if "ring_mb_per_second" in row else "-",
            f"{row['share']:.1%}" if "share" in row else "-",
            f"{row['cpu_per_gb_hop']:.2f}",
            f"{row['rss'] / 1e6:.0f}",
            f"{row['seconds'] / one['seconds']:.2f}" if one else "-",
            f"{ours['mb_per_second'] / row['mb_per_second']:.2f}x" if ours and row is not ours else "",
        )
    return table


def find(rows: list[dict[str, Any]], tool: str, receivers: int, mbit: int) -> dict[str, Any] | None:
    """The row of this measurement, if it worked."""
    wanted = (tool, receivers, mbit)
    return next((r for r in rows if (r["tool"], r["receivers"], r["mbit"]) == wanted and "error" not in r), None)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ring", description="The ring against its peers.")
    parser.add_argument("--receivers", type=int, nargs="+", default=[1, 3, 7])
    parser.add_argument("--shape", type=int, nargs="+", default=[0, 300], help="Mbit/s per port; 0 is none")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="MiB")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
