"""``bootd serve``."""

import asyncio
import os
import sys
from pathlib import Path

import click
import structlog

from bootd import config
from bootd.drivers.logging_setup import set_up_logging
from bootd.drivers.notify import Notifier
from bootd.errors import Exit, OperatorError


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Settings [default: {config.DEFAULT_PATH} if it is there].",
)
@click.option("--check", is_flag=True, help="Only say whether the settings are right; status 5 when they are not.")
def serve(path: Path | None, check: bool) -> int:
    """Run the daemon in the foreground. SIGHUP takes the settings over anew, without losing a session."""
    from bootd.drivers.serve import Daemon  # noqa: PLC0415 (the other commands start faster without it)

    settings, source = config.load(path)
    if check:
        click.echo(f"{source}: right")
        return Exit.OK
    set_up_logging()
    daemon = Daemon(settings, source, Notifier(os.environ), may_reload=lambda: _right(path))
    try:
        asyncio.run(daemon.run())
    except ExceptionGroup:
        structlog.get_logger("bootd").exception("a service of the daemon has failed")
        return Exit.ERROR
    if daemon.reload_wanted:
        # The same process begins anew, from the program on the disk: nothing of the old settings stays.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell
    return Exit.OK


def _right(path: Path | None) -> bool:
    """Whether the settings can be taken over; what is wrong goes to the log, and the daemon runs on."""
    try:
        config.load(path)
    except OperatorError as error:
        structlog.get_logger("bootd").error("settings are not taken over", error=error.message, hint=error.hint)
        return False
    return True
