"""What may be removed, and that nothing else is: retention, rm, gc beside writers and readers."""

import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from bootd.drivers.images import inspect, removal
from bootd.drivers.images.reading import reading
from bootd.drivers.images.removal import collect
from bootd.drivers.images.store import ImageStore
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import ImageError
from bootd.images.retention import DAY, Candidate, Rule, outdated
from tests.unit.images import CHUNK, Told, content, files, put, some_bytes

NOW = 1_800_000_000.0


def candidate(
    number: int, age: float, name: str = "g", tags: tuple[str, ...] = (), in_use: bool = False
) -> Candidate:
    return Candidate(str(number), name, NOW - age * DAY, tags, in_use)


@pytest.mark.parametrize(
    ("rule", "gone"),
    [
        (Rule(), []),
        (Rule(keep_last=2), ["4", "3", "2"]),
        (Rule(keep_last=1), ["4", "3", "2", "1"]),
        (Rule(keep_days=10), ["4", "3"]),
        (Rule(keep_last=2, keep_days=10), ["4", "3"]),
        (Rule(keep_last=4, keep_days=2), ["4"]),
        (Rule(keep_days=0.5), ["4", "3", "2", "1"]),
    ],
)
def test_what_the_rules_keep(rule: Rule, gone: list[str]) -> None:
    """Five versions, 1, 5, 9, 20 and 50 days old: the newest always stays."""
    versions = [candidate(number, age) for number, age in enumerate((1, 5, 9, 20, 50))]
    assert [image.id for image, _ in outdated(versions, {}, rule, NOW)] == gone
    assert all(why for _, why in outdated(versions, {}, rule, NOW))


def test_what_somebody_named_or_uses_stays() -> None:
    versions = [
        candidate(0, 1),
        candidate(1, 20, tags=("exam",)),
        candidate(2, 30, in_use=True),
        candidate(3, 40),
        candidate(4, 99, name="other"),
        candidate(5, 100, name="other"),
    ]
    gone = outdated(versions, {"other": Rule(keep_last=5)}, Rule(keep_last=1), NOW)
    assert [image.id for image, _ in gone] == ["3"]


