"""``bootd import``: other programs' configuration, printed as bootd.toml."""

from collections.abc import Callable
from pathlib import Path

import click

from bootd import config
from bootd.errors import Exit, OperatorError
from bootd.netboot.migrate import dhcpd_conf, pxe_conf
from bootd.netboot.migrate.imported import MAX_CHARACTERS, Imported, NotReadable

_FILE = click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))


@click.group(name="import")
def import_() -> None:
    """Read what other programs were configured with, and print it as bootd.toml."""


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
