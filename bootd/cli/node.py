"""``bootd node``: the machines that are known."""

import time
from urllib.parse import urlencode

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json
from bootd.cli.format import duration, size
from bootd.cli.power import switch


@click.group()
def node() -> None:
    """Machines: list them, name them, give them another try."""


@node.command("list")
@json_option
@pass_context
def list_nodes(context: Context, as_json: bool) -> None:
    """All machines that booted from here, with their disks."""
    nodes = context.client.get("nodes")
    if as_json:
        print_json(nodes)
        return
    table = Table("node", "MAC", "address", "firmware", "disks", "boots next", "seen", "note", box=None)
    for item in nodes:
        disks = ", ".join(f"{disk['name']} {size(disk['size'])} {disk['serial']}".strip() for disk in item["disks"])
        seen = "never" if item["seen_seconds"] is None else f"{duration(item['seen_seconds'])} ago"
        note = f"parked: {item['parked']}" if item["parked"] else item["waiting"] or ""
        table.add_row(
            item["name"],
            item["mac"],
            item["address"] or "-",
            item["firmware"] or "-",
            disks or "-",
            item["next_label"],
            seen,
            note,
        )
    console().print(table)


@node.command("timeline")
@click.argument("node")
@json_option
@pass_context
def timeline(context: Context, node: str, as_json: bool) -> None:
    """What a machine did and was told, from its first DISCOVER on, as far as it is kept."""
    lines = context.client.request("GET", "timeline", query=urlencode({"node": node}))
    if as_json:
        print_json(lines)
        return
    for line in lines:
        clock = time.strftime("%H:%M:%S", time.localtime(line["time"]))
        click.echo(f"{clock} {line['kind']}: {line['text']}")


@node.command("boots")
@click.argument("node")
@click.option("--last", default=5, show_default=True, type=click.IntRange(1, 50), help="So many boots.")
@json_option
@pass_context
def boots(context: Context, node: str, last: int, as_json: bool) -> None:
    """How a machine booted: each step with its time, and where and probably why it does not go on."""
    answer = context.client.get("nodes", node, "boots")
    answer["boots"] = answer["boots"][-last:]
    if as_json:
        print_json(answer)
        return
    if not answer["boots"]:
        click.echo(f"{answer['name']}: nothing was heard of it: does its DISCOVER reach this server? bootd doctor")
    for boot in answer["boots"]:
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(boot["begun"]))
        click.echo(f"{answer['name']}  {begun}  label {boot['label'] or '-'}  {boot['state'].replace('_', ' ')}")
        for step in boot["steps"]:
            click.echo(f"  {step['after']:8.1f} s  {'+' + format(step['took'], '.1f'):>7} s  {step['text']}")
        for line in boot["trouble"]:
            click.echo(f"                      ! {line}")
        if boot["reason"]:
            where = next((step["text"] for step in boot["steps"] if step["step"] == boot["stalled_after"]), "")
            click.echo(f"  -> {'stalled after: ' + where + '; likely: ' if where else ''}{boot['reason']}")


@node.command("name")
@click.argument("mac")
@click.argument("name")
@pass_context
def name_node(context: Context, mac: str, name: str) -> None:
    """Call the machine with MAC NAME."""
    context.client.request("PUT", "nodes", mac, "name", body={"name": name})
    click.echo(f"{mac}: {name}")


@node.command("unpark")
@click.argument("nodes", nargs=-1, required=True)
@pass_context
def unpark(context: Context, nodes: tuple[str, ...]) -> None:
    """Let machines that gave up be tried again."""
    for item in nodes:
        context.client.request("DELETE", "nodes", item, "parked")
        click.echo(f"{item}: may be tried again")


@node.command("wake")
@click.argument("nodes", nargs=-1, required=True)
@json_option
@pass_context
def wake(context: Context, nodes: tuple[str, ...], as_json: bool) -> int:
    """Send NODES a magic packet (wake-on-LAN). Whether one woke is seen when it boots: bootd node boots NODE."""
    return switch(context, nodes, "wake", as_json=as_json)
