"""Frames, manifests and compressed chunks under arbitrary splits, mutations and noise."""

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootd.wire import frames, link, manifest
from bootd.wire.digest import Compressor, Decompressor
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, ChunkRange, Decoder, Encoding, Frame

CHUNK = 4096
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
reasons = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=512)
nonces = st.binary(min_size=32, max_size=32)
epochs = st.integers(0, frames.MAX_EPOCH)
versions = st.integers(0, 65535)


@st.composite
def wants(draw: st.DrawFn) -> frames.Want:
    ranges, end = [], 0
    for gap, count in draw(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=8)):
        ranges.append(ChunkRange(end + gap, count))
        end += gap + count
    return frames.Want(tuple(ranges))


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    encoding = draw(st.sampled_from(Encoding))
    payload = b"" if encoding is Encoding.ZERO else draw(st.binary(min_size=1, max_size=200))
    raw = {Encoding.RAW: len(payload), Encoding.ZSTD: len(payload) + 1, Encoding.ZERO: CHUNK}[encoding]
    header = ChunkHeader(draw(st.integers(0, 1000)), encoding, raw, draw(nonces), len(payload))
    return Chunk(header, memoryview(payload))


any_frame: st.SearchStrategy[Frame] = st.one_of(
    st.builds(frames.Challenge, versions, nonces),
    st.builds(frames.Hello, versions, names, epochs, names, nonces, nonces),
    st.builds(frames.Welcome, nonces),
    wants(),
    chunks(),
    st.just(frames.End()),
    st.just(frames.Ping()),
    st.builds(frames.Reject, reasons),
)


def encode(frame: Frame) -> bytes:
    if isinstance(frame, Chunk):
        return frames.encode_chunk_header(frame.header) + bytes(frame.payload)
    return frames.encode(frame)


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(any_frame, max_size=6), st.lists(st.integers(0, 1 << 16), max_size=12))
def test_any_split_gives_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(encode(frame) for frame in sent)
    decoder = Decoder(max_chunk=CHUNK)
    arrived = [frame for piece in pieces(stream, cuts) for frame in decoder.feed(piece)]
    assert arrived == sent
    assert not decoder.inside_frame


@given(any_frame, st.data())
def test_a_cut_frame_is_never_a_frame(frame: Frame, data: st.DataObject) -> None:
    stream = encode(frame)
    decoder = Decoder(max_chunk=CHUNK)
    assert decoder.feed(stream[: data.draw(st.integers(1, len(stream) - 1))]) == []
    assert decoder.inside_frame


@settings(max_examples=300)
@given(st.lists(any_frame, min_size=1, max_size=3), st.integers(0, 1 << 16), st.integers(1, 255))
def test_mutants_give_only_the_peers_error(sent: list[Frame], where: int, change: int) -> None:
    stream = bytearray(b"".join(encode(frame) for frame in sent))
    stream[where % len(stream)] ^= change
    asked: list[int] = []

    def allocate(header: ChunkHeader) -> memoryview:
        asked.append(header.payload_length)
        return memoryview(bytearray(header.payload_length))

    decoder = Decoder(max_chunk=CHUNK, allocate=allocate)
    try:
        decoder.feed(bytes(stream))
    except PeerProtocolError as error:
        with pytest.raises(PeerProtocolError, match=re.escape(str(error))):  # it stays refused
            decoder.feed(b"\6\0\0\0\0\0\0\0")
    assert all(length <= CHUNK for length in asked)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_noise_gives_only_the_peers_error(noise: bytes) -> None:
    try:
        Decoder(max_chunk=CHUNK).feed(noise)
    except PeerProtocolError:
        return


IMAGE = manifest.build(10 * CHUNK, CHUNK, [bytes([number]) * 32 for number in range(10)])


@given(st.lists(any_frame, max_size=6), st.booleans())
def test_links_meet_any_frames_with_the_peers_error_only(sent: list[Frame], has_challenge: bool) -> None:
    dial = link.DialLink(session="s", epoch=1, member="m", token="t", nonce=bytes(32), manifest=IMAGE)
    accept = link.AcceptLink(session="s", epoch=1, token="t", nonce=bytes(32), chunk_count=IMAGE.count)
    if has_challenge:
        dial.receive(frames.Challenge(1, bytes(32)))
    for machine in (dial, accept):
        for frame in sent:
            try:
                event = machine.receive(frame)
            except PeerProtocolError:
                break
            # Without the token nobody gets further than being refused.
            assert not isinstance(event, link.Established | link.Serve | link.Arrived)


@given(
    st.integers(1, 20 * CHUNK),
    st.lists(nonces, min_size=20, max_size=20),
    st.integers(0, 1 << 16),
    st.integers(1, 255),
)
def test_manifest_round_trip_and_mutants(size: int, digests: list[bytes], where: int, change: int) -> None:
    value = manifest.build(size, CHUNK, digests[: -(-size // CHUNK)])
    assert sum(value.length(index) for index in range(value.count)) == size
    mutant = bytearray(value.encoded)
    mutant[where % len(mutant)] ^= change
    try:
        other = manifest.parse(bytes(mutant))
    except PeerProtocolError:
        return
    assert other.root != value.root  # what still parses is another image


@given(st.binary(min_size=1, max_size=CHUNK), st.integers(0, 1 << 16), st.integers(1, 255))
def test_compressed_mutants(body: bytes, where: int, change: int) -> None:
    packed = bytearray(Compressor().compress(body))
    packed[where % len(packed)] ^= change
    try:
        raw = Decompressor().decompress(bytes(packed), len(body))
    except PeerProtocolError:
        return
    assert len(raw) == len(body)
