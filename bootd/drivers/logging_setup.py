"""Where log lines go: standard error, JSON when that is not a terminal. Errors are logged once, where handled.

Every line says of which node and of which session it is, "" where it is of none: a line that names a node gets the
session that the node is in now.
"""

import logging
import os
import sys
from collections.abc import Callable

import structlog
from structlog.typing import EventDict, Processor

from bootd.drivers import metrics

HEAD = "head-"
# systemd's sd-daemon.h: a line that begins so has this priority in the journal, which takes the mark off.
_PRIORITIES = {"critical": "<2>", "error": "<3>", "warning": "<4>", "info": "<6>"}


class _Sessions:
    """Which session a node is in: the daemon says who knows."""

    lookup: Callable[[str], str] = staticmethod(lambda _: "")


def follow_sessions(lookup: Callable[[str], str]) -> None:
    """From now on lines of a node carry what ``lookup`` says of its MAC: the id of its session, or ""."""
    _Sessions.lookup = staticmethod(lookup)


def set_up_logging(*, terminal: bool | None = None, journal: bool | None = None) -> None:
    """Configure structlog for this process. ``terminal`` and ``journal`` override the look at standard error."""
    pretty = sys.stderr.isatty() if terminal is None else terminal
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _count,
        _whose,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor]
    if pretty:
        final = [structlog.dev.ConsoleRenderer()]
    else:
        final = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if _is_journal() if journal is None else journal:
            final = [final[0], _with_priority]
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def _whose(_logger: object, _method: str, line: EventDict) -> EventDict:
    """``node`` and ``session`` on every line; a MAC under another name is the node's."""
    node = str(line.get("node") or line.pop("mac", "") or "")
    if not node and str(line.get("name", "")).startswith(HEAD):  # what the head of a session writes
        node = str(line["name"])
    session = str(line.get("session") or "")
    if node.startswith(HEAD):
        session = session or node.removeprefix(HEAD)
    elif node and not session:
        session = _Sessions.lookup(node)
    line.update(node=node, session=session)
    return line


def _count(_logger: object, _method: str, line: EventDict) -> EventDict:
    if line["level"] in ("warning", "error", "critical"):
        metrics.LOG_LINES.labels("warning" if line["level"] == "warning" else "error").inc()
    return line


def _is_journal() -> bool:
    """Whether standard error goes to systemd's journal: it says so in JOURNAL_STREAM."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


_render = structlog.processors.JSONRenderer()


def _with_priority(logger: object, method: str, line: EventDict) -> str:
    rendered = _render(logger, method, line)
    text = rendered if isinstance(rendered, str) else rendered.decode()
    return _PRIORITIES.get(str(line["level"]), "<6>") + text


class _Forward(logging.Handler):
    """Warnings and errors of libraries, which use the standard library's logging, take the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record as one structlog line."""
        log = structlog.get_logger(record.name)
        method = log.error if record.levelno >= logging.ERROR else log.warning
        method(record.getMessage(), exc_info=record.exc_info or None)
