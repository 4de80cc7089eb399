"""``bootd image`` and ``bootd job`` with a daemon, and on a folder without one."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.cli.client import Client
from bootd.errors import Exit
from tests.unit.images import CHUNK, some_bytes
from tests.unit.operators import Operators


@pytest.fixture
def operators(tmp_path: Path) -> Iterator[Operators]:
    running = Operators(tmp_path)
    yield running
    running.close()


def test_an_image_from_put_to_gc(operators: Operators, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk.img"
    data = bytearray(some_bytes(1, 6 * CHUNK))
    disk.write_bytes(data)

    def run(*words: str, expect: int = Exit.OK) -> str:
        code, out, err = operators.run(capsys, "image", *words)
        assert code == expect, err
        return out + err

    first = json.loads(run("put", str(disk), "golden", "-m", "before the exam", "--tag", "exam", "--json"))
    assert (first["size"], first["new_chunks"]) == (6 * CHUNK, 5)
    data[0:3] = b"new"
    disk.write_bytes(data)
    second = json.loads(run("put", str(disk), "golden", "-m", "after it", "--json"))
    assert second["new_chunks"] == 1
    assert "exam" in run("list")
    listed = json.loads(run("list", "--json"))
    assert [item["comment"] for item in listed] == ["before the exam", "after it"]
    assert listed[0]["user"].startswith("root") or listed[0]["user"]
    assert json.loads(run("show", "golden", "--json"))["id"] == second["id"]
    assert "6: 1 of zeros, 5 stored" in run("show", second["id"][:12])
    assert [item["new_chunks"] for item in json.loads(run("history", "golden", "--json"))] == [5, 1]
    run("get", "golden:exam", str(tmp_path / "back.img"))
    assert (tmp_path / "back.img").read_bytes() == some_bytes(1, 6 * CHUNK)
    assert "already" in run("get", "golden", str(tmp_path / "back.img"), expect=Exit.INPUT)
    assert "all good" in run("verify")
    run("tag", "golden:exam", "room2:v1")
    run("untag", "golden:exam")
    assert "no image golden:exam" in run("show", "golden:exam", expect=Exit.INPUT)
    assert "say --yes" in run("rm", "golden", expect=Exit.USAGE)
    run("rm", "golden", "-y")
    assert json.loads(run("show", "golden", "--json"))["id"] == first["id"]
    gone = json.loads(run("gc", "--now", "--json"))
    assert (gone["chunks"], gone["removed"]) == (1, 0)
    kinds = [line.what for line in operators.journal.audit(100)]
    for kind in ("image-put", "image-get", "image-verify", "image-tag", "image-untag", "image-rm", "image-gc"):
        assert kind in kinds


def test_damage_and_mending(operators: Operators, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(some_bytes(2, 4 * CHUNK))
    operators.run(capsys, "image", "put", str(disk), "golden", "-m", "c")
    path = next(path for path in (operators.images / "chunks").rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-9])
    code, out, err = operators.run(capsys, "image", "verify")
    assert code == Exit.PARTLY
    assert path.parent.name + path.name in err
    assert "image heal" in out
    code, out, err = operators.run(capsys, "image", "heal", "--from", str(disk))
    assert code == Exit.OK, err
    assert "1 chunks were brought" in out
    code, out, err = operators.run(capsys, "image", "verify", "golden")
    assert code == Exit.OK


def test_what_goes_wrong_is_said(operators: Operators, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, text in (
        (("put", str(tmp_path / "none"), "g", "-m", "c"), Exit.INPUT, "no such file"),
        (("put", "/etc/hostname", "g", "-m", " "), Exit.INPUT, ""),
        (("put", str(tmp_path / "none"), "g"), Exit.USAGE, "--comment"),
        (("show", "../x"), Exit.USAGE, "names no image"),
        (("show", "nothing"), Exit.INPUT, "no image nothing"),
        (("heal", "--from", str(tmp_path / "none")), Exit.INPUT, "neither a store"),
        (("--store", str(tmp_path / "none"), "list"), Exit.INPUT, "no store of images"),
        (("history", "nothing"), Exit.INPUT, "stored as nothing"),
    ):
        got, _out, err = operators.run(capsys, "image", *words)
        assert got == code, (words, err)
        assert text in err, words
        assert "->" in err or code == Exit.USAGE


def test_without_the_daemon(tmp_path: Path, operators: Operators, capsys: pytest.CaptureFixture[str]) -> None:
    """The same commands on a folder; what they made is an image for the daemon's commands too."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(some_bytes(3, 3 * CHUNK))
    folder = ("image", "--store", str(operators.images))
    code, out, err = operators.run(
        capsys, *folder, "put", str(disk), "golden", "-m", "c", "--user", "ann", "--json"
    )
    assert code == Exit.OK, err
    id_ = json.loads(out)["id"]
    for words in (
        ("list",),
        ("show", "golden"),
        ("history", "golden"),
        ("verify",),
        ("gc", "-n"),
        ("list", "--json"),
    ):
        ours = operators.run(capsys, *folder, *words)
        assert ours[0] == Exit.OK
        assert operators.run(capsys, "image", *words)[:2] == ours[:2]
    assert operators.run(capsys, *folder, "rm", id_[:12], "-y")[0] == Exit.OK
    assert json.loads(operators.run(capsys, "image", "list", "--json")[1]) == []


def test_jobs_are_listed_and_cancelled(
    operators: Operators, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = tmp_path / "big.img"
    with big.open("wb") as file:
        file.truncate(1 << 42)  # 4 TiB of zeros take longer than anybody waits
    client = Client(operators.socket)
    body = {"path": str(big), "name": "big", "comment": "c"}
    job = client.request("POST", "images", body=body)
    listed = json.loads(operators.run(capsys, "job", "list", "--json")[1])
    assert [item["id"] for item in listed] == [job["id"]]
    assert listed[0]["state"] in ("queued", "running")
    code, out, _ = operators.run(capsys, "job", "cancel", job["id"])
    assert (code, out) == (Exit.OK, f"job {job['id']}: cancelled\n")
    ended = json.loads(operators.run(capsys, "job", "show", job["id"], "--json")[1])
    assert ended["state"] == "cancelled"
    assert "\ncancelled: " in operators.run(capsys, "job", "show", job["id"])[1]
    assert ended["ended"] is not None
    assert operators.run(capsys, "job", "wait", job["id"])[0] == Exit.ERROR
    assert operators.run(capsys, "job", "show", "nonsense")[0] == Exit.USAGE
    assert json.loads(operators.run(capsys, "image", "list", "--json")[1]) == []


def test_a_job_whose_process_dies_has_failed(
    operators: Operators, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = tmp_path / "big.img"
    with big.open("wb") as file:
        file.truncate(1 << 42)
    client = Client(operators.socket)
    job = client.request("POST", "images", body={"path": str(big), "name": "big", "comment": "c"})
    while client.get("jobs", job["id"])["done"] == 0:  # it works
        pass
    (worker,) = operators.jobs.workers()
    os.kill(worker, signal.SIGKILL)
    code, _, err = operators.run(capsys, "job", "wait", job["id"])
    assert code == Exit.ERROR
    assert "killed by signal 9" in err
