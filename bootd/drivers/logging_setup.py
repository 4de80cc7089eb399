"""Where log lines go: standard error, JSON when that is not a terminal. Errors are logged once, where handled."""

import logging
import sys

import structlog


def set_up_logging(*, terminal: bool | None = None) -> None:
    """Configure structlog for this process. ``terminal`` overrides the look at standard error."""
    pretty = sys.stderr.isatty() if terminal is None else terminal
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[structlog.typing.Processor]
    if pretty:
        final = [structlog.dev.ConsoleRenderer()]
    else:
        final = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


class _Forward(logging.Handler):
    """Warnings and errors of libraries, which use the standard library's logging, take the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record as one structlog line."""
        log = structlog.get_logger(record.name)
        method = log.error if record.levelno >= logging.ERROR else log.warning
        method(record.getMessage(), exc_info=record.exc_info or None)
