"""The operators' interface over TCP, for callers with a token (RFC 6750), inside TLS unless it is on loopback."""

import math
import time
from pathlib import Path

import structlog
from aiohttp import web

from bootd.config import Api
from bootd.drivers.http.gate import Bounds
from bootd.drivers.http.limits import Buckets, network_of
from bootd.drivers.http.operator import Operators
from bootd.drivers.http.routes import Caller, Denied
from bootd.drivers.http.server import HttpServer
from bootd.drivers.http.tls import TlsServer, server_context
from bootd.drivers.sockets import listen
from bootd.errors import Exit, OperatorError

log = structlog.get_logger(__name__)

MAX_TOKEN = 256  # characters that are looked at


class NetworkInterface:
    """The server of ``[api]``. A `bootd.drivers.service.Service`."""

    name = "api"

    def __init__(self, operators: Operators, settings: Api) -> None:
        self._operators, self._settings = operators, settings
        self._server: HttpServer | None = None
        rate, failures = settings.requests_per_second, settings.failures_per_minute
        self._requests = Buckets(rate, max(1.0, 2 * rate))
        self._failures = Buckets(failures / 60, failures)

    async def bind(self) -> None:
        """Read the certificate, listen. `OperatorError` when either cannot be done."""
        api = self._settings
        context = server_context(Path(api.certificate), Path(api.key)) if api.certificate else None
        listener = listen(api.address, api.port, "the operators' interface", "api.port")
        bounds = Bounds(connections=api.max_connections, per_address=api.max_connections_per_address)
        app = self._operators.application(self._authenticate)
        self._server = (
            HttpServer(listener, app, bounds) if context is None else TlsServer(listener, app, bounds, context)
        )
        await self._server.prepare()

    async def serve(self) -> None:
        if self._server is not None:
            await self._server.serve()

    async def close(self) -> None:
        self._operators.end_streams()
        if self._server is not None:
            await self._server.close()
            self._server = None

    def _authenticate(self, request: web.Request) -> Caller:
        """A right token always passes its address's limit of wrong ones: 256 random bits cannot be guessed, so that
        limit only bounds the work and the log, and one wrong script must not lock out its neighbours."""
        now = time.monotonic()
        address = request.remote or ""
        key = network_of(address)
        _limit(self._requests.take(key, now), "too many requests")
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        token = None
        if scheme.lower() == "bearer" and len(text) <= MAX_TOKEN:
            token = self._operators.tokens.check(text.strip())
        if token is not None:
            return Caller(f"token {token.name} ({address})", token.scope, token.name, token.expires)
        _limit(self._failures.take(key, now), "too many wrong tokens")
        if text:
            log.warning("wrong token", address=address)
        raise Denied(
            401,
            OperatorError(
                "this needs a token" if not text else "the token is unknown, revoked or expired",
                "bootd token create NAME --scope read, on the server",
                Exit.REFUSED,
            ),
            {"WWW-Authenticate": 'Bearer realm="bootd"' + (', error="invalid_token"' if text else "")},
        )


def _limit(wait: float, what: str) -> None:
    if wait > 0:
        seconds = math.ceil(wait)
        raise Denied(
            429,
            OperatorError(f"{what} from this address", f"try again in {seconds} s", Exit.BUSY),
            {"Retry-After": str(seconds)},
        )
