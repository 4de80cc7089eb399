"""The two sides of a link: the good conversation, the fences, and what neither side may do."""

import pytest

from bootd.wire import frames, link, manifest
from bootd.wire.digest import digest, zero_digest
from bootd.wire.errors import LocalProtocolError, PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, ChunkRange, Decoder, Encoding, Frame

BODY = b"x" * 4096
IMAGE = manifest.build(3 * 4096, 4096, [digest(BODY), zero_digest(4096), digest(BODY)])
CHALLENGE_NONCE, HELLO_NONCE = b"c" * 32, b"h" * 32


def dialling(session: str = "s", epoch: int = 4, key: str = "aa") -> link.DialLink:
    return link.DialLink(session=session, epoch=epoch, member="m2", token=key, nonce=HELLO_NONCE, manifest=IMAGE)


def accepting(epoch: int = 4) -> link.AcceptLink:
    return link.AcceptLink(session="s", epoch=epoch, token="aa", nonce=CHALLENGE_NONCE, chunk_count=IMAGE.count)


def one(data: bytes) -> Frame:
    (frame,) = Decoder().feed(data)
    return frame


def chunk(index: int, length: int = 4096) -> Chunk:
    header = ChunkHeader(index, Encoding.RAW, length, digest(BODY[:length]), length)
    return Chunk(header, memoryview(BODY[:length]))


def established() -> tuple[link.DialLink, link.AcceptLink]:
    dial, accept = dialling(), accepting()
    hello = dial.receive(one(accept.challenge()))
    assert isinstance(hello, link.Send)
    welcome = accept.receive(one(hello.data))
    assert isinstance(welcome, link.Established)
    assert (welcome.member, welcome.epoch) == ("m2", 4)
    assert isinstance(dial.receive(one(welcome.data)), link.Established)
    return dial, accept


def test_conversation() -> None:
    dial, accept = established()
    serve = accept.receive(one(dial.want([ChunkRange(0, 1), ChunkRange(2, 1)])))
    assert serve == link.Serve((ChunkRange(0, 1), ChunkRange(2, 1)))
    assert dial.receive(frames.Ping()) == link.Alive()
    for index in (2, 0):
        assert dial.receive(chunk(index)) == link.Arrived(chunk(index))
    assert dial.receive(one(accept.served())) == link.Served()
    assert isinstance(accept.receive(one(dial.want([ChunkRange(1, 1)]))), link.Serve)


@pytest.mark.parametrize(
    ("dial", "reason"),
    [
        (dialling(session="older"), "session older is not served here"),
        (dialling(epoch=3), "epoch 3 is over, now 4"),
        (dialling(key="ab"), "wrong join token"),
    ],
)
def test_fences(dial: link.DialLink, reason: str) -> None:
    accept = accepting()
    hello = dial.receive(one(accept.challenge()))
    assert isinstance(hello, link.Send)
    refused = accept.receive(one(hello.data))
    assert isinstance(refused, link.Refused)
    assert refused.reason == reason
    assert dial.receive(one(refused.data)) == link.Refused(reason)
    assert accept.state is dial.state is link.LinkState.CLOSED


def test_version_fences() -> None:
    hello = frames.Hello(2, "s", 4, "m2", HELLO_NONCE, bytes(32))
    refused = accepting().receive(hello)
    assert isinstance(refused, link.Refused)
    assert "version 2" in refused.reason
    assert isinstance(dialling().receive(frames.Challenge(2, CHALLENGE_NONCE)), link.Refused)


def test_epoch_that_rose_during_the_handshake_counts() -> None:
    dial, accept = dialling(epoch=4), accepting(epoch=4)
    hello = dial.receive(one(accept.challenge()))
    assert isinstance(hello, link.Send)
    assert isinstance(accept.receive(one(hello.data), epoch=5), link.Refused)


def test_higher_epoch_is_let_in() -> None:
    dial, accept = dialling(epoch=9), accepting(epoch=4)
    hello = dial.receive(one(accept.challenge()))
    assert isinstance(hello, link.Send)
    assert isinstance(accept.receive(one(hello.data)), link.Established)


def test_recorded_hello_is_worth_nothing_on_another_link() -> None:
    hello = dialling().receive(one(accepting().challenge()))
    assert isinstance(hello, link.Send)
    other = link.AcceptLink(session="s", epoch=4, token="aa", nonce=b"d" * 32, chunk_count=3)
    assert isinstance(other.receive(one(hello.data)), link.Refused)


def test_predecessor_must_prove_itself() -> None:
    dial = dialling()
    dial.receive(one(accepting().challenge()))
    with pytest.raises(PeerProtocolError, match="does not know the join token"):
        dial.receive(frames.Welcome(b"\0" * 32))


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (chunk(1), "not wanted"),
        (chunk(0, 4095), "4096 expected"),
        (Chunk(ChunkHeader(3, Encoding.ZERO, 4096, bytes(32), 0), memoryview(b"")), "not wanted"),
        (frames.End(), "still wanted"),
        (frames.Welcome(bytes(32)), "WELCOME on a link that is busy"),
        (frames.Want((ChunkRange(0, 1),)), "WANT on a link that is busy"),
    ],
)
def test_predecessor_breaks_the_rules(frame: Frame, match: str) -> None:
    dial, _ = established()
    dial.want([ChunkRange(0, 1)])
    with pytest.raises(PeerProtocolError, match=match):
        dial.receive(frame)


def test_chunk_comes_once() -> None:
    dial, _ = established()
    dial.want([ChunkRange(0, 2)])
    dial.receive(chunk(0))
    with pytest.raises(PeerProtocolError, match="not wanted"):
        dial.receive(chunk(0))


def test_successor_breaks_the_rules() -> None:
    _, accept = established()
    with pytest.raises(PeerProtocolError, match="image of 3"):
        accept.receive(frames.Want((ChunkRange(2, 2),)))
    with pytest.raises(PeerProtocolError, match="WANT on a link that is hello"):
        accepting().receive(frames.Want((ChunkRange(0, 1),)))
    accept.receive(frames.Want((ChunkRange(0, 1),)))
    with pytest.raises(PeerProtocolError, match="WANT on a link that is busy"):
        accept.receive(frames.Want((ChunkRange(0, 1),)))


def test_own_mistakes_are_ours() -> None:
    dial, accept = established()
    with pytest.raises(LocalProtocolError):
        accept.served()
    with pytest.raises(LocalProtocolError):
        dial.want([ChunkRange(2, 2)])
    with pytest.raises(LocalProtocolError):
        dialling().want([ChunkRange(0, 1)])
    dial.want([ChunkRange(0, 1)])
    with pytest.raises(LocalProtocolError):
        dial.want([ChunkRange(1, 1)])
