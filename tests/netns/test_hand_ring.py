"""The ring by hand with real processes in namespaces: all get it, one dies, one is a stranger, one says no."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.errors import Exit
from tests.netns.room import Process, Room

BOOTD = [sys.executable, "-c", "from bootd.cli.main import main; main()", "ring"]
SIZE = 24 << 20
NAMES = ("s0", "r1", "r2", "r3")


@pytest.fixture
def room() -> Iterator[Room]:
    with Room(*NAMES) as made:
        for number, name in enumerate(NAMES, start=1):
            made.address(name, f"10.87.0.{number}/24")
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"".join(n.to_bytes(8, "big") + os.urandom(4088) for n in range(SIZE // 4096)))
    (tmp_path / "token").write_text("0123456789abcdef-test\n")
    return path


def receive(room: Room, folder: Path, number: int, known: str = "token") -> Process:
    words = ["receive", str(folder / f"out{number}"), "--token-file", str(folder / known)]
    process = room.start(f"r{number}", [*BOOTD, *words])
    process.wait_for("waiting on", 20)
    return process


def send(room: Room, source: Path, *options: str) -> Process:
    hosts = ["10.87.0.2", "10.87.0.3", "10.87.0.4"]
    words = ["send", str(source), *hosts, "--token-file", str(source.parent / "token"), "--json", *options]
    return room.start("s0", [*BOOTD, *words])


def verdicts(sender: Process) -> dict[str, dict[str, object]]:
    text = sender.output
    view = json.loads(text[text.index("\n{\n") :])
    return {row["name"]: row for row in view["outcome"]["nodes"]}


def test_three_receivers_get_every_byte(room: Room, source: Path, tmp_path: Path) -> None:
    receivers = [receive(room, tmp_path, number) for number in (1, 2, 3)]
    sender = send(room, source)
    assert sender.wait(60) == Exit.OK, sender.output
    assert all(row["ok"] for row in verdicts(sender).values())
    for number, process in enumerate(receivers, start=1):
        assert process.wait(20) == Exit.OK, process.output
        assert (tmp_path / f"out{number}").read_bytes() == source.read_bytes()
        assert not (tmp_path / f"out{number}.part").exists()


def test_middle_one_dies_and_its_successor_goes_on(room: Room, source: Path, tmp_path: Path) -> None:
    for name in NAMES:
        room.limit(name, 80)  # some 2.5 s for the whole
    receivers = [receive(room, tmp_path, number) for number in (1, 2, 3)]
    sender = send(room, source)
    receivers[1].wait_for("epoch 1", 30)
    receivers[1].signal(signal.SIGKILL)
    assert sender.wait(60) == Exit.PARTLY, sender.output
    found = verdicts(sender)
    assert [found[f"10.87.0.{n}"]["ok"] for n in (2, 3, 4)] == [True, False, True]
    assert "its process has ended" in str(found["10.87.0.3"]["reason"])
    for number in (1, 3):
        assert receivers[number - 1].wait(20) == Exit.OK
        assert (tmp_path / f"out{number}").read_bytes() == source.read_bytes()
    assert not (tmp_path / "out2").exists()


def test_wrong_secret_is_named_and_full_target_refuses(room: Room, source: Path, tmp_path: Path) -> None:
    """One has another secret, one has no room: the third is cloned all the same."""
    (tmp_path / "other").write_text("another-secret-of-20")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE // 2}", "none", str(small)], check=True)
    try:
        stranger = receive(room, tmp_path, 1, known="other")
        words = ["receive", str(small / "out"), "--token-file", str(tmp_path / "token")]
        full = room.start("r2", [*BOOTD, *words])
        full.wait_for("waiting on", 20)
        last = receive(room, tmp_path, 3)
        sender = send(room, source)
        assert sender.wait(60) == Exit.PARTLY, sender.output
        found = verdicts(sender)
        assert "wrong join token" in str(found["10.87.0.2"]["reason"])
        assert "smaller than the image" in str(found["10.87.0.3"]["reason"])
        assert found["10.87.0.4"]["ok"]
        assert last.wait(20) == Exit.OK
        assert stranger.running()  # it waits on for a sender that knows its secret
        assert not list(small.iterdir())
    finally:
        room.close()
        subprocess.run(["umount", str(small)], check=True)


def test_a_device_is_written_only_when_named_again(room: Room, source: Path, tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xa5" * (SIZE + 4096))
    made = ["losetup", "--find", "--show", str(backing)]
    device = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    token = str(tmp_path / "token")
    try:
        words = [*BOOTD, "receive", device, "--token-file", token]
        refused = room.start("r1", words)
        assert refused.wait(20) == Exit.REFUSED
        assert "--yes-overwrite" in refused.output
        assert set(backing.read_bytes()) == {0xA5}
        receiver = room.start("r1", [*words, "--yes-overwrite", device])
        receiver.wait_for("waiting on", 20)
        second = room.start("r2", [*words, "--yes-overwrite", device])
        assert second.wait(20) == Exit.REFUSED, "two receivers held one device"
        sender = room.start("s0", [*BOOTD, "send", str(source), "10.87.0.2", "--token-file", token])
        assert sender.wait(60) == Exit.OK, sender.output
        assert receiver.wait(20) == Exit.OK, receiver.output
    finally:
        room.close()
        subprocess.run(["losetup", "--detach", device], check=True)
    content = backing.read_bytes()
    assert content[:SIZE] == source.read_bytes()
    assert set(content[SIZE:]) == {0xA5}
