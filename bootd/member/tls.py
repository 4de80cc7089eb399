"""TLS between members: both sides show a certificate, and only one authority is trusted.

Every member of a session has the same certificate, or one of its own signed by the authority of the session. Host
names are not looked at: members are known by address, and prove that they belong to the session with the join token
inside the connection. TLS 1.3 only.
"""

import hashlib
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass

from bootd.member.sockets import FrameSocket, PeerSilentError
from bootd.wire import frames
from bootd.wire.frames import Decoder

HELLO_SECONDS = 2.0  # a side that dials speaks first in TLS; one that says nothing for so long does not speak it
_CERTIFICATE = re.compile(f"{ssl.PEM_HEADER}.*?{ssl.PEM_FOOTER}", re.DOTALL)
_SLICE = 128 << 10  # bytes handed over at once
_HANDSHAKE_RECORD = b"\x16"  # RFC 8446, 5.1
_NOT_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE")


class TlsError(Exception):
    """The certificate, its key or the authority cannot be used; the text says why."""


@dataclass(frozen=True)
class TlsSettings:
    """What both roles need; made by `load`. ``authority``: SHA-256 of what is trusted, hex: members that differ in
    it cannot talk to each other."""

    dialling: ssl.SSLContext
    accepting: ssl.SSLContext
    authority: str

    def socket(self, connection: socket.socket, decoder: Decoder, *, is_accepting: bool) -> "TlsFrameSocket":
        """``connection`` inside TLS; `TlsFrameSocket.handshake` comes next."""
        return TlsFrameSocket(connection, decoder, self, is_accepting=is_accepting)


def load(certificate: str, key: str, authority: str) -> TlsSettings:
    """From three PEM files: own certificate (with its chain), its key, and what is trusted. `TlsError`."""
    dialling = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, authority)
    accepting = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key, authority)
    accepting.num_tickets = 0  # no session is ever resumed
    return TlsSettings(dialling, accepting, _fingerprint(authority))


def _context(protocol: int, certificate: str, key: str, authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    path = authority
    try:
        context.load_verify_locations(cafile=authority)
        path = certificate
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{key} is not the key of {certificate}") from None
        raise TlsError(f"{path}: not a PEM file of the right kind: {error.reason or error}") from None
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror or error}") from None
    return context


def _fingerprint(path: str) -> str:
    """Of the certificates in a PEM file, whatever their order and what is written around them."""
    with open(path, encoding="ascii", errors="replace") as file:
        found = _CERTIFICATE.findall(file.read())
    return hashlib.sha256(b"".join(sorted(ssl.PEM_cert_to_DER_cert(text) for text in found))).hexdigest()


def _no_password() -> str:
    raise TlsError("the key is encrypted: nobody is there to be asked for its password")


class TlsFrameSocket(FrameSocket):
    """`FrameSocket` inside TLS. `handshake` comes first, in the thread that reads and writes."""

    def __init__(
        self, connection: socket.socket, decoder: Decoder, settings: TlsSettings, *, is_accepting: bool
    ) -> None:
        super().__init__(connection, decoder)
        self._settings = settings
        self._is_accepting = is_accepting
        self._switching = threading.Lock()  # `interrupt` must meet the socket that is in use
        self._is_interrupted = False

    def handshake(self, seconds: float) -> None:
        """`ConnectionError` when the peer cannot or may not take part; `PeerSilentError` after ``seconds``.

        Whoever dials without TLS is told so in a REJECT frame that it can read.
        """
        deadline = time.monotonic() + seconds
        try:
            if self._is_accepting:
                self._await_hello(min(seconds, HELLO_SECONDS))
            context = self._settings.accepting if self._is_accepting else self._settings.dialling
            with self._switching:
                if self._is_interrupted:
                    raise ConnectionAbortedError("no longer wanted")
                secured = context.wrap_socket(
                    self._connection, server_side=self._is_accepting, do_handshake_on_connect=False
                )
                self._connection = secured
            self._limit(max(0.1, deadline - time.monotonic()))
            secured.do_handshake()
        except TimeoutError:
            raise PeerSilentError("says nothing in the TLS handshake") from None
        except ssl.SSLError as error:
            raise ConnectionError(_explain(error)) from None

    def take(self, buffer: memoryview, silence: float) -> int:
        self._limit(silence)
        try:
            return self._connection.recv_into(buffer, len(buffer))
        except TimeoutError:
            raise PeerSilentError(f"silent for {silence:g} s") from None
        except ssl.SSLError as error:
            raise ConnectionError(_explain(error)) from None

    def send(self, data: bytes, payload: bytes | memoryview = b"", *, patience: float) -> None:
        self._limit(patience)
        for part in (memoryview(data), memoryview(payload)):
            rest = part
            while rest:
                try:
                    count = self._connection.send(rest[:_SLICE])
                except TimeoutError:
                    raise PeerSilentError(f"takes nothing for {patience:g} s") from None
                except ssl.SSLError as error:
                    raise ConnectionError(_explain(error)) from None
                rest = rest[count:]

    def interrupt(self) -> None:
        with self._switching:
            self._is_interrupted = True
            try:
                # Not SSLSocket's own, which would go on in the clear.
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
            except OSError:
                return  # not connected any more, which is what was asked for

    def _await_hello(self, seconds: float) -> None:
        """Until the first byte of a TLS handshake is there; taken in by nobody."""
        self._limit(seconds)
        try:
            first = self._connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            first = None
        if first == b"":
            raise ConnectionResetError("closed the connection")
        if first != _HANDSHAKE_RECORD:
            self._connection.sendall(frames.encode(frames.Reject("TLS is spoken here, on both sides")))
            raise ConnectionError("it does not speak TLS")

    def _limit(self, seconds: float) -> None:
        if self._connection.gettimeout() != seconds:
            self._connection.settimeout(seconds)


def _explain(error: ssl.SSLError) -> str:
    """OpenSSL's reason as a sentence about the peer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "closed the connection in the middle of TLS"
    reason = str(error.reason or error)
    if reason in _NOT_TLS:
        return "it does not speak TLS"
    if "ALERT" in reason:
        return f"it refuses the certificate of this side, or TLS: {reason.lower().replace('_', ' ')}"
    return f"TLS: {reason.lower().replace('_', ' ')}"
