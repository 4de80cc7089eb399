"""How the bench drives bootd and its peers, each as its manual says."""

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.lab import SECONDS, Lab, Run
from tests.namespaces import APART
from tests.netns.room import Process, RoomError

PORT = 7469
POLL = 0.005  # seconds


def bootd_receivers(lab: Lab) -> list[Process]:
    token = lab.folder / "token"
    token.write_text("a secret for the bench only\n")
    made = []
    for number in lab.numbers:
        words = ["ring", "receive", str(lab.target(number)), "--token-file", str(token)]
        made.append(lab.start_bootd(f"r{number}", words))
    for process in made:
        process.wait_for("waiting on", 30)
    return made


def bootd_sender(lab: Lab) -> Process:
    hosts = [lab.address(number) for number in lab.numbers]
    words = ["ring", "send", str(lab.source), *hosts, "--token-file", str(lab.folder / "token"), "--json"]
    return lab.start_bootd("s0", words)


def bootd(lab: Lab) -> Run:
    receivers = bootd_receivers(lab)
    began = lab.release()
    lab.wait([bootd_sender(lab), *receivers])
    return lab.judge_bootd(began)


def udpcast(lab: Lab) -> Run:
    """Full duplex, as its manual asks for on switched networks. A receiver ends when it has the file."""
    receivers = [
        lab.start(f"r{n}", ["udp-receiver", "--nokbd", "--interface", "eth0", "--file", str(lab.target(n))])
        for n in lab.numbers
    ]
    for process in receivers:
        process.wait_for("(?i)receiver", 10)
    began = lab.release()
    words = ["udp-sender", "--nokbd", "--interface", "eth0", "--full-duplex", "--file", str(lab.source)]
    sender = lab.start("s0", [*words, "--min-receivers", str(lab.count), "--max-wait", "5"])
    lab.wait([sender, *receivers])
    return lab.judge(began)


def netcat(lab: Lab) -> Run:
    """``nc | tee | nc``, the last one into its file; nothing is checked or flushed."""
    made: dict[int, Process] = {}
    for number in reversed(lab.numbers):  # who is dialled listens first
        line = f"nc -l -N {PORT}"
        if number < lab.count:
            line += f" | tee {lab.target(number)} | nc -N {lab.address(number + 1)} {PORT}"
        else:
            line += f" > {lab.target(number)}"
        made[number] = lab.start(f"r{number}", ["sh", "-c", line])
        _listening(lab, number, PORT)
    began = lab.release()
    sender = lab.start("s0", ["sh", "-c", f"nc -N {lab.address(1)} {PORT} < {lab.source}"])
    lab.wait([sender, *made.values()])
    return lab.judge(began)


def dolly(lab: Lab) -> Run:
    """A ``dolly.cfg`` with addresses for names. All clients write to one path: each sees its own folder there."""
    out = lab.folder / "dolly"
    out.mkdir(exist_ok=True)
    clients = [lab.address(number) for number in lab.numbers]
    lines = [
        f"infile {lab.source}",
        f"outfile {out / 'file'}",
        f"server {lab.address(0)}",
        f"firstclient {clients[0]}",
        f"lastclient {clients[-1]}",
        f"clients {lab.count}",
        *clients,
        "endconfig",
    ]
    settings = lab.folder / "dolly.cfg"
    settings.write_text("\n".join(lines) + "\n")
    receivers = [
        lab.start(f"r{number}", _apart(lab, number, "dolly -v"), _named(lab, number)) for number in lab.numbers
    ]
    for number in lab.numbers:
        _listening(lab, number, None)
    began = lab.release()
    sender = lab.start("s0", ["dolly", "-s", "-v", "-f", str(settings)], _named(lab, 0))
    for process in [sender, *receivers]:
        process.wait(SECONDS)
    _collect(lab)
    lab.wait([sender, *receivers])
    return lab.judge(began)


