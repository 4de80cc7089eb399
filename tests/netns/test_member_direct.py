"""Reading block devices past the page cache: any offset and length, sectors of 512 and 4096 bytes, the end."""

import errno
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bootd.member.direct import DirectReader
from bootd.member.store import SourceStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for loop devices")
MIB = 1 << 20
BODY = b"".join(number.to_bytes(8, "big") * 64 for number in range(3 * MIB // 512))  # each sector is its number


@pytest.fixture(params=[512, 4096])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    backing = tmp_path / "backing"
    backing.write_bytes(BODY)
    words = ["losetup", "--find", "--show", "--sector-size", str(request.param), str(backing)]
    name = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield name
    finally:
        subprocess.run(["losetup", "--detach", name], check=True)


def test_any_place(device: str) -> None:
    descriptor = os.open(device, os.O_RDONLY)
    try:
        reader = DirectReader(descriptor)
        places = [(0, 1), (0, MIB), (511, 2), (4095, 4098), (MIB - 1, MIB), (len(BODY) - 1, 1), (7, len(BODY) - 7)]
        with ThreadPoolExecutor(4) as threads:
            found = threads.map(lambda place: (place, bytes(reader.read(*place))), places * 8)
            for (offset, length), data in found:
                assert data == BODY[offset : offset + length], (offset, length)
        with pytest.raises(OSError, match="ends at byte") as caught:
            reader.read(len(BODY) - 10, 11)
        assert caught.value.errno == errno.EIO
    finally:
        os.close(descriptor)


def test_what_was_written_through_the_cache_is_seen(device: str) -> None:
    with Path(device).open("r+b", buffering=0) as file:
        file.write(b"new" * 4096)
        store = SourceStore(device)
        buffer = bytearray(8192)
        store.read(100, memoryview(buffer))
        store.close()
    assert bytes(buffer) == (b"new" * 4096)[100:8292]


def test_a_file_is_no_device(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file, pytest.raises(OSError, match="ioctl"):
        DirectReader(file.fileno())
