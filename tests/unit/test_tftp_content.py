"""Ready-made packets against packets put together block by block here."""

import os
import struct
import sys
from pathlib import Path

import pytest

from bootd.drivers.tftp.content import CACHE_BYTES, RUN_BYTES, Cache, Packets


def opened(
    path: Path, block: int, rollover: int = 0, cache: Cache | None = None, lockstep: bool = False
) -> Packets:
    return Packets(os.open(path, os.O_RDONLY), block, rollover, cache or Cache(), lockstep=lockstep)


def packet(content: bytes, number: int, block: int, rollover: int = 0) -> bytes:
    travels = number
    while travels > 65535:
        travels -= 65536 - rollover
    return struct.pack("!HH", 3, travels) + content[(number - 1) * block : number * block]


@pytest.mark.parametrize("block", [8, 511, 512, 1468, 65464])
@pytest.mark.parametrize("size", [0, 1, 512, 513, 131072, 131073, 400_000])
def test_every_packet(tmp_path: Path, size: int, block: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    packets = opened(tmp_path / "file", block)
    assert packets.size == size
    blocks = size // block + 1
    expected = [packet(content, number, block) for number in range(1, blocks + 1)]
    window = 64
    for first in range(1, blocks + 1, window):
        count = min(window, blocks - first + 1)
        assert b"".join(packets.pieces(first, count, 44)) == b"".join(expected[first - 1 : first - 1 + count])
    packets.close()
    packets.close()
    packets = opened(tmp_path / "file", block, lockstep=True)
    for number in {1, blocks, blocks // 2 + 1}:
        row = list(packets.row(number))
        assert row
        assert row == expected[number - 1 : number - 1 + len(row)]
    packets.close()


@pytest.mark.parametrize("rollover", [0, 1])
def test_numbers_after_the_last_one(tmp_path: Path, rollover: int) -> None:
    content = os.urandom(8 * 140_000)
    (tmp_path / "file").write_bytes(content)
    packets = opened(tmp_path / "file", 8, rollover, lockstep=True)
    for number in (65534, 65535, 65536, 65537, 131070, 131071, 131072, 140_001):
        assert next(packets.row(number)) == packet(content, number, 8, rollover)
    assert struct.unpack("!H", next(packets.row(65536))[2:4]) == (rollover,)
    packets.close()


def test_pieces_are_no_longer_than_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    packets = opened(tmp_path / "file", 1000)
    assert all(len(piece) <= 10 * 1004 for piece in packets.pieces(1, 64, 10))
    packets.close()


def test_file_that_shrinks_is_an_error_and_never_filled_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(RUN_BYTES * 3))
    packets = opened(path, 512, lockstep=True)
    os.truncate(path, RUN_BYTES + 5)
    next(packets.row(1))
    with pytest.raises(OSError, match="changed"):
        next(packets.row(RUN_BYTES // 512 + 1))
    packets.close()


@pytest.mark.parametrize("block", [8, 512, 1468, 65464])
def test_a_run_takes_the_memory_it_should(tmp_path: Path, block: int) -> None:
    """Also where a client asks for the smallest packets, each an object of its own."""
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    packets = opened(tmp_path / "file", block, lockstep=True)
    row = list(packets.row(1))
    assert sum(map(sys.getsizeof, row)) + 8 * len(row) <= RUN_BYTES
    packets.close()


@pytest.mark.parametrize("lockstep", [False, True])
def test_one_reading_serves_all_and_memory_stays_bounded(tmp_path: Path, lockstep: bool) -> None:
    path = tmp_path / "file"
    os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 200 << 20)
    cache = Cache()
    many = [opened(path, 1468, cache=cache, lockstep=lockstep) for _ in range(200)]

    def take(packets: Packets, number: int) -> None:
        for _ in packets.row(number) if lockstep else packets.pieces(number, 64, 44):
            pass

    for packets in many:
        take(packets, 1)
    assert len({id(run) for packets in many for run in packets._held.values()}) == 1
    for place, packets in enumerate(many):  # now everybody is somewhere else
        for number in range(1 + place * 700, 64 * 3 + place * 700, 64):
            take(packets, number)
        assert sum(run.size for run in packets._held.values()) <= 3 * RUN_BYTES
    assert cache.bytes <= CACHE_BYTES
    for packets in many:
        packets.close()
