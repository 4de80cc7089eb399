"""Compression is bounded by what the frame says, and manifests by their own arithmetic."""

import struct

import pytest
import zstandard

from bootd.wire import manifest
from bootd.wire.digest import Compressor, Decompressor, digest, zero_digest
from bootd.wire.errors import LocalProtocolError, PeerProtocolError


def test_round_trip_with_the_library_itself() -> None:
    body = b"".join(struct.pack(">Q", number) for number in range(4096))
    packed = Compressor().compress(body)
    assert len(packed) < len(body)
    assert zstandard.ZstdDecompressor().decompress(packed) == body
    assert Decompressor().decompress(memoryview(packed), len(body)) == body


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(64 << 20))
    with pytest.raises(PeerProtocolError, match="states 67108864 bytes"):
        Decompressor().decompress(bomb, 1 << 20)


def test_a_frame_without_content_size_is_refused() -> None:
    packed = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(4096))
    with pytest.raises(PeerProtocolError):
        Decompressor().decompress(packed, 4096)


@pytest.mark.parametrize(("end", "extra"), [(-1, b""), (None, b"\0"), (0, b"")])
def test_spoilt_frames_are_the_peers_error(end: int | None, extra: bytes) -> None:
    packed = Compressor().compress(bytes(range(256)) * 16)
    with pytest.raises(PeerProtocolError):
        Decompressor().decompress(packed[:end] + extra, 4096)


@pytest.mark.parametrize("length", [1, 4096, 65536, 65537, 1 << 20])
def test_zero_digest(length: int) -> None:
    assert zero_digest(length) == digest(bytes(length))


def packed_manifest(chunk_size: int, size: int, count: int, body: int | None = None) -> bytes:
    digests = bytes(32 * count if body is None else body)
    return struct.pack(">4sHHIQI", b"BMAN", 1, 1, chunk_size, size, count) + digests


@pytest.mark.parametrize(
    "data",
    [
        b"",
        packed_manifest(4096, 4096, 1)[:-1],
        packed_manifest(4096, 4096, 1) + b"\0",
        packed_manifest(4096, 4097, 1),
        packed_manifest(4096, 4096, 2),
        packed_manifest(4096, 0, 0),
        packed_manifest(4095, 4095, 1),
        packed_manifest(2048, 2048, 1),
        packed_manifest(8 << 20, 8 << 20, 1),
        packed_manifest(4096, (1 << 64) - 1, 0xFFFFFFFF, 0),
        b"BMAM" + packed_manifest(4096, 4096, 1)[4:],
        packed_manifest(4096, 4096, 1).replace(b"BMAN\0\1", b"BMAN\0\2"),
    ],
)
def test_manifest_that_is_not_exactly_one(data: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        manifest.parse(data)


def test_chunk_size_keeps_manifests_small() -> None:
    assert manifest.suitable_chunk_size(1) == 1 << 20
    assert manifest.suitable_chunk_size(1 << 40) == 1 << 20
    assert manifest.suitable_chunk_size((1 << 40) + 1) == 2 << 20
    assert manifest.suitable_chunk_size(1 << 44) == 4 << 20


def test_our_own_wrong_numbers_are_ours() -> None:
    with pytest.raises(LocalProtocolError):
        manifest.build(8192, 4096, [bytes(32)])
    with pytest.raises(IndexError):
        manifest.build(4096, 4096, [bytes(32)]).digest(1)
