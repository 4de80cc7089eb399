"""Members with real threads, sockets and files on loopback: the good ring, repairs, bad neighbours, bad disks."""

import errno
import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bootd.member import context
from bootd.member.store import SourceStore
from bootd.wire import frames, link
from bootd.wire.control import Address, Arrange, MemberState
from bootd.wire.digest import digest
from bootd.wire.frames import ChunkHeader, ChunkRange, Decoder, Encoding
from tests.unit.ring_parts import (
    CHUNK,
    HOST,
    KEY,
    PATIENCE,
    SESSION,
    FailingStore,
    GatedStore,
    LyingStore,
    Room,
    false_predecessor,
    flipping_proxy,
)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.close()


def gated(room: Room, name: str, count: int) -> GatedStore:
    """Adds a target that stops writing after ``count`` chunks."""
    made: list[GatedStore] = []

    def wrap(store: object) -> GatedStore:
        made.append(GatedStore(store, count))  # type: ignore[arg-type]
        return made[0]

    room.add_target(name, wrap)
    return made[0]


def test_chain_of_three(room: Room) -> None:
    room.add_head()
    for name, predecessor in (("m1", "head"), ("m2", "m1"), ("m3", "m2")):
        room.add_target(name)
        assert room.arrange(name, predecessor)
    room.expect_verified("m1", "m2", "m3")
    sent = {name: member.snapshot().sent for name, member in room.members.items()}
    size = len(room.body)
    assert sent == {"head": size, "m1": size, "m2": size, "m3": 0}
    room.await_report("m1", lambda report: report.state is MemberState.VERIFIED)
    # The reporter's first turn may come late, so READY need not be among them; the order is what counts.
    states = [report.state for report in room.reports["m1"]]
    assert states == sorted(states, key=list(MemberState).index)
    assert room.members["head"].snapshot().state is MemberState.READY


def test_three_numbers_are_three(room: Room) -> None:
    """Written, durable and verified are never mixed: a disk that stops taking bytes shows how far each got."""
    room.add_head()
    store = gated(room, "m1", 10)
    room.arrange("m1", "head")
    assert store.reached.wait(PATIENCE)
    report = room.await_report("m1", lambda report: report.durable == 10 * CHUNK)
    assert (report.written, report.verified, report.state) == (10 * CHUNK, 0, MemberState.RECEIVING)
    store.gate.set()
    room.expect_verified("m1")


