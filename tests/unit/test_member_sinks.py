"""Targets that take a stream: real commands, chunks in any order, a spool that lies, ends of every kind."""

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from bootd.member.parts import PartStore
from bootd.member.sinks import command_store, output_store, unpack_words
from bootd.member.spool import Spool
from bootd.member.store import FileStore, Store, StoreError
from bootd.wire import manifest
from bootd.wire.control import MemberState
from bootd.wire.digest import digest
from bootd.wire.manifest import Manifest, Part
from tests.unit.ring_parts import CHUNK, PATIENCE, Room, make_body, make_manifest


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.close()


def fill(store: Store, body: bytes, order: Iterable[int]) -> None:
    for index in order:
        chunk = body[index * CHUNK : (index + 1) * CHUNK]
        if any(chunk):
            store.write(index * CHUNK, memoryview(chunk))
        else:
            store.zero(index * CHUNK, len(chunk))
        if index % 8 == 7:
            store.sync()
    store.sync()


def complete(store: Store) -> str:
    """What `complete` answers; a store that hangs fails the test."""
    answer: list[str] = []
    thread = threading.Thread(target=lambda: answer.append(store.complete(threading.Event())), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert answer
    return answer[0]


def shell(image: Manifest, folder: Path, line: str) -> Store:
    return command_store(image, 0, str(folder), ["sh", "-c", line])


@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_a_command_gets_every_byte_in_order(tmp_path: Path, order: str) -> None:
    body = make_body(12)
    image = make_manifest(body)
    store = shell(image, tmp_path, f"cat > {tmp_path}/out")
    fill(store, body, range(image.count) if order == "forwards" else list(reversed(range(image.count))))
    back = memoryview(bytearray(len(body)))
    store.read_back(0, back)
    assert bytes(back) == body
    assert complete(store) == ""
    store.close()
    assert (tmp_path / "out").read_bytes() == body
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "the spool has no name"


def test_a_chunk_that_was_not_kept_is_not_given_on(tmp_path: Path) -> None:
    """The bytes come wrong from the spool, the member writes them again: the command sees only the right ones."""
    body = make_body(4)
    image = make_manifest(body)
    store = shell(image, tmp_path, f"cat > {tmp_path}/out")
    store.write(0, memoryview(b"\xee" * CHUNK))
    store.sync()
    fill(store, body, range(image.count))
    assert complete(store) == ""
    store.close()
    assert (tmp_path / "out").read_bytes() == body


def test_a_spool_that_lies_to_the_end_fails(tmp_path: Path) -> None:
    body = make_body(4)
    image = make_manifest(body)
    store = shell(image, tmp_path, f"cat > {tmp_path}/out")
    fill(store, body, range(image.count - 1))
    store.write((image.count - 1) * CHUNK, memoryview(b"\xee" * 1000))
    store.sync()
    assert "was not kept" in complete(store)
    store.close()


def test_commands_that_end_before_the_bytes_do(tmp_path: Path) -> None:
    """One that fails makes the next write fail, with its last line; one that has enough is content."""
    body = make_body(40)
    image = make_manifest(body)
    failing = shell(image, tmp_path, "echo early >&2; echo the disk is on fire >&2; exit 3")
    words = "status 3: the disk is on fire"
    with pytest.raises(OSError, match=words):
        fill(failing, body, [number % image.count for number in range(100_000)])
    assert words in complete(failing)
    failing.close()
    content = shell(image, tmp_path, f"head -c 600 > {tmp_path}/out")
    fill(content, body, range(image.count))
    assert complete(content) == ""
    content.close()
    assert (tmp_path / "out").read_bytes() == body[:600]


def test_a_command_that_fails_or_is_killed_at_the_end(tmp_path: Path) -> None:
    body = make_body(2)
    image = make_manifest(body)
    for line, expected in (
        ("cat > /dev/null; exit 4", "the command ended with status 4"),
        ("cat > /dev/null; kill -9 $$", "the command was killed by SIGKILL"),
    ):
        store = shell(image, tmp_path, line)
        fill(store, body, range(image.count))
        assert complete(store) == expected
        store.close()


def test_close_ends_a_command_that_takes_nothing(tmp_path: Path) -> None:
    body = make_body(40)
    image = make_manifest(body)
    reading, writing = os.pipe()
    store = command_store(image, 0, str(tmp_path), ["sh", "-c", f"echo > /dev/fd/{writing}; sleep 1000"])
    os.close(writing)
    fill(store, body, range(image.count))
    stop = threading.Event()
    stop.set()
    assert store.complete(stop) == "stopped before the command had ended"
    store.close()
    os.close(reading)
    assert not [thread for thread in threading.enumerate() if thread.name == "bootd-feed"]


def test_output_and_no_room(tmp_path: Path) -> None:
    body = make_body(3)
    image = make_manifest(body)
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    store = output_store(image, 0, str(tmp_path), descriptor)
    fill(store, body, range(image.count))
    assert complete(store) == ""
    store.close()
    os.close(descriptor)
    assert (tmp_path / "out").read_bytes() == body
    with pytest.raises(StoreError, match="has room for"):
        Spool(str(tmp_path), 1 << 60)
    with pytest.raises(StoreError, match="cannot spool in"):
        Spool(str(tmp_path / "none"))


def test_tar_is_told_of_the_compression() -> None:
    """First bytes as the formats' documents give them: RFC 8878, RFC 1952, the .xz format, bzip2."""
    firsts = {"--zstd": "28b52ffd", "--gzip": "1f8b08", "--xz": "fd377a585a00", "--bzip2": "425a6839"}
    for option, first in firsts.items():
        assert option in unpack_words("/x", bytes.fromhex(first))
    assert not set(firsts) & set(unpack_words("/x", b"etc/hosts"))


def test_member_with_a_command_is_verified_when_the_command_has_ended(room: Room, tmp_path: Path) -> None:
    """head -> command -> file: the successor is served from the spool."""
    release = tmp_path / "release"
    os.mkfifo(release)
    line = f"cat > {tmp_path}/out; cat {release} > /dev/null"
    room.add_head()
    room.add_target("m1", lambda _: command_store(room.image, 0, str(tmp_path), ["sh", "-c", line]))
    room.add_target("m2")
    room.arrange("m1", "head")
    room.arrange("m2", "m1")
    room.expect_verified("m2")
    room.await_report("m1", lambda report: report.verified == len(room.body))
    assert room.members["m1"].snapshot().state is MemberState.VERIFYING
    release.write_text("")
    assert room.members["m1"].wait(PATIENCE).state is MemberState.VERIFIED
    assert (tmp_path / "out").read_bytes() == room.body


def test_member_fails_with_its_command_and_its_successor_does_not(room: Room, tmp_path: Path) -> None:
    room.add_head()
    words = ["sh", "-c", "cat > /dev/null; echo no such volume >&2; exit 9"]
    room.add_target("m1", lambda _: command_store(room.image, 0, str(tmp_path), words))
    room.add_target("m2")
    room.arrange("m1", "head")
    room.arrange("m2", "m1")
    report = room.members["m1"].wait(PATIENCE)
    assert report.state is MemberState.FAILED
    assert "status 9: no such volume" in report.reason
    room.expect_verified("m2")


def test_parts_go_each_to_their_own_store(tmp_path: Path) -> None:
    """Two files and a command in one session; lengths that end inside a chunk."""
    bodies = [make_body(3, 17), make_body(2, 1), make_body(1, 4000)]
    digests = [digest(body[at : at + CHUNK]) for body in bodies for at in range(0, len(body), CHUNK)]
    parts = [Part(f"p{number}", len(body)) for number, body in enumerate(bodies)]
    image = manifest.build_parts(parts, CHUNK, digests)
    files: list[Store] = [FileStore(str(tmp_path / f"p{number}"), len(bodies[number])) for number in (0, 1)]
    command = command_store(image, 2, str(tmp_path), ["sh", "-c", f"cat > {tmp_path}/p2"])
    store = PartStore(image, [*files, command])
    assert store.completes
    whole = b"".join(body + bytes(-len(body) % CHUNK) for body in bodies)
    for index in range(image.count):
        offset = image.offset(index)
        store.write(offset, memoryview(whole[offset : offset + image.length(index)]))
    store.sync()
    for index in range(image.count):
        back = memoryview(bytearray(image.length(index)))
        store.read_back(image.offset(index), back)
        assert digest(back) == image.digest(index)
    assert complete(store) == ""
    store.close()
    for number, body in enumerate(bodies):
        assert (tmp_path / f"p{number}").read_bytes() == body


def test_a_part_that_fails_is_named(tmp_path: Path) -> None:
    image = manifest.build_parts([Part("root", CHUNK), Part("home", CHUNK)], CHUNK, [bytes(32)] * 2)
    good = FileStore(str(tmp_path / "root"), CHUNK)
    full = os.open("/dev/full", os.O_RDWR)

    class Full(FileStore):
        def __init__(self) -> None:
            self._descriptor, self.size = full, CHUNK

    store = PartStore(image, [good, Full()])
    with pytest.raises(OSError, match="home: No space left"):
        store.write(CHUNK, memoryview(bytes(CHUNK)))
    store.close()
    with pytest.raises(ValueError, match="1 stores for 2 parts"):
        PartStore(image, [good])
