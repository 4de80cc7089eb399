"""What a request to the operators' interface says: its body, its query, who sends it."""

from typing import Protocol, TypeVar

import msgspec
from aiohttp import web

from bootd.drivers.engine import Engine
from bootd.drivers.http.routes import CALLER, Caller
from bootd.drivers.http.server import read_body
from bootd.drivers.notices import Notices
from bootd.drivers.systems import Systems
from bootd.errors import Exit, OperatorError

MAX_BODY = 1 << 20

Body = TypeVar("Body")


class Owner(Protocol):
    """Who answers routes: what handlers outside `operator.py` need of it."""

    engine: Engine
    notices: Notices | None
    systems: Systems | None


async def read_as(request: web.Request, kind: type[Body]) -> Body:
    """The JSON body as ``kind``; `OperatorError` (USAGE) says what does not fit."""
    data = await read_body(request, MAX_BODY)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise OperatorError(f"request: {error}", "see docs/api.md", Exit.USAGE) from None
    except UnicodeDecodeError:
        raise OperatorError("request: not UTF-8", "see docs/api.md", Exit.USAGE) from None


def who_asks(request: web.Request) -> str:
    """For the audit."""
    caller: Caller = request[CALLER]
    return caller.who


def owner_of(request: web.Request, user: str) -> str:
    """Whose an image will be: ``user``, "" = who asks. `OperatorError` (REFUSED): a token speaks for itself."""
    if user and request[CALLER].token:
        raise OperatorError("only root may store an image for another user", "leave user out", Exit.REFUSED)
    return user or who_asks(request)


def number_of(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """A number of the query; `OperatorError` (USAGE) beyond ``least`` and ``most``."""
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not least <= int(text) <= most:
        raise OperatorError(f"request: {name}={text[:40]!r}", f"say a number from {least} to {most}", Exit.USAGE)
    return int(text)