def test_death_in_the_middle_of_the_chain(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """m1 dies with 10 chunks written; m2 goes on with the head and asks only for what it lacks."""
    monkeypatch.setattr(context, "WINDOW_BYTES", 4 * CHUNK)
    head = room.add_head()
    store = gated(room, "m1", 10)
    room.add_target("m2")
    room.arrange("m1", "head")
    room.arrange("m2", "m1")
    assert store.reached.wait(PATIENCE)
    has = room.await_report("m2", lambda report: report.durable >= 10 * CHUNK).durable
    store.gate.set()
    room.members["m1"].stop("killed")
    before = head.snapshot().sent
    assert room.arrange("m2", "head", epoch=2)
    room.expect_verified("m2")
    assert head.snapshot().sent - before <= len(room.body) - has + 8 * CHUNK
    assert room.members["m1"].snapshot().state is MemberState.FAILED
    room.await_report("m1", lambda report: report.reason == "killed")


def test_late_joiner_is_served_from_disk(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "WINDOW_BYTES", 4 * CHUNK)
    head = room.add_head()
    room.add_target("m1")
    room.arrange("m1", "head")
    room.expect_verified("m1")
    room.add_target("m2")
    room.arrange("m2", "m1")
    room.expect_verified("m2")
    assert head.snapshot().sent == len(room.body)


def test_fan_out(room: Room) -> None:
    room.add_head()
    for name in ("m1", "m2", "m3", "m4"):
        room.add_target(name)
        room.arrange(name, "head")
    room.expect_verified("m1", "m2", "m3", "m4")


def test_epochs_only_rise(room: Room) -> None:
    room.add_head()
    room.add_target("m1")
    assert room.arrange("m1", "head", epoch=3)
    assert not room.arrange("m1", "head", epoch=3)
    assert not room.arrange("m1", "head", epoch=2)
    other = Arrange("another", 9, Address(HOST, 1), "head")
    assert not room.members["m1"].arrange(other)
    assert room.members["m1"].snapshot().epoch == 3


def test_member_of_an_old_epoch_is_refused_and_that_is_logged(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    head = room.add_head()
    head.arrange(Arrange(SESSION, 5, None, ""))
    room.add_target("m1")
    room.arrange("m1", "head", epoch=4)
    report = room.await_report("m1", lambda report: bool(report.trouble))
    assert report.trouble == "predecessor head: refuses: epoch 4 is over, now 5"
    assert "refused a successor that calls itself 'm1': epoch 4 is over, now 5" in caplog.text
    room.arrange("m1", "head", epoch=5)
    room.expect_verified("m1")


def test_flipped_bit_on_the_way(room: Room) -> None:
    """The chunk is fetched again, the neighbour it came from is named, and the disk is right."""
    head = room.add_head()
    room.add_target("m1")
    with flipping_proxy(room.ports["head"], where=3 * CHUNK) as port:
        room.arrange("m1", "head", port=port)
        room.expect_verified("m1")
    report = room.await_report("m1", lambda report: bool(report.trouble))
    assert report.trouble.startswith("predecessor head: chunk ")
    assert report.trouble.endswith("arrived damaged")
    assert len(room.body) < head.snapshot().sent <= len(room.body) + CHUNK


def test_predecessor_with_other_bytes(room: Room) -> None:
    """A chunk whose digest is right for its bytes, but which is not the image's, never reaches the disk."""
    room.add_head()
    room.add_target("m1")
    false = b"\x55" * CHUNK

    def behave(connection: socket.socket, ranges: tuple[ChunkRange, ...]) -> None:
        header = ChunkHeader(ranges[0].first, Encoding.RAW, CHUNK, digest(false), CHUNK)
        connection.sendall(frames.encode_chunk_header(header) + false)

    with false_predecessor(room.image, behave) as port:
        room.arrange("m1", "liar", port=port)
        room.await_report(
            "m1", lambda report: report.trouble == "predecessor liar: chunk 0 is not the one of the image"
        )
        assert room.members["m1"].snapshot().written == 0
        room.arrange("m1", "head", epoch=2)
        room.expect_verified("m1")


def test_frozen_predecessor_is_named_and_replaced(room: Room) -> None:
    room.add_head()
    room.add_target("m1")

    def behave(connection: socket.socket, ranges: tuple[ChunkRange, ...]) -> None:
        connection.sendall(frames.encode(frames.Ping()))

    with false_predecessor(room.image, behave) as port:
        room.arrange("m1", "frozen", port=port)
        room.await_report("m1", lambda report: report.trouble == "predecessor frozen: silent for 0.4 s")
        room.arrange("m1", "head", epoch=2)
        room.expect_verified("m1")


def test_predecessor_that_waits_itself_is_not_silent(room: Room) -> None:
    """m1 has nothing to give for longer than the deadline, but says so: m2 stays with it."""
    room.add_head()
    room.add_target("m1")
    room.add_target("m2")
    room.arrange("m2", "m1")
    room.await_report("m2", lambda report: report.state is MemberState.RECEIVING)
    room.add_target("m3")
    room.arrange("m3", "m2")
    count = len(room.reports["m2"])
    room.await_report("m2", lambda _: len(room.reports["m2"]) >= count + 4)  # 0.6 s and more: beyond the deadline
    assert [report.trouble for report in room.reports["m2"] + room.reports["m3"] if report.trouble] == []
    room.arrange("m1", "head")
    room.expect_verified("m1", "m2", "m3")


def test_dead_predecessor_is_named(room: Room) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    room.add_target("m1")
    room.arrange("m1", "gone", port=port)
    room.await_report("m1", lambda report: report.trouble == "predecessor gone: Connection refused")


@pytest.mark.parametrize("at_sync", [False, True])
def test_full_disk_fails_the_node_and_not_its_successor(
    room: Room, at_sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "WINDOW_BYTES", (100 if at_sync else 4) * CHUNK)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    room.add_head()
    room.add_target("m1", lambda store: FailingStore(store, full, 1 << 30 if at_sync else 12, at_sync=at_sync))
    room.add_target("m2")
    room.arrange("m2", "m1")
    room.arrange("m1", "head")
    report = room.members["m1"].wait(PATIENCE)
    assert report.state is MemberState.FAILED
    where = "flushing the target" if at_sync else f"writing the target at byte {12 * CHUNK}"
    assert report.reason == f"{where}: No space left on device"
    assert report.verified == 0
    if at_sync:  # it has passed on all that it got, but none of it counts as durable
        assert report.durable == 0
    else:
        room.await_report("m2", lambda report: "No space left on device" in report.trouble)
        room.arrange("m2", "head", epoch=2)
    room.expect_verified("m2")


def test_disk_that_lies_once_is_written_again(room: Room) -> None:
    head = room.add_head()
    room.add_target("m1", lambda store: LyingStore(store, 6 * CHUNK, times=1))
    room.arrange("m1", "head")
    room.expect_verified("m1")
    assert head.snapshot().sent == len(room.body) + CHUNK


def test_disk_that_always_lies_fails(room: Room) -> None:
    head = room.add_head()
    room.add_target("m1", lambda store: LyingStore(store, 6 * CHUNK, times=1 << 30))
    room.arrange("m1", "head")
    report = room.members["m1"].wait(PATIENCE)
    assert report.state is MemberState.FAILED
    assert report.reason.startswith("the target does not keep what is written: chunk 6 ")
    assert head.snapshot().sent == len(room.body) + 2 * CHUNK


def test_source_that_changes_after_it_was_digested(room: Room) -> None:
    head = room.add_head()
    room.add_target("m1")
    with (room.folder / "source").open("r+b") as source:
        source.seek(37 * CHUNK)
        source.write(b"changed")
    room.arrange("m1", "head")
    report = head.wait(PATIENCE)
    assert report.state is MemberState.FAILED
    assert report.reason.startswith("image changed while it was being sent: chunk 37 ")
    room.await_report("m1", lambda report: "image changed while it was being sent" in report.trouble)
    assert room.members["m1"].snapshot().state is MemberState.RECEIVING


def test_strangers_and_noise_leave_the_head_alone(room: Room) -> None:
    room.add_head()
    room.add_target("m1")
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\5\0\0\0\0\x10\0\0", b""):
        with socket.create_connection((HOST, room.ports["head"]), timeout=PATIENCE) as stranger:
            stranger.sendall(noise)
            stranger.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while stranger.recv(4096):
                    pass
    room.arrange("m1", "head")
    room.expect_verified("m1")


def test_stranger_without_the_token_is_refused(room: Room) -> None:
    room.add_head()
    dial = link.DialLink(
        session=SESSION, epoch=9, member="m9", token=KEY + "0", nonce=os.urandom(32), manifest=room.image
    )
    decoder = Decoder()
    events: list[object] = []
    with socket.create_connection((HOST, room.ports["head"]), timeout=PATIENCE) as stranger:
        while data := stranger.recv(4096):
            for frame in decoder.feed(data):
                event = dial.receive(frame)
                events.append(event)
                if isinstance(event, link.Send):
                    stranger.sendall(event.data)
    assert events[1:] == [link.Refused("wrong join token")]


def test_stop_ends_every_thread_and_says_why(room: Room) -> None:
    room.add_head()
    store = gated(room, "m1", 0)
    room.add_target("m2")
    room.arrange("m1", "head")
    room.arrange("m2", "m1")
    assert store.reached.wait(PATIENCE)
    store.gate.set()
    room.members["m1"].stop("cancelled by ada")
    last = room.reports["m1"][-1]
    assert (last.state, last.reason) == (MemberState.FAILED, "cancelled by ada")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, room.ports["m1"]), timeout=PATIENCE)


