"""What the operators' interface is made of, whatever carries it: routes, scopes, and who asks."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiohttp import web

from bootd.errors import Exit, OperatorError

PREFIX = "/api/v1"


class Scope(StrEnum):
    """What a caller may do; each allows what the one before it does."""

    READ = "read"  # look
    EXPORT = "export"  # read what images hold: whole disks, with all that is secret on them
    OPERATE = "operate"  # sessions, labels, nodes
    ADMIN = "admin"  # tokens

    def allows(self, wanted: "Scope") -> bool:
        ranks = list(Scope)
        return ranks.index(self) >= ranks.index(wanted)


@dataclass(frozen=True)
class Caller:
    """Who asks. ``token`` is its name, "" on the unix socket; ``expires`` in seconds since the epoch."""

    who: str  # for the audit
    scope: Scope
    token: str = ""
    expires: float | None = None


CALLER = web.RequestKey("caller", Caller)  # of a request: who its transport has found


@dataclass(frozen=True)
class Route:
    """One request. ``path`` below `PREFIX`; ``answer`` and ``body``: types that msgspec knows, None = no content.

    ``query``: names of the parameters, all optional, and what they mean.
    """

    method: str
    path: str
    handler: Callable[[Any, web.Request], Awaitable[web.StreamResponse]]
    summary: str
    answer: Any = None
    body: Any = None
    query: tuple[tuple[str, str], ...] = ()
    status: int = 200
    media: str = "application/json"
    needs: Scope | None = None

    @property
    def scope(self) -> Scope:
        """What the caller needs: READ to GET, OPERATE for all else, unless the route says otherwise."""
        return self.needs or (Scope.READ if self.method == "GET" else Scope.OPERATE)


class Denied(OperatorError):  # noqa: N818 - an answer, as web.HTTPException is
    """An answer with a status and headers of its own."""

    def __init__(self, status: int, error: OperatorError, headers: dict[str, str] | None = None) -> None:
        super().__init__(error.message, error.hint, error.code)
        self.status, self.headers = status, headers or {}


def add_routes(app: web.Application, routes: tuple[Route, ...], owner: object) -> None:
    """Let ``owner`` answer ``routes``, each only to who may."""
    for route in routes:
        app.router.add_route(route.method, PREFIX + route.path, _enforced(route, owner))


def _enforced(route: Route, owner: object) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        caller: Caller = request[CALLER]  # no transport lets a request through without one
        if not caller.scope.allows(route.scope):
            raise Denied(
                403,
                OperatorError(
                    f"token {caller.token!r} has scope {caller.scope}, this needs {route.scope}",
                    f"bootd token create NAME --scope {route.scope}",
                    Exit.REFUSED,
                ),
                # RFC 6750, section 3.1
                {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{route.scope}"'},
            )
        return await route.handler(owner, request)

    return handle
