"""``bootd import``: other programs' configuration, printed as bootd.toml; rooms and locks, into the daemon."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bootd import config
from bootd.cli import node_file
from bootd.cli.context import Context, json_option, pass_context, print_json, tell
from bootd.errors import Exit, OperatorError
from bootd.netboot.migrate import dhcpd_conf, pxe_conf
from bootd.netboot.migrate.imported import MAX_CHARACTERS, Imported, NotReadable

MAX_FILE = 4 << 20  # bytes
TEMPLATES = ("initconfig", "initclone")  # what CloneSys copied for a new machine
_FILE = click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))


@click.group(name="import")
def import_() -> None:
    """Read what other programs were configured with: printed as bootd.toml, or taken over by the daemon."""


@import_.command(name="pxe.conf")
@_FILE
def from_pxe_conf(path: Path) -> None:
    """The PXE daemon's pxe.conf: interface, menu, prompt, boot server discovery."""
    _print(path, pxe_conf.read)


@import_.command(name="dhcpd.conf")
@_FILE
def from_dhcpd_conf(path: Path) -> None:
    """ISC dhcpd's dhcpd.conf: subnets, pools, hosts, lease times, options for PXELINUX."""
    _print(path, dhcpd_conf.read)


@import_.command(name="nodes")
@_FILE
@click.option("--apply", "is_applied", is_flag=True, help="Give it to the daemon, at once; all rows or none.")
@json_option
@pass_context
def nodes(context: Context, path: Path, is_applied: bool, as_json: bool) -> None:
    """A room as CSV: mac,name,number,groups,switch,label,address. Printed as bootd.toml, or --apply.

    Only `mac` must be there; an empty field leaves what is known. Addresses are reservations, and go into
    bootd.toml.
    """
    rows = node_file.parse(_read(path))
    if not is_applied:
        text = node_file.to_toml(rows)
        if as_json:
            print_json({"nodes": [row.order() for row in rows], "applied": False})
        else:
            click.echo(text, nl=False)
        config.parse(text, f"what {path.name} becomes")  # printed all the same: it says what to mend
        return
    orders = [row.order() for row in rows]
    context.client.request("POST", "nodes", body={"nodes": orders})
    tell(as_json, {"nodes": orders, "applied": True}, f"{len(rows)} nodes taken over")
    reserved = sum(1 for row in rows if row.address)
    if reserved:
        click.echo(f"bootd: {reserved} addresses were not taken over: they are reservations", err=True)
        click.echo("  -> without --apply they are printed for bootd.toml", err=True)


@import_.command(name="clonesys")
@click.argument("path", metavar="FILE|FOLDER", type=click.Path(path_type=Path))
@click.option("--node", default="", help="Whose FILE it is [default: as the file is called].")
@json_option
@pass_context
def clonesys(context: Context, path: Path, node: str, as_json: bool) -> int:
    """CloneSys's host files: its locks, and what is on each partition. FOLDER is its config folder, or its root.

    Locks hold at once; one whose partition the node has not shown locks its whole disk, or all of them. Exit code 3
    when a host is not known here: name it first.
    """
    files = host_files(path)
    if node and (len(files) != 1 or path.is_dir()):
        raise OperatorError("--node goes with one file", "name the file", Exit.USAGE)
    taken: list[dict[str, Any]] = []
    for name, text in ((node or name, text) for name, text in files.items()):
        host: dict[str, Any] = {"node": name, "locks": 0, "trouble": ""}
        try:
            host.update(context.client.request("PUT", "nodes", name, "hostfile", body={"text": text}))
        except OperatorError as error:
            if error.code not in (Exit.USAGE, Exit.INPUT, Exit.BUSY):
                raise
            host["trouble"] = error.message
        taken.append(host)
    prefix = alias_prefix(path)
    if as_json:
        print_json({"hosts": taken, "prefix": prefix or None})
    else:
        for host in taken:
            click.echo(f"{host['node']}: {host['trouble'] or str(host['locks']) + ' locks'}")
        if prefix:
            click.echo(
                f'bootd: its host aliases begin with {prefix}: set prefix = "{prefix}" under [dns]', err=True
            )
    wrong = sum(1 for host in taken if host["trouble"])
    return Exit.OK if not wrong else Exit.PARTLY if wrong < len(taken) else Exit.INPUT


def host_files(path: Path) -> dict[str, str]:
    """Host name and text of each of CloneSys's files; the template of new machines is none."""
    if not path.is_dir():
        return {path.name: _read(path)}
    folder = path / "config" if (path / "config").is_dir() else path
    found = {
        file.name: _read(file)
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".") and file.name not in TEMPLATES
    }
    if not found:
        raise OperatorError(f"{folder}: no host files", "name CloneSys's config folder, or one file", Exit.INPUT)
    return found


def alias_prefix(path: Path) -> str:
    """``prefix`` of CloneSys's ``.cloneconfig``, where that is beside the host files; "" = not found."""
    for file in (
        path / ".cloneconfig",
        path / "scripts" / ".cloneconfig",
        path.parent / "scripts" / ".cloneconfig",
    ):
        if file.is_file():
            for line in _read(file).splitlines():
                key, _, value = line.partition("#")[0].partition("=")
                if key.strip() == "prefix":
                    return value.strip().strip("\"'")
    return ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "name a file that can be read", Exit.INPUT) from None
    if len(data) > MAX_FILE:
        raise OperatorError(f"{path}: larger than {MAX_FILE} bytes", "name the right kind of file", Exit.INPUT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _print(path: Path, read: Callable[[str, str], Imported]) -> None:
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_CHARACTERS + 1)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "name a file that can be read", Exit.INPUT) from None
    try:
        found = read(data.decode("utf-8", "replace"), path.name)
    except NotReadable as error:
        raise OperatorError(f"{path}: {error}", "name the right kind of file, or mend it", Exit.INPUT) from None
    text = found.to_toml()
    click.echo(text, nl=False)
    config.parse(text, f"what {path.name} becomes")  # printed all the same: it says what to mend
    if found.left:
        click.echo(f"bootd: {len(found.left)} statements were not taken over; see the end", err=True)
