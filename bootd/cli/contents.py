"""``bootd node partitions``: what was put on the disks and partitions of a machine, and what it shows there."""

import time
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json
from bootd.cli.format import size

STATES = {"installed": "verified", "writing": "INCOMPLETE", "changed": "partitions of it were written since"}


@click.command("partitions")
@click.argument("node")
@click.option("--colons", is_flag=True, help="One line each: partition:path:image:cloned:user:lockedby:reason:")
@json_option
@pass_context
def partitions(context: Context, *, node: str, colons: bool, as_json: bool) -> None:
    """What the partitions of NODE should hold and hold: image, date, user, lock."""
    places = context.client.get("nodes", node, "contents")
    if as_json:
        print_json(places)
    elif colons:
        locks = context.client.get("nodes", node, "locks")
        for place in places:
            click.echo(colon_line(place, locks))
    else:
        print_contents(console(), places)


def print_contents(output: Console, places: list[dict[str, Any]]) -> None:
    """A line for each disk or partition."""
    table = Table("place", "disk", "size", "holds", "image", "since", "by", "should hold", "lock", box=None)
    for place in places:
        actual, wanted, seen = place["actual"], place["wanted"], place["seen"]
        state = STATES.get(actual["state"], actual["state"]) if actual else "not put here"
        differs = wanted is not None and (actual is None or wanted["root"] != actual["root"])
        table.add_row(
            _name(place),
            place["disk"],
            size(seen["size"]) if seen else "-",
            f"{seen['filesystem'] or '?'}, {state}" if seen else state,
            actual["image"] if actual else "-",
            _day(actual["time"]) if actual else "-",
            actual["who"] if actual else "-",
            wanted["image"] if differs else "the same" if wanted else "-",
            place["locked"] or "-",
        )
    output.print(table)


def colon_line(place: dict[str, Any], locks: list[dict[str, Any]]) -> str:
    """A line of a host file as CloneSys kept them: what contains a colon itself loses it."""
    actual = place["actual"] if place["actual"] and place["actual"]["state"] == "installed" else None
    held = next((lock for lock in locks if place["locked"] and lock["reason"] in place["locked"]), None)
    name = _name(place)
    words = [
        name,
        f"/dev/{name}" if place["device"] else "",
        actual["image"] if actual else "",
        _day(actual["time"]) if actual else "",
        actual["who"] if actual else "",
        held["owner"] if held else "",
        held["reason"] if held else "",
    ]
    return ":".join(word.replace(":", " ").replace("\n", " ") for word in words) + ":"


def _name(place: dict[str, Any]) -> str:
    if place["device"]:
        return str(place["device"])
    return f"partition {place['partition']}" if place["partition"] else "whole disk"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H.%M", time.localtime(seconds))
