"""Hostile inputs in great number, and the memory that the worst single ones cost."""

import hmac
import os
import re
import struct
import tracemalloc
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zstandard

from bootd.wire import control, frames, manifest
from bootd.wire.digest import Decompressor
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Decoder, FrameType
from bootd.wire.manifest import Manifest, Part
from tests.property import wire_fuzz
from tests.property.wire_fuzz import CaseFailed

SEED = 20260
COUNT = 100_000  # `make fuzz` plays a million, of a new seed each time
MIB = 1 << 20


def test_mutants() -> None:
    """Nothing but the peer's error, every promise of `wire_subjects`, bounded memory, no endless loop."""
    result = wire_fuzz.run(COUNT, SEED, min(os.cpu_count() or 1, wire_fuzz.MAX_WORKERS))
    assert result.cases == COUNT
    assert 0.05 * COUNT < result.accepted < 0.5 * COUNT, "mutants that are all alike prove little"
    assert result.growth < wire_fuzz.MAX_GROWTH


def _anything(*arguments: object) -> bool:
    return True


_real_parse = manifest.parse


def _parse_without_a_look_at_the_length(data: bytes) -> manifest.Manifest:
    struct.unpack_from(">4sHHIQI", data)
    return _real_parse(data)


def _digest_of_the_first(image: Manifest, index: int) -> bytes:
    return image.encoded[-32 * image.count :][:32]


def _build_without_a_look_at_the_fields(kind: type[Any], value: dict[str, Any], path: str) -> Any:
    return kind(**{name: value[name] for name in kind.__dataclass_fields__})


@pytest.mark.parametrize(
    ("plant", "subject", "words"),
    [
        ((hmac, "compare_digest", _anything), "dialled_link", "forged WELCOME"),
        ((hmac, "compare_digest", _anything), "accepted_link", "forged or late HELLO"),
        ((frames, "_check_ranges", _anything), "accepted_link", "are served"),
        ((frames, "_BOUNDS", dict.fromkeys(FrameType, (0, 1 << 20))), "frame_stream", "a buffer of|error: unpack"),
        ((manifest, "parse", _parse_without_a_look_at_the_length), "manifests", "error: unpack"),
        ((control, "_is_text", _anything), "control_messages", "surrogates not allowed"),
        ((control, "_build", _build_without_a_look_at_the_fields), "control_messages", "KeyError|surrogates not"),
        ((Manifest, "digest", _digest_of_the_first), "ring_member", "kept, or not, wrongly"),
    ],
)
def test_planted_defects_are_found_and_replayed(
    monkeypatch: pytest.MonkeyPatch, plant: tuple[object, str, object], subject: str, words: str
) -> None:
    monkeypatch.setattr(*plant)
    numbers = (number for number in range(200_000) if wire_fuzz.subject_of(number).__name__ == subject)
    with pytest.raises(CaseFailed, match=words) as found:
        deque((wire_fuzz.play(SEED, number) for number in islice(numbers, 5_000)), maxlen=0)
    command = re.search(r"--seed (\d+) --only (\d+)", str(found.value))
    assert command is not None
    seed, number = int(command[1]), int(command[2])
    with pytest.raises(CaseFailed, match=words):
        wire_fuzz.play(seed, number)
    monkeypatch.undo()
    wire_fuzz.play(seed, number)


def test_a_process_that_dies_is_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wire_fuzz, "ROOT", tmp_path)  # nothing to run there
    with pytest.raises(CaseFailed, match="ModuleNotFoundError"):
        wire_fuzz.run(100, SEED, 1)


