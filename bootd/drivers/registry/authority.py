"""What we show a registry: nothing, Basic (RFC 7617), or a Bearer token from its token server.

Token servers: "Token Authentication Specification" of Distribution. No error shows a password or a token.
"""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlencode, urlsplit

from bootd.drivers.registry.credentials import Login
from bootd.errors import Exit, OperatorError
from bootd.images.oci.answers import Challenge

_SECONDS = 60.0  # that a token is valid unless its server says otherwise
_EARLY = 5.0  # a token is not used for its last seconds

# URL, headers and form (None: GET) to the status and the body of the answer.
Fetch = Callable[[str, Mapping[str, str], Mapping[str, str] | None], Awaitable[tuple[int, bytes]]]


class Authority:
    """The authorization of one client. ``scopes`` name what a request needs; each set of them has its own token."""

    def __init__(
        self, host: str, login: Login | None, fetch: Fetch, *, may_be_plain: Callable[[str], bool] = lambda _: False
    ) -> None:
        """``may_be_plain`` says whether a token server (HOST[:PORT]) may be spoken to without TLS."""
        self._host, self._login, self._fetch, self._may_be_plain = host, login, fetch, may_be_plain
        self._basic = False
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._lock = asyncio.Lock()

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """The Authorization header, as far as it is known by now."""
        if self._basic and self._login is not None:
            return _basic(self._login)
        token, until = self._tokens.get(scopes, ("", 0.0))
        return f"Bearer {token}" if token and time.monotonic() < until else None

    async def answer(self, challenges: Sequence[Challenge], scopes: tuple[str, ...], shown: str | None) -> None:
        """A request that showed ``shown`` was refused (401): get what is wanted instead, for `header`.

        `OperatorError` (REFUSED) when there is nothing else to show.
        """
        async with self._lock:
            if self.header(scopes) not in (None, shown):
                return  # another request has got it meanwhile
            wanted = {challenge.scheme: challenge.parameters for challenge in challenges}
            if shown is not None and shown.startswith("Basic "):
                raise self._refused()
            if "bearer" in wanted:
                await self._get_token(wanted["bearer"], scopes)
            elif "basic" in wanted and self._login is not None and self._login.user:
                self._basic = True
            elif "basic" in wanted or not wanted:
                raise self._refused()
            else:
                raise OperatorError(
                    f"{self._host} wants to be told who we are in a way that bootd does not know:"
                    f" {', '.join(sorted(wanted))[:100]}",
                    "bootd knows Basic and Bearer",
                    Exit.REFUSED,
                )

    async def _get_token(self, parameters: Mapping[str, str], scopes: tuple[str, ...]) -> None:
        realm = parameters.get("realm", "")
        parts = urlsplit(realm)
        server = parts.netloc.rpartition("@")[2]
        if not server or (parts.scheme != "https" and not (parts.scheme == "http" and self._may_be_plain(server))):
            raise OperatorError(
                f"{self._host} sends us to the token server {parts.scheme}://{server}"[:200] + ", which has no TLS",
                "let it name an https realm; a password is not sent in the clear",
                Exit.REFUSED,
            )
        asked = tuple(parameters.get("scope", "").split()) or scopes
        fields = [("service", parameters["service"])] if "service" in parameters else []
        login = self._login
        if login is not None and login.identity_token:
            form = {"grant_type": "refresh_token", "client_id": "bootd", "refresh_token": login.identity_token}
            status, body = await self._fetch(realm, {}, {**form, **dict(fields), "scope": " ".join(asked)})
        else:
            headers = {"Authorization": _basic(login)} if login is not None and login.user else {}
            query = urlencode([*fields, *(("scope", scope) for scope in asked)])
            status, body = await self._fetch(f"{realm}{'&' if parts.query else '?'}{query}", headers, None)
        if status in (400, 401, 403):
            raise self._refused(server)
        try:
            value = json.loads(body) if status == 200 else {}
            token = str(value.get("token") or value.get("access_token") or "")
            seconds = float(value.get("expires_in") or _SECONDS)
        except (ValueError, TypeError, AttributeError):
            token, seconds = "", 0.0
        if not token or not token.isascii() or not token.isprintable():
            raise OperatorError(
                f"the token server {server} of {self._host} gave no token (status {status})",
                "see its log",
                Exit.UNREACHABLE,
            )
        self._tokens[scopes] = (token, time.monotonic() + max(seconds, 2 * _EARLY) - _EARLY)

    def _refused(self, server: str = "") -> OperatorError:
        where = f"the token server {server} of {self._host}" if server else self._host
        if self._login is None:
            return OperatorError(
                f"{where} wants a login, and none is known for {self._host}",
                f"write one for {self._host} into the file that [registry] credentials names",
                Exit.REFUSED,
            )
        who = f"the login {self._login.user!r}" if self._login.user else "the identity token"
        return OperatorError(
            f"{where} does not accept {who}",
            f"mend the entry of {self._host} in the file that [registry] credentials names",
            Exit.REFUSED,
        )


def _basic(login: Login) -> str:
    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
