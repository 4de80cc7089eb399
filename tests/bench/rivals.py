"""What both file benches need: other servers taken from their Debian packages without installing them, programs
timed by the processor time of all their processes, and results as JSON lines."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "build" / "bench"
PEERS = BENCH / "peers"
_TICKS = os.sysconf("SC_CLK_TCK")


def fetch(*packages: str) -> dict[str, str]:
    """Unpacks Debian packages below build/bench/peers (atftpd and tftpd-hpa cannot be installed side by side, and
    an installed server would start); the environment in which their programs find their libraries."""
    debs = PEERS / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    for package in packages:
        if not list(debs.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", package], cwd=debs, check=True, capture_output=True)
        for deb in debs.glob(f"{package}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(deb), str(PEERS)], check=True)
    folders = [PEERS / "usr/lib/x86_64-linux-gnu", PEERS / "lib/x86_64-linux-gnu"]
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}


def processor_seconds(pid: int) -> float:
    """User and system time of a process, its living descendants, and those it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    except OSError:
        return 0.0
    return sum(int(word) for word in fields[11:15]) / _TICKS + sum(map(processor_seconds, children))


def settle(pid: int) -> None:
    """Wait until a server that has just begun to answer has started all of itself: it uses no processor time."""
    limit, before, quiet = time.monotonic() + 20, processor_seconds(pid), 0
    while quiet < 5 and time.monotonic() < limit:
        time.sleep(0.1)
        now = processor_seconds(pid)
        before, quiet = now, quiet + 1 if now == before else 0


def record(name: str, results: list[dict[str, Any]]) -> Path:
    """One JSON line for each result, in build/bench."""
    BENCH.mkdir(parents=True, exist_ok=True)
    path = BENCH / name
    path.write_text("".join(json.dumps(result) + "\n" for result in results))
    return path
