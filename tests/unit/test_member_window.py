"""The bounded window and the book of chunks, one thread at a time."""

import threading

import pytest

from bootd.member.buffers import SlotPool
from bootd.member.progress import Level, Progress
from bootd.member.window import Entry, Window, WindowClosedError
from bootd.wire import manifest
from bootd.wire.errors import LocalProtocolError
from bootd.wire.frames import ChunkHeader, ChunkRange, Encoding

SIZE = 4096
IMAGE = manifest.build(6 * SIZE + 1, SIZE, [bytes([number]) * 32 for number in range(7)])


def entry(pool: SlotPool, index: int) -> Entry:
    slot = pool.take()
    header = ChunkHeader(index, Encoding.RAW, SIZE, bytes(32), SIZE)
    return Entry(header, slot.memory, slot.memory, slot)


def put(window: Window, pool: SlotPool, index: int) -> Entry:
    window.reserve()
    made = entry(pool, index)
    window.publish(made)
    window.queue(made)
    return made


def test_entries_leave_in_order_and_only_when_written() -> None:
    pool = SlotPool(SIZE, 4)
    window = Window(2, pool)
    first, second = put(window, pool, 0), put(window, pool, 1)
    assert window.next_unwritten() is first
    assert window.next_unwritten() is second
    window.mark_written(second)
    blocked = threading.Thread(target=window.reserve)
    blocked.start()
    blocked.join(0.05)
    assert blocked.is_alive()  # the oldest is not written, though the second is
    window.mark_written(first)
    blocked.join(10)
    assert not blocked.is_alive()
    assert window.borrow(0) is None
    assert window.borrow(1) is second


def test_writer_sees_a_chunk_only_after_it_is_booked() -> None:
    """Else the writer could book it as written before the receiver books it as held, and the sums never add up."""
    pool = SlotPool(SIZE, 4)
    window = Window(2, pool)
    window.reserve()
    first = entry(pool, 0)
    window.publish(first)
    assert window.borrow(0) is first
    put(window, pool, 1)
    taken = window.next_unwritten()
    assert taken is not None
    assert taken.header.index == 1
    progress = Progress(IMAGE)
    with pytest.raises(LocalProtocolError, match="chunk 3 is ABSENT, not HELD"):
        progress.mark_written(3)


def test_borrowed_slot_is_used_again_only_after_it_is_given_back() -> None:
    pool = SlotPool(SIZE, 2)
    window = Window(1, pool)
    first = put(window, pool, 0)
    memory = first.raw
    assert window.next_unwritten() is first
    window.mark_written(first)
    assert window.borrow(0) is first
    window.reserve()
    other = pool.take()
    assert other.memory is not memory
    window.give_back(first)
    assert pool.take().memory is memory


def test_closed_window_takes_nothing_and_still_lends() -> None:
    pool = SlotPool(SIZE, 2)
    window = Window(2, pool)
    first = put(window, pool, 0)
    window.close()
    with pytest.raises(WindowClosedError):
        window.reserve()
    assert window.next_unwritten() is None
    assert window.borrow(0) is first


def fill(progress: Progress, indexes: list[int]) -> None:
    for index in indexes:
        progress.mark_held(index)
        progress.mark_written(index)


def test_levels_and_sums() -> None:
    progress = Progress(IMAGE)
    assert list(progress.lacking(10)) == [ChunkRange(0, 7)]
    fill(progress, [0, 1, 6])
    progress.mark_held(3)
    assert list(progress.lacking(10)) == [ChunkRange(2, 1), ChunkRange(4, 2)]
    assert list(progress.lacking(1)) == [ChunkRange(2, 1)]
    assert progress.wait_unsynced(SIZE, 10) == [0, 1, 6]
    progress.mark_durable([0, 1, 6])
    progress.mark_verified(1)
    progress.mark_verified(3)  # only held: does not count
    sums = progress.sums()
    assert (sums.held, sums.written, sums.durable, sums.verified) == (
        3 * SIZE + 1,
        2 * SIZE + 1,
        2 * SIZE + 1,
        SIZE,
    )
    assert progress.level(3) is Level.HELD


def test_chunk_lost_during_a_sync_is_not_durable_by_it() -> None:
    progress = Progress(IMAGE)
    fill(progress, [0, 1])
    assert progress.wait_unsynced(1, 10) == [0, 1]
    progress.mark_absent(1)
    fill(progress, [1])
    progress.mark_durable([0, 1])
    assert (progress.level(0), progress.level(1)) == (Level.DURABLE, Level.WRITTEN)
    assert progress.wait_unsynced(1, 10) == [1]
    progress.mark_durable([1])
    assert progress.level(1) is Level.DURABLE


def test_next_chunk_for_a_successor() -> None:
    progress = Progress(IMAGE)
    fill(progress, [1, 2, 5])
    pending = bytearray(b"\1\0\1\1\1\1\1")
    assert progress.wait_available(pending, 0, 0) == 2
    assert progress.wait_available(pending, 3, 0) == 5
    assert progress.wait_available(pending, 6, 0) == 2  # from the beginning again
    pending[2] = pending[5] = 0
    assert progress.wait_available(pending, 0, 0) is None


def test_verification_starts_when_all_is_durable() -> None:
    progress = Progress(IMAGE)
    fill(progress, list(range(7)))
    progress.mark_durable(progress.wait_unsynced(1 << 30, 10) or [])  # at once: nothing is lacking
    assert progress.wait_all_durable()
    for index in range(7):
        assert progress.next_durable(0) == index
        progress.mark_verified(index)
    assert progress.next_durable(0) is None
    assert progress.is_verified
    progress.mark_absent(4)
    assert not progress.is_verified
    assert list(progress.lacking(9)) == [ChunkRange(4, 1)]
