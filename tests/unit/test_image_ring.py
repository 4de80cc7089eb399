"""An image of the store as the source of a ring: the head reads it, targets get the same bytes."""

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.drivers.images.reading import alone
from bootd.drivers.images.store import ImageStore
from bootd.errors import OperatorError
from bootd.member.head import parse_settings
from bootd.member.images import ImageContent
from bootd.member.member import Member
from bootd.member.sources import SourceError, describe_sources, join_stores, open_source, suitable_chunk_size
from bootd.member.store import FileStore, StoreError
from bootd.wire import manifest as ring
from bootd.wire.control import Address, Arrange, MemberState, Report
from bootd.wire.digest import digest, zero_digest
from bootd.wire.frames import Encoding
from bootd.wire.manifest import Manifest
from bootd.wire.stored import image_of, image_source
from tests.unit.images import CHUNK, put, some_bytes
from tests.unit.ring_parts import HOST, KEY, PATIENCE, SESSION


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    with ImageStore(tmp_path / "images") as opened:
        yield opened


def ring_of(image: Manifest, sources: list[object], targets: list[Path], reports: list[Report]) -> list[Report]:
    """Send ``sources`` down a chain of targets; how each of them ended. Adds the head's reports to the list."""
    head_store = join_stores(image, sources)  # type: ignore[arg-type]
    stores = [FileStore(str(path), image.size) for path in targets]
    members = [
        Member(
            node=name, session=SESSION, join_token=KEY, manifest=image, store=used, listen_host=HOST,
            report=reports.append if number == 0 else lambda _: None, is_head=number == 0,
        )
        for number, (name, used) in enumerate(
            [("head", head_store), *((path.name, own) for path, own in zip(targets, stores, strict=True))]
        )
    ]  # fmt: skip
    try:
        ports = [member.start() for member in members]
        for number, member in enumerate(members[1:], 1):
            before = members[number - 1]
            name = "head" if before is members[0] else targets[number - 2].name
            member.arrange(Arrange(SESSION, 1, Address(HOST, ports[number - 1]), name))
        members[0].arrange(Arrange(SESSION, 1, None, ""))
        return [member.wait(PATIENCE) for member in members[1:]]
    finally:
        for member in members:
            member.stop()
        for opened in stores:
            opened.close()


def test_targets_get_the_image(store: ImageStore, tmp_path: Path) -> None:
    data = some_bytes(1, 9 * CHUNK + 777)
    id_ = put(store, data)
    source = open_source(image_source("golden", id_), images=str(store.directory))
    image = describe_sources([source], suitable_chunk_size([source]), lambda _: None)
    digests = [digest(data[start : start + CHUNK]) for start in range(0, len(data), CHUNK)]
    assert image == ring.build(len(data), CHUNK, digests)  # as if it were the raw file
    targets = [tmp_path / "one", tmp_path / "two"]
    ends = ring_of(image, [source], targets, [])
    source.close()
    assert [end.state for end in ends] == [MemberState.VERIFIED] * 2
    assert [path.read_bytes() == data for path in targets] == [True, True]


def test_chunks_go_out_as_they_are_kept(store: ImageStore) -> None:
    data = some_bytes(2, 4 * CHUNK + 700)
    content = ImageContent(str(store.directory), put(store, data))
    names = store.open("golden").chunks
    found = [content.packed(index * CHUNK, min(CHUNK, len(data) - index * CHUNK)) for index in range(5)]
    assert [item[0] for item in found if item] == [
        Encoding.ZSTD, Encoding.RAW, Encoding.ZSTD, Encoding.ZERO, Encoding.RAW,
    ]  # fmt: skip
    for index in (0, 1, 2, 4):
        item = found[index]
        assert item is not None
        assert item[1] == store.chunk_path(names[index]).read_bytes()
    assert content.packed(512, CHUNK) is None
    assert content.packed(0, 512) is None
    content.close()


@pytest.mark.parametrize(
    ("start", "size"), [(CHUNK, 3 * CHUNK), (CHUNK, 2 * CHUNK + 4096), (63 * 512, 3 * CHUNK + 512)]
)
def test_a_partition_of_an_image(store: ImageStore, tmp_path: Path, start: int, size: int) -> None:
    """Aligned to chunks and not."""
    data = some_bytes(3, 6 * CHUNK)
    text = f"slice:{start}:{size}:{image_source('golden', put(store, data))}"
    other = tmp_path / "file"
    other.write_bytes(some_bytes(4, CHUNK + 5))
    sources = [open_source(text, images=str(store.directory)), open_source(str(other))]
    image = describe_sources(sources, suitable_chunk_size(sources), lambda _: None)
    pieces = [data[start : start + size], other.read_bytes()]
    expected = [digest(piece[at : at + CHUNK]) for piece in pieces for at in range(0, len(piece), CHUNK)]
    assert [image.digest(index) for index in range(image.count)] == expected
    buffer = memoryview(bytearray(CHUNK))
    joined = join_stores(image, sources)
    for index in range(image.count):
        view = buffer[: image.length(index)]
        joined.read(image.offset(index), view)
        assert digest(view) == image.digest(index)
    for source in sources:
        source.close()


