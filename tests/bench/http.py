"""``make bench-http``: the bulk workers against nginx with sendfile, in one run and one lab.

A file in RAM (tmpfs), fetched whole by curl over the loopback device of a namespace of its own: 1 stream, then 20
at once; a result is the median of the runs. nginx has as many workers as there are processors, as Debian has it.
CPU is that of the server's processes, per 10^9 bytes. One JSON line per result goes to build/bench/http.jsonl.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.rivals import PEERS, ROOT, fetch, processor_seconds, record, settle
from tests.netns.room import Process, Room

PORTS = {"bootd": 7468, "nginx": 7480}
NGINX = """
user root; worker_processes auto; pid {folder}/pid; error_log stderr; daemon off;
events {{ worker_connections 768; }}
http {{ sendfile on; tcp_nopush on; access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:7480; root {folder}; }} }}
"""


@dataclass(frozen=True)
class Result:
    server: str
    streams: int
    rate: float  # 10^6 bytes a second, all streams together
    cpu: float  # seconds of the server for 10^9 bytes


def start(room: Room, server: str, folder: Path, libraries: dict[str, str]) -> Process:
    if server == "nginx":
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
        command = [
            str(PEERS / "usr/sbin/nginx"),
            "-e",
            "stderr",
            "-p",
            str(folder),
            "-c",
            str(folder / "nginx.conf"),
        ]
    else:
        command = [sys.executable, "-m", "tests.bench.serve_files", str(folder), "6901", str(PORTS[server])]
    process = room.start("lab", command, {"PYTHONPATH": str(ROOT), **libraries})
    limit = time.monotonic() + 20
    url = f"http://127.0.0.1:{PORTS[server]}/payload"
    probe = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-I", url]
    while room.run("lab", probe, check=False) != "200":
        if time.monotonic() > limit or not process.running():
            raise RuntimeError(f"{server} does not answer: {process.output[-500:]}")
        time.sleep(0.05)
    settle(process.pid)
    return process


def measure(room: Room, server: str, process: Process, streams: int, size: int) -> Result:
    url = f"http://127.0.0.1:{PORTS[server]}/payload"
    command = [
        "ip",
        "netns",
        "exec",
        room.namespace("lab"),
        "curl",
        "-sSf",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
    ]
    before, began = processor_seconds(process.pid), time.monotonic()
    clients = [subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True) for _ in range(streams)]
    for client in clients:
        printed, _ = client.communicate(timeout=300)
        if client.returncode or int(printed) != size:
            raise RuntimeError(f"{server}: curl ended with {client.returncode} after {printed} bytes")
    seconds = time.monotonic() - began
    used = processor_seconds(process.pid) - before
    return Result(server, streams, size * streams / seconds / 1e6, used / (size * streams) * 1e9)


def main() -> None:
    options = argparse.ArgumentParser(prog="bench-http")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--mebibytes", type=int, default=1024, help="of the file")
    given = options.parse_args()
    libraries = fetch("nginx")
    size = given.mebibytes << 20
    results: list[Result] = []
    table = Table(title="HTTP, 10^6 bytes a second (server CPU seconds per 10^9 bytes)")
    for column in ("streams", *PORTS, "bootd : nginx"):
        table.add_column(column, justify="right")
    with Room("lab") as room, tempfile.TemporaryDirectory(dir="/dev/shm", prefix="bench-http-") as name:
        folder = Path(name)
        with (folder / "payload").open("wb") as file:
            for _ in range(given.mebibytes):
                file.write(bytes(range(256)) * 4096)
        for streams in (1, 20):
            collected: dict[str, list[Result]] = {server: [] for server in PORTS}
            for _ in range(given.runs):
                for server in PORTS:
                    process = start(room, server, folder, libraries)
                    collected[server].append(measure(room, server, process, streams, size))
                    process.stop()
            middle = [
                Result(server, streams, statistics.median(one.rate for one in several),
                       statistics.median(one.cpu for one in several))
                for server, several in collected.items()
            ]  # fmt: skip
            results += middle
            print("\n".join(json.dumps(asdict(result)) for result in middle), flush=True)
            ratio = middle[0].rate / middle[1].rate
            table.add_row(str(streams), *(f"{one.rate:.0f} ({one.cpu:.2f})" for one in middle), f"{ratio:.2f}")
    Console(width=110).print(table)
    record("http.jsonl", [asdict(result) for result in results])


if __name__ == "__main__":
    main()
