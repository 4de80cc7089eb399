"""Messages whose first line is a header in JSON; what follows it is bytes of a disk."""

import json
from typing import Any

from bootd.wire.errors import PeerProtocolError


def split(data: bytes, what: str, *, version: int, limit: int) -> tuple[dict[str, Any], bytes]:
    """Header and bytes of ``data``, at most ``limit`` of it; `PeerProtocolError` about ``what`` says what does not
    fit."""
    if len(data) > limit:
        raise PeerProtocolError(f"{what} of {len(data)} bytes, at most {limit} allowed")
    line, separator, content = data.partition(b"\n")
    try:
        header = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PeerProtocolError(f"{what}: {error}") from None
    if not separator or not isinstance(header, dict) or header.get("version") != version:
        raise PeerProtocolError(f"{what}: its first line is not a header of version {version}")
    return header, content
