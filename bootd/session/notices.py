"""Word of a session's end to people and programs: whom to tell, and what. Sans-IO."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from bootd.errors import Exit, OperatorError
from bootd.session.effects import Outcome

MAX_TARGET = 1000  # characters
# One mailbox as RFC 5321, section 4.1.2, has it, without quoted local parts; lengths: section 4.5.3.1.
_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")


@dataclass(frozen=True)
class Target:
    """``mailto:ADDRESS[,ADDRESS]`` or the URL of a webhook."""

    text: str
    addresses: tuple[str, ...] = ()  # () = a webhook

    @property
    def shown(self) -> str:
        """For logs and lists: what follows the host of a webhook is often its secret."""
        if self.addresses:
            return self.text
        url = urlsplit(self.text)
        return f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}/…"


def parse_target(text: str) -> Target:
    """`OperatorError` (USAGE) for what is neither a mail address nor the URL of a webhook."""
    hint = "say mailto:you@example.org or https://example.org/hook"
    if len(text) > MAX_TARGET or not text.isprintable() or " " in text:
        raise OperatorError("nobody can be told there", hint, Exit.USAGE)
    if text.lower().startswith("mailto:"):
        addresses = tuple(unquote(part) for part in text[len("mailto:") :].split(","))
        for address in addresses:
            if not _MAILBOX.match(address):
                raise OperatorError(f"{address[:80]!r} is no mail address", hint, Exit.USAGE)
        return Target(text, addresses)
    try:
        url = urlsplit(text)
        port_is_good = url.port is None or url.port > 0
    except ValueError as error:
        raise OperatorError(f"that is no URL: {error}", hint, Exit.USAGE) from None
    if url.scheme not in ("https", "http") or not url.hostname or not port_is_good:
        raise OperatorError("nobody can be told there", hint, Exit.USAGE)
    if url.username or url.password:
        raise OperatorError("a webhook with a name and a password in it", "put its secret in the path", Exit.USAGE)
    return Target(text)


def subject(outcome: Outcome, title: str) -> str:
    """One line."""
    cloned = sum(verdict.ok for verdict in outcome.verdicts)
    return f"[bootd] session {title}: {outcome.state}, {cloned} of {len(outcome.verdicts)} nodes cloned"


def mail_text(outcome: Outcome, title: str, source: str) -> str:
    """A line for each node; those that are not cloned first."""
    lines = [subject(outcome, title).removeprefix("[bootd] "), f"{outcome.reason}", f"image: {source}", ""]
    for verdict in sorted(outcome.verdicts, key=lambda verdict: (verdict.ok, verdict.name)):
        lines.append(f"{verdict.name} ({verdict.node}): {verdict.standing}: {verdict.reason}")
    if any(not verdict.ok for verdict in outcome.verdicts):
        lines += ["", f"to try again what is not cloned: bootd session retry {title}"]
    return "\n".join(lines) + "\n"


def payload(outcome: Outcome, name: str, source: str) -> dict[str, Any]:
    """The JSON of a webhook. ``code`` is the exit code of ``bootd wait``. Keys are only ever added."""
    return {
        "event": "session-ended",
        "session": outcome.session,
        "name": name,
        "state": outcome.state,
        "reason": outcome.reason,
        "code": int(outcome.code),
        "source": source,
        "nodes": [
            {
                "node": verdict.node,
                "name": verdict.name,
                "ok": verdict.ok,
                "state": verdict.standing,
                "reason": verdict.reason,
            }
            for verdict in outcome.verdicts
        ],
    }