def test_any_read_gives_the_bytes_of_the_image(store: ImageStore) -> None:
    data = some_bytes(5, 5 * CHUNK + 100)
    content = ImageContent(str(store.directory), put(store, data), 1000, 4 * CHUNK)
    source = random.Random(5)
    for _ in range(200):
        offset = source.randrange(4 * CHUNK)
        length = source.randint(1, min(2 * CHUNK, 4 * CHUNK - offset))
        buffer = bytearray(length)
        content.read(offset, memoryview(buffer))
        assert buffer == data[1000 + offset :][:length]
    content.close()


def test_a_damaged_chunk_fails_the_head_by_name_and_is_never_written(store: ImageStore, tmp_path: Path) -> None:
    """It goes out once unseen, the successor turns it away, and who asks twice makes the head look."""
    data = some_bytes(6, 6 * CHUNK)
    id_ = put(store, data)
    name = store.open(id_).chunks[2]
    path = store.chunk_path(name)
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 1
    path.write_bytes(packed)
    source = open_source(image_source("golden", id_), images=str(store.directory))
    image = describe_sources([source], CHUNK, lambda _: None)
    reports: list[Report] = []
    (end,) = _until_head_fails(image, source, tmp_path / "target", reports)
    source.close()
    assert end.state is not MemberState.VERIFIED
    failed = next(report for report in reports if report.state is MemberState.FAILED)
    assert name in failed.reason
    assert "bootd image verify" in failed.reason
    written = (tmp_path / "target").read_bytes()
    assert written[2 * CHUNK : 3 * CHUNK] == bytes(CHUNK)
    assert written[:CHUNK] == data[:CHUNK]


def _until_head_fails(image: Manifest, source: object, target: Path, reports: list[Report]) -> list[Report]:
    failed = threading.Event()
    store = FileStore(str(target), image.size)

    def report(message: Report) -> None:
        reports.append(message)
        if message.state is MemberState.FAILED:
            failed.set()

    head = Member(
        node="head", session=SESSION, join_token=KEY, manifest=image, store=join_stores(image, [source]),  # type: ignore[list-item]
        listen_host=HOST, report=report, is_head=True,
    )  # fmt: skip
    member = Member(
        node="n", session=SESSION, join_token=KEY, manifest=image, store=store, listen_host=HOST,
        report=lambda _: None, is_head=False,
    )  # fmt: skip
    try:
        port = head.start()
        head.arrange(Arrange(SESSION, 1, None, ""))
        member.start()
        member.arrange(Arrange(SESSION, 1, Address(HOST, port), "head"))
        assert failed.wait(PATIENCE)
        return [member.snapshot()]
    finally:
        member.stop()
        head.stop()
        store.close()


def test_an_image_that_is_sent_is_not_removed(store: ImageStore) -> None:
    id_ = put(store, some_bytes(7, CHUNK))
    content = ImageContent(str(store.directory), id_)
    with pytest.raises(OperatorError, match="in use"), alone(store, id_):
        pass
    content.close()
    with alone(store, id_):
        pass


def test_what_cannot_be_opened(store: ImageStore, tmp_path: Path) -> None:
    id_ = put(store, some_bytes(8, CHUNK))
    folder = str(store.directory)
    with pytest.raises(StoreError, match="were expected"):
        ImageContent(folder, id_, 0, CHUNK + 1)
    for text in (image_source("golden", "0" * 64), "slice:0:5:image:golden", "slice:x:5:/a"):
        with pytest.raises(SourceError):
            open_source(text, images=folder)
    store.manifest_path(id_).write_bytes(b"{}\n")
    with pytest.raises(SourceError, match="damaged"):
        open_source(image_source("golden", id_), images=folder)


def test_names_of_sources() -> None:
    id_ = "ab" * 32
    assert image_of(image_source("golden", id_)) == id_
    assert image_of(f"slice:512:1024:{image_source('golden', id_)}") == id_
    for text in ("/srv/golden.img", "slice:0:512:/srv/x@y", "/srv/image:x@y", "image:golden", "slice:1"):
        assert image_of(text) == ""


def test_zero_digests_are_those_of_zeros(store: ImageStore) -> None:
    content = ImageContent(str(store.directory), put(store, some_bytes(9, 4 * CHUNK)))
    assert content.digest(3 * CHUNK, CHUNK) == zero_digest(CHUNK) == digest(bytes(CHUNK))
    content.close()


def test_the_settings_of_a_head_name_the_store() -> None:
    line = {
        "server": "h:1", "node": "n", "token": "t", "session": "s", "join_token": "j", "source": "image:g@x",
        "host": "h", "images": "/var/lib/bootd/images",
    }  # fmt: skip
    assert parse_settings(json.dumps(line).encode()).images == "/var/lib/bootd/images"
    assert os.sep in parse_settings(json.dumps(line).encode()).images