def peak(action: Callable[[], object]) -> int:
    """Bytes that the interpreter had allocated at most while ``action`` met its end, beyond those before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with suppress(PeerProtocolError):
            action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def filled(piece: bytes, opening: bytes = b'{"type":"report","more":[', closing: bytes = b"0]}") -> bytes:
    """The largest message that is read at all, full of ``piece``."""
    return opening + piece * ((control.MAX_MESSAGE - len(opening) - len(closing)) // len(piece)) + closing


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(filled(b"[],"), id="empty lists"),
        pytest.param(filled(b"{},"), id="empty objects"),
        pytest.param(filled(b'{"":0},'), id="objects"),
        pytest.param(filled(b"[[[[[[[[[]]]]]]]]],"), id="nested lists"),
        pytest.param(filled(b"1e9,"), id="floats"),
        pytest.param(filled(b"-9999,"), id="integers"),
        pytest.param(filled(b'"\\u00e9\\u20ac",'), id="strings"),
        pytest.param(
            filled(b'"\\ud83d\\ude00', b'{"type":"', b'"}').replace(b'"\\ud8', b"\\ud8"), id="wide string"
        ),
        pytest.param(b'{"type":"wait","reason":"' + b"x" * 1_048_000 + b'"}', id="long string"),
        pytest.param(b"[" * control.MAX_MESSAGE, id="depth"),
        pytest.param(b'{"":' * (control.MAX_MESSAGE // 4), id="depth of objects"),
        pytest.param(b"{%s}" % b",".join(b'"%06x":0' % n for n in range(95_000)), id="keys"),
        pytest.param(b'{"type":"report","written":' + b"9" * 1_000_000 + b"}", id="digits"),
    ],
)
def test_memory_of_the_largest_messages(message: bytes) -> None:
    """1 MiB of JSON costs at most 48 MiB while it is looked at, whatever it holds."""
    assert 0.9 * control.MAX_MESSAGE < len(message) <= control.MAX_MESSAGE
    assert peak(lambda: control.decode(message)) < 48 * MIB


def test_memory_of_a_message_that_is_too_large() -> None:
    message = b" " * (control.MAX_MESSAGE + 1)
    assert peak(lambda: control.decode(message)) < MIB // 16


def frame(kind: FrameType, length: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BBHI", kind, 0, 0, length) + payload


FULL_WANT = frame(FrameType.WANT, 65536, b"".join(struct.pack(">II", 2 * n, 1) for n in range(8192)))
CHUNK_OF_4_MIB = frame(FrameType.CHUNK, 44 + 4 * MIB, struct.pack(">IB3sI32s", 0, 0, bytes(3), 4 * MIB, bytes(32)))


@pytest.mark.parametrize(
    ("stream", "max_chunk", "bound"),
    [
        pytest.param(FULL_WANT, 4096, 3 * MIB, id="WANT of 8192 ranges"),
        pytest.param(frame(FrameType.WANT, 65536), 4096, MIB // 8, id="WANT announced"),
        pytest.param(frame(FrameType.WANT, 0xFFFFFFF8), 4096, MIB // 64, id="WANT of 4 GiB announced"),
        pytest.param(frame(FrameType.REJECT, 0xFFFFFFFF), 4096, MIB // 64, id="REJECT of 4 GiB announced"),
        pytest.param(CHUNK_OF_4_MIB, MIB, MIB // 64, id="chunk larger than those of the session"),
        pytest.param(CHUNK_OF_4_MIB, 4 * MIB, 4 * MIB + MIB // 16, id="chunk of 4 MiB announced"),
        pytest.param(frame(FrameType.PING, 0) * 20_000, 4096, MIB // 4, id="20,000 PINGs"),
    ],
)
def test_memory_of_a_decoder(stream: bytes, max_chunk: int, bound: int) -> None:
    """Read as a driver does, which keeps no frame; the stream itself is not counted."""

    def read() -> None:
        decoder, rest = Decoder(max_chunk=max_chunk), memoryview(stream)
        while rest:
            buffer = decoder.buffer()
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            decoder.advance(count)
            rest = rest[count:]
        decoder.buffer()

    assert peak(read) < bound


def _manifest_of_many_parts() -> bytes:
    parts = [Part("ü" * 127, 1) for _ in range(manifest.MAX_PARTS)]
    return manifest.build_parts(parts, 4096, [bytes(32)] * len(parts)).encoded


@pytest.mark.parametrize(
    ("data", "bound"),
    [
        pytest.param(
            struct.pack(">4sHHIQI", b"BMAN", 1, 1, 4096, 4096 << 22, 1 << 22),
            MIB // 64,
            id="chunks that do not come",
        ),
        pytest.param(
            struct.pack(">4sHHIQIH", b"BMAN", 2, 1, 4096, 1 << 63, 1, 1024), MIB // 64, id="parts that do not come"
        ),
        pytest.param(_manifest_of_many_parts(), 2 * MIB, id="parts"),
    ],
)
def test_memory_of_a_manifest(data: bytes, bound: int) -> None:
    assert peak(lambda: manifest.parse(data)) < bound


def test_memory_of_a_compressed_bomb() -> None:
    """Four kilobytes that unpack to 64 MiB, with and without saying so."""
    for says_size in (True, False):
        bomb = zstandard.ZstdCompressor(write_content_size=says_size).compress(bytes(64 * MIB))
        assert len(bomb) < 4096
        assert peak(lambda packed=bomb: Decompressor().decompress(packed, 4096)) < MIB // 4  # type: ignore[misc]
