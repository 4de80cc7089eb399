"""``bootd session``: change a session that is there."""

import click

from bootd.cli.context import Context, json_option, pass_context, print_json
from bootd.cli.state import print_session


@click.group()
def session() -> None:
    """Sessions: start one early, change how many nodes it waits for, close or cancel it."""


@session.command("start-now")
@click.argument("name")
@json_option
@pass_context
def start_now(context: Context, name: str, as_json: bool) -> None:
    """Start with the nodes that are ready. NAME is a session's name or id."""
    _show(context.client.request("PATCH", "sessions", name, body={"start_now": True}), as_json)


@session.command("expect")
@click.argument("name")
@click.argument("number", type=click.IntRange(min=1))
@json_option
@pass_context
def expect(context: Context, name: str, number: int, as_json: bool) -> None:
    """Wait for NUMBER nodes."""
    _show(context.client.request("PATCH", "sessions", name, body={"expect": number}), as_json)


@session.command("close")
@click.argument("name")
@json_option
@pass_context
def close(context: Context, name: str, as_json: bool) -> None:
    """Let nobody join any more: it ends as soon as everybody in it is verified."""
    _show(context.client.request("PATCH", "sessions", name, body={"close": True}), as_json)


@session.command("cancel")
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask, although disks may be left half written.")
@json_option
@pass_context
def cancel(context: Context, name: str, yes: bool, as_json: bool) -> None:
    """Stop a session. Disks that are being written are left incomplete."""
    found = context.client.get("sessions", name)
    if not yes and found["state"] == "running":
        click.confirm("Its nodes are being written; their disks will be incomplete. Cancel?", abort=True)
    _show(context.client.request("DELETE", "sessions", name), as_json)


def _show(value: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        print_session(value)
