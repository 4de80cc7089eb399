"""The committed vectors against two constructions: one written here from PROTOCOL.md alone, and the package's own.

``python -m tests.unit.test_wire_vectors`` writes the files anew, with the construction of this module.
"""

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from bootd.wire import frames, link, manifest
from bootd.wire.digest import digest, zero_digest

FOLDER = Path(__file__).parents[2] / "bootd/wire/vectors"
TOKEN = "5b0c7e4de1f24b35a3c8c0fd7ab91e60"
SESSION = "lab-7"
MEMBER = "52:54:00:12:34:56"
EPOCH = 3
CHALLENGE_NONCE = bytes(range(32))
HELLO_NONCE = bytes(range(100, 132))
# From BLAKE3's own test_vectors.json: the empty input, and the single byte 0.
BLAKE3_EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
BLAKE3_ONE_ZERO = "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


def frame(number: int, payload: bytes) -> bytes:
    return bytes([number, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def proof(role: bytes) -> bytes:
    said = struct.pack(">HIBB", 1, EPOCH, len(SESSION), len(MEMBER)) + SESSION.encode() + MEMBER.encode()
    text = b"bootd link " + role + b"\n" + CHALLENGE_NONCE + HELLO_NONCE + said
    return hmac.new(TOKEN.encode(), text, hashlib.sha256).digest()


def frame_vectors() -> dict[str, bytes]:
    names = bytes([len(SESSION), len(MEMBER)]) + SESSION.encode() + MEMBER.encode()
    chunk_digest = bytes.fromhex(BLAKE3_ONE_ZERO)
    return {
        "challenge": frame(1, b"bootd\x00\x00\x01" + CHALLENGE_NONCE),
        "hello": frame(2, struct.pack(">HHI", 1, 0, EPOCH) + HELLO_NONCE + proof(b"hello") + names),
        "welcome": frame(3, proof(b"welcome")),
        "want": frame(4, struct.pack(">IIII", 0, 5, 9, 1)),
        "chunk_raw": frame(5, struct.pack(">IB3xI", 7, 0, 1) + chunk_digest + b"\0"),
        "chunk_zstd": frame(5, struct.pack(">IB3xI", 8, 1, 4096) + bytes(range(32)) + b"packed"),
        "chunk_zero": frame(5, struct.pack(">IB3xI", 9, 2, 1) + chunk_digest),
        "end": frame(6, b""),
        "ping": frame(7, b""),
        "reject": frame(8, b"epoch 2 is over, now 3"),
    }


def manifest_vector() -> bytes:
    digests = bytes.fromhex(BLAKE3_EMPTY) + bytes.fromhex(BLAKE3_ONE_ZERO)
    return b"BMAN" + struct.pack(">HHIQI", 1, 1, 4096, 4097, 2) + digests


def parts_vector() -> bytes:
    """Two parts in two phases: 4097 bytes (two chunks) and 1 byte."""
    digests = bytes.fromhex(BLAKE3_EMPTY) + 2 * bytes.fromhex(BLAKE3_ONE_ZERO)
    table = struct.pack(">HQHB", 2, 4097, 0, 4) + b"sda1" + struct.pack(">QHB", 1, 1, 0)
    return b"BMAN" + struct.pack(">HHIQI", 2, 1, 4096, 4098, 3) + table + digests


def expected_frames() -> dict[str, frames.Frame]:
    one_zero = bytes.fromhex(BLAKE3_ONE_ZERO)
    raw, zstd, zero = frames.Encoding.RAW, frames.Encoding.ZSTD, frames.Encoding.ZERO
    return {
        "challenge": frames.Challenge(1, CHALLENGE_NONCE),
        "hello": frames.Hello(1, SESSION, EPOCH, MEMBER, HELLO_NONCE, proof(b"hello")),
        "welcome": frames.Welcome(proof(b"welcome")),
        "want": frames.Want((frames.ChunkRange(0, 5), frames.ChunkRange(9, 1))),
        "chunk_raw": frames.Chunk(frames.ChunkHeader(7, raw, 1, one_zero, 1), memoryview(b"\0")),
        "chunk_zstd": frames.Chunk(frames.ChunkHeader(8, zstd, 4096, bytes(range(32)), 6), memoryview(b"packed")),
        "chunk_zero": frames.Chunk(frames.ChunkHeader(9, zero, 1, one_zero, 0), memoryview(b"")),
        "end": frames.End(),
        "ping": frames.Ping(),
        "reject": frames.Reject("epoch 2 is over, now 3"),
    }


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def test_files_hold_what_this_module_constructs() -> None:
    assert read("frames.json")["frames"] == {name: data.hex() for name, data in frame_vectors().items()}
    assert read("manifest.json")["encoded"] == manifest_vector().hex()
    assert read("manifest_parts.json")["encoded"] == parts_vector().hex()


@pytest.mark.parametrize("name", list(frame_vectors()))
def test_decoder_reads_the_vector(name: str) -> None:
    data = bytes.fromhex(read("frames.json")["frames"][name])
    assert frames.Decoder().feed(data) == [expected_frames()[name]]


@pytest.mark.parametrize("name", list(frame_vectors()))
def test_encoder_writes_the_vector(name: str) -> None:
    value = expected_frames()[name]
    if isinstance(value, frames.Chunk):
        written = frames.encode_chunk_header(value.header) + bytes(value.payload)
    else:
        written = frames.encode(value)
    assert written.hex() == read("frames.json")["frames"][name]


def test_proofs() -> None:
    hello = frames.Hello(1, SESSION, EPOCH, MEMBER, HELLO_NONCE, bytes(32))
    assert link.prove(TOKEN, "hello", CHALLENGE_NONCE, hello) == proof(b"hello")
    assert link.prove(TOKEN, "welcome", CHALLENGE_NONCE, hello) == proof(b"welcome")


def test_manifest() -> None:
    value = manifest.parse(bytes.fromhex(read("manifest.json")["encoded"]))
    assert (value.chunk_size, value.size, value.count) == (4096, 4097, 2)
    assert (value.length(0), value.length(1), value.offset(1)) == (4096, 1, 4096)
    assert value.digest(0).hex() == BLAKE3_EMPTY
    assert [value.is_zero(0), value.is_zero(1)] == [False, True]
    again = manifest.build(4097, 4096, [value.digest(0), value.digest(1)])
    assert again == value
    assert again.root == read("manifest.json")["root"]


def test_manifest_with_parts() -> None:
    value = manifest.parse(bytes.fromhex(read("manifest_parts.json")["encoded"]))
    assert value.parts == (manifest.Part("sda1", 4097, 0), manifest.Part("", 1, 1))
    assert (value.size, value.count, value.phases) == (4098, 3, 2)
    assert [value.length(index) for index in range(3)] == [4096, 1, 1]
    assert [value.phase(index) for index in range(3)] == [0, 0, 1]
    again = manifest.build_parts(value.parts, 4096, [value.digest(index) for index in range(3)])
    assert again == value
    assert again.root == read("manifest_parts.json")["root"]


def test_blake3_against_its_own_vectors() -> None:
    assert digest(b"").hex() == zero_digest(0).hex() == BLAKE3_EMPTY
    assert digest(b"\0").hex() == zero_digest(1).hex() == BLAKE3_ONE_ZERO


def write() -> None:
    fields = {
        "token": TOKEN,
        "session": SESSION,
        "member": MEMBER,
        "epoch": EPOCH,
        "challenge_nonce": CHALLENGE_NONCE.hex(),
        "hello_nonce": HELLO_NONCE.hex(),
    }
    listing = {name: data.hex() for name, data in frame_vectors().items()}
    (FOLDER / "frames.json").write_text(json.dumps({"fields": fields, "frames": listing}, indent=2) + "\n")
    for name, encoded in (("manifest.json", manifest_vector()), ("manifest_parts.json", parts_vector())):
        content = {"encoded": encoded.hex(), "root": digest(encoded).hex()}
        (FOLDER / name).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    write()
