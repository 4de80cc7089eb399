"""``bootd undo-table``: the partition tables that were on disks before they were written.

It prints, and writes files on the server. Putting something back on a node's disk is done there, by hand: the
commands are printed with the file.
"""

import base64
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json
from bootd.cli.format import size
from bootd.errors import Exit, OperatorError
from bootd.wire.saved import TABLE_REGION, table_regions


@click.command("undo-table")
@click.argument("node")
@click.option("--disk", default="", help="Serial of the disk, as in the list [default: the only one].")
@click.option("--time", "time_", default="", help="Which one, as in the list [default: the latest].")
@click.option("--dump", "is_dump", is_flag=True, help="Print it as sfdisk reads it.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the first and last MiB of the disk into this file."
)
@json_option
@pass_context
def undo_table(
    context: Context, *, node: str, disk: str, time_: str, is_dump: bool, out: Path | None, as_json: bool
) -> None:
    """What was on the disks of NODE before they were written: partition table, first and last MiB."""
    kept = [
        item
        for item in context.client.get("nodes", node, "tables")
        if disk in ("", item["disk"], item["serial"]) and time_ in ("", item["time"])
    ]
    if is_dump or out is not None:
        chosen = _choose(node, kept)
        if is_dump:
            _print_dump(chosen)
        if out is not None:
            _write(context, node, chosen, out)
    elif as_json:
        print_json(kept)
    else:
        _print_list(kept)


def restore_lines(table: dict[str, Any], file: str) -> list[str]:
    """The commands that put ``file`` back, for a shell of the node. All of them name the disk as /dev/NAME."""
    device = f"/dev/{table['name']}"
    lines = [
        f"cat /sys/block/{table['name']}/serial /sys/block/{table['name']}/device/serial"
        f"   # must say {table['serial'] or 'nothing: look twice'}; {table['name']} may be another disk now",
        f"blockdev --getsize64 {device}   # must say {table['size']}",
    ]
    position = 0
    for offset, length in table_regions(table["size"]):
        lines.append(
            f"dd if={file} of={device} iflag=skip_bytes,count_bytes oflag=seek_bytes conv=notrunc,fsync bs=64K"
            f" skip={position} seek={offset} count={length}"
        )
        position += length
    return [*lines, f"blockdev --rereadpt {device}"]


def _choose(node: str, kept: list[dict[str, Any]]) -> dict[str, Any]:
    """The latest of the one disk that is left; `OperatorError` when it is damaged, or not one disk."""
    disks = sorted({item["disk"] for item in kept})
    if len(disks) != 1:
        text = f"several disks have tables: {', '.join(disks)}" if disks else "no such table is kept"
        raise OperatorError(f"{node}: {text}", f"see bootd undo-table {node}; say --disk SERIAL", Exit.USAGE)
    chosen = kept[-1]
    if chosen["trouble"]:
        raise OperatorError(
            f"{node}: the table of {chosen['time']} is {chosen['trouble']}", "say another --time", Exit.ERROR
        )
    return chosen


def _print_dump(table: dict[str, Any]) -> None:
    if not table["dump"]:
        raise OperatorError(
            f"sfdisk knew no partition table on {table['name']} at {table['time']}", "use --out", Exit.ERROR
        )
    click.echo(table["dump"], nl=False)


def _write(context: Context, node: str, chosen: dict[str, Any], out: Path) -> None:
    table = context.client.get("nodes", node, "tables", chosen["disk"], chosen["time"])
    try:
        with out.open("xb") as stream:
            stream.write(base64.b64decode(table["content"]))
    except OSError as error:
        raise OperatorError(f"{out}: {error.strerror}", "name a new file", Exit.ERROR) from None
    parts = "the whole disk" if chosen["size"] <= 2 * TABLE_REGION else "its first and its last MiB"
    click.echo(f"{out}: {parts}, as of {chosen['time']}", err=True)
    click.echo("to put it back, on the node (label rescue), with the file copied there:", err=True)
    for line in restore_lines(chosen, out.name):
        click.echo(f"  {line}", err=True)
    click.echo("what a session has written between the two ends is not undone by this", err=True)


def _print_list(kept: list[dict[str, Any]]) -> None:
    table = Table("disk", "time (UTC)", "name", "size", "session", "table", box=None)
    for item in kept:
        parts = sum(line.startswith("/dev/") for line in item["dump"].splitlines())
        what = item["trouble"] or (f"{parts} partitions" if item["dump"] else "none that sfdisk knows")
        table.add_row(item["disk"], item["time"], item["name"], size(item["size"]), item["session"], what)
    console().print(table)
