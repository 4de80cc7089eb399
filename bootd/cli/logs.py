"""``bootd logs``: what a node said on its console in stage1 and stage2, also in earlier boots."""

import contextlib
import time
from typing import Any
from urllib.parse import urlencode

import click

from bootd.cli.context import Context, json_option, pass_context, print_json
from bootd.errors import Exit, OperatorError

_POLL_SECONDS = 0.5


@click.command()
@click.argument("node")
@click.option("--session", default="", help="Only of this session, by name or id.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--last", is_flag=True, help="Only of the last boot.")
@click.option(
    "--lines", "-n", type=click.IntRange(1, 5000), default=1000, show_default=True, help="At most so many."
)
@click.option("--clear", is_flag=True, help="Forget what the node has said.")
@json_option
@pass_context
def logs(
    context: Context, *, node: str, session: str, follow: bool, last: bool, lines: int, clear: bool, as_json: bool
) -> None:
    """What NODE said on its console. The server keeps the latest 5000 lines of each node."""
    if clear:
        if follow or session:
            raise OperatorError("--clear forgets everything of the node", "say it alone", Exit.USAGE)
        context.client.request("DELETE", "nodes", node, "logs")
        return
    found = _fetch(context, node, session, 0, lines)
    if last and found:
        found = [line for line in found if line["boot"] == found[-1]["boot"]]
    if as_json and not follow:
        print_json(found)
        return
    boot = _print(found, "", as_json)
    number = found[-1]["number"] if found else 0
    if follow:
        with contextlib.suppress(KeyboardInterrupt):  # wherever it comes: that is how it is ended
            _follow(context, node, session, number, boot, as_json=as_json)


def _follow(context: Context, node: str, session: str, number: int, boot: str, *, as_json: bool) -> None:
    """Print what comes after line ``number``, without end."""
    while True:
        time.sleep(_POLL_SECONDS)
        try:
            found = _fetch(context, node, session, number, 5000)
        except OperatorError as error:
            if error.code is not Exit.UNREACHABLE:
                raise
            continue  # the daemon restarts; nothing is lost
        boot = _print(found, boot, as_json)
        number = found[-1]["number"] if found else number


def _fetch(context: Context, node: str, session: str, after: int, limit: int) -> list[dict[str, Any]]:
    query = urlencode({"session": session, "after": after, "limit": limit})
    found: list[dict[str, Any]] = context.client.request("GET", "nodes", node, "logs", query=query)
    return found


def _print(lines: list[dict[str, Any]], boot: str, as_json: bool) -> str:
    """Print them, with a heading for each boot; the last boot."""
    for line in lines:
        if as_json:
            print_json(line)
            continue
        if line["boot"] != boot:
            boot = line["boot"]
            began = time.localtime(line["time"] - line["up"] / 1000)
            click.echo(f"--- boot {boot or 'not known'}, about {time.strftime('%Y-%m-%d %H:%M:%S', began)}")
        click.echo(f"{line['up'] / 1000:9.1f} {line['stage']} {line['session'] or '-':8} {line['text']}")
    return boot
