"""TLS between members: real sockets, certificates made by OpenSSL, foreign and plain peers."""

import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootd.member import tls
from bootd.member.member import Member
from bootd.member.sockets import FrameSocket, PeerSilentError
from bootd.member.store import FileStore, SourceStore, Store
from bootd.member.tls import TlsError, TlsFrameSocket, TlsSettings, load
from bootd.wire import frames, link
from bootd.wire.control import Address, Arrange, MemberState, Report
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, Decoder, Encoding, Frame, Ping, Reject
from tests.unit.ring_parts import BRISK, PATIENCE, make_body, make_manifest

SECONDS = 5.0
LENGTH = 1 << 20


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=20)


def make_authority(folder: Path, name: str) -> None:
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl(folder, *words, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")


def make_certificate(folder: Path, authority: str, name: str) -> None:
    words = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}"]
    openssl(folder, *words, "-keyout", f"{name}.key", "-out", f"{name}.csr")
    signer = ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "2"]
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.pem")


@dataclass(frozen=True)
class Certificates:
    """Two members of one authority, and a stranger of another one."""

    folder: Path
    one: TlsSettings
    two: TlsSettings
    stranger: TlsSettings
    credulous: TlsSettings  # the stranger's certificate, but it trusts the session's authority


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("pki")
    make_authority(folder, "room")
    make_authority(folder, "elsewhere")
    make_certificate(folder, "room", "one")
    make_certificate(folder, "room", "two")
    make_certificate(folder, "elsewhere", "stranger")

    def get(name: str, authority: str) -> TlsSettings:
        return load(str(folder / f"{name}.pem"), str(folder / f"{name}.key"), str(folder / f"{authority}.pem"))

    return Certificates(
        folder, get("one", "room"), get("two", "room"), get("stranger", "elsewhere"), get("stranger", "room")
    )


def allocate(header: ChunkHeader) -> memoryview:
    return memoryview(bytearray(header.payload_length))


