"""stage2 from another server, and what a node does when it gets none: the words of every method, then parked."""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

import pytest

from bootd.build.described import describe
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room

SERVER = f"{ADDRESS}:{HTTP_PORT}"
MAC = "52:54:00:00:00:01"
NETWORK = "interface:auto,network:dhcp"
NOBODY = f"bootd.server=127.0.0.1:9 bootd.node={MAC} bootd.token=00"  # the namespace's own: refused at once
CONTENT = os.urandom((3 << 20) + 17)


def boot(room: Room, folder: Path, server: str = SERVER, seconds: float = 0.2) -> Process:
    room.run("n1", ["ip", "link", "set", "lo", "up"])
    room.mac("n1", MAC)
    (folder / "n1").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.netns.stage1_node", MAC, "10.9.0.11", server, str(folder / "n1")]
    return room.start("n1", [*command, str(seconds)])


def start(room: Room, folder: Path, label: str, *, has_stage2: bool = True) -> Daemon:
    """bootd, whose nodes boot a label with this method of ``automatic=``."""
    text = f'[boot]\ndefault = "own"\n[[label]]\nname = "own"\nappend = "automatic={label},{NETWORK}"\n'
    daemon = Daemon(room, folder, text)
    if has_stage2:
        (daemon.boot / "stage2").mkdir()
        path = daemon.boot / "stage2/stage2.squashfs"
        path.write_bytes(CONTENT)
        (path.parent / "stage2.json").write_text(json.dumps(describe(path)))
    daemon.start()
    return daemon


def serve(room: Room, folder: Path, place: str, content: bytes) -> None:
    """Python's own HTTP server on n2, with ``content`` at ``place``."""
    path = folder / "exported" / place.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    command = [sys.executable, "-u", "-m", "http.server", "8080", "--directory", str(folder / "exported")]
    room.start("n2", command).wait_for("Serving HTTP", 20)


ELSEWHERE = "method:http,server:10.9.0.12:8080,directory:"


@pytest.mark.parametrize(
    ("directory", "place"),
    [
        ("/cs4", "/cs4/stage2.squashfs"),
        ("/cs4", "/cs4/install/stage2/rescue.sqfs"),
        ("/images/mine.squashfs", "/images/mine.squashfs"),
    ],
)
def test_another_http_server(room: Room, folder: Path, directory: str, place: str) -> None:
    """`server:` and `directory:` of the label; bootd's own copy is not touched."""
    serve(room, folder, place, CONTENT)
    start(room, folder, f"{ELSEWHERE}{directory}")
    agent = boot(room, folder)
    agent.wait_for("would mount", 30)
    assert (folder / "n1/stage2.squashfs").read_bytes() == CONTENT
    assert f"stage2 comes from http://10.9.0.12:8080{place}" in agent.output
    given = room.run("server", ["cat", "/sys/class/net/eth0/statistics/tx_bytes"])
    assert int(given) < len(CONTENT) // 10


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), "stage2 is wrong between byte"),
        (CONTENT[: len(CONTENT) // 2], "cut off after"),
        (None, "has none of"),
    ],
)
def test_another_http_server_with_the_wrong_file(
    room: Room, folder: Path, content: bytes | None, reason: str
) -> None:
    """Five tries with the seeds' words; then parked, and bootd knows why."""
    serve(room, folder, "/cs4/stage2.squashfs" if content else "/other", content or b"x")
    daemon = start(room, folder, f"{ELSEWHERE}/cs4")
    agent = boot(room, folder)
    assert agent.wait(60) == 1, agent.output
    said = re.findall(r"Can't reach a valid HTTP server: (.*) \(try (\d) of 5\)", agent.output)
    assert [number for _, number in said] == ["1", "2", "3", "4", "5"]
    assert all(reason in text for text, _ in said), said
    assert "would mount" not in agent.output
    (node,) = json.loads(daemon.command("node", "list", "--json"))
    assert "Can't reach a valid HTTP server in 5 tries" in node["parked"]


def test_a_server_that_bootd_cannot_compare_with(room: Room, folder: Path) -> None:
    """bootd has no stage2 of its own: what the label names is taken, and the console says that it is unchecked."""
    serve(room, folder, "/cs4/stage2.squashfs", CONTENT)
    start(room, folder, f"{ELSEWHERE}/cs4", has_stage2=False)
    agent = boot(room, folder)
    agent.wait_for("what comes cannot be checked", 30)
    agent.wait_for("would mount", 30)
    digest = hashlib.sha256((folder / "n1/stage2.squashfs").read_bytes()).digest()
    assert digest == hashlib.sha256(CONTENT).digest()


@pytest.mark.parametrize(
    ("method", "words", "tries"),
    [
        ("method:ka", "Can't reach a valid KA server", 5),
        ("method:dolly,dolly_timeout:100", "Can't reach a valid Dolly server", 3),
        ("method:http", "Can't reach a valid HTTP server", 5),
        ("method:nfs,server:127.0.0.1,directory:/cs4", "Can't reach a valid NFS server", 5),
    ],
)
@pytest.mark.parametrize("gives_up", ["park", "reboot"])
def test_nobody_there(room: Room, folder: Path, *, method: str, words: str, tries: int, gives_up: str) -> None:
    """As often as the seeds, in their words; then parked, or restarted where the label says so."""
    agent = boot(room, folder, f"automatic={method},give_up:{gives_up},{NETWORK} {NOBODY}", seconds=0.05)
    assert agent.wait(60) == (1 if gives_up == "park" else 2), agent.output
    said = re.findall(rf"{words}: 127\.0\.0\.1:9: Connection refused \(try (\d) of {tries}\)", agent.output)
    assert said == [str(number) for number in range(1, tries + 1)]
    last = "parked: " if gives_up == "park" else "restarting, as the label says: "
    assert f"bootd-stage1: {last}{words} in {tries} tries" in agent.output


def test_no_nfs_server(room: Room, folder: Path) -> None:
    """bootd is there, the other is not: the one that is missing is named."""
    daemon = start(room, folder, "method:nfs,server:10.9.0.12,directory:/cs4")
    agent = boot(room, folder)
    assert agent.wait(60) == 1
    assert "Can't reach a valid NFS server: 10.9.0.12: Connection refused (try 5 of 5)" in agent.output
    (node,) = json.loads(daemon.command("node", "list", "--json"))
    assert "10.9.0.12: Connection refused" in node["parked"]


@pytest.mark.parametrize(("method", "tries"), [("ka", 5), ("dolly", 3)])
def test_bootd_without_a_stage2(room: Room, folder: Path, method: str, tries: int) -> None:
    daemon = start(room, folder, f"method:{method}", has_stage2=False)
    agent = boot(room, folder)
    assert agent.wait(60) == 1
    assert f"stage2 is not here: bootd stage build (try {tries} of {tries})" in agent.output
    (node,) = json.loads(daemon.command("node", "list", "--json"))
    assert "bootd stage build" in node["parked"]
