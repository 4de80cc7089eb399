"""``make demo``: the main job, on real firmware, with progress on the terminal.

Exit status: 0 when every node was cloned, verified and booted from its own disk; 1 otherwise.
"""

import argparse
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from bootd.errors import OperatorError
from tests.lab import golden
from tests.lab.errors import LabError
from tests.lab.lab import MOST_NODES, Kill, NodeResult, Options, Result, check_space, free_space_needed, run
from tests.lab.machine import Firmware
from tests.lab.status import NodeStatus
from tests.lab.story import MIB, PHASES, Phase, Step

_FIRMWARE = {"bios": (Firmware.BIOS,), "uefi": (Firmware.UEFI,), "both": (Firmware.BIOS, Firmware.UEFI)}
_KILL_RATE = 24.0  # megabits per second: slow enough to be killed in the middle


class Screen:
    """Steps as lines that stay, one bar per node below them while they change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description:<6}"),
            TextColumn("{task.fields[step]:<15}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>4.0f} %"),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._live = Live(Group(Text(), self._bars), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def step(self, text: str) -> None:
        self._line(f"[bold]{escape(text)}[/bold]")

    def node_step(self, node: str, step: Step, seconds: float) -> None:
        self._line(f"{node}: {step.name} [dim]({seconds:.1f} s after power-on)[/dim]")
        self._bars.update(self._task(node), step=step.name)

    def node_status(self, node: str, now: NodeStatus) -> None:
        if not now.total:
            return
        verifying = now.durable >= now.total
        numbers = (
            f"written {now.written / MIB:.0f}, durable {now.durable / MIB:.0f}, "
            f"verified {now.verified / MIB:.0f} of {now.total / MIB:.0f} MiB, {now.rate / 1e6:.1f} MB/s"
        )
        completed = now.verified if verifying else now.durable
        self._bars.update(self._task(node), total=now.total, completed=completed, numbers=numbers)

    def node_failed(self, node: str, error: LabError) -> None:
        self._line(f"[red]{escape(str(error))}[/red]")
        self._bars.update(self._task(node), step="[red]failed[/red]")

    def _task(self, node: str) -> TaskID:
        if node not in self._tasks:
            self._tasks[node] = self._bars.add_task(node, total=None, step="power-on", numbers="")
        return self._tasks[node]

    def _line(self, text: str) -> None:
        self._console.print(
            f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {text}", highlight=False, soft_wrap=True
        )


def main(arguments: list[str] | None = None) -> int:
    options = _options(_parser().parse_args(arguments))
    console = Console()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # SIGINT may come ignored, from a shell's "&"
        signal.signal(number, _interrupt)
    began = time.monotonic()
    try:
        with Screen(console) as screen:
            if options.image is not None:
                check_image(options.image)
            options.folder.mkdir(parents=True, exist_ok=True)
            size = options.image.stat().st_size if options.image else golden.DEFAULT_SIZE
            check_space(options.folder, free_space_needed(size, len(options.firmware)))
            result = run(options, screen)
    except LabError as error:
        console.print(f"[red]demo: {escape(str(error))}[/red]", soft_wrap=True)
        return _last_line(0, len(options.firmware))
    except OperatorError as error:
        console.print(f"[red]demo: building: {escape(str(error))}[/red]", soft_wrap=True)
        return _last_line(0, len(options.firmware))
    except KeyboardInterrupt:
        console.print("[red]demo: interrupted; everything is cleaned up[/red]")
        return _last_line(0, len(options.firmware))
    console.print(report(result))
    console.print(
        f"all in all {time.monotonic() - began:.0f} s; logs and disks in {options.folder}", highlight=False
    )
    for node in result.nodes:
        if node.failure:
            console.print(f"[red]{escape(node.failure)}[/red]", soft_wrap=True)
    if result.trouble:
        console.print(f"[red]{escape(result.trouble)}[/red]", soft_wrap=True)
    _last_line(result.good, len(result.nodes))
    return 0 if result.ok else 1


def report(result: Result) -> Table:
    """One column per node. MB are 10^6 bytes; times in seconds."""
    table = Table(title="What happened", title_justify="left")
    table.add_column("")
    for node in result.nodes:
        table.add_column(node.name, justify="right")
    rows: list[tuple[str, Callable[[NodeResult], str]]] = [
        ("firmware", lambda node: node.firmware.value),
        ("MB written", lambda node: f"{node.last.written / 1e6:.1f}"),
        ("MB durable", lambda node: f"{node.last.durable / 1e6:.1f}"),
        ("MB verified", lambda node: f"{node.last.verified / 1e6:.1f}"),
        ("MB/s, transfer", _rate),
        *((f"s {phase.title}", partial(_seconds, phase)) for phase in PHASES),
        ("s in all", lambda node: f"{sum(node.phases.values()):.1f}"),
        ("boots next", lambda node: node.label or "-"),
        ("result", lambda node: "[red]failed[/red]" if node.failure else "[green]ok[/green]"),
    ]
    for title, text in rows:
        table.add_row(title, *(text(node) for node in result.nodes))
    return table


def _rate(node: NodeResult) -> str:
    seconds = node.phases.get("transfer", 0.0)
    return f"{node.last.durable / 1e6 / seconds:.1f}" if seconds else "-"


def _seconds(phase: Phase, node: NodeResult) -> str:
    return f"{node.phases[phase.title]:.1f}" if phase.title in node.phases else "-"


def check_image(path: Path) -> None:
    """`LabError` when ``path`` cannot be a disk image; bootd checks the rest when it is asked to deploy it."""
    if not path.is_file():
        raise LabError("image", "check", f"{path} is not a file")
    if path.stat().st_size == 0 or path.stat().st_size % 512:
        raise LabError("image", "check", f"{path}: {path.stat().st_size} bytes are not whole sectors of 512")


def _last_line(good: int, count: int) -> int:
    print(f"demo: {good}/{count} nodes cloned, verified and booted", flush=True)
    return 1


def _options(words: argparse.Namespace) -> Options:
    kinds = _FIRMWARE[words.firmware]
    return Options(
        firmware=tuple(kinds[index % len(kinds)] for index in range(words.nodes)),
        folder=words.folder,
        cache=words.cache,
        boot=words.folder / "boot",
        image=words.image,
        login=words.expect_login,
        kill=words.kill,
        rate=words.rate or (_KILL_RATE if words.kill else None),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description="Clone a disk onto virtual nodes over the network.")
    parser.add_argument("--firmware", choices=sorted(_FIRMWARE), default="both")
    parser.add_argument("--nodes", type=_count, default=2, metavar="N", help=f"1 to {MOST_NODES}")
    parser.add_argument("--image", type=Path, help="raw disk image to clone (default: a small golden disk)")
    parser.add_argument("--expect-login", default="", metavar="REGEX", help="what its serial console must show")
    parser.add_argument("--kill", type=_kill, metavar="NODE@PERCENT", help="cut a node's power, as in node2@50")
    parser.add_argument("--rate", type=float, metavar="MBIT", help="what each node receives at most, Mbit/s")
    parser.add_argument("--folder", type=Path, default=Path("build/demo"), help="logs, disks, boot artefacts")
    parser.add_argument("--cache", type=Path, default=Path("build/cache"))
    return parser


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= MOST_NODES:
        raise argparse.ArgumentTypeError(
            f"{count} nodes: under software emulation 1 to {MOST_NODES} run at a time; a session needs all of them"
        )
    return count


def _kill(text: str) -> Kill:
    found = re.fullmatch(r"([a-z]+\d+)@(\d{1,3}(?:\.\d+)?)%?", text)
    if found is None or float(found[2]) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not NODE@PERCENT, as in node2@50")
    return Kill(found[1], float(found[2]))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
