"""One link between neighbours: the dialling side (successor) and the accepting side (predecessor).

The accepting side speaks first: CHALLENGE. The dialling side answers with HELLO, the accepting side with WELCOME;
both carry HMAC-SHA256 proofs (RFC 2104) over both nonces and everything HELLO says, keyed with the join token of
the session, so neither can be recorded and played again. Then WANT, CHUNK..., END, and WANT again as often as
needed.

Pure: frames in, events out. Nonces are arguments. What the table does not allow raises `PeerProtocolError` when
the peer did it and `LocalProtocolError` when we did.
"""

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from bootd.wire import frames
from bootd.wire.errors import LocalProtocolError, PeerProtocolError
from bootd.wire.frames import PROTOCOL_VERSION, ChunkHeader, ChunkRange, Frame
from bootd.wire.manifest import Manifest


class LinkState(Enum):
    CHALLENGE = "challenge"  # dialling: CHALLENGE is awaited
    HELLO = "hello"  # accepting: HELLO is awaited
    WELCOME = "welcome"  # dialling: WELCOME is awaited
    IDLE = "idle"  # proven on both sides, nothing wanted
    BUSY = "busy"  # a WANT is being served
    CLOSED = "closed"


# What the peer may say in which state, and the state after it. Anything else is the peer's protocol error.
_DIALLING: dict[tuple[LinkState, type[Frame]], LinkState] = {
    (LinkState.CHALLENGE, frames.Challenge): LinkState.WELCOME,
    (LinkState.CHALLENGE, frames.Reject): LinkState.CLOSED,
    (LinkState.WELCOME, frames.Welcome): LinkState.IDLE,
    (LinkState.WELCOME, frames.Reject): LinkState.CLOSED,
    (LinkState.IDLE, frames.Ping): LinkState.IDLE,
    (LinkState.IDLE, frames.Reject): LinkState.CLOSED,
    (LinkState.BUSY, frames.Chunk): LinkState.BUSY,
    (LinkState.BUSY, frames.Ping): LinkState.BUSY,
    (LinkState.BUSY, frames.End): LinkState.IDLE,
    (LinkState.BUSY, frames.Reject): LinkState.CLOSED,
}
_ACCEPTING: dict[tuple[LinkState, type[Frame]], LinkState] = {
    (LinkState.HELLO, frames.Hello): LinkState.IDLE,
    (LinkState.IDLE, frames.Want): LinkState.BUSY,
}


@dataclass(frozen=True)
class Send:
    """Send ``data`` and go on."""

    data: bytes


@dataclass(frozen=True)
class Established:
    """Both sides are proven. ``data`` (WELCOME, on the accepting side) is still to be sent."""

    member: str
    epoch: int
    data: bytes = b""


@dataclass(frozen=True)
class Refused:
    """The link is over. ``data`` (REJECT, on the accepting side) is still to be sent."""

    reason: str
    data: bytes = b""


@dataclass(frozen=True)
class Arrived:
    """A chunk that was wanted. Its bytes are not checked against a digest yet."""

    chunk: frames.Chunk


@dataclass(frozen=True)
class Served:
    """Every chunk of the last WANT has arrived."""


@dataclass(frozen=True)
class Alive:
    """The predecessor lives and has nothing yet."""


@dataclass(frozen=True)
class Serve:
    """Send these chunks, then END."""

    ranges: tuple[ChunkRange, ...]


def prove(token: str, role: str, challenge: bytes, hello: frames.Hello) -> bytes:
    """HMAC-SHA256 of ``role`` ("hello" or "welcome"), both nonces and every field of ``hello`` but its proof."""
    session, member = hello.session.encode("ascii"), hello.member.encode("ascii")
    text = b"".join(
        (
            f"bootd link {role}\n".encode(),
            challenge,
            hello.nonce,
            struct.pack(">HIBB", hello.version, hello.epoch, len(session), len(member)),
            session,
            member,
        )
    )
    return hmac.new(token.encode(), text, hashlib.sha256).digest()


