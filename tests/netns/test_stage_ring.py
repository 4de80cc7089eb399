"""stage2 from node to node: real stage1 agents, the real daemon, and peers that fail in every way.

What the server gave is counted at its network card. stage2 stands for itself: random bytes, described as a build
describes it. No bound here is a measure of speed: what they show is that a bad peer costs seconds, not the boot.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.build.described import describe
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room

SERVER = f"{ADDRESS}:{HTTP_PORT}"
MIB = 1 << 20
SIZE = 24 * MIB + 4567
NODES = tuple(f"n{number}" for number in range(1, 7))


def mac_of(name: str) -> str:
    return f"52:54:00:00:00:{int(name[1:]):02x}"


def address_of(name: str) -> str:
    return f"10.9.0.{10 + int(name[1:])}"


class StageRoom:
    """A daemon with a stage2, and nodes."""

    def __init__(self, room: Room, folder: Path, label: str) -> None:
        self.room, self.folder = room, folder
        self.daemon = Daemon(room, folder, f'[boot]\ndefault = "{label}"\n')
        self.content = os.urandom(SIZE)
        path = self.daemon.boot / "stage2" / "stage2.squashfs"
        path.parent.mkdir(parents=True)
        path.write_bytes(self.content)
        (path.parent / "stage2.json").write_text(json.dumps(describe(path)))
        self.daemon.start()

    def boot(self, name: str) -> Process:
        folder = self.folder / name
        folder.mkdir()
        command = [sys.executable, "-m", "tests.netns.stage1_node", mac_of(name), address_of(name), SERVER]
        return self.room.start(name, [*command, str(folder)])

    def bad(self, name: str, kind: str) -> None:
        process = self.room.start(name, [sys.executable, "-m", "tests.netns.bad_peer", mac_of(name), SERVER, kind])
        process.wait_for("takes part", 20)

    def has_it(self, name: str) -> bool:
        return (self.folder / name / "stage2.squashfs").read_bytes() == self.content

    def given(self) -> int:
        """Bytes that have left the server, headers included."""
        return int(self.room.run("server", ["cat", "/sys/class/net/eth0/statistics/tx_bytes"]))


@pytest.fixture
def room() -> Iterator[Room]:
    with Room("server", *NODES) as made:
        made.address("server", f"{ADDRESS}/24")
        for name in NODES:
            made.address(name, f"{address_of(name)}/24")
            made.mac(name, mac_of(name))
        yield made
        made.end_left(*NODES)


@pytest.mark.parametrize("label", ["kamethod", "dolly"])
def test_a_room_takes_one_copy_from_the_server(room: Room, folder: Path, label: str) -> None:
    stage = StageRoom(room, folder, label)
    for name in NODES:
        room.limit(name, 100)  # two seconds for a copy: all are at it at the same time
    before = stage.given()
    agents = [stage.boot(name) for name in NODES]
    for agent in agents:
        agent.wait_for("would mount", 60)
        assert agent.wait(10) == 0, agent.output
    assert all(stage.has_it(name) for name in NODES)
    copies = (stage.given() - before) / SIZE
    print(f"{label}: {len(NODES)} nodes took {copies:.2f} copies from the server")
    assert copies < 1.2


def test_http_takes_a_copy_for_each(room: Room, folder: Path) -> None:
    """What the ring is for: the same count without it."""
    stage = StageRoom(room, folder, "http")
    before = stage.given()
    agents = [stage.boot(name) for name in NODES[:3]]
    for agent in agents:
        agent.wait_for("would mount", 60)
    assert all(stage.has_it(name) for name in NODES[:3])
    assert (stage.given() - before) / SIZE > 3


@pytest.mark.parametrize("kind", ["lies", "stalls", "trickles", "cuts", "refuses"])
def test_a_bad_peer_costs_seconds(room: Room, folder: Path, kind: str) -> None:
    """The first in the ring is bad; all behind it have the right stage2 in the end, and the server knows of it."""
    stage = StageRoom(room, folder, "kamethod")
    stage.bad("n1", kind)
    begun = time.monotonic()
    agents = {name: stage.boot(name) for name in NODES[1:5]}
    for name, agent in agents.items():
        agent.wait_for("would mount", 60)
        assert stage.has_it(name), agent.output
    took = time.monotonic() - begun
    print(f"{kind}: four nodes had stage2 after {took:.1f} s")
    assert took < 30
    assert "10.9.0.11 does not hand stage2 on" in "".join(agent.output for agent in agents.values())
    line = json.dumps(json.loads(stage.daemon.command("state", "--json")))
    assert "PARKED" not in line


def test_a_peer_that_loses_power(room: Room, folder: Path) -> None:
    """In the middle of handing on: no connection is closed, bytes only stop."""
    stage = StageRoom(room, folder, "kamethod")
    for name in NODES:
        room.limit(name, 60)
    first = stage.boot("n1")
    first.wait_for(r"stage2 \d+ of 24 MiB", 30)
    others = {name: stage.boot(name) for name in NODES[1:4]}
    for agent in others.values():
        agent.wait_for(r"stage2 comes from 10\.9\.0\.1", 30)
    others["n2"].wait_for(r"stage2 \d+ of 24 MiB", 30)
    room.link("n1", up=False)
    for name, agent in others.items():
        agent.wait_for("would mount", 60)
        assert stage.has_it(name), agent.output


def test_a_late_node_is_fed_by_those_that_are_in_stage2_already(room: Room, folder: Path) -> None:
    stage = StageRoom(room, folder, "kamethod")
    first = stage.boot("n1")
    first.wait_for("would mount", 30)
    assert first.wait(10) == 0
    before = stage.given()
    late = stage.boot("n2")
    late.wait_for(r"stage2 comes from 10\.9\.0\.11", 20)
    late.wait_for("would mount", 30)
    assert stage.has_it("n2")
    assert late.wait(10) == 0
    (boot,) = json.loads(stage.daemon.command("node", "boots", mac_of("n2"), "--json"))["boots"]
    assert [step["step"] for step in boot["steps"]][-2:] == ["stage1", "stage2"], "it is seen all the same"
    assert stage.given() - before < SIZE / 10