def test_source_store_is_never_written(room: Room) -> None:
    store = SourceStore(str(room.folder / "source"))
    with pytest.raises(OSError, match="never written"):
        store.write(0, memoryview(b"x"))
    store.close()


@pytest.mark.parametrize("seed", range(4))
def test_seeded_deaths_and_rearrangements(room: Room, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of five targets die at random places of chain and image; the others are arranged anew each time."""
    monkeypatch.setattr(context, "WINDOW_BYTES", 4 * CHUNK)
    chance = random.Random(seed)
    room.add_head()
    order = [f"m{number}" for number in range(5)]
    chance.shuffle(order)
    victims = chance.sample(order, 2)
    deaths = sorted(chance.sample(range(room.image.count), 2))  # the earlier first: the later waits for nobody then
    stores = {name: gated(room, name, count) for name, count in zip(victims, deaths, strict=True)}
    for name in order:
        if name not in victims:
            room.add_target(name)
    for epoch, victim in enumerate([None, *victims], start=1):
        if victim is not None:
            assert stores[victim].reached.wait(PATIENCE)
            stores[victim].gate.set()
            room.members[victim].stop("killed")
            order.remove(victim)
            chance.shuffle(order)
        for name, predecessor in zip(order, ["head", *order], strict=False):
            assert room.arrange(name, predecessor, epoch=epoch)
    room.expect_verified(*order)
