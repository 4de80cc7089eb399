"""``bootd ring``: files, devices and streams to a list of hosts, without the daemon."""

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from bootd.cli.context import json_option
from bootd.cli.ring_screen import Screen, conclude, tell
from bootd.drivers.ring.host import resolve
from bootd.drivers.ring.receiver import Result, RingReceiver
from bootd.drivers.ring.sender import Course, RingSender, Timing
from bootd.drivers.ring.source import open_sources
from bootd.drivers.ring.target import (
    MAX_TARGETS,
    Target,
    TargetSet,
    check_spool,
    claim,
    claim_command,
    claim_folder,
    claim_output,
)
from bootd.drivers.ring.tls import TlsSettings, load_tls
from bootd.errors import Exit, OperatorError
from bootd.session.arrangement import MAX_FAN_OUT

DEFAULT_PORT = 7469
LEAST_TOKEN = 16  # characters
_OUTPUT = "-"

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


def _tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, help_text in (
        ("--tls-ca", "PEM: what members' certificates are judged by."),
        ("--tls-key", "PEM: its key, without a password."),
        ("--tls-cert", "PEM: certificate of this member. With it, links between members are encrypted."),
    ):
        command = click.option(name, type=click.Path(dir_okay=False), help=help_text)(command)
    return command


_SPOOL = "/var/tmp"  # noqa: S108 - large and on disk (hier(7)); what is made there has no name
_spool = click.option(
    "--spool", default=_SPOOL, show_default=True, help="Folder for streams; must have room for all of one."
)


@ring.command()
@click.argument("words", metavar="[SOURCE…] [HOST…]", nargs=-1)
@click.option("--to", "to", multiple=True, metavar="HOST[,HOST…]", help="Receivers; every word is a SOURCE then.")
@click.option("--command", "commands", multiple=True, metavar="CMD", help="Send what this shell command writes.")
@click.option("--barrier", is_flag=True, help="Begin a source when everybody has the one before.")
@click.option("--fan-out", type=click.IntRange(1, MAX_FAN_OUT), default=1, show_default=True, help="1: a chain.")
@click.option(
    "--order", type=click.Choice(("given", "ip")), default="given", show_default=True, help="Of the hosts."
)
@click.option("--delta", is_flag=True, help="Receivers look at their targets first; only what differs is sent.")
@click.option(
    "--zeros",
    type=click.Choice(("write", "discard")),
    default="write",
    show_default=True,
    help="How zeros reach a device.",
)
@click.option(
    "--keep-open",
    type=click.FloatRange(0, 86400),
    default=0.0,
    metavar="SECONDS",
    help="After the end, wait so long for hosts that are missing.",
)
@_spool
@click.option("--fresh", is_flag=True, help="Digest files again, also when their digests are remembered.")
@_tls_options
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
    words: tuple[str, ...],
    to: tuple[str, ...],
    commands: tuple[str, ...],
    barrier: bool,
    fan_out: int,
    order: str,
    delta: bool,
    zeros: str,
    keep_open: float,
    spool: str,
    fresh: bool,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    port: int,
    token: str | None,
    token_file: Path | None,
    wait: float,
    silence: float,
    as_json: bool,
) -> int:
    """Send SOURCE to every HOST (NAME, ADDRESS, or with :PORT).

    \b
    bootd ring send SOURCE HOST…              one source
    bootd ring send --command CMD HOST…       what a shell command writes
    bootd ring send --to HOST,HOST SOURCE…    several, each for a target of its own

    SOURCE is a file, a block device, or - for standard input. A stream is taken in whole before anything is sent.
    Sources go in their order, commands last. Without a secret one is made: with --token-file it is put there, else
    shown. Exit code: 0 every receiver has verified every byte, 3 some have, 4 all refused, 1 none has.
    """
    sources, hosts = _split(words, to, commands)
    names = resolve(hosts, port)
    settings = load_tls(tls_cert, tls_key, tls_ca)
    secret = read_secret(token, token_file)
    output = Console(stderr=True)
    if secret is None:
        secret = make_secret(token_file, output)
    course = Course(fan_out, order, barrier, delta, zeros, keep_open)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=output, disable=not output.is_terminal) as progress:
        screen = Screen(progress)
        opened = open_sources(sources, commands, check_spool(spool), screen.take, is_fresh=fresh)
        say = output.print if output.is_terminal else tell
        timing = Timing(silence=silence, wait=wait)
        sender = RingSender(
            opened, names, secret, timing=timing, show=screen.show, tell=say, course=course, tls=settings
        )
        view = sender.run()
    return conclude(view, as_json=as_json)


