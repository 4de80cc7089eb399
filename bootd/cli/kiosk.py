"""``bootd kiosk``: machines that are reset to an image at every boot, or once a day."""

from urllib.parse import urlencode

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.cli.parts import check_place, image_of, part_of, part_option


@click.group()
def kiosk() -> None:
    """Machines that are reset to an image at every boot, or once a day: only what differs is written."""


@kiosk.command("set")
@click.argument("nodes", nargs=-1, required=True)
@click.argument("image")
@click.option("--disk", default="", help="Which disk, as for deploy; or --part.")
@part_option
@click.option("--at", default="", metavar="HH:MM", help="Once after this time of day [default: at every boot].")
@click.option("--label", default="kamethod", show_default=True, help="What the machines boot to be reset.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@pass_context
def set_kiosk(
    context: Context,
    *,
    nodes: tuple[str, ...],
    image: str,
    disk: str,
    parts: tuple[str, ...],
    at: str,
    label: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Reset NODES to IMAGE from now on. What their users leave on that disk or partition is lost each time."""
    check_place(disk, parts)
    if not yes:
        what = f"{', '.join(parts) or disk} of {' '.join(nodes)}"
        when = f"daily after {at}" if at else "at every boot"
        click.confirm(f"{what} is reset {when}. Go on?", abort=True, err=True)
    body = {
        "nodes": ",".join(nodes),
        "image": image_of(image),
        "disk": disk,
        "parts": [part_of(text) for text in parts],
        "at": at,
        "label": label,
    }
    found = context.client.request("PUT", "kiosk", body=body)
    tell(as_json, found, f"{len(found)} machine{'s' if len(found) != 1 else ''} with a kiosk policy")


@kiosk.command("clear")
@click.argument("nodes", nargs=-1, required=True)
@json_option
@pass_context
def clear(context: Context, nodes: tuple[str, ...], as_json: bool) -> None:
    """Reset NODES no more."""
    found = context.client.request("DELETE", "kiosk", query=urlencode({"nodes": ",".join(nodes)}))
    tell(as_json, found, f"{' '.join(nodes)}: reset no more")


@kiosk.command("list")
@json_option
@pass_context
def list_kiosks(context: Context, as_json: bool) -> None:
    """Which machines are reset, to what, and when."""
    found = context.client.get("kiosk")
    if as_json:
        print_json(found)
        return
    table = Table("node", "image", "place", "when", "due", "failed", "set by", box=None)
    for item in found:
        place = ", ".join([*([item["disk"]] if item["disk"] else []), *item["parts"]])
        due = "at the next boot" if item["due"] else "-"
        when = f"after {item['at']}" if item["at"] else "every boot"
        table.add_row(item["name"], item["image"], place, when, due, str(item["failures"]), item["who"])
    console().print(table)