class DialLink:
    """The successor's side. ``nonce``: 32 fresh random bytes."""

    def __init__(
        self, *, session: str, epoch: int, member: str, token: str, nonce: bytes, manifest: Manifest
    ) -> None:
        self.state = LinkState.CHALLENGE
        self._token = token
        self._challenge = b""
        self._hello = frames.Hello(PROTOCOL_VERSION, session, epoch, member, nonce, bytes(frames.PROOF_SIZE))
        self._manifest = manifest
        self._outstanding = bytearray(manifest.count)
        self._remaining = 0

    def want(self, ranges: Sequence[ChunkRange]) -> bytes:
        """The WANT frame for ``ranges``; `LocalProtocolError` unless the link is idle."""
        if self.state is not LinkState.IDLE:
            raise LocalProtocolError(f"WANT on a link that is {self.state.value}")
        data = frames.encode(frames.Want(tuple(ranges)))
        if ranges[-1].first + ranges[-1].count > self._manifest.count:
            raise LocalProtocolError("WANT beyond the end of the image")
        for item in ranges:
            self._outstanding[item.first : item.first + item.count] = b"\1" * item.count
            self._remaining += item.count
        self.state = LinkState.BUSY
        return data

    def check_chunk(self, header: ChunkHeader) -> None:
        """`PeerProtocolError` unless this chunk is due. Called before memory is given for its payload."""
        if self.state is not LinkState.BUSY:
            raise PeerProtocolError(f"CHUNK on a link that is {self.state.value}")
        if header.index >= self._manifest.count or not self._outstanding[header.index]:
            raise PeerProtocolError(f"CHUNK {header.index} was not wanted")
        if header.raw_length != self._manifest.length(header.index):
            raise PeerProtocolError(
                f"CHUNK {header.index} of {header.raw_length} bytes, {self._manifest.length(header.index)} expected"
            )

    def receive(self, frame: Frame) -> Send | Established | Refused | Arrived | Served | Alive:
        """What a frame of the predecessor means."""
        following = _next(_DIALLING, self.state, frame)
        match frame:
            case frames.Challenge():
                if frame.version != PROTOCOL_VERSION:
                    self.state = LinkState.CLOSED
                    return Refused(f"protocol version {frame.version} there, {PROTOCOL_VERSION} here")
                self._challenge = frame.nonce
                self.state = following
                proof = prove(self._token, "hello", frame.nonce, self._hello)
                hello = self._hello
                return Send(
                    frames.encode(
                        frames.Hello(hello.version, hello.session, hello.epoch, hello.member, hello.nonce, proof)
                    )
                )
            case frames.Welcome():
                expected = prove(self._token, "welcome", self._challenge, self._hello)
                if not hmac.compare_digest(expected, frame.proof):
                    raise PeerProtocolError("predecessor does not know the join token")
                self.state = following
                return Established(self._hello.member, self._hello.epoch)
            case frames.Chunk():
                self.check_chunk(frame.header)
                self._outstanding[frame.header.index] = 0
                self._remaining -= 1
                return Arrived(frame)
            case frames.End():
                if self._remaining:
                    raise PeerProtocolError(f"END with {self._remaining} chunks still wanted")
                self.state = following
                return Served()
            case frames.Reject():
                self.state = following
                return Refused(frame.reason)
            case _:
                return Alive()


class AcceptLink:
    """The predecessor's side. ``nonce``: 32 fresh random bytes. ``epoch``: the lowest that is let in."""

    def __init__(self, *, session: str, epoch: int, token: str, nonce: bytes, chunk_count: int) -> None:
        self.state = LinkState.HELLO
        self._session = session
        self._epoch = epoch
        self._token = token
        self._nonce = nonce
        self._chunk_count = chunk_count

    def challenge(self) -> bytes:
        """The first frame of the link."""
        return frames.encode(frames.Challenge(PROTOCOL_VERSION, self._nonce))

    def receive(self, frame: Frame, *, epoch: int | None = None) -> Established | Refused | Serve:
        """What a frame of the successor means. ``epoch``, when given, replaces the lowest that is let in."""
        following = _next(_ACCEPTING, self.state, frame)
        if epoch is not None:
            self._epoch = epoch
        if isinstance(frame, frames.Hello):
            return self._judge(frame, following)
        if isinstance(frame, frames.Want):
            last = frame.ranges[-1]
            if last.first + last.count > self._chunk_count:
                raise PeerProtocolError(
                    f"WANT up to chunk {last.first + last.count - 1} of an image of {self._chunk_count}"
                )
            self.state = following
            return Serve(frame.ranges)
        raise PeerProtocolError(f"unexpected {type(frame).__name__.upper()}")

    def served(self) -> bytes:
        """END, after the last chunk of a WANT; `LocalProtocolError` when none is being served."""
        if self.state is not LinkState.BUSY:
            raise LocalProtocolError(f"END on a link that is {self.state.value}")
        self.state = LinkState.IDLE
        return frames.encode(frames.End())

    def reject(self, reason: str) -> bytes:
        """REJECT; the link is closed after it."""
        self.state = LinkState.CLOSED
        return frames.encode(frames.Reject(reason))

    def _judge(self, hello: frames.Hello, following: LinkState) -> Established | Refused:
        """The fences, in an order that tells an unproven peer no more than which session it missed."""
        if hello.version != PROTOCOL_VERSION:
            return self._refuse(f"protocol version {hello.version} there, {PROTOCOL_VERSION} here")
        if hello.session != self._session:
            return self._refuse(f"session {hello.session} is not served here")
        if not hmac.compare_digest(prove(self._token, "hello", self._nonce, hello), hello.proof):
            return self._refuse("wrong join token")
        if hello.epoch < self._epoch:
            return self._refuse(f"epoch {hello.epoch} is over, now {self._epoch}")
        self.state = following
        proof = prove(self._token, "welcome", self._nonce, hello)
        return Established(hello.member, hello.epoch, frames.encode(frames.Welcome(proof)))

    def _refuse(self, reason: str) -> Refused:
        return Refused(reason, self.reject(reason))


def _next(table: dict[tuple[LinkState, type[Frame]], LinkState], state: LinkState, frame: Frame) -> LinkState:
    following = table.get((state, type(frame)))
    if following is None:
        raise PeerProtocolError(f"{type(frame).__name__.upper()} on a link that is {state.value}")
    return following
