"""``bootd session``: change a session that is there."""

import sys
from typing import Any
from urllib.parse import urlencode

import click

from bootd.cli.context import Context, json_option, pass_context, print_json
from bootd.cli.deploy import wait
from bootd.cli.state import print_session
from bootd.errors import Exit, OperatorError


@click.group()
def session() -> None:
    """Sessions: start one early, take nodes in or out, close or cancel it, try again what failed."""


@session.command("start-now")
@click.argument("name")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the end; the exit code says how it went.")
@json_option
@pass_context
def start_now(context: Context, name: str, is_waiting: bool, as_json: bool) -> int:
    """Start with the nodes that are ready. NAME is a session's name or id."""
    changed = context.client.request("PATCH", "sessions", name, body={"start_now": True})
    return _shown_or_awaited(changed, is_waiting=is_waiting, as_json=as_json)


@session.command("expect")
@click.argument("name")
@click.argument("number", type=click.IntRange(min=1))
@json_option
@pass_context
def expect(context: Context, name: str, number: int, as_json: bool) -> None:
    """Wait for NUMBER nodes."""
    _show(context.client.request("PATCH", "sessions", name, body={"expect": number}), as_json)


@session.command("add")
@click.argument("name")
@click.argument("nodes", nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Do not ask, although their disks are erased.")
@json_option
@pass_context
def add(context: Context, *, name: str, nodes: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Take NODES into a session that waits or runs; also those that were taken out."""
    if not yes:
        found = context.client.get("sessions", name)
        _confirm(f"{found['source']} is written over disk {found['selector']} of {', '.join(nodes)}. Go on?")
    _show(context.client.request("POST", "sessions", name, "nodes", body={"nodes": ",".join(nodes)}), as_json)


@session.command("eject")
@click.argument("name")
@click.argument("nodes", nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Do not ask, although disks may be left half written.")
@json_option
@pass_context
def eject(context: Context, *, name: str, nodes: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Take NODES out of a session; the others go on. What is being written there is left incomplete."""
    if not yes and context.client.get("sessions", name)["state"] == "running":
        _confirm(f"The disks of {', '.join(nodes)} may be left incomplete. Go on?")
    query = urlencode({"nodes": ",".join(nodes)})
    _show(context.client.request("DELETE", "sessions", name, "nodes", query=query), as_json)


@session.command("retry")
@click.argument("name")
@click.argument("nodes", nargs=-1)
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the end; the exit code says how it went.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask, although disks are erased.")
@json_option
@pass_context
def retry(
    context: Context, *, name: str, nodes: tuple[str, ...], is_waiting: bool, yes: bool, as_json: bool
) -> int:
    """Clone those nodes of an ended session that are not cloned [default: all], in a session of their own.

    Under the same plan: same image, same options, same disks. Exit code 4 when the plan does not hold any more.
    """
    if not yes:
        found = context.client.get("sessions", name)
        failed = [item for item in found["outcome"]["nodes"] if not item["ok"]]
        for item in failed:
            click.echo(f"{item['name']}: {item['state']}: {item['reason']}", err=True)
        _confirm(f"{found['source']} is written over disk {found['selector']} of these. Go on?")
    body = {"nodes": ",".join(nodes)}
    made = context.client.request("POST", "sessions", name, "retry", body=body)
    return _shown_or_awaited(made, is_waiting=is_waiting, as_json=as_json)


@session.command("notices")
@click.argument("name")
@json_option
@pass_context
def notices(context: Context, name: str, as_json: bool) -> None:
    """Who is told of the end of a session, and how that went."""
    found = context.client.get("sessions", name, "notices")
    if as_json:
        print_json(found)
        return
    for item in found:
        click.echo(f"{item['target']}: {item['state']}{': ' + item['text'] if item['text'] else ''}")


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


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise OperatorError("this erases disks and nobody can be asked here", "say --yes", Exit.USAGE)
    click.confirm(question, abort=True, err=True)


def _shown_or_awaited(value: dict[str, Any], *, is_waiting: bool, as_json: bool) -> int:
    if not is_waiting:
        _show(value, as_json)
        return Exit.OK
    code: int = click.get_current_context().invoke(
        wait, session=value["id"], timeout=None, notify=(), as_json=as_json
    )
    return code


def _show(value: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        print_session(value)
