"""What stage1 has said, for the server: sent once, when stage1 ends."""

import time
from collections import deque

from bootd.wire.control import encode
from bootd.wire.logs import MAX_LINES, Log, LogLine, printable
from stage1.http import Connection, HttpError

BOOT_ID = "/proc/sys/kernel/random/boot_id"
TIMEOUT = 5.0  # seconds
_said: deque[LogLine] = deque(maxlen=MAX_LINES)
_count = 0


def say(text: str) -> None:
    """One line on the console; tests and operators look for these."""
    global _count  # noqa: PLW0603 - one console, one story
    print(f"bootd-stage1: {text}", flush=True)
    _said.append(LogLine(int(time.monotonic() * 1000), "", printable(text)))
    _count += 1


def tell(host: str, port: int, node: str, token: str) -> str:
    """Have the server keep what was said; "" when it does, else why not."""
    try:
        with open(BOOT_ID) as stream:
            boot = stream.read().strip()
        body = encode(Log(node, boot, "stage1", _count - len(_said), tuple(_said)))
        fields = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        with Connection(host, port, TIMEOUT) as connection:
            head = connection.request("POST", "/node/v1/log", fields, body)
    except (OSError, HttpError) as error:
        return str(error)
    return "" if head.status < 300 else f"{head.status} {head.reason}"
