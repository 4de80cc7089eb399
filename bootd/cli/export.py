"""``bootd export``: what another DHCP server needs, in its own language; the room and its locks."""

from pathlib import Path
from urllib.parse import urlencode

import click

from bootd import config
from bootd.cli import node_file
from bootd.cli.context import Context, pass_context
from bootd.cli.hosts import selected
from bootd.cli.simulate import reached_at
from bootd.drivers.dhcp import offering
from bootd.errors import Exit, OperatorError
from bootd.netboot.loaders import ARTEFACTS
from bootd.netboot.migrate.export import WRITERS
from bootd.netboot.migrate.export import export as exported


@click.group()
def export() -> None:
    """Print what other programs need: DHCP servers, spreadsheets, CloneSys."""


def _writer(server: str) -> click.Command:
    """The command that writes for one kind of DHCP server."""

    @click.option("--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="Settings.")
    @click.option("--assume-built", is_flag=True, help="As if every boot file were in the boot folder.")
    def write(path: Path | None, assume_built: bool) -> None:
        settings, _ = config.load(path)
        name, address, guessed = reached_at(settings)
        present = ARTEFACTS if assume_built else offering.artefacts(settings)()
        click.echo(WRITERS[server](exported(offering.interface(settings, name, address, present))), nl=False)
        if guessed:
            click.echo(f"bootd: {address} is only an example: {guessed}", err=True)
            click.echo("  -> write [server] address into the settings", err=True)

    text = f"What {server} needs so that nodes boot from here without bootd's proxy."
    return click.command(name=server, help=text)(write)


for _server in WRITERS:
    export.add_command(_writer(_server))


@export.command("nodes")
@click.argument("nodes", nargs=-1)
@click.option("--hardware", is_flag=True, help="Also what each machine tells of itself.")
@pass_context
def export_nodes(context: Context, nodes: tuple[str, ...], hardware: bool) -> None:
    """Machines as CSV, as `bootd import nodes` reads it: all, or NODES, such as @room2."""
    query = urlencode({"hosts": ",".join(nodes)})
    found = context.client.request("GET", "nodes", query=query)
    if hardware:
        found = [context.client.get("nodes", node["mac"]) for node in found]
    click.echo(node_file.render(found, hardware=hardware), nl=False)


@export.command("clonesys")
@click.argument("nodes", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder: a file for each host.")
@pass_context
def export_clonesys(context: Context, nodes: tuple[str, ...], out: Path | None) -> None:
    """CloneSys's host file of each of NODES: what it was imported with, and the locks as they are now."""
    hosts = selected(context.client, nodes)
    if out is None and len(hosts) > 1:
        raise OperatorError(f"{len(hosts)} hosts, and one standard output", "say --out FOLDER", Exit.USAGE)
    for host in hosts:
        text = context.client.get("nodes", host["mac"], "hostfile")["text"]
        if out is None:
            click.echo(text, nl=False)
            continue
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / host["name"]).write_text(text)
        except OSError as error:
            raise OperatorError(
                f"{out}: {error.strerror}", "name a folder that can be written", Exit.INPUT
            ) from None
        click.echo(out / host["name"])
