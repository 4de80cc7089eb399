"""Requests to one registry: TLS or not, authorization, redirects, and asking again."""

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from bootd.drivers.registry.authority import Authority
from bootd.drivers.registry.credentials import Login
from bootd.errors import Exit, OperatorError
from bootd.images.oci.answers import AGAIN, explain, parse_challenges, pause, retry_after
from bootd.images.oci.reference import RegistryReference, is_loopback

CONNECTIONS = 8
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0  # nothing comes
_MAX_ERROR = 64 << 10
_MAX_TOKEN = 1 << 20
_REDIRECTS = 5
_CHALLENGES = 2  # of one request: a token that expired, and one that the registry does not take
DROPPED = (aiohttp.ClientError, OSError, TimeoutError)

Body = Callable[[], AsyncIterator[memoryview]]


class Lost(Exception):  # noqa: N818 - how a try ended; whoever asked decides whether there is another
    """No answer, or one that asks to come again, in ``wanted`` seconds if it says when."""

    def __init__(self, error: OperatorError, wanted: float | None = None) -> None:
        super().__init__(error.message)
        self.error, self.wanted = error, wanted


@dataclass(frozen=True)
class Answer:
    """An answer that has been read."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    response: aiohttp.ClientResponse  # where it came from, for `Transport.location`


class Transport:
    """An asynchronous context manager. All methods raise `OperatorError`."""

    def __init__(
        self,
        reference: RegistryReference,
        login: Login | None,
        trusted: ssl.SSLContext,
        plain_hosts: Collection[str] = (),
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``plain_hosts`` may be spoken to without TLS, as this machine may. ``on_wait`` is told why we wait."""
        self._plain_hosts = frozenset(plain_hosts)
        self.host, self.base = reference.host, f"{reference.scheme}://{reference.host}"
        if reference.scheme == "http" and not self._may_be_plain(self.host):
            raise OperatorError(
                f"{self.host} without TLS: passwords and images could be read and changed on the way",
                f"leave http:// out, or allow it in bootd.toml: [registry] plain_hosts = [{json.dumps(self.host)}]",
                Exit.REFUSED,
            )
        self._trusted, self._on_wait = trusted, on_wait
        self._authority = Authority(self.host, login, self._fetch, may_be_plain=self._may_be_plain)
        self._open: aiohttp.ClientSession | None = None
        self.requests = 0  # sent so far

    async def __aenter__(self) -> Self:
        self._open = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._trusted),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS),
            headers={"User-Agent": "bootd", "Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._open is not None:
            await self._open.close()

    async def ask(
        self,
        method: str,
        url: str,
        scopes: tuple[str, ...],
        *,
        accepted: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        limit: int = _MAX_ERROR,
    ) -> Answer:
        """One request, sent again while that may help. An answer that is not ``accepted`` is an `OperatorError`."""
        tries = 0
        while True:
            tries += 1
            try:
                async with self.once(method, url, scopes, headers or {}, body) as response:
                    if response.status in accepted:
                        data = await self._read(response, limit)
                        return Answer(response.status, response.headers, data, response)
                    error = await self.refusal(response)
                    if response.status not in AGAIN:
                        raise error
                    lost = Lost(error, wanted_pause(response))
            except Lost as failure:
                lost = failure
            await self.wait(tries, lost)

    @contextlib.asynccontextmanager
    async def once(
        self, method: str, url: str, scopes: tuple[str, ...], headers: Mapping[str, str], body: Body | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, sent once, whatever the answer is. `Lost` when there is none, or when it breaks off."""
        response = await self._send(method, url, scopes, headers, body)
        async with response:
            try:
                yield response
            except DROPPED as error:
                raise Lost(self._unreachable(error)) from None

    async def wait(self, tries: int, lost: Lost) -> None:
        """Before the next of ``tries`` tries, or raise what the last one ended with."""
        seconds = pause(tries, lost.wanted, random.random())
        if seconds is None:
            raise lost.error from None
        self._on_wait(f"{lost.error.message}; again in {seconds:.1f} s")
        await asyncio.sleep(seconds)

    async def refusal(self, response: aiohttp.ClientResponse) -> OperatorError:
        """What an answer with an error means for an operator. The answer is read to its end."""
        body = b""
        with contextlib.suppress(*DROPPED):
            async with response:
                body = await response.content.read(_MAX_ERROR)
        said = explain(body)
        detail = f": {said}" if said else ""
        status, asked = response.status, f"{response.method} {response.url.path}"[:300]
        if status in (401, 403):
            return OperatorError(
                f"{self.host} does not allow {asked}{detail}",
                "see the rights of the login that [registry] credentials has for it",
                Exit.REFUSED,
            )
        if status == 429:
            return OperatorError(f"{self.host} takes no more requests now{detail}", "try later", Exit.UNREACHABLE)
        if status >= 500:
            return OperatorError(
                f"{self.host} failed at {asked} with status {status}{detail}", "see its log", Exit.UNREACHABLE
            )
        return OperatorError(f"{self.host} refuses {asked} with status {status}{detail}", "see its log", Exit.INPUT)

    def location(self, response: aiohttp.ClientResponse) -> str:
        """Where an answer sends us, absolute."""
        url = urljoin(str(response.url), response.headers.get("Location", ""))
        parts = urlsplit(url)
        server = parts.netloc.rpartition("@")[2]
        if parts.scheme not in ("https", "http") or not server:
            raise OperatorError(f"{self.host} sends us nowhere", "its Location header is wrong", Exit.UNREACHABLE)
        if parts.scheme == "http" and (self.base.startswith("https://") or not self._may_be_plain(server)):
            raise OperatorError(
                f"{self.host} sends us on to http://{server}"[:200] + ", without TLS",
                "behind a proxy, let the registry know its own address (http.host in its configuration)",
                Exit.REFUSED,
            )
        return url

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_chunked(1 << 16):
            size += len(part)
            if size > limit:
                raise OperatorError(
                    f"{self.host} answers with more than {limit} bytes", "that is no registry", Exit.INPUT
                )
            parts.append(part)
        return b"".join(parts)

    async def _send(
        self, method: str, url: str, scopes: tuple[str, ...], headers: Mapping[str, str], body: Body | None
    ) -> aiohttp.ClientResponse:
        """With authorization; redirects are followed. `Lost` without an answer."""
        if self._open is None:
            raise RuntimeError("a request outside of the context")
        challenged = redirected = 0
        while True:
            ours = _origin(url) == _origin(self.base)  # a storage that we are sent to gets no password
            shown = self._authority.header(scopes) if ours else None
            sent = {**headers, "Authorization": shown} if shown else headers
            self.requests += 1
            try:
                response = await self._open.request(
                    method,
                    URL(url, encoded=True),
                    headers=sent,
                    data=body() if body else None,
                    allow_redirects=False,
                )
            except DROPPED as error:
                raise self._lost(error) from None
            if response.status == 401 and ours and challenged < _CHALLENGES:
                challenged += 1
                header = ", ".join(response.headers.getall("WWW-Authenticate", []))
                response.release()
                await self._authority.answer(parse_challenges(header), scopes, shown)
            elif response.status in (301, 302, 303, 307, 308) and method in ("GET", "HEAD"):
                redirected += 1
                url = self.location(response)
                response.release()
                if redirected > _REDIRECTS:
                    raise OperatorError(f"{self.host} sends us in circles", "see its log", Exit.UNREACHABLE)
            else:
                return response

    async def _fetch(
        self, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        """For `Authority`: a token server's answer."""
        if self._open is None:
            raise RuntimeError("a request outside of the context")
        tries = 0
        while True:
            tries += 1
            try:
                async with self._open.request(
                    "GET" if form is None else "POST", url, headers=headers, data=form, allow_redirects=False
                ) as response:
                    if response.status not in AGAIN:
                        return response.status, await self._read(response, _MAX_TOKEN)
                    lost = Lost(await self.refusal(response), wanted_pause(response))
            except DROPPED as error:
                lost = self._lost(error, urlsplit(url).netloc.rpartition("@")[2])
            await self.wait(tries, lost)

    def _lost(self, error: Exception, server: str = "") -> Lost:
        """`Lost`; an `OperatorError` at once where trying again cannot help."""
        failure = self._unreachable(error, server)
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.InvalidURL | aiohttp.ClientSSLError):
            raise failure from None
        return Lost(failure)

    def _unreachable(self, error: Exception, server: str = "") -> OperatorError:
        where = server or self.host
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = error.certificate_error
            return OperatorError(
                f"{where} is not trusted: {getattr(why, 'verify_message', '') or why}",
                "name its authority in bootd.toml: [registry] authority; and use the name that its certificate has",
                Exit.UNREACHABLE,
            )
        if isinstance(error, aiohttp.ClientSSLError):
            return OperatorError(
                f"{where} does not speak TLS",
                f"without TLS (only on this machine, or where [registry] plain_hosts allows it): http://{self.host}/…",
                Exit.UNREACHABLE,
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return OperatorError(
            f"{where} does not answer: {reason}"[:300], "see that it runs and can be reached", Exit.UNREACHABLE
        )

    def _may_be_plain(self, host: str) -> bool:
        return is_loopback(host) or host in self._plain_hosts


def wanted_pause(response: aiohttp.ClientResponse) -> float | None:
    """Seconds that the answer asks to wait, if it does."""
    return retry_after(response.headers.get("Retry-After", ""), time.time())


def _origin(url: str) -> tuple[Any, ...]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
