"""``bootd node boots`` and the loop breaker, with a machine that asks as firmware does and then goes no further."""

import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from bootd.cli.client import Client
from tests.netns.daemon import ADDRESS, Daemon
from tests.netns.room import Room, until

MAC = "52:54:00:00:00:21"
SETTINGS = f"""
[boot]
default = "kamethod"
loop_boots = 2
[[node]]
mac = "{MAC}"
name = "lab21"
"""


class Machine:
    """Firmware's and a loader's requests, one after the other."""

    def __init__(self, room: Room, folder: Path) -> None:
        self.room, self.folder, self.transaction = room, folder, 0

    def discover(self) -> None:
        self.transaction += 1
        call = {"mac": MAC, "xid": self.transaction, "seconds": 5.0, "arch": 0, "answers": 1}
        assert self.room.run(
            "n1", [sys.executable, "-m", "tests.netns.pxe_client", "discover", json.dumps(call)], 30
        )

    def fetch(self, url: str) -> str:
        target = self.folder / "fetched"
        self.room.run("n1", ["curl", "-sSf", "-m", "10", "-o", str(target), url])
        return target.read_text()

    def boot(self) -> str:
        """To where the kernel runs; the configuration that the loader got."""
        self.fetch(f"tftp://{ADDRESS}/lpxelinux.0")
        text = self.fetch(f"tftp://{ADDRESS}/pxelinux.cfg/01-{MAC.replace(':', '-')}")
        for line in text.splitlines():
            if line.strip().startswith(("LINUX ", "INITRD ")):
                self.fetch(line.split()[1])
        return text


@pytest.fixture
def place() -> Generator[tuple[Daemon, Machine]]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with Room("server", "n1") as room, contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        room.address("server", f"{ADDRESS}/24")
        room.mac("n1", MAC)
        room.address("n1", "10.9.0.21/24")
        daemon = Daemon(room, folder, SETTINGS)
        (daemon.boot / "stage1").mkdir()
        for name in ("lpxelinux.0", "ldlinux.c32", "stage1/vmlinuz", "stage1/initrd.img"):
            (daemon.boot / name).write_text(f"{name}\n" * 1000)
        yield daemon, Machine(room, folder)


def boots(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Client(daemon.socket).get("nodes", "lab21", "boots")["boots"]
    return found


def reached(daemon: Daemon, step: str) -> list[dict[str, Any]]:
    """The boots, once the last of them has this step: the word of it comes after the bytes."""

    def is_known() -> bool:
        return step in [one["step"] for last in boots(daemon)[-1:] for one in last["steps"]]

    until(is_known, 10, f"{step} is known")
    return boots(daemon)


def test_each_step_is_seen_and_outlives_the_daemon(place: tuple[Daemon, Machine]) -> None:
    daemon, machine = place
    process = daemon.start()
    assert boots(daemon) == []
    machine.discover()
    machine.boot()
    (boot,) = reached(daemon, "initrd")
    steps = ["discover", "loader", "configuration", "kernel", "initrd"]
    assert [step["step"] for step in boot["steps"]] == steps
    assert (boot["state"], boot["label"], boot["offered"]) == ("under_way", "kamethod", "lpxelinux.0")
    # On disk within a second or so; then the daemon dies without a word.
    written = daemon.folder / "state"
    until(
        lambda: b"initrd.img" in b"".join(path.read_bytes() for path in written.glob("timeline.db*")),
        10,
        "it is on disk",
    )
    process.signal(signal.SIGKILL)
    process.wait()
    daemon.start()
    (kept,) = boots(daemon)
    assert kept["steps"] == boot["steps"]
    text = daemon.command("node", "boots", "lab21")
    assert "lab21" in text
    assert "initrd fetched" in text


def test_a_boot_loop_ends_in_parking(place: tuple[Daemon, Machine]) -> None:
    daemon, machine = place
    daemon.start()
    for _ in range(2):
        assert "DEFAULT kamethod" in machine.boot()
        reached(daemon, "initrd")
    machine.discover()
    third = machine.boot()
    assert "DEFAULT rescue" in third
    assert "SAY bootd: parked: boot loop: 2 boots within 30 min ended after  initrd fetched " in third
    reached(daemon, "initrd")
    found = boots(daemon)
    assert [boot["state"] for boot in found] == ["stalled", "stalled", "parked"]
    assert "no driver for the network card" in found[0]["reason"]
    assert "parked: boot loop" in daemon.command("node", "list")
    daemon.command("node", "unpark", "lab21")
    assert "DEFAULT kamethod" in machine.boot()