def kascade(lab: Lab) -> Run:
    """It starts its own receivers over ssh, which here is a script that enters the namespace of the address."""
    out = lab.folder / "dolly"
    out.mkdir(exist_ok=True)
    programs = lab.folder / "programs"
    programs.mkdir(exist_ok=True)
    cases = "\n".join(
        f"{lab.address(n)}|*@{lab.address(n)}) exec ip netns exec {lab.room.namespace(f'r{n}')} "
        f'{shlex.join(_apart(lab, n, "")[:-1])} "$*";;'
        for n in lab.numbers
    )
    shell = programs / "ssh"
    shell.write_text(
        "#!/bin/sh\n# ssh [-options [value]] host command…\n"
        'while [ $# -gt 0 ]; do case "$1" in -[opilF]) shift 2;; -*) shift;; *) break;; esac; done\n'
        f'host=$1; shift\ncase "$host" in\n{cases}\nesac\necho "no such host: $host" >&2; exit 255\n'
    )
    shell.chmod(0o700)
    nodes = ",".join(lab.address(number) for number in lab.numbers)
    words = ["kascade", "-n", nodes, "-i", str(lab.source), "-o", str(out / "file")]
    began = lab.release()
    sender = lab.start("s0", words, {"PATH": f"{programs}:{os.environ['PATH']}"})
    sender.wait(SECONDS)
    _collect(lab)
    for number in lab.numbers:  # they are children of the sender, whose record has their use too
        lab.record(f"r{number}").write_text('{"cpu": 0, "rss": 0, "ended": 0}')
    lab.wait([sender])
    return lab.judge(began)


def _apart(lab: Lab, number: int, line: str) -> list[str]:
    """A shell that sees a folder of its own where the others have theirs, and has a host name of its own."""
    own = lab.folder / f"own{number}"
    own.mkdir(exist_ok=True)
    shared = lab.folder / "dolly"
    before = f"mount --bind {own} {shared} && hostname {lab.address(number)} && "
    script = before + (f"exec {line}" if line else 'eval "$0"')
    return [*APART, "--uts", "sh", "-c", script, line or ""]


def _named(lab: Lab, number: int) -> dict[str, str]:
    return {"MYNODENAME": lab.address(number), "HOST": lab.address(number)}


def _collect(lab: Lab) -> None:
    """Where `Lab` looks for the files that were written apart."""
    for number in lab.numbers:
        written = lab.folder / f"own{number}" / "file"
        if written.exists():
            written.rename(lab.target(number))


def _listening(lab: Lab, number: int, port: int | None) -> None:
    """Until receiver ``number`` listens on ``port``, or on any."""
    wanted = f":{port} " if port else ":"
    deadline = time.monotonic() + 10
    while wanted not in lab.room.run(f"r{number}", ["ss", "-Hltn"]):
        if time.monotonic() > deadline:
            raise RoomError(f"receiver {number} does not listen")
        time.sleep(POLL)


# Name -> the program that it needs, if it is not ours, and the driver.
TOOLS: dict[str, tuple[str, Callable[[Lab], Run]]] = {
    "bootd": ("", bootd),
    "udpcast": ("udp-sender", udpcast),
    "nc | tee | nc": ("nc", netcat),
    "dolly": ("dolly", dolly),
    "kascade": ("kascade", kascade),
}


def repair(lab: Lab) -> float:
    """Seconds: the longest time in which the file of a killed member's successor did not grow."""
    receivers = bootd_receivers(lab)
    lab.release()
    sender = bootd_sender(lab)
    part = lab.target(3).with_name(lab.target(3).name + ".part")
    while _written(part) < lab.size // 3:
        if not sender.running():
            raise RoomError(f"the sender ended:\n{sender.output[-500:]}")
        time.sleep(POLL)
    os.kill(receivers[1].pid, 9)
    longest, last, grown = 0.0, _written(part), time.monotonic()
    while last < lab.size and sender.running():
        time.sleep(POLL)
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
