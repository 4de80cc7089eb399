"""``bootd power``: machines switched on and off, by their management controller or by a magic packet."""

import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bootd.cli.context import Context, json_option, pass_context, print_json
from bootd.errors import Exit, OperatorError

nodes_argument = click.argument("nodes", nargs=-1, required=True)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask, also when a session is at work on them.")


@click.group()
def power() -> None:
    """Switch machines on and off: [[node]] power names their controller.

    Exit codes: 0 done at every node, 3 at some, 1 at none, 4 refused since a session is at work on one.
    """


def _command(action: str, text: str, *, disruptive: bool) -> None:
    """``bootd power ACTION NODES``."""

    def run(context: Context, nodes: tuple[str, ...], as_json: bool, yes: bool = True) -> int:
        return switch(context, nodes, action, as_json=as_json, yes=yes)

    run.__doc__ = text
    decorated = json_option(pass_context(run))
    if disruptive:
        decorated = yes_option(decorated)
    power.command(action)(nodes_argument(decorated))


_command("on", "Switch NODES on: by their controller; those without one get a magic packet.", disruptive=False)
_command("off", "Cut the power of NODES at once.", disruptive=True)
_command("shutdown", "Ask the operating systems of NODES to shut down.", disruptive=True)
_command("cycle", "Switch NODES off and on again.", disruptive=True)
_command("reset", "Reset NODES without losing power.", disruptive=True)
_command("status", "Whether NODES are on, as their controllers say.", disruptive=False)
_command("pxe", "NODES boot from the network once, at their next start.", disruptive=False)


def switch(
    context: Context, nodes: tuple[str, ...], action: str, *, as_json: bool = False, yes: bool = True
) -> int:
    """Carry ``action`` out and print what became of it; the exit code."""
    if not yes:
        if not sys.stdin.isatty():
            raise OperatorError(
                f"power {action} interrupts machines and nobody can be asked here", "say --yes", Exit.USAGE
            )
        click.confirm(f"power {action} for {' '.join(nodes)}: go on?", abort=True, err=True)
    try:
        results = ask_power(context, nodes, action, confirmed=yes)
    except OperatorError as error:
        if error.code is not Exit.REFUSED or yes:
            raise
        click.echo(f"bootd: {error.message}", err=True)
        click.confirm(f"power {action} all the same?", abort=True, err=True)
        results = ask_power(context, nodes, action, confirmed=True)
    if as_json:
        print_json(results)
    else:
        print_switched(results)
    good = sum(result["ok"] for result in results)
    return Exit.OK if good == len(results) else Exit.PARTLY if good else Exit.ERROR


def ask_power(
    context: Context, nodes: tuple[str, ...], action: str, *, confirmed: bool = False
) -> list[dict[str, Any]]:
    """A result for each node, as the daemon answers."""
    body = {"nodes": ",".join(nodes), "action": action, "confirmed": confirmed}
    results: list[dict[str, Any]] = context.client.request("POST", "power", body=body)
    return results


def print_switched(results: list[dict[str, Any]], *, stderr: bool = False) -> None:
    """One line for each node."""
    table = Table("node", "", "power", "", box=None, show_header=False)
    for result in results:
        table.add_row(result["name"], "ok" if result["ok"] else "FAILED", result["state"] or "", result["text"])
    output = Console(stderr=stderr)
    (output if output.is_terminal else Console(stderr=stderr, width=200)).print(table)
