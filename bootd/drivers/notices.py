"""Tells people and programs of the end of a session: mail and webhooks, kept until they have gone out.

Whom to tell is in the journal before the operator has an answer. What the daemon was about to send when it was
killed is sent by the next one: somebody may be told twice, never not at all. Deliveries run beside the loop, few at
a time, with a time-out and a bounded number of tries each.
"""

import asyncio
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

import aiohttp
import structlog

from bootd.config import Notify
from bootd.drivers.engine import Engine
from bootd.drivers.journal import Journal
from bootd.drivers.secrets import read_password
from bootd.errors import Exit, OperatorError
from bootd.session import notices
from bootd.session.effects import AuditRecord, Outcome
from bootd.session.notices import Target, parse_target

log = structlog.get_logger(__name__)

PAUSES = (0.0, 5.0, 30.0, 120.0, 600.0)  # seconds before each try
AT_ONCE = 4
MOST_OF_SESSION = 8
MOST = 256  # that wait
KEPT = 100  # that have gone out, or failed
_LOOK_SECONDS = 0.5
_AGAIN = (408, 429)  # of the statuses below 500, those that may be another one later
_MAX_TROUBLE = 300  # characters of an error


class Undelivered(Exception):  # noqa: N818 - a result, not a defect
    """It was not taken; the text says why. ``is_final``: trying again will not help."""

    def __init__(self, text: str, *, is_final: bool = False) -> None:
        super().__init__(text)
        self.is_final = is_final


@dataclass
class Notice:
    """Somebody to be told of the end of ``session`` (its id). ``state``: "waiting", "sending", "sent", "failed"."""

    number: int
    session: str
    target: Target
    state: str = "waiting"
    text: str = ""


