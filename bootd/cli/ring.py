"""``bootd ring``: clone a file or a device to a list of hosts, without the daemon."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from bootd.cli.context import console, json_option, print_json
from bootd.cli.format import megabytes, size
from bootd.drivers.ring_host import resolve
from bootd.drivers.ring_receiver import RingReceiver
from bootd.drivers.ring_sender import RingSender, Timing
from bootd.drivers.ring_target import claim
from bootd.errors import Exit, OperatorError

DEFAULT_PORT = 7469
LEAST_TOKEN = 16  # characters

_port = click.option(
    "--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="Receivers listen here."
)
_token = click.option("--token", envvar="BOOTD_RING_TOKEN", show_envvar=True, help="Secret that both sides know.")
_token_file = click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False), help="File that holds the secret."
)


@click.group()
def ring() -> None:
    """The ring by hand: `receive` on each target, `send` on the source, one secret for all."""


@ring.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("hosts", metavar="HOST…", nargs=-1, required=True)
@_port
@_token
@_token_file
@click.option(
    "--wait", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds for receivers."
)
@click.option(
    "--silence",
    type=click.FloatRange(min=2, max=600),
    default=5.0,
    show_default=True,
    help="Seconds after which a silent receiver is left out.",
)
@json_option
def send(
    *,
    source: Path,
    hosts: tuple[str, ...],
    port: int,
    token: str | None,
    token_file: Path | None,
    wait: float,
    silence: float,
    as_json: bool,
) -> int:
    """Send FILE, a file or a block device, to every HOST (NAME, ADDRESS, or with :PORT).

    Without a secret one is made: with --token-file it is put there, else shown. Exit code: 0 every receiver has
    verified every byte, 3 some have, 4 all refused, 1 none has.
    """
    names = resolve(hosts, port)
    secret = _read_secret(token, token_file)
    output = Console(stderr=True)
    if secret is None:
        secret = _make_secret(token_file, output)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=output, disable=not output.is_terminal) as progress:
        screen = _Screen(progress)
        tell = output.print if output.is_terminal else lambda text: click.echo(text, err=True)
        timing = Timing(silence=silence, wait=wait)
        view = RingSender(str(source), names, secret, timing=timing, show=screen.show, tell=tell).run()
    if as_json:
        print_json(view)
    else:
        console().print(_verdicts(view))
        console().print(f"{view['state']}: {view['reason']}", highlight=False)
    return int(view["outcome"]["code"])


@ring.command()
@click.argument("target", type=click.Path(path_type=Path))
@_port
@_token
@_token_file
@click.option("--listen", default="0.0.0.0", show_default=True, help="IPv4 address to listen on.")
@click.option("--yes-overwrite", default="", metavar="TARGET", help="Name TARGET again: what is there is lost.")
def receive(
    *, target: Path, port: int, token: str | None, token_file: Path | None, listen: str, yes_overwrite: str
) -> int:
    """Receive one image onto TARGET, a file or a block device, pass it on, verify it, and end.

    A file gets its name when it is verified; until then it is TARGET.part.
    """
    secret = _read_secret(token, token_file)
    if secret is None:
        raise OperatorError("no secret", "say --token-file FILE, as the sender does", Exit.USAGE)
    claimed = claim(str(target), yes_overwrite)
    try:
        receiver = RingReceiver(claimed, listen, port, secret, lambda text: click.echo(text, err=True))
    except OperatorError:
        claimed.close()
        raise
    click.echo(f"waiting on {listen}:{receiver.port} for a sender to {claimed.path}", err=True)
    try:
        result = receiver.run()
    except KeyboardInterrupt:
        raise OperatorError("interrupted", "what has arrived is incomplete", Exit.ERROR) from None
    click.echo(result.text)
    return int(result.code)


def _read_secret(token: str | None, path: Path | None) -> str | None:
    """The secret; None when none was given, or its file is not there yet."""
    if token is not None and path is not None:
        raise OperatorError("two secrets", "say --token or --token-file, not both", Exit.USAGE)
    if path is not None:
        try:
            token = path.read_text().strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OperatorError(f"{path}: {reason}", "name a file with one line of text", Exit.INPUT) from None
    if token is not None and len(token) < LEAST_TOKEN:
        raise OperatorError(f"the secret is shorter than {LEAST_TOKEN} characters", "make a longer one", Exit.USAGE)
    return token


def _make_secret(path: Path | None, output: Console) -> str:
    secret = secrets.token_hex(16)
    if path is None:
        click.echo(f"on each receiver: bootd ring receive TARGET --token {secret}", err=True)
        return secret
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secret}\n")
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "name a file that can be made", Exit.INPUT) from None
    output.print(f"secret made: copy {path} to each receiver, and say --token-file there", highlight=False)
    return secret


class _Screen:
    """A bar for each receiver that has a plan; bytes written and bytes verified both count."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, view: dict[str, Any]) -> None:
        digested = view["head"]["digested"]
        if view["image_root"] is None:
            self._update("source", "digesting", view["source_size"], digested)
        for member in view["members"]:
            if member["name"] not in self._tasks and "source" in self._tasks:
                with contextlib.suppress(KeyError):
                    self._progress.remove_task(self._tasks.pop("source"))
            done = member["written"] + member["verified"]
            self._update(member["name"], member["state"], 2 * (member["total"] or 0), done)

    def _update(self, name: str, state: str, total: int, done: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None)
        self._progress.update(self._tasks[name], description=f"{name} {state}", total=total or None, completed=done)


def _verdicts(view: dict[str, Any]) -> Table:
    table = Table("host", "verdict", "written MB", "durable MB", "verified MB", "why", box=None)
    members = {member["node"]: member for member in view["members"]}
    for row in view["outcome"]["nodes"]:
        member = members.get(row["node"])
        counts = [megabytes(member[key]) if member else "-" for key in ("written", "durable", "verified")]
        verdict = "verified" if row["ok"] else row["state"]
        table.add_row(row["name"], verdict, *counts, row["reason"])
    table.caption = f"{size(view['source_size'])} from {view['source']}, {view['epoch']} arrangements"
    return table
