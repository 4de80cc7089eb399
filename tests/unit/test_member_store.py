"""Stores: what a hole saves, and what zeros over old bytes are."""

import os
from pathlib import Path

from bootd.member.store import FileStore

CHUNK = 1 << 20


def blocks(path: Path) -> int:
    """Bytes that the file takes on its disk (stat(2): units of 512)."""
    return path.stat().st_blocks * 512


def test_zeros_into_a_new_file_stay_a_hole_and_over_old_bytes_are_written(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    store = FileStore(str(path), 8 * CHUNK)
    try:
        store.write(0, memoryview(b"\xa5" * CHUNK))
        store.write(5 * CHUNK, memoryview(b"\xa5" * CHUNK))
        store.sync()
        taken = blocks(path)
        for index in (1, 2, 3, 4, 6, 7):
            store.zero(index * CHUNK, CHUNK)
        store.sync()
        assert blocks(path) == taken, "a hole was filled"
        store.zero(0, CHUNK)
        store.zero(5 * CHUNK, CHUNK)
        back = memoryview(bytearray(8 * CHUNK))
        store.read_back(0, back)
        assert back == bytes(8 * CHUNK)
    finally:
        store.close()
    assert path.read_bytes() == bytes(8 * CHUNK)


def test_zeros_over_a_range_of_which_only_the_end_is_data(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(CHUNK - 5) + b"\xa5" * 5)
    os.truncate(path, 2 * CHUNK)
    store = FileStore(str(path), 2 * CHUNK)
    store.zero(0, CHUNK)
    store.close()
    assert path.read_bytes() == bytes(2 * CHUNK)
