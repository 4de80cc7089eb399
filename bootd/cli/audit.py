"""``bootd audit``: who did what, from the append-only table of the daemon's state."""

import re
import time
from datetime import datetime
from urllib.parse import urlencode

import click
from rich.markup import escape
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json
from bootd.errors import Exit, OperatorError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@click.command()
@click.option(
    "--since", default="", metavar="WHEN", help="A date (2026-01-31, 2026-01-31T08:00) or an age (2h, 7d)."
)
@click.option("--who", default="", metavar="USER", help="Only what this user did.")
@click.option("--lines", default=100, show_default=True, type=click.IntRange(1, 10_000), help="The latest so many.")
@json_option
@pass_context
def audit(context: Context, *, since: str, who: str, lines: int, as_json: bool) -> None:
    """Who did what and when; the oldest line first. Nothing of it can be changed or removed."""
    query = urlencode({"limit": lines, "since": moment(since, time.time()) if since else 0.0, "who": who})
    found = context.client.request("GET", "audit", query=query)
    if as_json:
        print_json(found)
        return
    if not found:
        console().print("nothing was done")
        return
    table = Table("when", "who", "what", "detail", box=None)
    for line in found:
        when = time.strftime("%F %T", time.localtime(line["time"]))
        table.add_row(when, escape(line["who"]), escape(line["what"]), escape(line["detail"]))
    console().print(table)


def moment(text: str, now: float) -> float:
    """Seconds since the epoch of a date in local time, or of an age before ``now``. `OperatorError` (USAGE)."""
    age = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if age:
        return now - int(age[1]) * _UNITS[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise OperatorError(
            f"--since {text!r} is neither a date nor an age",
            "write 2026-01-31, 2026-01-31T08:00, 90m or 7d",
            Exit.USAGE,
        ) from None
