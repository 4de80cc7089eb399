"""``bootd export``: what another DHCP server needs, printed in its own language."""

from pathlib import Path

import click

from bootd import config
from bootd.cli.simulate import reached_at
from bootd.drivers.dhcp import offering
from bootd.netboot.loaders import ARTEFACTS
from bootd.netboot.migrate.export import WRITERS
from bootd.netboot.migrate.export import export as exported


@click.command()
@click.argument("server", type=click.Choice(list(WRITERS)))
@click.option("--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="Settings.")
@click.option("--assume-built", is_flag=True, help="As if every boot file were in the boot folder.")
def export(server: str, path: Path | None, assume_built: bool) -> None:
    """Print what a DHCP server of another kind needs so that nodes boot from here without bootd's proxy."""
    settings, _ = config.load(path)
    name, address, guessed = reached_at(settings)
    present = ARTEFACTS if assume_built else offering.artefacts(settings)()
    click.echo(WRITERS[server](exported(offering.interface(settings, name, address, present))), nl=False)
    if guessed:
        click.echo(f"bootd: {address} is only an example: {guessed}", err=True)
        click.echo("  -> write [server] address into the settings", err=True)
