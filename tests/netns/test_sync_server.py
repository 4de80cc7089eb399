"""The rsync server of `bootd sync` as the service runs it: not as root, confined to its folders by the kernel."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.drivers.sync.confined import NO_LANDLOCK
from bootd.drivers.sync.server import Module, configuration
from bootd.wire.sync import COLLECT, SOURCE
from tests.netns.test_sync import model
from tests.netns.trees import differences, look

SERVICE = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def confined(own: Path, mode: str, *words: str) -> list[str]:
    command = [sys.executable, "-m", "bootd.drivers.sync.confined", mode, *words]
    return [*SERVICE, "env", "-C", str(own), f"PYTHONPATH={Path(__file__).parents[2]}", *command]


def own_folder(folder: Path) -> Path:
    own = folder / "own"
    own.mkdir()
    os.chown(own, 65534, 65534)
    return own


def test_nothing_but_its_folder_is_reached(folder: Path) -> None:
    own = own_folder(folder)
    for name in ("inside", "outside"):
        (folder / name).mkdir(mode=0o777)
        (folder / name).chmod(0o777)
        (folder / name / "file").write_text(f"{name}\n")
        (folder / name / "file").chmod(0o666)
    (folder / "inside/link").symlink_to(folder / "outside")

    def run(mode: str, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            confined(own, mode, str(folder / "inside"), "--", *words), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    code, text = run("read", "cat", str(folder / "inside/file"))
    if code == NO_LANDLOCK:
        pytest.skip("this kernel has no Landlock")
    assert (code, text) == (0, "inside\n")
    assert run("read", "cat", str(folder / "outside/file"))[0] != 0
    assert run("read", "cat", str(folder / "inside/link/file"))[0] != 0
    assert run("read", "ls", "/etc")[0] != 0
    assert run("read", "touch", str(folder / "inside/new"))[0] != 0
    assert run("write", "touch", str(folder / "inside/new"))[0] == 0
    assert run("write", "touch", str(folder / "outside/new"))[0] != 0


def test_owners_and_modes_come_and_go_without_root(folder: Path) -> None:
    """A machine's tree is kept by a service that is not root, and served again: it comes back as it was."""
    own, kept, source, back = own_folder(folder), folder / "kept", folder / "source", folder / "back"
    kept.mkdir()
    os.chown(kept, 65534, 65534)
    source.mkdir()
    model(source)
    os.removexattr(source / "usr/bin/two", "security.capability")  # only root may keep it, under any name
    back.mkdir()
    config = own / "rsyncd.conf"

    def rsync(module: Module, *words: str) -> None:
        config.write_text(configuration((module,), str(own), is_root=False))
        mode = "write" if module.writable else "read"
        server = confined(own, mode, module.path, "--", "rsync", "--daemon", "--no-detach", f"--config={config}")
        script = own / "server"
        script.write_text(f"#!/bin/sh\nexec {' '.join(server)}\n")
        script.chmod(0o755)
        # rsync itself gives this program one socket for both directions, as the daemon does.
        done = subprocess.run(
            ["rsync", "-aHAXS", "--numeric-ids", *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "RSYNC_CONNECT_PROG": str(script)},
        )
        assert done.returncode == 0, done.stdout + done.stderr + (own / "log").read_text()

    rsync(Module(COLLECT, str(kept), writable=True), f"{source}/", "rsync://x/collect/")
    assert {path.lstat().st_uid for path in kept.rglob("*")} == {65534}
    rsync(Module(SOURCE, str(kept)), "rsync://x/source/", f"{back}/")
    assert differences(look(source), look(back)) == []
