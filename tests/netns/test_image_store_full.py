"""The image store on a file system that has no room left (root: it is mounted here)."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.drivers.images import removal
from bootd.drivers.images.put import put_file
from bootd.drivers.images.store import ImageStore
from bootd.drivers.images.verify import verify
from bootd.errors import Exit, OperatorError
from tests.unit.images import CHUNK, Told, content, put, some_bytes

pytestmark = pytest.mark.netns


@pytest.fixture(params=["ext4", "xfs", "tmpfs"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system with some 60 MiB of room (xfs: 300, its least)."""
    folder, file = tmp_path / "mounted", tmp_path / "disk"
    folder.mkdir()
    if request.param == "tmpfs":
        words = ["mount", "-t", "tmpfs", "-o", "size=60m", "none", str(folder)]
    else:
        with file.open("wb") as opened:
            opened.truncate((64 if request.param == "ext4" else 300) << 20)
        subprocess.run([f"mkfs.{request.param}", "-q", str(file)], check=True)
        words = ["mount", "-o", "loop", str(file), str(folder)]
    subprocess.run(words, check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing_and_says_what_to_do(small: Path, tmp_path: Path) -> None:
    store = ImageStore(small / "images")
    kept = {put(store, some_bytes(seed, 9 * CHUNK), name=f"n{seed}"): seed for seed in (1, 2)}
    big = tmp_path / "big.img"
    with big.open("wb") as file:
        for seed in range(10, 80):
            file.write(some_bytes(seed, 10 * CHUNK))
    order = {"store": str(small / "images"), "path": str(big), "name": "big", "user": "ann", "comment": "c"}
    for _ in range(2):
        with pytest.raises(OperatorError, match="no room for images") as caught:
            put_file(Told(), **order)
        assert "bootd image rm" in caught.value.hint
        assert {image.id for image in store.images()} == set(kept)
        assert verify(Told(), store=str(small / "images"))["ok"]
    for id_, seed in kept.items():
        assert content(store, id_) == some_bytes(seed, 9 * CHUNK)
    # As the error says: gc frees what the upload had brought, and there is room again.
    store.close()
    removal.remove(store, "n1")
    freed = removal.collect(Told(), store=str(small / "images"), now_too=True)
    assert freed["chunks"] > 10
    put(store, some_bytes(4, 9 * CHUNK), name="n4")
    store.close()
    assert content(store, "n4") == some_bytes(4, 9 * CHUNK)
    assert verify(Told(), store=str(small / "images"))["ok"]


def test_root_does_not_write_into_the_store_of_another_user(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    id_ = put(store, some_bytes(11, CHUNK))
    store.close()
    os.chown(tmp_path, 65534, 65534)
    assert content(store, id_) == some_bytes(11, CHUNK)
    for write in (lambda: put(store, some_bytes(12, CHUNK)), lambda: removal.remove(store, id_)):
        with pytest.raises(OperatorError, match="belongs to user 65534") as caught:
            write()
        assert caught.value.code is Exit.REFUSED


def test_a_mounted_disk_is_no_image(tmp_path: Path) -> None:
    """What is read while somebody writes it is nobody's disk."""
    file, folder = tmp_path / "disk", tmp_path / "mounted"
    with file.open("wb") as opened:
        opened.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(file)], check=True)
    folder.mkdir()
    words = ["losetup", "--find", "--show", str(file)]
    device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    order = {"store": str(tmp_path / "s"), "path": device, "name": "d", "user": "ann", "comment": "c"}
    try:
        subprocess.run(["mount", device, str(folder)], check=True)
        try:
            with pytest.raises(OperatorError, match="is in use") as caught:
                put_file(Told(), **order)
            assert caught.value.code is Exit.BUSY
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
