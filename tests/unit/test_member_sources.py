"""Sources of the head: streams that are spooled, commands of every end, digests that are remembered."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import blake3
import pytest

from bootd.member.digest_cache import DigestCache
from bootd.member.sources import (
    FileSource,
    SourceError,
    StreamSource,
    describe_sources,
    join_stores,
    read_ahead,
)
from bootd.member.store import Store
from tests.unit.ring_parts import make_body

CHUNK = 64 << 10
BODY = make_body(40)


def ignore(done: int) -> None:
    """Nobody looks at the progress."""


def content(store: Store, size: int) -> bytes:
    whole = memoryview(bytearray(size))
    store.read(0, whole)
    return bytes(whole)


def blake(data: bytes) -> list[bytes]:
    return [blake3.blake3(data[at : at + CHUNK]).digest() for at in range(0, len(data), CHUNK)]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], StreamSource]]:
    made: list[StreamSource] = []

    def build(command: str) -> StreamSource:
        made.append(StreamSource("the tree", str(tmp_path), command))
        return made[-1]

    yield build
    for source in made:
        source.close()


def test_a_stream_is_kept_and_digested_while_it_runs(make: Callable[[str], StreamSource], tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(BODY)
    # The last 100 bytes come in a piece of their own: a pipe gives what it has, not what is asked for.
    source = make(f"head -c -100 {tmp_path}/body; tail -c 100 {tmp_path}/body")
    seen: list[int] = []
    source.take(CHUNK, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == source.size == len(BODY)
    assert content(source.store, len(BODY)) == BODY
    image = describe_sources([source], CHUNK, ignore)
    assert (image.size, image.chunk_size, image.parts[0].name) == (len(BODY), CHUNK, "")
    assert [image.digest(index) for index in range(image.count)] == blake(BODY)
    assert [path.name for path in tmp_path.iterdir()] == ["body"], "the spool has no name"


def test_zeros_of_a_stream_take_no_room(make: Callable[[str], StreamSource]) -> None:
    source = make("head -c 33554432 /dev/zero; echo end")
    source.take(CHUNK, ignore)
    assert source.size == (32 << 20) + 4
    assert os.fstat(source.store._descriptor).st_blocks * 512 <= 2 * CHUNK  # type: ignore[attr-defined]
    assert content(source.store, source.size) == bytes(32 << 20) + b"end\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("head -c 100000 /dev/zero; echo cannot read it >&2; exit 7", "status 7: cannot read it$"),
        ("head -c 100000 /dev/zero; kill -KILL $$", "killed by SIGKILL$"),
        ("exit 0", "is empty$"),
        ("/no/such/program", "status 127: .*not found$"),
    ],
)
def test_commands_that_fail_send_nothing(make: Callable[[str], StreamSource], command: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        make(command).take(CHUNK, ignore)


def test_a_full_folder_is_named_with_what_was_taken() -> None:
    class Full:
        def write(self, offset: int, buffer: memoryview) -> None:
            descriptor = os.open("/dev/full", os.O_WRONLY)
            try:
                os.write(descriptor, buffer)
            finally:
                os.close(descriptor)

    source = StreamSource("the tree", "/spool", "true")
    source._spool, source._taken = Full(), 5 * CHUNK  # type: ignore[assignment]
    with pytest.raises(SourceError, match=f"/spool is full after {5 * CHUNK} bytes: No space left"):
        source._keep(memoryview(b"x" * CHUNK))


def test_parts_and_phases_of_several_sources(make: Callable[[str], StreamSource], tmp_path: Path) -> None:
    (tmp_path / "root.img").write_bytes(BODY)
    file = FileSource(str(tmp_path / "root.img"))
    stream = make("seq 100000")
    stream.take(CHUNK, ignore)
    numbers = "".join(f"{number}\n" for number in range(1, 100001)).encode()
    for is_phased in (False, True):
        image = describe_sources([file, stream], CHUNK, ignore, is_phased=is_phased)
        assert [(part.name, part.size) for part in image.parts] == [
            ("root.img", len(BODY)),
            ("the tree", len(numbers)),
        ]
        assert image.phases == (2 if is_phased else 1)
        assert [image.digest(index) for index in range(image.count)] == blake(BODY) + blake(numbers)
    store = join_stores(image, [file, stream])
    view = memoryview(bytearray(image.length(image.count - 1)))
    store.read(image.offset(image.count - 1), view)
    assert numbers.endswith(bytes(view))
    file.close()


def age(path: Path) -> None:
    """As if nobody had written to it for a while."""
    then = time.time_ns() - 10_000_000_000
    os.utime(path, ns=(then, then))


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    path.write_bytes(BODY)
    age(path)
    monkeypatch.setattr("bootd.member.digest_cache.SETTLED_NS", 0)  # ctime cannot be set back
    cache = DigestCache(str(tmp_path / "cache"))

    def describe() -> tuple[list[bytes], int]:
        """The digests, and how often progress was told: once when they were known."""
        seen: list[int] = []
        source = FileSource(str(path), cache)
        image = describe_sources([source], CHUNK, seen.append)
        source.close()
        return [image.digest(index) for index in range(image.count)], len(seen)

    assert describe() == (blake(BODY), len(blake(BODY)))
    assert describe() == (blake(BODY), 1)
    changed = b"X" + BODY[1:]
    path.write_bytes(changed)
    assert describe() == (blake(changed), len(blake(changed)))
    assert describe() == (blake(changed), 1)
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    assert describe() == (blake(changed), len(blake(changed))), "a damaged entry was believed"
    source = FileSource(str(path), cache)
    source.mistrust()
    source.close()
    assert not list((tmp_path / "cache").iterdir())


def test_a_file_that_was_written_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(BODY)
    source = FileSource(str(tmp_path / "image"), DigestCache(str(tmp_path / "cache")))
    describe_sources([source], CHUNK, ignore)
    source.close()
    assert not (tmp_path / "cache").exists()


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootd.member.digest_cache.MAX_ENTRIES", 3)
    cache = DigestCache(str(tmp_path))
    for number in range(9):
        cache.put((f"{number}.digests", bytes(32)), 5, CHUNK, [bytes(32)])
    assert len(list(tmp_path.iterdir())) == 3


def test_reading_ahead_is_bounded_and_its_errors_arrive() -> None:
    filled = threading.Semaphore(0)
    count = 0

    def fill(buffer: memoryview) -> int:
        nonlocal count
        count += 1
        filled.release()
        if count == 9:
            raise OSError(5, "dying disk")
        return len(buffer)

    views = read_ahead(fill, 4096)
    next(views)
    for _ in range(3):
        assert filled.acquire(timeout=10)
    assert not filled.acquire(timeout=0.1), "a fourth chunk was read while the first was in use"
    with pytest.raises(OSError, match="dying disk"):
        list(views)
