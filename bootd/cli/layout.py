"""``bootd layout``: what a disk is divided into: taken from a disk, checked against a size, converted."""

from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlencode

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.drivers import layouts
from bootd.errors import Exit, OperatorError
from bootd.wire.scheme.desc import format_desc
from bootd.wire.scheme.encoding import as_object, parse_size
from bootd.wire.scheme.fitting import Bare, Misfit, fit
from bootd.wire.scheme.model import MIB, Scheme, SchemeError
from bootd.wire.scheme.rows import Row, rows
from bootd.wire.scheme.text import format_toml
from bootd.wire.scheme.text import parse as parse_scheme

FILE = click.Path(path_type=Path, dir_okay=False)
form_option = click.option(
    "--form", type=click.Choice(["toml", "desc"]), default="toml", show_default=True, help="desc is KA's."
)
mend_option = click.option(
    "--mend", is_flag=True, help="Cure an extended partition that fdisk_to_desc wrote too small."
)


@click.group()
def layout() -> None:
    """Layouts: partitions, RAID, LVM, file systems and mount points, for disks of any size."""


@layout.command("from-disk")
@click.argument("place", metavar="DEVICE|NODE", required=False, default="")
@click.option("--disk", default="", help="Of a NODE: name, serial or WWN [default: the only one].")
@click.option(
    "--fstab", type=FILE, default=layouts.FSTAB, show_default=True, help="Of a DEVICE: where it is mounted."
)
@form_option
@json_option
@pass_context
def from_disk(context: Context, *, place: str, disk: str, fstab: Path, form: str, as_json: bool) -> None:
    """Print the layout of a disk as it is: what fdisk_to_desc did.

    DEVICE is a disk of this machine, such as /dev/sda (its arrays' and groups' other disks come along); NODE a
    machine, whose inventory has no mount points; nothing: the disk that this machine runs from.
    """
    if place and not place.startswith("/"):
        answer = context.client.request("GET", "nodes", place, "layout", query=urlencode({"disk": disk}))
        scheme, notes = parse_scheme(answer["toml"]), answer["notes"]
    else:
        derived = layouts.of_devices([place] if place else [], fstab)
        scheme, notes = derived.scheme, list(derived.notes)
    if as_json:
        print_json({"layout": as_object(scheme), "notes": notes})
        return
    click.echo(_written(scheme, form), nl=False)
    for note in notes:
        click.echo(f"bootd: {note}", err=True)


@layout.command("check")
@click.argument("file", type=FILE)
@click.option(
    "--disk-size", "sizes", multiple=True, metavar="SIZE", help="40G; once for each disk [default: 100G]."
)
@click.option("--sector", type=click.Choice(["512", "4096"]), default="512", show_default=True, help="Bytes.")
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), default="uefi", show_default=True)
@mend_option
@json_option
def check(*, file: Path, sizes: tuple[str, ...], sector: str, firmware: str, mend: bool, as_json: bool) -> None:
    """Check FILE (TOML, or KA's desc) and print what it makes of disks of that size."""
    scheme = layouts.of_file(file, mend=mend)
    given = [_bytes(text) for text in sizes] or [100 << 30]
    given = given * scheme.disks if len(given) == 1 else given
    answer = fit(scheme, [Bare(size, int(sector)) for size in given], firmware)
    if isinstance(answer, Misfit):
        raise OperatorError(f"{file}: {answer.reason}", "a larger disk, or smaller partitions", Exit.REFUSED)
    found = rows(answer)
    if as_json:
        labels = [table.label for table in answer.tables]
        print_json({"tables": labels, "boot": list(answer.boot), "rows": [asdict(row) for row in found]})
        return
    for number, (size, table) in enumerate(zip(given, answer.tables, strict=True)):
        click.echo(f"disk {number}: {size // MIB} MiB, {table.label}, sectors of {table.sector} bytes")
    console().print(table_of(found))


def table_of(found: tuple[Row, ...]) -> Table:
    """The rows for a screen, in MiB."""
    table = Table("", "start", "size", "kind", "file system", "label", "mounted at", "", box=None)
    for row in found:
        start = str(row.start // MIB) if row.start else ""
        words = (row.kind, row.filesystem, row.label, row.mount, row.note)
        table.add_row(row.place, start, f"{row.size // MIB} MiB", *words)
    return table


@layout.command("convert")
@click.argument("file", type=FILE)
@form_option
@click.option(
    "--boot-code", type=FILE, help="First 446 bytes of this disk or file into the boot sector (ka-d.sh -m, -M)."
)
@mend_option
@json_option
def convert(*, file: Path, form: str, boot_code: Path | None, mend: bool, as_json: bool) -> None:
    """Print FILE in the other form: KA's desc as TOML, or TOML as a desc, which can say less."""
    scheme = layouts.of_file(file, mend=mend)
    if boot_code is not None:
        scheme = replace(scheme, boot_code=layouts.boot_code_of(boot_code))
    text = "" if as_json else _written(scheme, form)
    tell(as_json, as_object(scheme), *text.splitlines())


def _written(scheme: Scheme, form: str) -> str:
    try:
        return format_desc(scheme) if form == "desc" else format_toml(scheme)
    except SchemeError as error:
        raise OperatorError(str(error), "say --form toml", Exit.INPUT) from None


def _bytes(text: str) -> int:
    try:
        size = parse_size(text)
    except SchemeError as error:
        raise OperatorError(f"--disk-size: {error}", "say 40G, or 80026M", Exit.USAGE) from None
    if not size:
        raise OperatorError("--disk-size: a disk has a size", "say 40G", Exit.USAGE)
    return size
