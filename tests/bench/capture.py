"""Part of `images`: a node's disk as ``bootd backup`` reads it, at first, after 1 % of its data has changed, and
after as much again with ``--quick``.

The daemon and the agent of stage2 run as they are, in two network namespaces of this machine; the disk is the loop
device. Seconds are those from the first byte that is read to the image's id, as the daemon saw them come in; CPU is
that of the daemon with its workers and of the agent.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room

MAC, SERIAL = "52:54:00:00:00:01", "LOOP-1"
SECONDS = 900.0
_TICKS = os.sysconf("SC_CLK_TCK")


def captures(
    folder: Path, size: int, device: Callable[[], AbstractContextManager[str]], change: Callable[[], int]
) -> Iterator[dict[str, Any]]:
    """Three rows. ``device``: the loop device of the disk, while it is held; ``change``: bytes that it changes."""
    folder.mkdir()
    with Room("server", "n1") as room:
        room.address("server", f"{ADDRESS}/24")
        room.address("n1", "10.9.0.11/24")
        daemon = Daemon(room, folder)
        process = daemon.start()
        first: dict[str, Any] = {}
        for what, words in (("node backup", ()), ("node backup again", ()), ("node backup, quick", ("--quick",))):
            changed = change() if first else 0
            with device() as name:
                found = _capture(room, daemon, process, name, words)
            row = {"tool": "bootd", "what": what, "bytes": size, "mb_per_second": size / 1e6 / found["seconds"]}
            if first:
                row |= {
                    "changed": changed,
                    "new_share": found["new_bytes"] / found["total"],
                    "faster_than_first": first["seconds"] / found["seconds"],
                }
            first = first or found
            yield {**row, **found}


def _capture(room: Room, daemon: Daemon, process: Process, device: str, options: tuple[str, ...]) -> dict[str, Any]:
    text = daemon.command("backup", MAC, "disk", "-m", "bench", "--no-wait", "--json", "--after", "stay", *options)
    id_ = str(json.JSONDecoder().raw_decode(text)[0]["id"])
    before = _cpu(process.pid)
    words = [sys.executable, "-m", "tests.netns.backup_node", MAC, "10.9.0.11", f"{ADDRESS}:{HTTP_PORT}", device]
    node = room.start("n1", [*words, SERIAL])
    try:
        node.wait_for("GB in use", 60)
        began = time.monotonic()
        node.wait_for("image [0-9a-f]{16}: ", SECONDS)
        seconds = time.monotonic() - began
        cpu = _cpu(process.pid) - before + _cpu(node.pid)
        rss = _peak(node.pid)
        shown = json.loads(daemon.command("backups", "show", id_, "--json"))
        if shown["state"] != "done":
            raise RuntimeError(f"backup: {shown}")
    finally:
        node.stop()
    return {
        "seconds": seconds,
        "cpu": cpu,
        "rss": rss,
        "new_bytes": shown["sent"],
        "total": shown["total"],
        "skipped": shown["skipped"],
    }


def _cpu(pid: int) -> float:
    """Seconds of the process and all that come from it, those that live."""
    total = 0.0
    for path in [Path(f"/proc/{pid}"), *(_children(pid))]:
        words = (path / "stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, words[11:15])) / _TICKS
    return total


def _children(pid: int) -> Iterator[Path]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield Path(f"/proc/{child}")
            yield from _children(int(child))


def _peak(pid: int) -> int:
    """Bytes: the largest resident set of the process and its children."""
    found = []
    for path in [Path(f"/proc/{pid}"), *_children(pid)]:
        line = next(line for line in (path / "status").read_text().splitlines() if line.startswith("VmHWM"))
        found.append(int(line.split()[1]) * 1024)
    return max(found)
