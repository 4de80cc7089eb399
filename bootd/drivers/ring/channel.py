"""The control connection of a ring by hand: sender to receiver, proven on both sides, every message authenticated.

It opens with the handshake of a link (`bootd.wire.link`), keyed with the token that both sides were given, under a
session name of its own. Both nonces then make a key, and every message carries an HMAC-SHA256 (RFC 2104) over its
direction, its number and its bytes, so none can be forged, repeated or left out. Nothing is encrypted.
"""

import contextlib
import hashlib
import hmac
import os
import socket
import struct
import threading
from collections.abc import Callable
from enum import IntEnum

from bootd.member.context import describe
from bootd.member.sockets import FrameSocket, PeerSilentError, dial
from bootd.wire import frames, link, manifest
from bootd.wire.control import MAX_MESSAGE
from bootd.wire.digest import DIGEST_SIZE
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Decoder

SESSION = "bootd-ring-1"  # names the version of this conversation
HANDSHAKE_SECONDS = 5.0
CONNECT_SECONDS = 3.0
SEND_SECONDS = 10.0
_HEADER = struct.Struct(">BI")
_NUMBER = struct.Struct(">BQ")
_PROOF_SIZE = 32
_DIALLING, _ACCEPTING = 1, 2


class Kind(IntEnum):
    """What a message is: a control message of `bootd.wire.control`, a manifest, or a sign of life."""

    MESSAGE = 1
    MANIFEST = 2
    PING = 3


_LONGEST = {Kind.MESSAGE: MAX_MESSAGE, Kind.MANIFEST: manifest.MAX_ENCODED, Kind.PING: 0}


class ChannelError(Exception):
    """The connection is over or was never made; the text says why.

    ``refused``: nobody listens there. ``is_final``: dialling again would end the same way.
    """

    def __init__(self, text: str, *, refused: bool = False, is_final: bool = False) -> None:
        super().__init__(text)
        self.refused = refused
        self.is_final = is_final


class Channel:
    """A proven connection. Any thread may send; one thread receives. ``local``: the address of this side."""

    def __init__(self, connection: socket.socket, frames_of: FrameSocket, key: bytes, role: int) -> None:
        self.local: str = connection.getsockname()[0]
        self._frames = frames_of
        self._key = key
        self._role = role
        self._lock = threading.Lock()
        self._sent = 0
        self._received = 0

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """`ChannelError` when the peer is gone or takes nothing for `SEND_SECONDS`."""
        header = _HEADER.pack(kind, len(payload))
        with self._lock:
            proof = self._prove(self._role, self._sent, header, payload)
            self._sent += 1
            try:
                self._frames.send(header + proof, payload, patience=SEND_SECONDS)
            except OSError as error:
                raise ChannelError(describe(error)) from None
            except PeerSilentError as error:
                raise ChannelError(str(error)) from None

    def receive(self, silence: float) -> tuple[Kind, bytes]:
        """The next message; `ChannelError` at the end, after ``silence`` seconds, or on a forgery."""
        head = self._read(_HEADER.size + _PROOF_SIZE, silence)
        number, length = _HEADER.unpack_from(head)
        try:
            kind = Kind(number)
        except ValueError:
            raise ChannelError(f"message of unknown kind {number}") from None
        if length > _LONGEST[kind]:
            raise ChannelError(f"message of {length} bytes, at most {_LONGEST[kind]} allowed")
        payload = self._read(length, silence)
        peer = _ACCEPTING if self._role == _DIALLING else _DIALLING
        proof = self._prove(peer, self._received, head[: _HEADER.size], payload)
        if not hmac.compare_digest(proof, head[_HEADER.size :]):
            raise ChannelError("a message that the peer did not make")
        self._received += 1
        return kind, payload

    def interrupt(self) -> None:
        """Ends whatever another thread waits for here."""
        self._frames.interrupt()

    def close(self) -> None:
        self._frames.close()

    def _prove(self, role: int, number: int, header: bytes, payload: bytes) -> bytes:
        proof = hmac.new(self._key, _NUMBER.pack(role, number) + header, hashlib.sha256)
        proof.update(payload)
        return proof.digest()

    def _read(self, count: int, silence: float) -> bytes:
        buffer = bytearray(count)
        view, done = memoryview(buffer), 0
        while done < count:
            try:
                taken = self._frames.take(view[done:], silence)
            except PeerSilentError as error:
                raise ChannelError(str(error)) from None
            except OSError as error:
                raise ChannelError(describe(error)) from None
            if taken == 0:
                raise ChannelError("the connection was closed")
            done += taken
        return bytes(buffer)


