"""What every request of an operator needs: its body as a value, and who asks."""

from typing import TypeVar

import msgspec
from aiohttp import web

from bootd.drivers.http.routes import CALLER, Caller
from bootd.drivers.http.server import read_body
from bootd.errors import Exit, OperatorError

MAX_BODY = 1 << 20

Body = TypeVar("Body")


async def body_of(request: web.Request, kind: type[Body]) -> Body:
    """The decoded body; `OperatorError` (USAGE) says what does not fit."""
    data = await read_body(request, MAX_BODY)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise OperatorError(f"request: {error}", "see docs/api.md", Exit.USAGE) from None
    except UnicodeDecodeError:
        raise OperatorError("request: not UTF-8", "see docs/api.md", Exit.USAGE) from None


def who_asks(request: web.Request) -> str:
    """Who asks, for the audit."""
    caller: Caller = request[CALLER]
    return caller.who