def pair() -> tuple[socket.socket, socket.socket]:
    """Accepted and dialled end of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialled = socket.create_connection(listener.getsockname())
        return listener.accept()[0], dialled


def secured(dialling: TlsSettings, accepting: TlsSettings) -> tuple[FrameSocket, FrameSocket]:
    there, here = pair()
    decoders = [Decoder(max_chunk=LENGTH, allocate=allocate) for _ in range(2)]
    return (
        TlsFrameSocket(there, decoders[0], accepting, is_accepting=True),
        TlsFrameSocket(here, decoders[1], dialling, is_accepting=False),
    )


class Aside:
    """Runs one call in a thread; `result` gives what it returned, or raises what it raised."""

    def __init__(self, call: Callable[[], Frame | None]) -> None:
        self._call = call
        self._value: Frame | BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def result(self) -> Frame | None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        if isinstance(self._value, BaseException):
            raise self._value
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._call()
        except (OSError, PeerSilentError, PeerProtocolError) as error:
            self._value = error


def shake_and_receive(peer: FrameSocket) -> Frame | None:
    peer.handshake(SECONDS)
    return peer.receive(SECONDS)


def test_frames_pass_both_ways(certificates: Certificates) -> None:
    there, here = secured(certificates.one, certificates.two)
    payload = os.urandom(LENGTH)
    header = ChunkHeader(7, Encoding.RAW, LENGTH, bytes(32), LENGTH)
    try:
        accepting = Aside(lambda: shake_and_receive(there))
        here.handshake(SECONDS)
        here.send(frames.encode(Ping()), patience=SECONDS)
        assert accepting.result() == Ping()
        dialling = Aside(lambda: here.receive(SECONDS))
        there.send(frames.encode_chunk_header(header), payload, patience=SECONDS)
        chunk = dialling.result()
        assert isinstance(chunk, Chunk)
        assert (chunk.header, bytes(chunk.payload)) == (header, payload)
        there.close()
        assert here.receive(SECONDS) is None
    finally:
        here.close()
        there.close()


@pytest.mark.parametrize("who", ["dialling", "accepting", "credulous"])
def test_a_foreign_certificate_is_refused(certificates: Certificates, who: str) -> None:
    settings = {
        "dialling": (certificates.stranger, certificates.one),
        "accepting": (certificates.one, certificates.stranger),
        "credulous": (certificates.credulous, certificates.one),
    }
    there, here = secured(*settings[who])
    try:
        accepting = Aside(lambda: shake_and_receive(there))
        words = "refuses the certificate|middle of TLS|reset" if who == "credulous" else "is not trusted"
        with pytest.raises(OSError, match=words):
            shake_and_receive(here)
        with pytest.raises(OSError, match="is not trusted" if who == "credulous" else "refuses the certificate"):
            accepting.result()
    finally:
        here.close()
        there.close()


def test_who_dials_in_the_clear_reads_why_it_is_refused(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HELLO_SECONDS", 0.2)
    there, here = pair()
    server = TlsFrameSocket(there, Decoder(max_chunk=0), certificates.one, is_accepting=True)
    plain = FrameSocket(here, Decoder(max_chunk=0))
    try:
        accepting = Aside(lambda: shake_and_receive(server))
        plain.handshake(SECONDS)
        frame = plain.receive(SECONDS)
        assert isinstance(frame, Reject)
        machine = link.DialLink(
            session="s", epoch=1, member="m", token="t", nonce=bytes(32), manifest=make_manifest(make_body(1))
        )
        refused = machine.receive(frame)
        assert isinstance(refused, link.Refused)
        assert "TLS" in refused.reason
        with pytest.raises(OSError, match="does not speak TLS"):
            accepting.result()
    finally:
        plain.close()
        server.close()


def test_who_dials_with_tls_and_meets_a_plain_member(certificates: Certificates) -> None:
    there, here = pair()
    client = TlsFrameSocket(here, Decoder(max_chunk=0), certificates.one, is_accepting=False)
    plain = FrameSocket(there, Decoder(max_chunk=0))
    try:
        plain.send(frames.encode(frames.Challenge(1, bytes(32))), patience=SECONDS)
        with pytest.raises(OSError, match="does not speak TLS"):
            client.handshake(SECONDS)
    finally:
        plain.close()
        client.close()


def test_a_silent_peer_has_a_deadline_and_an_interrupted_one_none(certificates: Certificates) -> None:
    there, here = pair()
    client = TlsFrameSocket(here, Decoder(max_chunk=0), certificates.one, is_accepting=False)
    with pytest.raises(PeerSilentError):
        client.handshake(0.2)
    there.close()
    client.close()
    there_, here_ = secured(certificates.one, certificates.two)
    accepting = Aside(lambda: shake_and_receive(there_))
    here_.handshake(SECONDS)
    here_.send(frames.encode(Ping()), patience=SECONDS)
    assert accepting.result() == Ping()
    waiting = Aside(lambda: here_.receive(60.0))
    here_.interrupt()
    assert waiting.result() is None
    here_.close()
    there_.close()


def test_settings_that_cannot_be_used(certificates: Certificates, tmp_path: Path) -> None:
    folder = certificates.folder
    one, key, room = (str(folder / name) for name in ("one.pem", "one.key", "room.pem"))
    (tmp_path / "empty").write_text("")
    with pytest.raises(TlsError, match="No such file"):
        load(one, key, str(tmp_path / "none"))
    with pytest.raises(TlsError, match="not a PEM file"):
        load(str(tmp_path / "empty"), key, room)
    with pytest.raises(TlsError, match="is not the key of"):
        load(one, str(folder / "two.key"), room)
    openssl(folder, "ec", "-in", "one.key", "-aes128", "-passout", "pass:secret", "-out", "locked.key")
    with pytest.raises(TlsError, match="encrypted"):
        load(one, str(folder / "locked.key"), room)


def test_a_ring_with_a_false_member(certificates: Certificates, tmp_path: Path) -> None:
    """It knows the join token and trusts the right authority; its certificate is of another one: it gets nothing,
    and nobody else notices. The relay is a real member too."""
    body = make_body(20)
    image = make_manifest(body)
    (tmp_path / "source").write_bytes(body)
    reports: list[Report] = []
    changed = threading.Condition()

    def report(message: Report) -> None:
        with changed:
            reports.append(message)
            changed.notify_all()

    def make(name: str, security: TlsSettings, store: Store, *, is_head: bool = False) -> Member:
        return Member(
            node=name,
            session="s",
            join_token="token",
            manifest=image,
            store=store,
            listen_host="127.0.0.1",
            report=report,
            is_head=is_head,
            limits=BRISK,
            tls=security,
        )

    stores: list[Store] = [SourceStore(str(tmp_path / "source"))]
    stores += [FileStore(str(tmp_path / name), len(body)) for name in ("one", "two", "false")]
    members = [make("head", certificates.one, stores[0], is_head=True)]
    members += [
        make(name, security, store)
        for name, security, store in zip(
            ("one", "two", "false"),
            (certificates.one, certificates.two, certificates.credulous),
            stores[1:],
            strict=True,
        )
    ]
    ports = [member.start() for member in members]
    try:
        for follower, source in ((1, 0), (2, 1), (3, 1)):
            address = Address("127.0.0.1", ports[source])
            members[follower].arrange(Arrange("s", 1, address, f"m{source}"))
        assert [member.wait(PATIENCE).state for member in members[1:3]] == [MemberState.VERIFIED] * 2
        with changed:
            words = "refuses the certificate|middle of TLS|reset"
            assert changed.wait_for(lambda: any(re.search(words, own.trouble.lower()) for own in reports), PATIENCE)
        assert members[3].snapshot().written == 0
    finally:
        for member in members:
            member.stop()
        for store in stores:
            store.close()
    assert (tmp_path / "two").read_bytes() == body
