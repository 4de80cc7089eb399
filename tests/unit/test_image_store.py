"""The image store on a real disk: what is put can be read, by id and by name, and nothing half is ever seen."""

import os
import subprocess
from pathlib import Path

import pytest
from blake3 import blake3

from bootd.drivers.images.store import ImageStore
from bootd.errors import OperatorError
from bootd.images.manifest import ImageError, ImageManifest, encode
from tests.unit.images import CHUNK, content, files, put, some_bytes


def test_an_image_comes_back_byte_for_byte(tmp_path: Path) -> None:
    data = some_bytes(1, 5 * CHUNK + 777)
    with_writer = ImageStore(tmp_path / "images")
    id_ = put(with_writer, data)
    with_writer.close()
    store = ImageStore(tmp_path / "images")  # as another process sees it
    for reference in (id_, id_[:8], "golden", "golden:latest"):
        assert store.resolve(reference) == id_
    assert content(store, "golden") == data
    assert [(image.id, image.tags) for image in store.images()] == [(id_, ("golden:latest",))]
    assert store.open(id_).chunks[3] == ""
    assert list((tmp_path / "images/incoming").iterdir()) == []


def test_the_files_are_what_the_format_says(tmp_path: Path) -> None:
    """Read with b3sum's and zstd's own programs where Debian has them: no code of ours."""
    data = some_bytes(2, 3 * CHUNK)
    store = ImageStore(tmp_path)
    id_ = put(store, data)
    lines = (tmp_path / "manifests" / id_).read_text().splitlines()
    assert blake3((tmp_path / "manifests" / id_).read_bytes()).hexdigest() == id_
    assert (tmp_path / "refs/golden/latest").read_text() == id_ + "\n"
    first, second = (tmp_path / "chunks" / line[:2] / line[2:] for line in lines[1:3])
    unpacked = subprocess.run(["zstd", "-dc"], input=first.read_bytes(), capture_output=True, check=True).stdout
    assert unpacked == data[:CHUNK]
    assert second.read_bytes() == data[CHUNK : 2 * CHUNK]


def test_two_versions_share_their_chunks(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    data = some_bytes(3, 40 * CHUNK)
    first = put(store, data)
    before = len(files(tmp_path))
    changed = bytearray(data)
    changed[7 * CHUNK : 7 * CHUNK + 5] = b"other"
    second = put(store, bytes(changed), created="2026-02-01T10:00:00Z")
    after = len(files(tmp_path))
    assert after == before + 1
    assert first != second
    assert store.resolve("golden") == second
    assert content(store, first) == data
    assert content(store, second) == bytes(changed)


def test_an_image_whose_chunks_are_not_here_is_refused(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    lost = blake3(b"never sent").hexdigest()
    manifest = ImageManifest(
        name="half", user="ann", created="2026-01-31T10:00:00Z", comment="c", size=10, chunks=(lost,)
    )
    with pytest.raises(ImageError, match="1 of its chunks are not in the store"):
        store.commit(manifest)
    assert store.images() == []
    with pytest.raises(ImageError, match="no image half"):
        store.open("half")


def test_a_chunk_that_is_not_its_digest_is_refused(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    with pytest.raises(ImageError, match="not what its digest says"):
        store.put_chunk(blake3(b"one").hexdigest(), b"two")
    with pytest.raises(ImageError, match="no digest"):
        store.missing(["../../etc/passwd"])


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "gone"])
def test_a_damaged_chunk_is_never_read_as_good(tmp_path: Path, damage: str) -> None:
    store = ImageStore(tmp_path)
    put(store, some_bytes(4, 3 * CHUNK))
    manifest = store.open("golden")
    for index in (0, 1):  # a compressed one and a raw one
        path = store.chunk_path(manifest.chunks[index])
        data = path.read_bytes()
        path.chmod(0o600)
        if damage == "gone":
            path.unlink()
        else:
            changed = {
                "flip": data[:100] + bytes([data[100] ^ 1]) + data[101:],
                "cut": data[:-1],
                "grow": data + b"x",
            }
            path.write_bytes(changed[damage])
        with pytest.raises(ImageError, match=manifest.chunks[index]):
            store.read_chunk(manifest, index)


def test_a_damaged_manifest_is_never_read_as_good(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    id_ = put(store, some_bytes(5, CHUNK))
    path = store.manifest_path(id_)
    path.write_bytes(path.read_bytes().replace(b'"ann"', b'"eve"'))
    with pytest.raises(ImageError, match="manifest of image"):
        store.open("golden")


def test_names(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    first = put(store, some_bytes(6, CHUNK))
    second = put(store, some_bytes(7, CHUNK), created="2026-02-01T10:00:00Z")
    store.tag(first, "golden:tested")
    store.tag("golden:tested", "room2")
    assert store.resolve("golden") == second
    assert store.resolve("golden:tested") == store.resolve("room2") == first
    for wrong in ("", "../x", "a/b", "a:", ":a", "a b", "-x", "@last"):
        with pytest.raises(OperatorError):
            store.resolve(wrong)
    with pytest.raises(ImageError, match="no image other"):
        store.open("other")


def test_what_a_dead_writer_had_finished_is_taken_over(tmp_path: Path) -> None:
    whole, half = b"w" * 5000, b"h" * 5000
    left = tmp_path / "incoming" / "0123456789abcdef"
    ImageStore(tmp_path)
    left.mkdir()
    (left / blake3(whole).hexdigest()).write_bytes(whole)
    (left / blake3(half).hexdigest()).write_bytes(half[:4000])
    (left / "not a digest").write_bytes(b"?")
    store = ImageStore(tmp_path)
    assert store.missing([blake3(whole).hexdigest(), blake3(half).hexdigest()]) == {blake3(half).hexdigest()}
    assert not left.exists()


def test_a_full_disk_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own ENOSPC: /dev/full stands in for the file of one chunk."""
    store = ImageStore(tmp_path)
    store.missing([])
    real = os.open

    def open_full(path: "os.PathLike[str] | str", flags: int, *rest: int) -> int:
        return real(
            "/dev/full" if "incoming" in str(path) and flags & os.O_CREAT else path, flags & ~os.O_EXCL, *rest
        )

    monkeypatch.setattr(os, "open", open_full)
    with pytest.raises(OperatorError, match="no room for images") as caught:
        store.put_chunk(blake3(b"x").hexdigest(), b"x")
    assert "bootd image rm" in caught.value.hint


def test_a_store_of_a_newer_bootd_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "format").write_bytes(b"bootd images 2\n")
    with pytest.raises(OperatorError, match="no store of images that this bootd knows"):
        ImageStore(tmp_path)


def test_canonical_manifest_is_the_id(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    id_ = put(store, some_bytes(8, CHUNK))
    assert blake3(encode(store.open(id_))).hexdigest() == id_
