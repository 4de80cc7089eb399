"""``bootd map``: the room at a glance, made from what is known. CloneSys's clustermap and mapname."""

from typing import Any

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json
from bootd.cli.format import duration


@click.command(name="map")
@click.option("--by", type=click.Choice(["group", "switch"]), default="group", show_default=True, help="Parts.")
@json_option
@pass_context
def map_(context: Context, by: str, as_json: bool) -> None:
    """All machines by group or switch: host id, name, address, MAC, how they are, locks."""
    parts = arrange(context.client.get("nodes"), by)
    if as_json:
        print_json(parts)
        return
    output = console()
    for part in parts:
        output.print(f"{part['part'] or f'in no {by}'}: {len(part['nodes'])} nodes", highlight=False, markup=False)
        table = Table("id", "name", "address", "MAC", "state", "locks", box=None)
        for node in part["nodes"]:
            number = "" if node["number"] is None else str(node["number"])
            table.add_row(
                number, node["name"], node["address"] or "-", node["mac"], node["state"], str(node["locks"] or "")
            )
        output.print(table)


def arrange(nodes: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """Parts of the room, by name, the rest last; a machine in two groups stands in both."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        places = node["groups"] if by == "group" else [node["switch"]] if node["switch"] else []
        for place in places or [""]:
            parts.setdefault(place, []).append(node)
    return [
        {
            "part": place or None,
            "nodes": [
                {
                    **{key: node[key] for key in ("mac", "name", "number", "address")},
                    "state": state(node),
                    "locks": len(node["locks"]),
                }
                for node in sorted(parts[place], key=_order)
            ],
        }
        for place in sorted(parts, key=lambda place: (not place, place))
    ]


def state(node: dict[str, Any]) -> str:
    """How a machine is, in a word or two."""
    if node["parked"]:
        return "parked"
    if not node["known"]:
        return "not approved"
    if node["session"]:
        return f"in session {node['session']}"
    if node["present"]:
        return "in stage2"
    return "never seen" if node["seen_seconds"] is None else f"asked {duration(node['seen_seconds'])} ago"


def _order(node: dict[str, Any]) -> tuple[bool, int, str]:
    number = node["number"]
    return number is None, number or 0, node["name"]
