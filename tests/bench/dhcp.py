"""A boot storm on the DHCP service: ``python -m tests.bench.dhcp`` (root), or ``make bench-dhcp``.

A thousand firmwares ask within one second while another client fetches a 1 GiB file from the same daemon. One JSON
line per way of serving: how many were answered, and how long the answers took in milliseconds. ``proxy`` offers
beside another server; ``known`` gives addresses to machines that had one before (a room that is switched on);
``new`` gives them to strangers, each ACK waiting for the probe of its address (``probe_ms``). The load comes
from one process that stamps every datagram as it leaves and arrives; it shares the machine with the daemon, as the
client of the file does. Of several runs the one with the median of the 99th percentile of offers is shown; ``runs``
has that figure of each.
"""

import argparse
import json
import select
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bootd.netboot import dhcp
from bootd.netboot.dhcp import Message, MessageType, Operation
from tests.bench.rivals import record, settle
from tests.netns.daemon import ADDRESS, Daemon
from tests.netns.room import Room

PROBE_SECONDS = 0.3
GIBIBYTE = 1 << 30
FULL = f"""
[dhcp]
proxy = false
rogue = "off"
probe_seconds = {PROBE_SECONDS}
[[dhcp.pool]]
subnet = "10.9.0.0/16"
range = "10.9.16.0-10.9.31.255"
"""
_WAIT_SECONDS = 4.0  # what firmware waits for an offer before it asks again


def request(kind: MessageType, number: int, address: str = "") -> bytes:
    """One client's message; ``number`` is its MAC and its transaction."""
    mac = b"\x52\x54" + struct.pack("!I", number)
    options = {53: bytes((kind,)), 60: b"PXEClient:Arch:00007:UNDI:003016", 93: b"\0\7", 94: b"\1\3\x10"}
    options[97] = b"\0" + mac.rjust(16, b"\0")
    if address:
        options |= {50: dhcp.packed(address), 54: dhcp.packed(ADDRESS)}
    transaction = number | (0x8000_0000 if kind is MessageType.REQUEST else 0)
    return dhcp.build(Message(Operation.REQUEST, transaction, 1, mac, broadcast=True, options=options))


def storm(clients: int, seconds: float, take: bool) -> dict[str, list[float]]:
    """Seconds from each DISCOVER to its OFFER and, with ``take``, from each REQUEST to its ACK."""
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    link.bind(("0.0.0.0", 68))
    messages = [request(MessageType.DISCOVER, number) for number in range(clients)]
    sent: dict[int, float] = {}
    taken: dict[str, list[float]] = {"offer": [], "ack": []}
    begun = time.perf_counter()
    number, last = 0, begun
    while time.perf_counter() - last < _WAIT_SECONDS and len(taken["ack" if take else "offer"]) < clients:
        now = time.perf_counter()
        while number < clients and now - begun >= seconds * number / clients:
            sent[number] = time.perf_counter()
            link.sendto(messages[number], ("255.255.255.255", 67))
            number += 1
            last = now
        select.select([link], [], [], 0.0005 if number < clients else 0.1)
        while True:
            try:
                data = link.recv(2048)
            except BlockingIOError:
                break
            arrived = time.perf_counter()
            transaction = int.from_bytes(data[4:8], "big")
            if transaction not in sent or data[0] != Operation.REPLY:
                continue
            last = arrived
            is_ack = bool(transaction >> 31)
            taken["ack" if is_ack else "offer"].append(arrived - sent.pop(transaction))
            if take and not is_ack:
                address = socket.inet_ntoa(data[16:20])
                message = request(MessageType.REQUEST, transaction, address)
                sent[transaction | 0x8000_0000] = time.perf_counter()
                link.sendto(message, ("255.255.255.255", 67))
    return taken


def summary(times: list[float], clients: int) -> dict[str, Any]:
    ordered = sorted(times)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 1) if ordered else -1.0

    return {"answered": len(ordered), "of": clients, "p50_ms": at(0.5), "p99_ms": at(0.99), "slowest_ms": at(1.0)}


def run(room: Room, folder: Path, way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    daemon = Daemon(room, folder, "" if way == "proxy" else FULL)
    for name in ("ipxe.efi", "snponly.efi", "local.efi"):
        (daemon.boot / name).write_bytes(name.encode())
    with (daemon.boot / "image").open("wb") as file:
        file.truncate(GIBIBYTE)
    process = daemon.start()
    settle(process.pid)
    words = [sys.executable, "-m", "tests.bench.dhcp", "--storm", way, "--clients", str(arguments.clients)]
    words += ["--seconds", str(arguments.seconds)]
    # As long as the storm lasts: a file after the other.
    url = f"http://{ADDRESS}:7468/image"
    loop = f"while curl -sS -o /dev/null -w '%{{speed_download}}\\n' {url}; do :; done"
    fetch = room.start("image", ["sh", "-c", loop])
    fetch.wait_for(r"\d+\n", 60)  # the first one is through: the others are under way
    measured: dict[str, Any] = json.loads(room.run("client", words, 120))
    speeds = [int(line) for line in fetch.output.split()]
    fetch.stop()
    process.stop(10)
    measured["image_MB_per_second"] = round(sum(speeds) / len(speeds) / 1e6)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1.0, help="in which they all ask")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--storm", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.storm:
        taken = storm(arguments.clients, arguments.seconds, arguments.storm != "proxy")
        print(json.dumps({kind: summary(times, arguments.clients) for kind, times in taken.items() if times}))
        return
    lines: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.runs):
        for way, line in one_round(arguments):
            print(f"{way}: 99th percentile of offers {line['offer']['p99_ms']} ms", file=sys.stderr, flush=True)
            lines.setdefault(way, []).append(line)
    results = []
    for way, several in lines.items():
        several.sort(key=lambda line: float(line["offer"]["p99_ms"]))
        shown = {"way": way, **several[len(several) // 2]}
        shown["runs"] = [line["offer"]["p99_ms"] for line in several]
        print(json.dumps(shown))
        results.append(shown)
    record("dhcp.jsonl", results)


def one_round(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each way once, with a daemon that starts without leases."""
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    try:
        with Room("server", "client", "image") as room:
            room.address("server", f"{ADDRESS}/16")
            room.address("client", "10.9.0.60/16")
            room.address("image", "10.9.0.61/16")
            for way in ("proxy", "new", "known"):  # in this order: who is new in one is known in the next
                line = run(room, folder, way, arguments)
                yield way, line | ({"probe_ms": PROBE_SECONDS * 1000} if way == "new" else {})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
