"""Images read over the network: by another bootd that mends its own, by curl, and by nobody without the scope."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, BOOTD, HTTP_PORT, Daemon
from tests.netns.room import Room
from tests.netns.test_api import URL, Caller, certificate, settings
from tests.unit.images import CHUNK, some_bytes

pytestmark = pytest.mark.netns


@pytest.fixture
def folder(folder: Path) -> Path:
    certificate(folder)
    return folder


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


def test_images_from_the_bulk_port(room: Room, folder: Path, daemon: Daemon) -> None:
    """With a ticket, from the address that it is for; nodes get theirs for their boot token."""
    caller = Caller(room, folder)
    id_ = json.loads(daemon.command("image", "show", "golden", "--json"))["id"]
    token = {scope: (folder / f"{scope}.token").read_text().strip() for scope in ("read", "export")}
    assert caller.ask("POST", "image-ticket", token["read"])[0] == 403
    status, answer, _ = caller.ask("POST", "image-ticket", token["export"])
    assert (status, answer["address"], answer["port"]) == (200, "10.9.0.11", 7468)
    base = f"http://{ADDRESS}:{answer['port']}{answer['path']}"
    out = folder / "out"

    def fetch(path: str, ticket: str, where: str = "n1") -> int:
        words = ["curl", "-sS", "-m", "10", "--path-as-is", "-o", str(out), "-w", "%{http_code}", f"{base}/{path}"]
        return int(room.run(where, [*words, "-H", f"Authorization: Bearer {ticket}"]))

    assert fetch(f"manifests/{id_}", answer["ticket"]) == 200
    assert blake3(out.read_bytes()).hexdigest() == id_
    for name in {line for line in out.read_text().split("\n")[1:] if line}:
        assert fetch(f"chunks/{name}", answer["ticket"]) == 200
        assert out.read_bytes() == (folder / "state/images/chunks" / name[:2] / name[2:]).read_bytes()
    assert fetch(f"manifests/{id_}", "") == 401
    assert fetch(f"manifests/{id_}", answer["ticket"][:-1] + "x") == 401
    assert fetch(f"manifests/{id_}", answer["ticket"], "server") == 401
    assert fetch(f"chunks/{'0' * 64}", answer["ticket"]) == 404
    assert fetch("manifests/../format", answer["ticket"]) == 404
    mac = "52:54:00:00:00:01"
    daemon.command("label", "set-default", "kamethod")
    script = room.run("n1", ["curl", "-sS", "-m", "10", f"http://{ADDRESS}:{HTTP_PORT}/boot/boot.ipxe?mac={mac}"])
    found = re.search(r"bootd\.token=([0-9a-f]+)", script)
    assert found is not None, script
    boot = found[1]
    url = f"http://{ADDRESS}:{HTTP_PORT}/node/v1/images?node={mac}"
    told = json.loads(room.run("n1", ["curl", "-sS", "-m", "10", "-H", f"Authorization: Bearer {boot}", url]))
    assert told["url"] == base
    assert fetch(f"manifests/{id_}", told["ticket"]) == 200
    words = [
        "curl",
        "-sS",
        "-m",
        "10",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        "Authorization: Bearer 00",
        url,
    ]
    assert room.run("n1", words) == "401"
