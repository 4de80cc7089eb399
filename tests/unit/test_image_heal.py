"""Damage is found, named and mended: from another store, from a disk that holds the data."""

from pathlib import Path

import pytest

from bootd.drivers.images.heal import heal
from bootd.drivers.images.put import put_file
from bootd.drivers.images.store import ImageStore
from bootd.drivers.images.verify import verify
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import ImageManifest
from tests.unit.images import CHUNK, Told, content, put, some_bytes


def hurt(store: ImageStore, index: int) -> str:
    """Flip a bit of a chunk of the image `golden`; its name."""
    name = store.open("golden").chunks[index]
    path = store.chunk_path(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    return name


def test_verify_names_one_bad_chunk_and_puts_it_aside(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    id_ = put(store, some_bytes(1, 9 * CHUNK))
    put(store, some_bytes(2, 2 * CHUNK), name="other")
    assert verify(Told(), store=str(tmp_path))["ok"] is True
    names = {hurt(store, 2), hurt(store, 5)}  # one is compressed, one is not
    told = Told()
    result = verify(told, store=str(tmp_path))
    assert result["ok"] is False
    assert set(result["bad_chunks"]) == names
    assert set(result["broken"]) == {id_}
    assert "2 of its 9 chunks" in result["broken"][id_]
    assert any(name in note for name in names for note in told.notes)
    assert store.missing(names) == names
    assert {path.name for path in (tmp_path / "damaged").iterdir()} == names
    assert verify(Told(), store=str(tmp_path), images=("other",))["ok"] is True


def test_the_next_backup_brings_what_was_damaged(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    data = some_bytes(3, 4 * CHUNK)
    put(store, data)
    hurt(store, 1)
    assert verify(Told(), store=str(tmp_path))["ok"] is False
    put(store, data)
    assert verify(Told(), store=str(tmp_path))["ok"] is True


def test_mended_from_another_store(tmp_path: Path) -> None:
    here, there = ImageStore(tmp_path / "here"), ImageStore(tmp_path / "there")
    data = some_bytes(4, 6 * CHUNK)
    id_ = put(here, data)
    assert put(there, data) == id_
    there.close()
    hurt(here, 0)
    here.chunk_path(here.open("golden").chunks[4]).unlink()
    here.manifest_path(id_).write_bytes(b"nonsense\n")
    assert verify(Told(), store=str(tmp_path / "here"))["ok"] is False
    heal(Told(), store=str(tmp_path / "here"), source=str(tmp_path / "there"))
    result = verify(Told(), store=str(tmp_path / "here"))
    if not result["ok"]:  # with its manifest back, the chunk that was flipped is found now
        result = heal(Told(), store=str(tmp_path / "here"), source=str(tmp_path / "there"))
        assert result["mended"] == 1
    assert verify(Told(), store=str(tmp_path / "here"))["ok"] is True
    assert content(here, id_) == data


def test_mended_from_a_disk_that_holds_the_data(tmp_path: Path) -> None:
    """Though what is not in use differs there: the image has zeros in its place."""
    data = bytearray(some_bytes(5, 5 * CHUNK))
    data[CHUNK // 2 : CHUNK] = bytes(CHUNK // 2)
    store = ImageStore(tmp_path / "s")
    put(store, bytes(data))
    plain = store.open("golden")
    values = {name: getattr(plain, name) for name in plain.__struct_fields__}
    values["extents"] = ((0, CHUNK // 2), (CHUNK, 4 * CHUNK))
    store.commit(ImageManifest(**values))
    disk = tmp_path / "disk"
    disk.write_bytes(data[: CHUNK // 2] + b"x" * (CHUNK // 2) + data[CHUNK:])
    hurt(store, 0)
    hurt(store, 1)
    assert verify(Told(), store=str(tmp_path / "s"), images=("golden",))["bad"] == 2
    assert heal(Told(), store=str(tmp_path / "s"), source=str(disk), images=("golden",))["mended"] == 2
    assert content(store, "golden") == bytes(data)


def test_a_copy_that_is_not_the_same_is_not_believed(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "s")
    data = some_bytes(6, 4 * CHUNK)
    put(store, data)
    names = {hurt(store, 0), hurt(store, 1)}
    verify(Told(), store=str(tmp_path / "s"))
    disk = tmp_path / "disk"
    disk.write_bytes(data[:CHUNK] + b"x" * (3 * CHUNK))
    with pytest.raises(OperatorError, match="1 chunks are mended, 1 are not") as caught:
        heal(Told(), store=str(tmp_path / "s"), source=str(disk))
    assert caught.value.code is Exit.PARTLY
    assert len(store.missing(names)) == 1
    with pytest.raises(OperatorError, match="neither"):
        heal(Told(), store=str(tmp_path / "s"), source=str(tmp_path / "nothing"))


def test_put_file_twice_brings_only_what_changed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    data = bytearray(some_bytes(7, 30 * CHUNK + 512))
    disk.write_bytes(data)
    order = {"store": str(tmp_path / "s"), "path": str(disk), "name": "golden", "user": "ann", "comment": "c"}
    first = put_file(Told(), **order)
    data[11 * CHUNK : 11 * CHUNK + 9] = b"different"
    disk.write_bytes(data)
    second = put_file(Told(), **order)
    assert first["new_chunks"] == 30
    assert (second["new_chunks"], second["new_bytes"]) == (1, CHUNK)
    assert content(ImageStore(tmp_path / "s"), second["id"]) == bytes(data)