def test_rm_takes_names_and_leaves_shared_chunks(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    data = some_bytes(1, 6 * CHUNK)
    first = put(store, data)
    second = put(store, data[:-5] + b"other", created="2026-02-01T10:00:00Z")
    store.tag(second, "exam")
    removed = removal.remove(store, "golden")
    assert (removed.id, set(removed.tags)) == (second, {"golden:latest", "exam:latest"})
    assert store.resolve("golden") == first
    with pytest.raises(ImageError):
        store.resolve("exam")
    store.close()
    result = collect(Told(), store=str(tmp_path), now_too=True, clock=lambda: time.time() + 10)
    assert result["chunks"] == 1
    assert content(store, "golden") == data


def test_gc_says_first_what_it_would_do(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    ids = [put(store, some_bytes(seed, 3 * CHUNK), created=f"2026-01-0{seed}T10:00:00Z") for seed in (1, 2, 3)]
    store.close()
    later: dict[str, Any] = {"store": str(tmp_path), "keep": {"": (1, 0.0)}, "clock": lambda: time.time() + 2 * DAY}
    before = files(tmp_path)
    tried = collect(Told(), dry_run=True, **later)
    assert files(tmp_path) == before
    assert len(store.ids()) == 3
    done = collect(Told(), **later)
    assert [item["id"] for item in done["images"]] == ids[:2]
    assert {**tried, "dry_run": False} == done
    assert done["chunks"] == 6
    assert len(files(tmp_path)) == 3
    assert content(store, "golden") == some_bytes(3, 3 * CHUNK)


def test_gc_leaves_what_an_upload_may_go_on_with(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    store.put_chunk(blake3(b"begun").hexdigest(), b"begun")
    store.flush()
    assert collect(Told(), store=str(tmp_path))["chunks"] == 0
    assert collect(Told(), store=str(tmp_path), now_too=True)["chunks"] == 0  # the writer lives
    store.close()
    assert collect(Told(), store=str(tmp_path), now_too=True, clock=lambda: time.time() + 1)["chunks"] == 1
    assert files(tmp_path) == []


def test_gc_leaves_what_was_asked_for_just_now(tmp_path: Path) -> None:
    """An old chunk of no image, which a new backup has been told is here."""
    store = ImageStore(tmp_path)
    name = blake3(b"old").hexdigest()
    store.put_chunk(name, b"old")
    store.flush()
    os.utime(store.chunk_path(name), (1.0, 1.0))
    assert store.missing([name]) == set()
    assert collect(Told(), store=str(tmp_path))["chunks"] == 0
    os.utime(store.chunk_path(name), (1.0, 1.0))
    assert collect(Told(), store=str(tmp_path))["chunks"] == 1


def test_gc_knows_nothing_of_a_damaged_image_and_stops(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    id_ = put(store, some_bytes(4, 2 * CHUNK))
    store.manifest_path(id_).write_bytes(b"{}")
    before = files(tmp_path)
    with pytest.raises(ImageError, match="damaged"):
        collect(Told(), store=str(tmp_path), clock=lambda: time.time() + 9 * DAY)
    assert files(tmp_path) == before


def test_an_image_that_is_read_stays(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    put(store, some_bytes(5, CHUNK), created="2026-01-01T10:00:00Z")
    id_ = put(store, some_bytes(6, CHUNK))
    with reading(ImageStore(tmp_path), id_):
        with pytest.raises(OperatorError, match="in use") as caught:
            removal.remove(store, id_)
        assert caught.value.code is Exit.BUSY
        assert store.resolve("golden") == id_
    removal.remove(store, id_)
    with pytest.raises(ImageError, match="no image"), reading(store, id_):
        pass


def test_history_says_what_each_version_brought(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    data = some_bytes(7, 5 * CHUNK + 3)
    put(store, data, created="2026-01-01T10:00:00Z")
    put(store, data[:-1] + b"x", created="2026-01-02T10:00:00Z")
    put(store, data, name="other")
    assert [(line["new_chunks"], line["new_bytes"]) for line in inspect.history(store, "golden")] == [
        (5, 4 * CHUNK + 3),
        (1, 3),
    ]


def put_again_and_again(store: ImageStore, data: bytes, name: str) -> str:
    """As a client does it: it may have been so slow that what it was told is here has been removed."""
    for _ in range(20):
        try:
            return put(store, data, name=name)
        except ImageError as error:
            if "not in the store" not in error.message:
                raise
    raise AssertionError("never succeeded")


def write_images(
    folder: str, seed: int, stop: Event, count: "multiprocessing.sharedctypes.Synchronized[int]"
) -> None:
    store = ImageStore(Path(folder))
    number = 0
    while not stop.is_set():
        # most chunks come again, in time or just too late; every fourth image's never do, so there is waste to find
        data = some_bytes(seed * 1000 + (100 + number if number % 4 == 1 else number % 3), 4 * CHUNK)
        id_ = put_again_and_again(store, data, f"w{seed}")
        if content(store, id_) != data:
            count.value = -1
            return
        if number % 2:
            removal.remove(store, id_)
        number += 1
        count.value = number


def test_gc_beside_writers_that_come_and_go(tmp_path: Path) -> None:
    """Two processes store, read and remove images while chunks are collected as eagerly as can be."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    counts = [context.Value("i", 0) for _ in range(2)]
    ImageStore(tmp_path)
    writers = [
        context.Process(target=write_images, args=(str(tmp_path), seed, stop, counts[seed])) for seed in range(2)
    ]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + 180
    collected = 0
    while (
        time.monotonic() < deadline
        and (min(count.value for count in counts) < 8 or not collected)
        and all(writer.is_alive() for writer in writers)
    ):
        collected += collect(Told(), store=str(tmp_path), clock=lambda: time.time() + DAY - 0.2)["chunks"]
    stop.set()
    for writer in writers:
        writer.join(30)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert min(count.value for count in counts) >= 8
    assert collected > 0
    store = ImageStore(tmp_path)
    for image in store.images():
        content(store, image.id)


def test_what_killed_writers_left_goes_after_a_day(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    id_ = put(store, some_bytes(10, CHUNK))
    store.close()
    drafts = [tmp_path / "manifests" / f".{id_}.0123", tmp_path / "refs/golden/.latest.0123"]
    for draft in drafts:
        draft.write_bytes(b"half")
    assert [image.id for image in store.images()] == [id_]
    collect(Told(), store=str(tmp_path))
    assert all(draft.exists() for draft in drafts)
    collect(Told(), store=str(tmp_path), clock=lambda: time.time() + 2 * DAY)
    assert not any(draft.exists() for draft in drafts)
    assert content(store, "golden") == some_bytes(10, CHUNK)
