"""Notification, lock, listening, the look at an image: small parts of the daemon's start."""

import os
import socket
from pathlib import Path

import pytest

from bootd.drivers import source
from bootd.drivers.lock import RunLock
from bootd.drivers.notify import Notifier
from bootd.drivers.sockets import listen
from bootd.drivers.tree import File, NotFound, plain_file
from bootd.errors import Exit, OperatorError


def receive(path: str, environment: dict[str, str]) -> list[bytes]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(2)
        notifier = Notifier(environment)
        notifier.ready("serves")
        notifier.status("two\nlines")
        notifier.alive()
        notifier.stopping()
        return [manager.recv(1000) for _ in range(4)]


@pytest.mark.parametrize("abstract", [False, True])
def test_sd_notify(tmp_path: Path, abstract: bool) -> None:
    name = f"\0bootd-test-{os.getpid()}" if abstract else str(tmp_path / "s")
    messages = receive(name, {"NOTIFY_SOCKET": name.replace("\0", "@")})
    # sd_notify(3): newline-separated assignments.
    assert messages[0].split(b"\n") == [b"READY=1", b"STATUS=serves", f"MAINPID={os.getpid()}".encode()]
    assert messages[1:] == [b"STATUS=two lines", b"WATCHDOG=1", b"STOPPING=1"]


def test_no_manager_is_no_error(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nothing")}).ready("x")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
    ],
)
def test_watchdog(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(environment).watchdog_seconds == seconds


def test_lock_is_for_one(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path / "run"), RunLock(tmp_path / "run")
    first.acquire()
    with pytest.raises(OperatorError, match=str(os.getpid())) as raised:
        second.acquire()
    assert raised.value.code is Exit.BUSY
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_lock_in_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError) as raised:
        RunLock(tmp_path / "file" / "run").acquire()
    assert raised.value.code is Exit.CONFIG


def test_port_in_use_names_port_and_protocol() -> None:
    with listen("127.0.0.1", 0, "test", "server.http_port") as first:
        port = first.getsockname()[1]
        with pytest.raises(OperatorError, match=f"port {port}/tcp") as raised:
            listen("127.0.0.1", port, "test", "server.http_port")
        assert raised.value.code is Exit.BUSY
        assert "server.http_port" in raised.value.hint
    with pytest.raises(OperatorError) as raised:
        listen("192.0.2.1", port, "test", "server.http_port")
    assert raised.value.code is Exit.CONFIG


def test_measure(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1536))
    assert source.measure(str(image)) == 1536


def test_images_that_cannot_be_deployed(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("odd", bytes(513))):
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")  # must be refused, not waited for
    (tmp_path / "loop").symlink_to("loop")
    cases = {
        "empty": "is empty",
        "odd": "513 bytes",
        "pipe": "neither a file",
        "loop": "loop",
        "missing": "no such file",
        ".": "neither a file",
        "a\0b": "null",
        "x" * 300: "too long",
    }
    for name, words in cases.items():
        with pytest.raises(OperatorError) as raised:
            source.measure(f"{tmp_path}/{name}")
        assert raised.value.code is Exit.INPUT, name
        assert words in raised.value.message
        assert raised.value.hint
    with pytest.raises(OperatorError, match="absolute"):
        source.measure("image")


def test_bulk_files_resolve_inside(tmp_path: Path) -> None:
    root = tmp_path / "boot"
    (root / "stage1").mkdir(parents=True)
    (root / "stage1" / "vmlinuz").touch()
    (tmp_path / "secret").touch()
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "in").symlink_to("stage1/vmlinuz")
    (root / "loop").symlink_to("loop")
    inside = (root / "stage1" / "vmlinuz").resolve()
    for path in ("stage1/vmlinuz", "//stage1/vmlinuz", "in", "stage1\\vmlinuz"):
        assert plain_file(root, path) == File(inside, 0)
    for path in (
        "out",
        "../secret",
        "/../secret",
        "loop",
        "stage1",
        "",
        "\0",
        "x" * 5000,
        str(tmp_path / "secret"),
    ):
        assert isinstance(plain_file(root, path), NotFound), path
