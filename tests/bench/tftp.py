"""``make bench-tftp``: our TFTP server against dnsmasq, atftpd and tftpd-hpa, in one run and one lab.

Server on one processor, all clients on another (`tests.bench.tftp_load`: one Python process, each block compared).
A random file in RAM is fetched again and again for some seconds; a result is the median of the runs. CPU is that
of the server's processes while it serves, per 10^9 bytes of file delivered: unlike the rate it does not care what
the clients can take, or what else the machine does.

In lockstep, clients share the server's network namespace and its loopback device. With windows they are in a
namespace of their own behind a pair of interfaces whose arriving packets are given to the processor of who
receives them: over loopback two fifths of a sender's time is the receiving of its packets, which on a wire is the
clients' own affair. (In lockstep such a pair measures little but interrupts: two for each block, none of them
shared.) The pair takes one datagram at a time, so that batches are cut up where a network card would, and a loss
is one datagram; losses hit both directions (nft numgen). ``--place`` measures all cases in one of the two. Windows
are not known to dnsmasq and tftpd-hpa. The processor time of tftpd-hpa's processes cannot be counted: the kernel
reaps them. One JSON line per result goes to build/bench/tftp.jsonl.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.rivals import PEERS, ROOT, fetch, processor_seconds, record, settle
from tests.netns.room import Process, Room

FILE = "payload"
SIZE = 16 << 20
SETTINGS = "[tftp]\nmax_sessions_per_client = 4096\nworkers = 1\n"  # as many as it has processors here
PORTS = {"bootd": 6901, "dnsmasq": 69, "atftpd": 6902, "tftpd-hpa": 6903}
ADDRESS = "10.87.0.1"
CORES = {"server": 0, "clients": 1}
WINDOWS = ("bootd", "atftpd")  # who knows RFC 7440


@dataclass(frozen=True)
class Case:
    clients: int
    block: int
    window: int = 1
    loss: int = 0  # one datagram in so many; 0 = none

    @property
    def place(self) -> str:
        return "pair" if self.window > 1 else "loopback"

    def __str__(self) -> str:
        words = f"{self.clients} x {self.block}"
        words += f", window {self.window}" if self.window > 1 else ""
        return words + (f", loss 1 in {self.loss}" if self.loss else "")


CASES = (
    Case(1, 512), Case(1, 1468), Case(20, 512), Case(20, 1468), Case(200, 1468), Case(20, 1468, 8),
    Case(20, 1468, 16), Case(20, 1468, 64), Case(20, 1468, 16, 200), Case(20, 1468, 64, 200),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    server: str
    case: str
    rate: float  # 10^6 bytes a second
    cpu: float  # seconds of the server for 10^9 bytes; 0 = not known
    client_core: float  # share of its core that the load used
    asked_again: int  # silences of a second or more


def command(server: str, folder: Path) -> list[str]:
    port = str(PORTS[server])
    match server:
        case "bootd":
            return [sys.executable, "-m", "tests.bench.serve_files", str(folder), port, "7468", SETTINGS, ADDRESS]
        case "dnsmasq":
            return ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--enable-tftp",
                    f"--tftp-root={folder}", "--tftp-max=1000", "--user=root", "--pid-file=",
                    "--log-facility=/dev/null"]  # fmt: skip
        case "atftpd":
            return [str(PEERS / "usr/sbin/atftpd"), "--daemon", "--no-fork", "--port", port, "--bind-address",
                    ADDRESS, "--maxthread", "1000", "--logfile", "/dev/null", str(folder)]  # fmt: skip
        case _:
            return [str(PEERS / "usr/sbin/in.tftpd"), "--listen", "--foreground", "--address", f"{ADDRESS}:{port}",
                    "--user", "root", "--secure", str(folder)]  # fmt: skip


def _pinned(name: str) -> list[str]:
    return ["taskset", "-c", str(CORES[name])]


class Lab:
    def __init__(self, room: Room, folder: Path, libraries: dict[str, str], place: str) -> None:
        self.room, self.folder, self.place = room, folder, place
        self.environment = {"PYTHONPATH": str(ROOT), **libraries}
        wire = f"link add wire type veth peer name wire netns {room.namespace('clients')}"
        room.run("server", ["ip", *wire.split()])
        for name, address in (("server", ADDRESS), ("clients", "10.87.0.2")):
            room.run(name, ["ip", "link", "set", "dev", "wire", "up", "gso_max_segs", "1"])
            room.run(name, ["ip", "address", "add", f"{address}/24", "dev", "wire"])
            mask = 1 << CORES[name]
            room.run(name, ["sh", "-c", f"echo {mask} > /sys/class/net/wire/queues/rx-0/rps_cpus"])
            room.run(name, ["nft", "add table inet loss"])
            room.run(name, ["nft", "add chain inet loss in { type filter hook input priority 0; }"])

    def lose(self, one_in: int) -> None:
        for name in CORES:
            self.room.run(name, ["nft", "flush chain inet loss in"])
            if one_in:
                rule = f"add rule inet loss in meta l4proto udp numgen random mod {one_in} == 0 drop"
                self.room.run(name, ["nft", rule])

    def start(self, server: str) -> Process:
        process = self.room.start("server", [*_pinned("server"), *command(server, self.folder)], self.environment)
        limit = time.monotonic() + 20
        port = f":{PORTS[server]:04X} "
        while port not in self.room.run("server", ["cat", "/proc/net/udp"]):
            if time.monotonic() > limit or not process.running():
                raise RuntimeError(f"{server} does not listen: {process.output[-500:]}")
            time.sleep(0.05)
        return process

    def load(self, server: str, case: Case, seconds: float) -> dict[str, Any]:
        """What the clients say."""
        where = "clients" if (self.place or case.place) == "pair" else "server"
        command = [sys.executable, "-m", "tests.bench.tftp_load", ADDRESS, str(PORTS[server]), FILE]
        words = [str(word) for word in (case.clients, case.block, case.window, seconds)]
        done = subprocess.run(
            ["ip", "netns", "exec", self.room.namespace(where), *_pinned("clients"), *command, *words],
            capture_output=True, text=True, timeout=seconds + 60, cwd=self.folder,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{server}, {case}: {done.stderr[-400:]}")
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def measure(self, server: str, process: Process, case: Case, seconds: float) -> Result:
        settle(process.pid)
        self.load(server, Case(4, 1468), 0.2)
        before = processor_seconds(process.pid)
        got = self.load(server, case, seconds)
        used = max(processor_seconds(process.pid) - before, 0.0)  # less than nothing: processes ended unseen
        delivered = max(got["bytes"], 1)
        cpu = used / delivered * 1e9 if server != "tftpd-hpa" else 0.0
        rate = delivered / got["seconds"] / 1e6
        return Result(server, str(case), rate, cpu, got["own_core"], got["asked_again"])


def middle(results: list[Result]) -> Result:
    """The run with the median rate, with the median of processor time."""
    ordered = sorted(results, key=lambda result: result.rate)
    chosen = ordered[len(ordered) // 2]
    cpu = statistics.median(result.cpu for result in results)
    return Result(chosen.server, chosen.case, chosen.rate, cpu, chosen.client_core, chosen.asked_again)


def cell(result: Result | None) -> str:
    if result is None:
        return "-"
    return f"{result.rate:.0f} ({result.cpu:.1f})" if result.cpu else f"{result.rate:.0f}"


def show(cases: list[Case], results: dict[tuple[str, str], Result]) -> Table:
    table = Table(title="TFTP, 10^6 bytes a second (server CPU seconds per 10^9 bytes)")
    table.add_column("clients x blksize")
    for server in PORTS:
        table.add_column(server, justify="right")
    table.add_column("bootd : best other", justify="right")
    table.add_column("CPU, best other : bootd", justify="right")
    table.add_column("clients' core", justify="right")
    for case in cases:
        row = [results.get((server, str(case))) for server in PORTS]
        cells = [cell(result) for result in row]
        ours, others = row[0], [result for result in row[1:] if result]
        ratio = cheaper = core = "-"
        if ours:
            core = f"{ours.client_core:.0%}"
            if others:
                ratio = f"{ours.rate / max(other.rate for other in others):.2f}"
                known = [other.cpu for other in others if other.cpu]
                cheaper = f"{min(known) / ours.cpu:.2f}" if ours.cpu and known else "-"
        table.add_row(str(case), *cells, ratio, cheaper, core)
    return table


def main() -> None:
    options = argparse.ArgumentParser(prog="bench-tftp")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--seconds", type=float, default=2.0, help="of one run")
    options.add_argument("--servers", nargs="+", default=list(PORTS), choices=list(PORTS))
    options.add_argument("--cases", type=int, nargs="+", default=list(range(len(CASES))))
    options.add_argument("--place", choices=("loopback", "pair"), default="")
    given = options.parse_args()
    libraries = fetch("atftpd", "tftpd-hpa", "libwrap0", "libnsl2")
    cases = [CASES[number] for number in given.cases]
    results: dict[tuple[str, str], Result] = {}
    with Room(*CORES) as room, tempfile.TemporaryDirectory(dir="/dev/shm", prefix="bench-tftp-") as name:
        folder = Path(name)
        (folder / FILE).write_bytes(os.urandom(SIZE))
        folder.chmod(0o755)
        (folder / FILE).chmod(0o644)
        lab = Lab(room, folder, libraries, given.place)
        for case in cases:
            lab.lose(case.loss)
            collected: dict[str, list[Result]] = {}
            for _ in range(given.runs):  # by turns, so that what else the machine does hits all of them
                for server in given.servers:
                    if case.window > 1 and server not in WINDOWS:
                        continue
                    process = lab.start(server)
                    collected.setdefault(server, []).append(lab.measure(server, process, case, given.seconds))
                    process.stop()
            for server, several in collected.items():
                results[server, str(case)] = middle(several)
                print(json.dumps(asdict(results[server, str(case)])), flush=True)
    Console(width=150).print(show(cases, results))
    record("tftp.jsonl", [asdict(result) for result in results.values()])


if __name__ == "__main__":
    main()