@ring.command()
@click.argument("targets", metavar="TARGET…", nargs=-1)
@click.option(
    "--unpack", "folders", multiple=True, metavar="DIR", help="Unpack a tar archive (gz, xz, zstd) there."
)
@click.option("--command", "commands", multiple=True, metavar="CMD", help="Feed this shell command.")
@_spool
@_tls_options
@_port
@_token
@_token_file
@click.option("--listen", default="0.0.0.0", show_default=True, help="IPv4 address to listen on.")
@click.option("--yes-overwrite", multiple=True, metavar="TARGET", help="Name TARGET again: what is there is lost.")
def receive(
    *,
    targets: tuple[str, ...],
    folders: tuple[str, ...],
    commands: tuple[str, ...],
    spool: str,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    port: int,
    token: str | None,
    token_file: Path | None,
    listen: str,
    yes_overwrite: tuple[str, ...],
) -> int:
    """Receive onto TARGET, pass it on, verify it, and end.

    TARGET is a file, a block device, or - for standard output. One for each source of the sender, in its order:
    first the words, then --unpack, then --command. A file gets its name when it is verified; until then it is
    TARGET.part. A command must end with status 0.
    """
    settings = load_tls(tls_cert, tls_key, tls_ca)
    secret = read_secret(token, token_file)
    if secret is None:
        raise OperatorError("no secret", "say --token-file FILE, as the sender does", Exit.USAGE)
    claimed = TargetSet(_claim_all(targets, folders, commands, spool, yes_overwrite))
    result = receive_onto(claimed, (listen, port), secret, settings)
    click.echo(result.text, err=_OUTPUT in targets)
    return int(result.code)


def receive_onto(claimed: TargetSet, listen: tuple[str, int], secret: str, tls: TlsSettings | None) -> Result:
    """Wait at ``listen`` (address, port) for a sender, and receive; ``claimed`` is held until then."""
    try:
        receiver = RingReceiver(claimed, *listen, secret, tell, tls=tls)
    except OperatorError:
        claimed.close()
        raise
    tell(f"waiting on {listen[0]}:{receiver.port} for a sender to {claimed.label}")
    try:
        return receiver.run()
    except KeyboardInterrupt:
        raise OperatorError("interrupted", "what has arrived is incomplete", Exit.ERROR) from None


def _split(words: Sequence[str], to: Sequence[str], commands: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Sources and hosts. `OperatorError` (USAGE) when one of them is missing."""
    count = len(words) if to else 0 if commands else 1
    sources = words[:count]
    hosts = [host for group in to for host in group.split(",") if host] if to else words[count:]
    if not sources and not commands:
        raise OperatorError("no source", "name a file, - or --command CMD before the hosts", Exit.USAGE)
    if not hosts:
        raise OperatorError("no host", "name the receivers after the source, or with --to", Exit.USAGE)
    return sources, hosts


def _claim_all(
    targets: Sequence[str],
    folders: Sequence[str],
    commands: Sequence[str],
    spool: str,
    confirmed: Sequence[str],
) -> list[Target]:
    """In the order of parts; whatever was claimed is given up again when one cannot be."""
    count = len(targets) + len(folders) + len(commands)
    if not 0 < count <= MAX_TARGETS or list(targets).count(_OUTPUT) > 1:
        hint = f"name 1 to {MAX_TARGETS}, standard output once at most"
        raise OperatorError(f"{count} targets", hint, Exit.USAGE)
    if folders or commands or _OUTPUT in targets:
        check_spool(spool)
    claimed: list[Target] = []
    try:
        for word in targets:
            claimed.append(claim_output(spool) if word == _OUTPUT else claim(word, confirmed))
        claimed += [claim_folder(folder, spool, confirmed) for folder in folders]
        claimed += [claim_command(line, spool) for line in commands]
    except OperatorError:
        for target in claimed:
            target.close()
        raise
    labels = [target.label for target in claimed]
    for label in labels[: len(targets)]:
        if labels.count(label) > 1:
            TargetSet(claimed).close()
            raise OperatorError(f"{label} is named twice", "each source needs a target of its own", Exit.USAGE)
    return claimed


def read_secret(token: str | None, path: Path | None) -> str | None:
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


def make_secret(path: Path | None, output: Console) -> str:
    """A new one: put into the file ``path``, or shown. `OperatorError` (INPUT) when it cannot be."""
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
