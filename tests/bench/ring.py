"""``make bench-ring``: the ring by hand against what else sends one file to many, in one run and one lab.

Namespaces on a bridge; random data with block numbers, from RAM (tmpfs) to files in RAM; every copy is compared;
memory is touched before every run. Medians of several runs. For bootd three rates: **durable**, from the first
arrangement until fdatasync has returned on the last receiver (what a peer does that ends when its receivers have
the file; only bootd checks digests and flushes), **verified**, until all has been read back too, and **whole**,
from the start of the sender's program, so with the start of Python and the digest of the source. Peers: the whole.

CPU is user and system time of all processes by GB of payload and hop; N receivers are N hops. Of whole programs,
and for bootd from the moment each member listens, until durable and until the end. The share of the wire counts
Ethernet frames of 14 + n bytes, which is what tbf holds against the rate; on a cable 24 bytes more go with each.
``stall``: the middle one of three is killed. One JSON line per result goes to build/bench/ring.jsonl.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.lab import ROOT, Lab, Run, make_source, median
from tests.bench.tools import TOOLS, repair
from tests.netns.room import Room, RoomError

MIB = 1 << 20
CABLE_BYTES = 24  # preamble and start 8, check sum 4, gap 12 (IEEE 802.3), beyond what a shaper counts
REPAIR_MEGABITS = 300
BUSY = 0.3  # of each core, before anything was started
Row = dict[str, Any]


def measure(folder: Path, tool: str, count: int, shaped: int, *, times: int, size: int) -> Row:
    """Medians of several runs, as a row."""
    row: Row = {"tool": tool, "receivers": count, "mbit": shaped, "bytes": size, "runs": times}
    done: list[Run] = []
    for _ in range(times):
        with Room("s0", *(f"r{number}" for number in range(1, count + 1))) as room:
            lab = Lab(room, folder, count, shaped)
            try:
                lab.warm()
                done.append(TOOLS[tool][1](lab))
            except RoomError as error:
                return {**row, "error": str(error)}
            finally:
                room.close()
                lab.clean()
    middle = median(done)
    row |= {"load": os.getloadavg()[0], "rss": middle.rss, "seconds": asdict(middle)}
    row["mb_per_second"] = {
        name: size / 1e6 / getattr(middle, name)
        for name in ("durable", "verified", "whole")
        if getattr(middle, name)
    }
    gb_hops = size / 1e9 * count
    row["cpu_per_gb_hop"] = {
        name: getattr(middle, f"cpu_{name}") / gb_hops
        for name in ("durable", "verified", "whole")
        if getattr(middle, f"cpu_{name}")
    }
    if shaped:
        row |= {"wire": middle.wire, "payload": middle.payload, "packets": middle.packets}
        seconds = size / (middle.payload * shaped * 1e6 / 8)
        row["cable"] = middle.wire + middle.packets * CABLE_BYTES * 8 / (shaped * 1e6 * seconds)
    return row


def rate(row: Row) -> float:
    """MB/s that is compared with other tools: durable, for a peer the whole."""
    rates: dict[str, float] = row["mb_per_second"]
    return rates.get("durable", rates["whole"])


def shown(rows: list[Row]) -> Table:
    table = Table("tool", "to", "Mbit/s", "durable", "verified", "whole", "wire", "payload")
    for title in ("CPU durable", "verified", "whole", "RSS MB", "t(N)/t(1)", "bootd is", "load"):
        table.add_column(title)
    for row in rows:
        head = [row["tool"], str(row["receivers"]), str(row["mbit"] or "-")]
        if "error" in row:
            table.add_row(*head, f"failed: {row['error'].splitlines()[0]}")
            continue
        one = find(rows, row["tool"], 1, row["mbit"])
        ours = find(rows, "bootd", row["receivers"], row["mbit"])
        names = ("durable", "verified", "whole")
        table.add_row(
            *head,
            *(f"{row['mb_per_second'][name]:.1f}" if name in row["mb_per_second"] else "-" for name in names),
            *(f"{row[name]:.1%}" if name in row else "-" for name in ("wire", "payload")),
            *(f"{row['cpu_per_gb_hop'][name]:.2f}" if name in row["cpu_per_gb_hop"] else "-" for name in names),
            f"{row['rss'] / 1e6:.0f}",
            f"{rate(one) / rate(row):.2f}" if one else "-",
            f"{rate(ours) / rate(row):.2f}x" if ours and row is not ours else "",
            f"{row['load']:.1f}",
        )
    table.caption = "MB/s, CPU seconds by GB and hop; t(N)/t(1) and 'bootd is': durable, a peer's whole"
    return table


def find(rows: list[Row], tool: str, receivers: int, mbit: int) -> Row | None:
    """The row of this measurement, if it worked."""
    wanted = (tool, receivers, mbit)
    return next((r for r in rows if (r["tool"], r["receivers"], r["mbit"]) == wanted and "error" not in r), None)


def targets(rows: list[Row], stall: float | None) -> list[tuple[str, float, str, bool]]:
    """What the ring is held to, as far as this run says something about it: text, value, bound, met or not."""
    said: list[tuple[str, float, str, bool]] = []

    def hold(text: str, value: float, bound: float, *, least: bool = False) -> None:
        met = value >= bound if least else value <= bound
        said.append((text, value, f"{'≥' if least else '≤'} {bound:g}", met))

    for row in rows:
        ours = find(rows, "bootd", row["receivers"], row["mbit"])
        if "error" in row or ours is None:
            continue
        where = f"to {row['receivers']}, {row['mbit'] or 'unshaped'}{' Mbit/s' if row['mbit'] else ''}"
        least = {"dolly": 3, "udpcast": 5}.get(row["tool"])
        if least and not row["mbit"] and row["receivers"] == 3:
            hold(f"rate over {row['tool']}'s, {where}", rate(ours) / rate(row), least, least=True)
        if row is not ours:
            continue
        if row["mbit"]:
            hold(f"share of the wire, {where}", row["wire"], 0.98, least=True)
            one = find(rows, "bootd", 1, row["mbit"])
            if one and row["receivers"] > 1:
                hold(f"time over that to one, {where}", rate(one) / rate(row), 1.05)
        else:
            hold(f"CPU s/GB/hop, digests on, until durable, {where}", row["cpu_per_gb_hop"]["durable"], 1.5)
            hold(f"the same with read-back, {where}", row["cpu_per_gb_hop"]["verified"], 1.5)
        hold(f"RSS, MB, {where}", row["rss"] / 1e6, 150)
    if stall is not None:
        hold("stall at a repair, s", stall, 1.0)
    return said


def stalled(folder: Path) -> float:
    """Seconds that a repair takes, as `repair` sees it."""
    with Room("s0", "r1", "r2", "r3") as room:
        lab = Lab(room, folder, 3, REPAIR_MEGABITS)
        try:
            lab.warm()
            return repair(lab)
        finally:
            room.close()
            lab.clean()


def chosen(names: list[str], console: Console) -> list[str]:
    """Those tools whose programs are here; the others are named."""
    tools = []
    for name in names:
        program = TOOLS[name][0]
        if not program or shutil.which(program):
            tools.append(name)
        else:
            console.print(f"left out: {name} is not installed")
    return tools


def main() -> int:
    options = parse()
    if os.geteuid() != 0:
        print("bench-ring makes network namespaces: run it as root", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=190)
    out = ROOT / "build/bench/ring.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    tools = chosen(options.tools, console)
    load = os.getloadavg()[0]
    if load > BUSY * (os.cpu_count() or 1):
        console.print(f"others use this machine (load {load:.1f}): rates and CPU come out worse than they are")
    rows: list[Row] = []
    stall = None
    with tempfile.TemporaryDirectory(prefix="bootd-bench-", dir="/dev/shm") as name, out.open("w") as file:
        folder = Path(name)

        def record(row: Row) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        for shaped in options.shape:
            size = (options.shaped_size if shaped else options.size) * MIB
            times = options.shaped_runs if shaped else options.runs
            make_source(folder / "source", size)
            for count in options.receivers:
                for tool in tools:  # side by side, so that a busy machine is busy for all
                    rows.append(measure(folder, tool, count, shaped, times=times, size=size))
                    record(rows[-1])
        if options.repair:
            stall = stalled(folder)
            record({"tool": "bootd", "case": "repair", "stall": stall, "load": os.getloadavg()[0]})
            console.print(
                f"middle one of three killed, {REPAIR_MEGABITS} Mbit/s: its successor stood still {stall:.2f} s"
            )
        for text, value, bound, met in targets(rows, stall):
            record({"target": text, "value": value, "bound": bound, "met": met})
    console.print(shown(rows))
    for text, value, bound, met in targets(rows, stall):
        console.print(f"{'met   ' if met else 'MISSED'} {text}: {value:.3g} ({bound})", highlight=False)
    return 1 if any("error" in row for row in rows) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ring", description="The ring against its peers.")
    parser.add_argument("--receivers", type=int, nargs="+", default=[1, 3, 7])
    parser.add_argument("--shape", type=int, nargs="+", default=[0, 100], help="Mbit/s per port; 0 is none")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="MiB, unshaped")
    parser.add_argument("--shaped-size", type=int, default=1024, help="MiB")
    parser.add_argument("--shaped-runs", type=int, default=1, help="long ones, which differ little")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument(
        "--repair", action=argparse.BooleanOptionalAction, default=True, help="measure a repair too"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
