"""The reader of a link sleeps until there is enough to wake for, and never for more than the peer still owes."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bootd.member.sockets import FrameSocket, PeerSilentError
from bootd.wire import frames
from bootd.wire.digest import digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, Decoder, Encoding

SILENCE = 20.0  # seconds; what is late by a slept-through wake-up is late by this
SOON = 5.0

RAW = bytes(range(256)) * 2800  # 700 KiB: no multiple of what wakes the reader
CHUNK = frames.encode_chunk_header(ChunkHeader(0, Encoding.RAW, len(RAW), digest(RAW), len(RAW))) + RAW


@pytest.fixture
def pair() -> Iterator[tuple[FrameSocket, socket.socket]]:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    listener.close()
    decoder = Decoder(max_chunk=1 << 20, allocate=lambda header: memoryview(bytearray(header.payload_length)))
    reader = FrameSocket(ours, decoder)
    yield reader, theirs
    reader.close()
    theirs.close()


def received(reader: FrameSocket) -> tuple[object, float]:
    began = time.monotonic()
    frame = reader.receive(SILENCE)
    return frame, time.monotonic() - began


def test_the_end_of_a_chunk_is_not_slept_through(pair: tuple[FrameSocket, socket.socket]) -> None:
    reader, theirs = pair
    for _ in range(3):
        sender = threading.Thread(target=theirs.sendall, args=(CHUNK,))
        sender.start()
        frame, seconds = received(reader)
        sender.join()
        assert isinstance(frame, Chunk)
        assert bytes(frame.payload) == RAW
        assert seconds < SOON


def test_a_short_frame_after_a_long_one_comes_at_once(pair: tuple[FrameSocket, socket.socket]) -> None:
    reader, theirs = pair
    sender = threading.Thread(target=theirs.sendall, args=(CHUNK + frames.encode(frames.Ping()),))
    sender.start()
    received(reader)
    sender.join()
    frame, seconds = received(reader)
    assert isinstance(frame, frames.Ping)
    assert seconds < SOON


def test_much_more_may_be_under_way_than_wakes_the_reader() -> None:
    """Where both are the same, a sender far away stands still from each wake-up of the reader to the next one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        reader = FrameSocket(ours, Decoder(max_chunk=1 << 20))
        theirs.sendall(bytes(1 << 10))
        assert reader.take(memoryview(bytearray(1 << 10)), SILENCE) == 1 << 10
        with pytest.raises(PeerSilentError):
            reader.take(memoryview(bytearray(1 << 20)), 0.01)
        wakes = ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 8 * wakes


@pytest.mark.parametrize("cut", [4, 40, len(CHUNK) - 1])
def test_a_peer_that_goes_inside_a_frame_is_noticed_at_once(
    pair: tuple[FrameSocket, socket.socket], cut: int
) -> None:
    reader, theirs = pair

    def leave() -> None:
        theirs.sendall(CHUNK[:cut])
        theirs.close()

    sender = threading.Thread(target=leave)
    sender.start()
    began = time.monotonic()
    with pytest.raises(PeerProtocolError, match="inside a frame"):
        reader.receive(SILENCE)
    sender.join()
    assert time.monotonic() - began < SOON


def test_another_thread_wakes_the_reader(pair: tuple[FrameSocket, socket.socket]) -> None:
    reader, theirs = pair
    theirs.sendall(CHUNK[:1000])
    threading.Timer(0.2, reader.interrupt).start()
    began = time.monotonic()
    with pytest.raises(PeerProtocolError):
        reader.receive(SILENCE)
    assert time.monotonic() - began < SOON


def test_bytes_that_trickle_are_no_silence(pair: tuple[FrameSocket, socket.socket]) -> None:
    reader, theirs = pair

    def trickle() -> None:
        for part in (CHUNK[:100], CHUNK[100:5000], CHUNK[5000:9000], CHUNK[9000:]):
            theirs.sendall(part)
            pause.wait(0.3)

    pause = threading.Event()
    sender = threading.Thread(target=trickle)
    sender.start()
    frame = reader.receive(0.5)  # less than the whole takes, more than any pause
    sender.join()
    assert isinstance(frame, Chunk)
    with pytest.raises(PeerSilentError):
        reader.receive(0.1)
