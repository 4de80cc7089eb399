"""``bootd serve``."""

import asyncio
import os
from pathlib import Path

import click
import structlog

from bootd import config
from bootd.drivers.logging_setup import set_up_logging
from bootd.drivers.notify import Notifier
from bootd.errors import Exit


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Settings [default: {config.DEFAULT_PATH} if it is there].",
)
def serve(path: Path | None) -> int:
    """Run the daemon in the foreground."""
    from bootd.drivers.serve import Daemon  # noqa: PLC0415 (the other commands start faster without it)

    settings, source = config.load(path)
    set_up_logging()
    try:
        asyncio.run(Daemon(settings, source, Notifier(os.environ)).run())
    except ExceptionGroup:
        structlog.get_logger("bootd").exception("a service of the daemon has failed")
        return Exit.ERROR
    return Exit.OK
