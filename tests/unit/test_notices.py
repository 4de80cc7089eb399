"""Word of a session's end: to an SMTP server (aiosmtpd), through a sendmail (msmtp), to an HTTP server."""

import asyncio
import email
import email.policy
import json
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from bootd.config import Notify, parse
from bootd.drivers.engine import Engine
from bootd.drivers.journal import Journal
from bootd.drivers.notices import MOST_OF_SESSION, Notices
from bootd.errors import Exit, OperatorError
from bootd.session.notices import parse_target
from tests.unit.session_room import Room

DEADLINE = 20.0  # seconds, for every wait
SECRET = "T0K3N"


class Mailbox:
    """What an SMTP server was given. ``answers``: what it says to the next mails, then 250."""

    def __init__(self, *answers: str) -> None:
        self.mails: list[tuple[Envelope, EmailMessage]] = []
        self._answers = list(answers)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self._answers:
            return self._answers.pop(0)
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        message = email.message_from_bytes(content, policy=email.policy.default)
        self.mails.append((envelope, message))
        return "250 taken"


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Mailbox, str]]]:
    """Start an SMTP server: its mailbox, and HOST:PORT."""
    running: list[Controller] = []

    def start(*answers: str, **options: Any) -> tuple[Mailbox, str]:
        mailbox = Mailbox(*answers)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        controller = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
        controller.start()
        running.append(controller)
        return mailbox, f"127.0.0.1:{port}"

    yield start
    for controller in running:
        controller.stop()


class Hook:
    """A web server that takes what is posted, and answers with ``statuses``, then 204."""

    def __init__(self, *statuses: int) -> None:
        self.posts: list[tuple[str, dict[str, str], Any]] = []
        left = list(statuses)
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posts.append((self.path, dict(self.headers), json.loads(body)))
                status = left.pop(0) if left else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/{SECRET}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Callable[..., Hook]]:
    made: list[Hook] = []

    def start(*statuses: int) -> Hook:
        made.append(Hook(*statuses))
        return made[-1]

    yield start
    for one in made:
        one.close()


class Noting(Engine):
    """Says when something was noted."""

    noted: asyncio.Event | None = None

    def note(self, kind: str, node: str, session: str, text: str, *, logged: bool = False) -> None:
        super().note(kind, node, session, text, logged=logged)
        if self.noted is not None:
            self.noted.set()


class Server:
    """The service on an engine whose session has two nodes, one cloned and one lost."""

    def __init__(self, folder: Path, pauses: tuple[float, ...] = (0.0, 0.0, 0.0), **settings: Any) -> None:
        self.room = Room(2)
        self.room.start(2, name="demo")
        self.journal = Journal(folder / "bootd.db")
        self.engine = Noting(self.room.coordinator, self.journal, clock=lambda: self.room.now)
        self._settings = msgspec.convert({"sender": "bootd@example.org", **settings}, Notify)
        self._pauses = pauses
        self.open()

    def open(self) -> None:
        self.notices = Notices(self.engine, self.journal, self._settings, self._pauses)

    def end(self) -> None:
        self.room.verified(1, 2)
        self.room.rebooting(1)
        self.room.wait(70)
        assert self.room.state == "partly"

    def serve_until_told(self, session: str = "") -> list[dict[str, Any]]:
        """Run the service until everybody has been told, or has failed to be."""

        async def run() -> None:
            self.engine.noted = asyncio.Event()
            task = asyncio.create_task(self.notices.serve())
            async with asyncio.timeout(DEADLINE):
                while any(item["state"] in ("waiting", "sending") for item in self.listing(session)):
                    await self.engine.noted.wait()
                    self.engine.noted.clear()
            task.cancel()
            await self.notices.close()

        asyncio.run(run())
        return self.listing(session)

    def listing(self, session: str = "") -> list[dict[str, Any]]:
        return self.notices.listing(session or self.room.session)

    def tell(self, *targets: str) -> None:
        for target in targets:
            self.notices.add(self.room.session, target, "root")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(**settings: Any) -> Server:
        made.append(Server(tmp_path, **settings))
        return made[-1]

    yield start
    for server in made:
        server.journal.close()


# --- mail --------------------------------------------------------------------------------------------------


