"""Images read over the network: by another bootd that mends its own, by curl, and by nobody without the scope."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, BOOTD, Daemon
from tests.netns.room import Room
from tests.netns.test_api import URL, Caller, certificate, settings
from tests.unit.images import CHUNK, some_bytes

pytestmark = pytest.mark.netns


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="bootd-"))
    certificate(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def room() -> Iterator[Room]:
    with Room("server", "n1") as made:
        made.address("server", f"{ADDRESS}/24")
        made.address("n1", "10.9.0.11/24")
        yield made


@pytest.fixture
def daemon(room: Room, folder: Path) -> Daemon:
    """With an image `golden`, and tokens of each scope in files."""
    made = Daemon(room, folder, settings(folder))
    made.start()
    (folder / "golden.img").write_bytes(some_bytes(1, 40 * CHUNK + 700 * 512))
    made.command("image", "put", str(folder / "golden.img"), "golden", "-m", "c")
    for scope in ("read", "export"):
        made.command("token", "create", scope, "--scope", scope, "--out", str(folder / f"{scope}.token"))
    return made


def test_another_bootd_mends_its_images_from_here(room: Room, folder: Path, daemon: Daemon) -> None:
    """Most of its chunks are lost, more than the interface gives in a second: it waits as it is told."""
    there = folder / "there"
    shutil.copytree(folder / "state/images", there)
    chunks = sorted(path for path in (there / "chunks").rglob("*") if path.is_file())
    for path in chunks[1:]:
        path.unlink()
    (manifest,) = (there / "manifests").iterdir()
    manifest.write_bytes(b"damaged")

    def heal(token: str, expect: int) -> str:
        words = ["--from", URL, "--token-file", str(folder / token), "--ca", str(folder / "api.pem")]
        command = [
            "ip",
            "netns",
            "exec",
            room.namespace("n1"),
            BOOTD,
            "image",
            "--store",
            str(there),
            "heal",
            *words,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == expect, done.stderr
        return done.stdout + done.stderr

    assert "refuses the token" in heal("read.token", Exit.REFUSED)
    assert f"{len(chunks) - 1} chunks were brought" in heal("export.token", Exit.OK)
    done = subprocess.run(
        [BOOTD, "image", "--store", str(there), "get", "golden", str(folder / "back.img")], timeout=60, check=True
    )
    assert done.returncode == 0
    assert (folder / "back.img").read_bytes() == (folder / "golden.img").read_bytes()


def test_what_each_scope_may_read(room: Room, folder: Path, daemon: Daemon) -> None:
    """A list tells what there is; what is on the disks needs a scope of its own."""
    caller = Caller(room, folder)
    id_ = json.loads(daemon.command("image", "show", "golden", "--json"))["id"]
    encoded = (folder / "state/images/manifests" / id_).read_bytes()
    name = next(line for line in encoded.decode().split("\n")[1:] if line)
    tokens = {scope: (folder / f"{scope}.token").read_text().strip() for scope in ("read", "export")}
    assert caller.ask("GET", "images", tokens["read"])[0] == 200
    for path in (f"images/{id_}/manifest", f"chunks/{name}"):
        assert caller.ask("GET", path, tokens["read"])[0] == 403
        assert caller.ask("GET", path)[0] == 401
    for method, path in (
        ("POST", "images"),
        ("DELETE", "images/golden"),
        ("POST", "image-gc"),
    ):
        assert caller.ask(method, path, tokens["export"], {})[0] == 403
    words = ["curl", "-sS", "-m", "10", "--cacert", str(folder / "api.pem"), "-o", str(folder / "out")]
    bearer = ["-H", f"Authorization: Bearer {tokens['export']}"]
    room.run("n1", [*words, *bearer, f"{URL}/api/v1/images/golden/manifest"])
    assert blake3((folder / "out").read_bytes()).hexdigest() == id_
    room.run("n1", [*words, *bearer, f"{URL}/api/v1/chunks/{name}"])
    assert (folder / "out").read_bytes() == (folder / "state/images/chunks" / name[:2] / name[2:]).read_bytes()
    for path in ("chunks/..%2f..%2fmanifests%2f" + id_, "chunks/" + "0" * 64, "images/..%2f..%2fx/manifest"):
        assert caller.ask("GET", path, tokens["export"])[0] in (400, 404, 422)