class Notices:
    """A `bootd.drivers.service.Service`. ``pauses``: seconds before each try."""

    name = "notices"

    def __init__(
        self, engine: Engine, journal: Journal, settings: Notify, pauses: Sequence[float] = PAUSES
    ) -> None:
        """`OperatorError` when the journal cannot be read."""
        self._engine, self._journal, self._settings, self._pauses = engine, journal, settings, pauses
        self._notices = [
            Notice(number, session, parse_target(target), state, text)
            for number, session, target, state, text in journal.notices()
        ]
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, session: str, target: str, who: str) -> None:
        """Tell ``target`` when ``session`` (its id) has ended; at once if it has. Twice the same counts once."""
        parsed = parse_target(target)
        waiting = [notice for notice in self._notices if notice.state in ("waiting", "sending")]
        own = [notice for notice in waiting if notice.session == session]
        if any(notice.target == parsed for notice in own):
            return
        if len(own) >= MOST_OF_SESSION or len(waiting) >= MOST:
            raise OperatorError("too many are to be told already", "tell a list, or wait for some", Exit.BUSY)
        number = 1 + max((notice.number for notice in self._notices), default=0)
        audit = AuditRecord(who, "notify", f"{session} {parsed.shown}")
        values = (number, session, target, "waiting", "")
        self._journal.change("INSERT INTO notice VALUES (?, ?, ?, ?, ?)", values, audit)
        self._notices.append(Notice(number, session, parsed))

    def listing(self, session: str) -> list[dict[str, Any]]:
        """Who is told of the end of ``session`` (its id), and how that went."""
        return [
            {"target": notice.target.shown, "state": notice.state, "text": notice.text}
            for notice in self._notices
            if notice.session == session
        ]

    async def bind(self) -> None:
        """There is nothing to bind."""

    async def serve(self) -> None:
        """Look for sessions that have ended, until cancelled."""
        while True:
            for notice in list(self._notices):
                outcome = self._outcome(notice) if notice.state == "waiting" else None
                if outcome is not None:
                    notice.state = "sending"
                    task = asyncio.create_task(self._deliver(notice, outcome), name=f"notice {notice.number}")
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        """What has not gone out is left to the next daemon."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _outcome(self, notice: Notice) -> Outcome | None:
        try:
            return self._engine.coordinator.outcome(notice.session)
        except OperatorError:  # so many have ended since that it is not kept any more
            self._settle(notice, "failed", "its session is not known any more")
            return None

    async def _deliver(self, notice: Notice, outcome: Outcome) -> None:
        """All tries of one notice."""
        name, source = self._session(notice.session)
        trouble = ""
        for pause in self._pauses:
            await asyncio.sleep(pause)
            try:
                async with self._slots, asyncio.timeout(2 * self._settings.timeout_seconds):
                    await self._send(notice.target, outcome, name, source)
            except Undelivered as error:
                trouble = str(error)
                if error.is_final:
                    break
            except TimeoutError:
                trouble = f"no answer within {2 * self._settings.timeout_seconds:g} s"
            except Exception as error:  # a defect must not leave somebody untold without a word
                log.exception("notice failed", session=notice.session, target=notice.target.shown)
                trouble = type(error).__name__
                break
            else:
                self._settle(notice, "sent", "")
                return
        self._settle(notice, "failed", trouble[:_MAX_TROUBLE])

    def _settle(self, notice: Notice, state: str, text: str) -> None:
        notice.state, notice.text = state, text
        told = f"{notice.target.shown}: {state}{f': {text}' if text else ''}"
        self._engine.note("notice", "", notice.session, told)
        ended = [one for one in self._notices if one.state in ("sent", "failed")]
        statement = "UPDATE notice SET state = ?, text = ? WHERE number = ?"
        try:
            audit = AuditRecord("bootd", "notified", f"{notice.session} {told}")
            self._journal.change(statement, (state, text, notice.number), audit)
            for old in ended[: max(0, len(ended) - KEPT)]:
                self._journal.forget_notice(old.number)
                self._notices.remove(old)
        except OperatorError as error:
            log.error("notice not recorded", error=error.message, hint=error.hint)  # noqa: TRY400

    def _session(self, id_: str) -> tuple[str, str]:
        """Name and source of a session."""
        coordinator = self._engine.coordinator
        known = coordinator.sessions.get(id_)
        if known is not None:
            return known.plan.name, known.plan.source
        record = coordinator.past.get(id_)
        return (record.name, record.source) if record is not None else ("", "")

    async def _send(self, target: Target, outcome: Outcome, name: str, source: str) -> None:
        if not target.addresses:
            await self._post(target, notices.payload(outcome, name, source))
            return
        title = name or outcome.session
        message = EmailMessage()
        message["From"] = sender = self._settings.sender or f"bootd@{socket.getfqdn()}"
        message["To"] = ", ".join(target.addresses)
        message["Subject"] = notices.subject(outcome, title)
        message["Date"], message["Message-ID"] = (
            formatdate(localtime=True),
            make_msgid(domain=sender.partition("@")[2]),
        )
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notes in return
        message.set_content(notices.mail_text(outcome, title, source))
        await asyncio.to_thread(self._mail, message)

    async def _post(self, target: Target, payload: dict[str, Any]) -> None:
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_seconds)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": "bootd"}) as client,
                client.post(target.text, json=payload, allow_redirects=False) as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__  # its text may hold the URL
            raise Undelivered(f"not reached: {reason}") from None
        if not 200 <= status < 300:
            raise Undelivered(f"answered {status}", is_final=status < 500 and status not in _AGAIN)

    def _mail(self, message: EmailMessage) -> None:
        """In a thread. By SMTP if a server is named, else by the local sendmail."""
        if self._settings.smtp:
            self._mail_by_smtp(message)
        else:
            self._mail_by_program(message)

    def _mail_by_smtp(self, message: EmailMessage) -> None:
        settings = self._settings
        host, port = settings.server
        try:
            with self._connect(host, port) as server:
                if settings.tls == "starttls":
                    server.starttls(context=ssl.create_default_context())
                if settings.user:
                    server.login(settings.user, read_password(settings.password_file))
                refused = server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            is_final = any(code >= 500 for code, _ in error.recipients.values())
            raise _refused(error.recipients, is_final=is_final) from None
        except smtplib.SMTPResponseException as error:
            text = _text(error.smtp_error)
            raise Undelivered(f"{host}: {error.smtp_code} {text}", is_final=error.smtp_code >= 500) from None
        except (OSError, smtplib.SMTPException) as error:
            raise Undelivered(f"{host}:{port}: {error}") from None
        except OperatorError as error:
            raise Undelivered(f"{error.message}; {error.hint}") from None
        if refused:
            raise _refused(refused, is_final=True)  # the others would get it twice

    def _connect(self, host: str, port: int) -> smtplib.SMTP:
        seconds = self._settings.timeout_seconds
        if self._settings.tls == "on":
            return smtplib.SMTP_SSL(host, port, timeout=seconds, context=ssl.create_default_context())
        return smtplib.SMTP(host, port, timeout=seconds)

    def _mail_by_program(self, message: EmailMessage) -> None:
        program = self._settings.sendmail
        try:
            done = subprocess.run(
                [program, "-t", "-i"],
                input=message.as_bytes(),
                capture_output=True,
                timeout=self._settings.timeout_seconds,
            )
        except FileNotFoundError:
            text = f"no {program} here: name a server with smtp under [notify]"
            raise Undelivered(text, is_final=True) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Undelivered(f"{program}: {error}") from None
        if done.returncode != 0:
            text = done.stderr.decode(errors="replace").strip() or f"status {done.returncode}"
            raise Undelivered(f"{program}: {text}")


def _text(words: bytes | str) -> str:
    return words.decode(errors="replace") if isinstance(words, bytes) else words


def _refused(recipients: dict[str, tuple[int, bytes]], *, is_final: bool) -> Undelivered:
    """A server did not take the mail for some."""
    parts = [f"{who}: {code} {text.decode(errors='replace')}" for who, (code, text) in recipients.items()]
    return Undelivered("; ".join(parts), is_final=is_final)
