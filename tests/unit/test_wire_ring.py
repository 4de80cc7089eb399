"""The member's decisions without threads: window, ledger, phases, comparison, reading back."""

import pytest

from bootd.wire import link, manifest
from bootd.wire.control import Address, Arrange, MemberState
from bootd.wire.digest import digest
from bootd.wire.errors import LocalProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, ChunkRange, Decoder, Encoding
from bootd.wire.manifest import Manifest, Part
from bootd.wire.ring.ledger import SYNC_SECONDS, Ledger, Level
from bootd.wire.ring.member import Admitted, Claim, Limits, RingMember, Wake
from bootd.wire.ring.upstream import FOLLOWERS_PAUSE, Dial, Rest
from bootd.wire.ring.window import Entry, Window

SIZE = 4096
IMAGE = manifest.build(6 * SIZE + 1, SIZE, [bytes([number]) * 32 for number in range(7)])
PLACE = Arrange("s", 1, Address("192.0.2.1", 1234), "head")


def entry(index: int, slot: object = None) -> Entry:
    return Entry(ChunkHeader(index, Encoding.RAW, SIZE, bytes(32), SIZE), bytes(SIZE), bytes(SIZE), slot)


def put(window: Window, index: int, slot: object = None) -> Entry:
    assert window.reserve()
    made = entry(index, slot)
    window.put(made)
    return made


def content(index: int) -> bytes:
    return bytes([index + 1]) * SIZE


