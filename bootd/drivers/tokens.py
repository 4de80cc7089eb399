"""Tokens for the network interface: made, kept as hashes, checked, revoked.

A token is ``bootd_`` and 256 random bits. The journal keeps its SHA-256 only. A slow hash (scrypt) is for secrets
that can be guessed: it makes each guess dear. Nobody guesses 256 random bits, so it would add nothing but the
milliseconds and megabytes that every request, also a stranger's, would cost the daemon's one loop. The hash is what
is looked up, so the time of a look-up says nothing about tokens that exist.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bootd.drivers.http.routes import Scope
from bootd.drivers.journal import Journal
from bootd.errors import Exit, OperatorError
from bootd.session.effects import AuditRecord

PREFIX = "bootd_"
MAX_TOKENS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass
class Token:
    """Times in seconds since the epoch; ``expires`` None = never; ``used`` None = not since the daemon's start."""

    name: str
    digest: bytes
    scope: Scope
    created: float
    creator: str
    expires: float | None
    used: float | None = None


class TokenStore:
    """All tokens, in memory and in the journal. A change is on the disk, with its audit line, when it returns."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        """`OperatorError` when the journal cannot be read."""
        self._journal, self._clock = journal, clock
        self._tokens: dict[bytes, Token] = {}
        for name, digest, scope, created, creator, expires in journal.tokens():
            self._tokens[digest] = Token(name, digest, Scope(scope), created, creator, expires)

    def create(self, name: str, scope: Scope, seconds: float | None, who: str) -> str:
        """A new token, shown this once; valid for ``seconds``, None = until it is revoked."""
        if not _NAME.fullmatch(name):
            raise OperatorError(
                f"{name[:80]!r} is no name of a token",
                "letters, digits, dots, hyphens, underscores; 63 at most",
                Exit.USAGE,
            )
        if any(token.name == name for token in self._tokens.values()):
            raise OperatorError(
                f"there is a token {name!r} already", f"another name, or: bootd token revoke {name}", Exit.USAGE
            )
        if len(self._tokens) >= MAX_TOKENS:
            raise OperatorError(f"there are {MAX_TOKENS} tokens already", "revoke some", Exit.REFUSED)
        text = PREFIX + secrets.token_urlsafe(32)
        now = self._clock()
        token = Token(name, digest(text), scope, now, who, None if seconds is None else now + seconds)
        life = "does not expire" if seconds is None else f"expires in {seconds:.0f} s"
        self._journal.change(
            "INSERT INTO token VALUES (?, ?, ?, ?, ?, ?)",
            (token.name, token.digest, token.scope.value, token.created, token.creator, token.expires),
            AuditRecord(who, "token create", f"{name}: scope {scope}, {life}"),
        )
        self._tokens[token.digest] = token
        return text

    def revoke(self, name: str, who: str) -> None:
        """It counts for nothing from now on."""
        for token in list(self._tokens.values()):
            if token.name == name:
                del self._tokens[token.digest]  # first: also where the disk refuses to be written
                self._journal.change(
                    "DELETE FROM token WHERE name = ?", (name,), AuditRecord(who, "token revoke", name)
                )
                return
        raise OperatorError(f"there is no token {name[:80]!r}", "bootd token list", Exit.USAGE)

    def check(self, text: str) -> Token | None:
        """The token that ``text`` is; None for one that is unknown, revoked or expired."""
        token = self._tokens.get(digest(text))
        now = self._clock()
        if token is None or (token.expires is not None and now >= token.expires):
            return None
        token.used = now
        return token

    def listing(self) -> list[dict[str, Any]]:
        """Every token by name, without what would let anybody use it."""
        now = self._clock()
        return [
            {
                "name": token.name,
                "scope": token.scope.value,
                "created": token.created,
                "creator": token.creator,
                "expires": token.expires,
                "expired": token.expires is not None and now >= token.expires,
                "used": token.used,
            }
            for token in sorted(self._tokens.values(), key=lambda token: token.name)
        ]


def digest(text: str) -> bytes:
    """What is kept of a token: 32 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