def test_mail_by_smtp(serve: Any, make: Any) -> None:
    mailbox, address = serve()
    server = make(smtp=address)
    server.tell("mailto:ops@example.org,night@example.org")
    server.end()
    (told,) = server.serve_until_told()
    assert told == {"target": "mailto:ops@example.org,night@example.org", "state": "sent", "text": ""}
    ((envelope, message),) = mailbox.mails
    assert envelope.mail_from == "bootd@example.org"
    assert envelope.rcpt_tos == ["ops@example.org", "night@example.org"]
    assert message["Subject"] == "[bootd] session demo: partly, 1 of 2 nodes cloned"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"]
    lines = message.get_content().splitlines()
    assert lines[:3] == ["session demo: partly, 1 of 2 nodes cloned", "1 of 2 nodes cloned", "image: /img"]
    assert [line.split(" ")[0] for line in lines[4:6]] == ["lab2", "lab1"], "those that are not cloned first"
    assert "lost: verified, but it never confirmed the end" in lines[4]
    assert lines[-1] == "to try again what is not cloned: bootd session retry demo"


def test_mail_through_the_local_sendmail(serve: Any, make: Any, tmp_path: Path) -> None:
    """msmtp, called as sendmail is, which has the recipients from the message itself."""
    mailbox, address = serve()
    host, _, port = address.rpartition(":")
    settings = tmp_path / "msmtprc"
    settings.write_text(f"account default\nhost {host}\nport {port}\nfrom bootd@example.org\n")
    program = tmp_path / "sendmail"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("msmtp")} -C {settings} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    server = make(sendmail=str(program))
    server.tell("mailto:ops@example.org")
    server.end()
    (told,) = server.serve_until_told()
    assert told["state"] == "sent", told
    ((envelope, message),) = mailbox.mails
    assert envelope.rcpt_tos == ["ops@example.org"]
    assert "partly, 1 of 2" in message["Subject"]


def test_mail_with_tls_and_a_password(serve: Any, make: Any, tmp_path: Path, monkeypatch: Any) -> None:
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *words, *more], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    logins: list[tuple[bytes, bytes]] = []

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> Any:
        logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right")

    mailbox, address = serve(tls_context=context, require_starttls=True, authenticator=check, auth_required=True)
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("right\n")
    login = {"smtp": address, "tls": "starttls", "user": "bootd", "password_file": str(secret)}
    server = make(**login)
    server.tell("mailto:ops@example.org")
    server.end()
    (told,) = server.serve_until_told()
    assert told["state"] == "failed", "nobody vouches for that certificate"
    assert "certificate verify failed" in told["text"].lower()
    assert logins == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server.tell("mailto:ops@example.org")
    again = server.serve_until_told()[1]
    assert again["state"] == "sent", again
    assert logins == [(b"bootd", b"right")]
    assert len(mailbox.mails) == 1


def test_a_server_that_is_busy_is_tried_again(serve: Any, make: Any) -> None:
    mailbox, address = serve("451 later", "451 later")
    server = make(smtp=address)
    server.tell("mailto:ops@example.org")
    server.end()
    assert server.serve_until_told()[0]["state"] == "sent"
    assert len(mailbox.mails) == 1


def test_a_server_that_refuses_is_not_asked_again(serve: Any, make: Any) -> None:
    mailbox, address = serve("554 no")
    server = make(smtp=address)
    server.tell("mailto:ops@example.org")
    server.end()
    (told,) = server.serve_until_told()
    assert (told["state"], "554 no" in told["text"]) == ("failed", True)
    assert mailbox.mails == []


def test_no_sendmail_says_what_to_do(make: Any) -> None:
    server = make(sendmail="/nowhere/sendmail")
    server.tell("mailto:ops@example.org")
    server.end()
    (told,) = server.serve_until_told()
    assert told["text"] == "no /nowhere/sendmail here: name a server with smtp under [notify]"


# --- webhooks ----------------------------------------------------------------------------------------------


def test_webhook(hook: Any, make: Any) -> None:
    there = hook()
    server = make()
    server.tell(there.url)
    server.end()
    (told,) = server.serve_until_told()
    assert told["state"] == "sent"
    assert SECRET not in json.dumps(told)
    ((path, headers, body),) = there.posts
    assert path == f"/hook/{SECRET}"
    assert headers["Content-Type"] == "application/json"
    assert (body["event"], body["name"], body["state"], body["code"]) == ("session-ended", "demo", "partly", 3)
    assert [(node["name"], node["ok"]) for node in body["nodes"]] == [("lab1", True), ("lab2", False)]
    assert not [line for line in server.journal.audit() if SECRET in line.detail]
    assert not [line for line in server.engine.timeline if SECRET in line["text"]]