def link_token(token: str, session: str) -> str:
    """The join token of one session's links, made from the token of both sides: it never crosses the network."""
    return hmac.new(token.encode(), f"bootd ring session {session}".encode(), hashlib.sha256).hexdigest()


def open_channel(host: str, port: int, token: str, wanted: Callable[[], bool]) -> Channel:
    """Dials a receiver and proves the token. `ChannelError` when it does not work out."""
    try:
        connection = dial(host, port, CONNECT_SECONDS, wanted)
    except ConnectionRefusedError as error:
        raise ChannelError(describe(error).lower(), refused=True) from None
    except OSError as error:
        raise ChannelError(describe(error)) from None
    # The machine of a link wants a manifest; over this connection no chunk is ever asked for.
    nothing = manifest.build(1, manifest.MIN_CHUNK_SIZE, [bytes(DIGEST_SIZE)])
    nonce = os.urandom(frames.NONCE_SIZE)
    machine = link.DialLink(session=SESSION, epoch=0, member="sender", token=token, nonce=nonce, manifest=nothing)
    peer = FrameSocket(connection, Decoder(max_chunk=0))
    with _closing(peer):
        challenge = b""
        while True:
            frame = peer.receive(HANDSHAKE_SECONDS)
            if frame is None:
                raise ChannelError("it closed the connection: busy with another sender?")
            if isinstance(frame, frames.Challenge):
                challenge = frame.nonce
            match machine.receive(frame):
                case link.Send(data):
                    peer.send(data, patience=HANDSHAKE_SECONDS)
                case link.Refused(reason):
                    raise ChannelError(f"it refuses: {reason}", is_final=True)
                case link.Established():
                    return Channel(connection, peer, _key(token, challenge, nonce), _DIALLING)


def accept_channel(connection: socket.socket, token: str) -> Channel:
    """The receiver's side of `open_channel`; `ChannelError` for who does not know the token."""
    nonce = os.urandom(frames.NONCE_SIZE)
    machine = link.AcceptLink(session=SESSION, epoch=0, token=token, nonce=nonce, chunk_count=0)
    peer = FrameSocket(connection, Decoder(max_chunk=0))
    with _closing(peer):
        peer.send(machine.challenge(), patience=HANDSHAKE_SECONDS)
        frame = peer.receive(HANDSHAKE_SECONDS)
        if not isinstance(frame, frames.Hello):
            raise ChannelError("it did not say who it is")
        match machine.receive(frame):
            case link.Refused(reason, data):
                peer.send(data, patience=HANDSHAKE_SECONDS)
                raise ChannelError(f"refused: {reason}", is_final=True)
            case link.Established(data=data):
                peer.send(data, patience=HANDSHAKE_SECONDS)
        return Channel(connection, peer, _key(token, nonce, frame.nonce), _ACCEPTING)


def _key(token: str, challenge: bytes, nonce: bytes) -> bytes:
    return hmac.new(token.encode(), b"bootd ring control\n" + challenge + nonce, hashlib.sha256).digest()


class _closing(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as contextlib.closing does
    """Closes the socket unless the handshake worked out, and gives every way it may fail one name."""

    def __init__(self, peer: FrameSocket) -> None:
        self._peer = peer

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        self._peer.close()
        if isinstance(error, OSError):
            raise ChannelError(describe(error)) from None
        if isinstance(error, PeerSilentError):
            raise ChannelError(str(error)) from None
        if isinstance(error, PeerProtocolError):
            raise ChannelError(str(error), is_final=True) from None