def real_image(*parts: Part) -> Manifest:
    return manifest.build_parts(
        parts,
        SIZE,
        [digest(content(index)) for index in range(sum(part.size // SIZE for part in parts))],
    )


def member(image: Manifest, **options: bool) -> RingMember:
    return RingMember(node="n", session="s", token="t", manifest=image, capacity=4, limits=Limits(), **options)


def receive(core: RingMember, index: int, raw: bytes = b"", now: float = 0.0) -> None:
    """A chunk arrives and is written."""
    raw = raw or content(index)
    assert core.reserve(now)
    header = ChunkHeader(index, Encoding.RAW, SIZE, digest(raw), SIZE)
    assert core.accept(Chunk(header, memoryview(raw)), raw, digest(raw), None)
    written = core.window.take_unwritten()
    assert written is not None
    core.wrote(written, now)


def sync(core: RingMember, now: float = 100.0) -> None:
    batch = core.ledger.take_unsynced(now)
    assert batch
    core.synced(batch)


def read_back(core: RingMember, wrong: frozenset[int] = frozenset()) -> list[int]:
    seen = []
    while (index := core.next_check()) is not None:
        seen.append(index)
        core.checked(index, bytes(32) if index in wrong else digest(content(index)))
    return seen


def state(core: RingMember) -> MemberState:
    return core.standing.state


# --- window ------------------------------------------------------------------------------------------------


def test_entries_leave_in_order_and_only_when_written() -> None:
    window = Window(2)
    first, second = put(window, 0), put(window, 1)
    assert window.take_unwritten() is first
    assert window.take_unwritten() is second
    second.is_written = True
    assert not window.reserve()  # the oldest is not written, though the second is
    first.is_written = True
    assert window.reserve()
    assert window.borrow(0) is None
    assert window.borrow(1) is second


def test_borrowed_buffer_is_free_only_after_it_is_given_back() -> None:
    window = Window(1)
    first = put(window, 0, slot="buffer")
    assert window.take_unwritten() is first
    first.is_written = True
    assert window.borrow(0) is first
    assert window.reserve()
    assert window.freed == []
    window.give_back(first)
    assert window.freed == ["buffer"]


def test_closed_window_gives_nothing_to_write_and_still_lends() -> None:
    window = Window(2)
    first = put(window, 0)
    window.is_closed = True
    assert window.take_unwritten() is None
    assert window.borrow(0) is first


# --- ledger ------------------------------------------------------------------------------------------------


def fill(ledger: Ledger, indexes: list[int], now: float = 0.0) -> None:
    for index in indexes:
        ledger.hold(index)
        ledger.write(index, now)


def test_levels_and_sums() -> None:
    ledger = Ledger(IMAGE)
    assert ledger.lacking(10) == (ChunkRange(0, 7),)
    fill(ledger, [0, 1, 6])
    ledger.hold(3)
    assert ledger.lacking(10) == (ChunkRange(2, 1), ChunkRange(4, 2))
    assert ledger.lacking(1) == (ChunkRange(2, 1),)
    assert ledger.take_unsynced(SYNC_SECONDS / 2) is None
    assert ledger.sync_due == SYNC_SECONDS
    assert ledger.take_unsynced(SYNC_SECONDS) == [0, 1, 6]
    ledger.sync([0, 1, 6])
    ledger.verify(1)
    ledger.verify(3)  # only held: does not count
    sums = ledger.sums()
    assert (sums.held, sums.written, sums.durable, sums.verified) == (
        3 * SIZE + 1,
        2 * SIZE + 1,
        2 * SIZE + 1,
        SIZE,
    )
    assert ledger.level(3) is Level.HELD
    with pytest.raises(LocalProtocolError, match="chunk 4 is ABSENT, not HELD"):
        ledger.write(4, 0.0)


def test_chunk_lost_during_a_sync_is_not_durable_by_it() -> None:
    ledger = Ledger(IMAGE)
    fill(ledger, [0, 1])
    assert ledger.take_unsynced(10) == [0, 1]
    assert ledger.lose(1)
    fill(ledger, [1])
    ledger.sync([0, 1])
    assert (ledger.level(0), ledger.level(1)) == (Level.DURABLE, Level.WRITTEN)
    assert ledger.take_unsynced(10) == [1]
    ledger.sync([1])
    assert ledger.level(1) is Level.DURABLE


def test_chunk_lost_and_written_again_before_a_sync_becomes_durable_by_it() -> None:
    ledger = Ledger(IMAGE)
    fill(ledger, [0, 1])
    assert ledger.lose(1)
    fill(ledger, [1])
    batch = ledger.take_unsynced(10)
    assert batch == [0, 1]
    ledger.sync(batch)
    assert (ledger.level(0), ledger.level(1)) == (Level.DURABLE, Level.DURABLE)


def test_next_chunk_for_a_successor() -> None:
    ledger = Ledger(IMAGE)
    fill(ledger, [1, 2, 5])
    pending = bytearray(b"\1\0\1\1\1\1\1")
    assert ledger.first_available(pending, 0) == 2
    assert ledger.first_available(pending, 3) == 5
    assert ledger.first_available(pending, 6) == 2  # from the beginning again
    pending[2] = pending[5] = 0
    assert ledger.first_available(pending, 0) is None


# --- member ------------------------------------------------------------------------------------------------


def test_nothing_is_read_back_before_all_is_durable() -> None:
    image = real_image(Part("", 3 * SIZE))
    core = member(image)
    assert core.arrange(PLACE)
    for index in (0, 1):
        receive(core, index)
    sync(core)
    assert core.next_check() is None
    receive(core, 2)
    assert core.next_check() is None
    sync(core)
    assert read_back(core) == [0, 1, 2]
    assert state(core) is MemberState.VERIFIED
    assert core.snapshot(0, 0.0).verified == image.size


def test_chunk_that_does_not_read_back_comes_again_and_at_last_fails_the_member() -> None:
    core = member(real_image(Part("", 2 * SIZE)))
    core.arrange(PLACE)
    receive(core, 0)
    receive(core, 1)
    for attempt in range(3):
        sync(core)
        read_back(core, wrong=frozenset({1}))
        if attempt < 2:
            assert state(core) is MemberState.RECEIVING
            assert core.ledger.lacking(9) == (ChunkRange(1, 1),)
            assert isinstance(core.next_dial(0.0), Dial)
            receive(core, 1)
    assert state(core) is MemberState.FAILED
    assert core.standing.reason == (
        "the target does not keep what is written: chunk 1 at byte 4096 reads back different, 3 times"
    )


def test_compared_target_wants_only_what_differs() -> None:
    image = real_image(Part("", 4 * SIZE))
    core = member(image, compare=True)
    assert state(core) is MemberState.PREPARING
    assert read_back(core, wrong=frozenset({2})) == [0, 1, 2, 3]
    assert state(core) is MemberState.READY
    assert (core.ledger.kept, core.ledger.lacking(9)) == (3 * SIZE, (ChunkRange(2, 1),))
    core.arrange(PLACE)
    receive(core, 2)
    sync(core)
    assert read_back(core) == [2]  # what was kept has been read already
    assert state(core) is MemberState.VERIFIED


def test_place_that_comes_while_the_target_is_compared_waits_for_the_end_of_that() -> None:
    core = member(real_image(Part("", 2 * SIZE)), compare=True)
    core.arrange(PLACE)
    assert isinstance(core.next_dial(0.0), Rest)
    core.wakes.clear()
    assert read_back(core, wrong=frozenset({1})) == [0, 1]
    assert Wake.RECEIVE in core.wakes
    assert isinstance(core.next_dial(0.0), Dial)


def test_target_that_has_everything_is_verified_once_it_has_a_place() -> None:
    core = member(real_image(Part("", 2 * SIZE)), compare=True)
    assert read_back(core) == [0, 1]
    assert core.next_check() is None
    assert state(core) is MemberState.READY
    core.arrange(PLACE)
    assert isinstance(core.next_dial(0.0), Rest)
    assert core.next_check() is None
    assert state(core) is MemberState.VERIFIED


def test_phase_is_wanted_only_when_it_is_open() -> None:
    image = real_image(Part("tables", SIZE), Part("root", 2 * SIZE, 1))
    core = member(image)
    core.arrange(PLACE)
    assert core.ledger.lacking(9) == (ChunkRange(0, 1),)
    receive(core, 0)
    sync(core, now=0.0)  # at once: nothing more of this phase is to be written
    assert read_back(core) == [0]
    assert (state(core), core.snapshot(0, 0.0).phases) == (MemberState.RECEIVING, 1)
    assert isinstance(core.next_dial(0.0), Rest)
    core.arrange(Arrange("s", 2, PLACE.predecessor, "head", phase=1))
    assert core.ledger.lacking(9) == (ChunkRange(1, 2),)
    receive(core, 1)
    receive(core, 2)
    sync(core)
    assert read_back(core) == [1, 2]
    assert (state(core), core.snapshot(0, 0.0).phases) == (MemberState.VERIFIED, 2)


def test_target_with_an_end_of_its_own_is_verified_only_by_it() -> None:
    core = member(real_image(Part("", SIZE)), completes=True)
    core.arrange(PLACE)
    receive(core, 0)
    sync(core)
    assert not core.take_completion()
    read_back(core)
    assert state(core) is MemberState.VERIFYING
    assert core.take_completion()
    assert not core.take_completion()
    core.completed("")
    assert state(core) is MemberState.VERIFIED

    failing = member(real_image(Part("", SIZE)), completes=True)
    failing.arrange(PLACE)
    receive(failing, 0)
    sync(failing)
    read_back(failing)
    assert failing.take_completion()
    failing.completed("tar ended with status 2")
    assert (state(failing), failing.standing.reason) == (MemberState.FAILED, "tar ended with status 2")


def test_chunk_read_for_one_successor_is_shared_with_the_other() -> None:
    core = member(real_image(Part("", 2 * SIZE)), is_head=True)
    assert core.claim(0) is Claim.READ
    assert core.claim(0) is Claim.WAIT
    core.wakes.clear()
    assert not core.offer(entry(0))  # one successor at most: nobody to share with
    assert Wake.SERVE in core.wakes
    assert core.claim(0) is Claim.READ


def test_predecessor_that_brings_nothing_is_dialled_less_and_less_often() -> None:
    core = member(real_image(Part("", SIZE)))
    core.arrange(PLACE)
    now, pauses = 0.0, []
    for _ in range(8):
        step = core.next_dial(now)
        assert isinstance(step, Dial)
        core.break_off(step.place, "connection refused", now)
        rest = core.next_dial(now)
        assert isinstance(rest, Rest)
        assert rest.until is not None
        pauses.append(round(rest.until - now, 3))
        now = rest.until
    assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0]
    assert core.standing.trouble == "predecessor head: connection refused"
    core.arrange(Arrange("s", 2, Address("192.0.2.2", 1), "other"))
    assert isinstance(core.next_dial(now), Dial)  # a new predecessor is dialled at once


def test_beginner_lets_those_who_follow_dial_first_but_not_for_ever() -> None:
    core = member(real_image(Part("", 2 * SIZE)))
    core.arrange(Arrange("s", 1, Address("192.0.2.1", 1234), "head", followers=1))
    rest = core.next_dial(5.0)
    assert rest == Rest(5.0 + FOLLOWERS_PAUSE)
    assert isinstance(core.next_dial(5.0 + FOLLOWERS_PAUSE), Dial)  # it may be dead

    core = member(real_image(Part("", 2 * SIZE)))
    core.arrange(Arrange("s", 1, Address("192.0.2.1", 1234), "head", followers=1))
    assert isinstance(core.next_dial(5.0), Rest)
    core.wakes.clear()
    dialler = link.DialLink(
        session="s", epoch=1, member="follower", token="t", nonce=bytes(32), manifest=core.manifest
    )
    machine = core.challenge(bytes(32))
    (challenge,) = Decoder(max_chunk=0).feed(machine.challenge())
    hello = dialler.receive(challenge)
    assert isinstance(hello, link.Send)
    (frame,) = Decoder(max_chunk=0).feed(hello.data)
    assert isinstance(core.admit(machine, frame), Admitted)
    assert Wake.RECEIVE in core.wakes
    step = core.next_dial(5.0)
    assert isinstance(step, Dial)

    # At a repair nobody waits: what has come already flows on.
    core.standing.enter(MemberState.RECEIVING)
    core.arrange(Arrange("s", 2, Address("192.0.2.2", 1), "other", followers=2))
    assert isinstance(core.next_dial(6.0), Dial)


# --- manifest with parts -----------------------------------------------------------------------------------


def test_chunks_never_cross_a_part() -> None:
    parts = (Part("sda1", SIZE + 1), Part("sda2", 3, 0), Part("files", 2 * SIZE, 1))
    image = manifest.build_parts(parts, SIZE, [bytes([number]) * 32 for number in range(5)])
    assert [image.length(index) for index in range(5)] == [SIZE, 1, 3, SIZE, SIZE]
    assert [image.phase(index) for index in range(5)] == [0, 0, 0, 1, 1]
    assert (image.size, image.count, image.phases) == (3 * SIZE + 4, 5, 2)
    assert [image.part_start(number) for number in range(3)] == [0, 2, 3]
    assert (image.phase_end(0), image.phase_end(1), image.phase_end(9)) == (3, 5, 5)
    assert image.digest(4) == b"\4" * 32
    again = manifest.parse(image.encoded)
    assert (again, again.parts) == (image, parts)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((Part("a", 0), Part("b", SIZE)), "do not make up"),
        ((Part("a", SIZE, 1),), "do not rise"),
        ((Part("a", SIZE), Part("b", SIZE, 2)), "do not rise"),
        ((Part("a", SIZE), Part("b", SIZE, 1), Part("c", SIZE, 0)), "do not rise"),
    ],
)
def test_parts_that_make_no_sense_are_refused(parts: tuple[Part, ...], words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        manifest.build_parts(parts, SIZE, [bytes(32)] * sum(-(-part.size // SIZE) for part in parts))