@pytest.mark.parametrize(
    ("statuses", "posts", "state"),
    [
        ((500, 503), 3, "sent"),
        ((429, 408), 3, "sent"),
        ((500,) * 9, 3, "failed"),
        ((404,), 1, "failed"),
        ((302,), 1, "failed"),
    ],
)
def test_webhook_tries(hook: Any, make: Any, statuses: tuple[int, ...], posts: int, state: str) -> None:
    there = hook(*statuses)
    server = make()
    server.tell(there.url)
    server.end()
    (told,) = server.serve_until_told()
    assert (told["state"], len(there.posts)) == (state, posts)
    assert state == "sent" or str(statuses[0]) in told["text"]


def test_webhook_that_never_answers(make: Any) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as silent:  # listens, accepts nothing
        server = make(timeout_seconds=0.2)
        server.tell(f"http://127.0.0.1:{silent.server_port}/{SECRET}")
        server.end()
        (told,) = server.serve_until_told()
    assert told["state"] == "failed"
    assert "not reached" in told["text"]
    assert SECRET not in told["text"]


# --- kept --------------------------------------------------------------------------------------------------


def test_what_a_killed_daemon_owed_is_sent_by_the_next(hook: Any, make: Any) -> None:
    there = hook()
    server = make()
    server.tell(there.url, there.url)
    assert len(server.listing()) == 1, "twice the same counts once"
    server.open()
    server.end()
    server.open()  # ended, and nobody was told yet
    assert server.serve_until_told()[0]["state"] == "sent"
    server.open()
    assert server.serve_until_told()[0]["state"] == "sent"
    assert len(there.posts) == 1, "not told again"
    whats = [line.what for line in server.journal.audit()]
    assert whats.count("notify") == whats.count("notified") == 1


def test_a_session_that_is_forgotten(hook: Any, make: Any) -> None:
    there = hook()
    server = make()
    server.notices.add("gone", there.url, "root")
    (told,) = server.serve_until_told("gone")
    assert (told["state"], told["text"]) == ("failed", "its session is not known any more")


def test_there_are_bounds(make: Any) -> None:
    server = make()
    for number in range(MOST_OF_SESSION):
        server.tell(f"mailto:ops{number}@example.org")
    with pytest.raises(OperatorError) as caught:
        server.tell("mailto:more@example.org")
    assert caught.value.code is Exit.BUSY


# --- what is accepted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "ops@example.org", "mailto:", "mailto:ops", "mailto:ops@", "mailto:a@b@c", "mailto:a@b,", "mailto:a%0ab@c",
        "mailto:a@b?cc=c@d", "mailto:a@b\r\nBcc: c@d", "mailto:-x", "ftp://example.org/", "https://", "file:///etc",
        "https://user:password@example.org/", "http://[::1", "http://example.org:0x/", "http://example.org/a b",
        "x" * 2000, "",
    ],
)  # fmt: skip
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_target(text)
    assert caught.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mailto:ops@example.org", "mailto:ops@example.org"),
        ("mailto:a+b@example.org,c@d.example", "mailto:a+b@example.org,c@d.example"),
        ("https://example.org/hook/1?key=2", "https://example.org/…"),
        ("http://192.0.2.1:8080/hook", "http://192.0.2.1:8080/…"),
    ],
)
def test_targets(text: str, shown: str) -> None:
    assert parse_target(text).shown == shown


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ('smtp = "mail.example.org"', ("mail.example.org", 25)),
        ('smtp = "mail.example.org:587"', ("mail.example.org", 587)),
        ('smtp = "[2001:db8::1]:25"', ("2001:db8::1", 25)),
        ('smtp = "2001:db8::1"\ntls = "on"', ("2001:db8::1", 465)),
    ],
)
def test_settings(text: str, server: tuple[str, int]) -> None:
    assert parse(f"[notify]\n{text}\n").notify.server == server


@pytest.mark.parametrize(
    "text",
    [
        'smtp = "mail:"',
        'smtp = "mail:x"',
        'smtp = ":25"',
        'user = "a"',
        'sendmail = "sendmail"',
        'tls = "maybe"',
        'smtp = "m"\nuser = "a"\npassword_file = "/p"',
    ],
)
def test_settings_that_are_wrong(text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse(f"[notify]\n{text}\n")
    assert caught.value.code is Exit.CONFIG
