"""A job's process: ``python -m bootd.drivers.jobs.worker``.

One JSON line ``{"work": NAME, "order": {…}}`` on standard input. It tells on standard error, in lines ``job {…}``;
it ends with the work, or when standard input closes.
"""

import json
import logging
import os
import sys
import threading
import time
from importlib import import_module
from typing import Any

from bootd.drivers.jobs.tell import Result
from bootd.errors import Exit, OperatorError

PREFIX = "job "
MAX_ORDER = 1 << 20  # bytes
MAX_NOTE = 1000  # characters
TELL_SECONDS = 0.2
# What a job may be: module and function, called with a `Tell` and the order's keys. It returns JSON values.
WORK = {
    "image-put": ("bootd.drivers.images.put", "put_file"),
    "image-get": ("bootd.drivers.images.get", "get_file"),
    "image-import": ("bootd.drivers.formats.importing", "import_image"),
    "image-export": ("bootd.drivers.formats.exporting", "export_image"),
    "image-push": ("bootd.drivers.registry.work", "push"),
    "image-pull": ("bootd.drivers.registry.work", "pull"),
    "image-fetch": ("bootd.drivers.images.upstream", "fetch"),
    "image-verify": ("bootd.drivers.images.verify", "verify"),
    "image-heal": ("bootd.drivers.images.heal", "heal"),
    "image-gc": ("bootd.drivers.images.removal", "collect"),
}


class Teller:
    """A `bootd.drivers.jobs.tell.Tell` that writes lines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0.0

    def progress(self, done: int, total: int, text: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self._last < TELL_SECONDS:
            return
        self._last = now
        self.say({"done": done, "total": total, "text": text[:200]})

    def note(self, text: str) -> None:
        self.say({"note": text[:MAX_NOTE]})

    def say(self, value: dict[str, Any]) -> None:
        with self._lock:
            sys.stderr.write(f"{PREFIX}{json.dumps(value)}\n")
            sys.stderr.flush()


def run(name: str, order: dict[str, Any], teller: Teller) -> int:
    """Do the work; the exit status."""
    try:
        module, function = WORK[name]
        result: Result = getattr(import_module(module), function)(teller, **order)
    except OperatorError as error:
        teller.say({"error": {"message": error.message[:2000], "hint": error.hint[:500], "code": int(error.code)}})
        return 1
    except Exception as error:
        logging.getLogger("bootd.job").exception("%s", name)
        message = f"a defect of bootd in {name}: {type(error).__name__}"
        teller.say({"error": {"message": message, "hint": "see the log of bootd", "code": int(Exit.ERROR)}})
        return 1
    teller.say({"result": result})
    return 0


def main() -> None:
    """Entry of the process."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    try:
        order = json.loads(sys.stdin.buffer.readline(MAX_ORDER))
        name, arguments = order["work"], dict(order["order"])
    except (ValueError, KeyError, TypeError) as error:
        logging.getLogger("bootd.job").error("no usable order: %s", error)  # noqa: TRY400 - one line
        sys.exit(2)

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(3)  # cancelled, or the daemon is gone: what is half done is so made that it may be left

    threading.Thread(target=watch, name="bootd-stdin", daemon=True).start()
    sys.exit(run(name, arguments, Teller()))


if __name__ == "__main__":
    main()
