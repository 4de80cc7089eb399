"""``bootd token``: who may use the network interface."""

import os
import re
import time
from pathlib import Path

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.cli.format import duration
from bootd.errors import Exit, OperatorError

_UNITS = {"m": 60, "h": 3600, "d": 86400}


def _lifetime(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """``90m``, ``12h``, ``30d`` as seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,3})([mhd])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not as 90m, 12h or 30d")
    return float(found[1]) * _UNITS[found[2]]


@click.group()
def token() -> None:
    """Tokens for the network interface: make, list, revoke."""


@token.command("create")
@click.argument("name")
@click.option(
    "--scope",
    required=True,
    type=click.Choice(["read", "export", "operate", "admin"]),
    help="read: look; export: what images hold, too; operate: sessions, labels, nodes too; admin: tokens too.",
)
@click.option(
    "--expires",
    callback=_lifetime,
    metavar="TIME",
    help="Valid for so long, as 90m, 12h, 30d [default: until revoked].",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a new file, mode 0600.")
@json_option
@pass_context
def create(
    context: Context, *, name: str, scope: str, expires: float | None, out: Path | None, as_json: bool
) -> None:
    """Make a token called NAME. It is shown this once: bootd keeps its hash only."""
    target = _open(out) if out is not None else None
    try:
        answer = context.client.request("POST", "tokens", body={"name": name, "scope": scope, "seconds": expires})
        if target is not None:
            os.write(target, f"{answer['token']}\n".encode())
    except BaseException:
        if out is not None:
            out.unlink(missing_ok=True)
        raise
    finally:
        if target is not None:
            os.close(target)
    if out is not None:
        answer["token"] = None
    if as_json:
        print_json(answer)
    elif out is not None:
        click.echo(f"{name}: written to {out}")
    else:
        click.echo(answer["token"])
        click.echo("it is not shown again: keep it in a file that only you can read", err=True)


@token.command("list")
@json_option
@pass_context
def list_tokens(context: Context, as_json: bool) -> None:
    """All tokens, never their secrets."""
    tokens = context.client.get("tokens")
    if as_json:
        print_json(tokens)
        return
    now = time.time()
    table = Table("token", "scope", "made", "by", "expires", "used", box=None)
    for item in tokens:
        left = "never" if item["expires"] is None else f"in {duration(item['expires'] - now)}"
        table.add_row(
            item["name"],
            item["scope"],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(item["created"])),
            item["creator"],
            "expired" if item["expired"] else left,
            "-" if item["used"] is None else f"{duration(now - item['used'])} ago",
        )
    console().print(table)


@token.command("revoke")
@click.argument("name")
@json_option
@pass_context
def revoke(context: Context, name: str, as_json: bool) -> None:
    """The token NAME counts for nothing from now on; streams that it opened end."""
    context.client.request("DELETE", "tokens", name)
    tell(as_json, {"name": name}, f"{name}: revoked")


def _open(path: Path) -> int:
    """Before the token is made: one that cannot be kept is not made."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise OperatorError(f"{path} is there already", "name a new file", Exit.INPUT) from None
    except OSError as error:
        raise OperatorError(
            f"cannot write {path}: {error.strerror}", "name a place that you can write to", Exit.INPUT
        ) from None
