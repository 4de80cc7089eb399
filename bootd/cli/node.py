"""``bootd node``: the machines that are known."""

import sys
import time
from typing import Any
from urllib.parse import urlencode

import click
from rich.table import Table

from bootd.cli.contents import partitions, print_contents
from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.cli.format import duration, size
from bootd.cli.hosts import selected
from bootd.cli.machine import machine_lines
from bootd.cli.power import switch
from bootd.errors import Exit, OperatorError


@click.group()
def node() -> None:
    """Machines: list and show them, name them, say who belongs here, give them another try."""


@node.command("list")
@click.argument("nodes", nargs=-1)
@click.option("--unknown", is_flag=True, help="Only those that wait for approval, or were ignored.")
@json_option
@pass_context
def list_nodes(context: Context, nodes: tuple[str, ...], unknown: bool, as_json: bool) -> None:
    """Machines with their disks and locks, and what is odd about them: all, or NODES, such as @room2."""
    query = {"hosts": ",".join(nodes), "unknown": "1" if unknown else "0"}
    found = context.client.request("GET", "nodes", query=urlencode(query))
    if as_json:
        print_json(found)
        return
    table = Table("node", "MAC", "address", "firmware", "disks", "boots next", "seen", "note", box=None)
    for item in found:
        disks = ", ".join(f"{disk['name']} {size(disk['size'])} {disk['serial']}".strip() for disk in item["disks"])
        seen = "never" if item["seen_seconds"] is None else f"{duration(item['seen_seconds'])} ago"
        table.add_row(
            item["name"],
            item["mac"],
            item["address"] or "-",
            item["firmware"] or "-",
            disks or "-",
            item["next_label"],
            seen,
            remark(item),
        )
    console().print(table)


def remark(item: dict[str, Any]) -> str:
    """What is to be said of a machine in a list: who it is, why it does nothing, what is locked."""
    notes = [f"warning: {text}" for text in item["warnings"]]
    if item["parked"]:
        notes.append(f"parked: {item['parked']}")
    elif item["waiting"]:
        notes.append(item["waiting"])
    elif not item["known"]:
        notes.append("not approved: bootd node approve")
    notes += [f"locked: {lock['what']} by {lock['owner']}: {lock['reason']}" for lock in item["locks"]]
    return "; ".join(notes)


@node.command("show")
@click.argument("node")
@json_option
@pass_context
def show(context: Context, node: str, as_json: bool) -> None:
    """One machine: hardware, disks, locks, what it boots and why, doubts about who it is."""
    item = context.client.get("nodes", node)
    if as_json:
        print_json(item)
        return
    for text in machine_lines(item):
        console().print(text, markup=False, highlight=False, soft_wrap=True)
    places = context.client.get("nodes", node, "contents")
    if places:
        print_contents(console(), places)


@node.command("find")
@click.argument("nodes", nargs=-1, required=True)
@json_option
@pass_context
def find(context: Context, nodes: tuple[str, ...], as_json: bool) -> None:
    """Who is meant by NODES: names, host ids, ranges, @groups, with ! before what is left out."""
    hosts = selected(context.client, nodes)
    if as_json:
        print_json(hosts)
        return
    for host in hosts:
        click.echo(f"{host['name']} {host['mac']}")


@node.command("approve")
@click.argument("nodes", nargs=-1, required=True)
@json_option
@pass_context
def approve(context: Context, nodes: tuple[str, ...], as_json: bool) -> None:
    """These machines belong here: sessions may take them. NODES as everywhere; `any`: all that wait for it."""
    hosts = context.client.request("POST", "approvals", body={"hosts": ",".join(nodes)})
    if as_json:
        print_json(hosts)
        return
    for host in hosts:
        click.echo(f"{host['name']} ({host['mac']}): approved")
    if not hosts:
        click.echo("nobody waits for it")


@node.command("forget")
@click.argument("nodes", nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@pass_context
def forget(context: Context, nodes: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Forget name, label, groups and inventory of machines that are gone. Those with locks stay."""
    hosts = selected(context.client, nodes)
    names = ", ".join(host["name"] for host in hosts)
    if not yes:
        if not sys.stdin.isatty():
            raise OperatorError(f"this forgets {names} and nobody can be asked here", "say --yes", Exit.USAGE)
        click.confirm(f"Forget {names}?", abort=True, err=True)
    for host in hosts:
        context.client.request("DELETE", "nodes", host["mac"])
    tell(as_json, {"nodes": hosts}, *(f"{host['name']} ({host['mac']}): forgotten" for host in hosts))


@node.command("accept-change")
@click.argument("nodes", nargs=-1, required=True)
@json_option
@pass_context
def accept_change(context: Context, nodes: tuple[str, ...], as_json: bool) -> None:
    """The machine that answers under this MAC now is the right one, though it was another before."""
    hosts = selected(context.client, nodes)
    for host in hosts:
        context.client.request("PUT", "nodes", host["mac"], "machine")
    tell(as_json, {"nodes": hosts}, *(f"{host['name']}: accepted" for host in hosts))


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
@json_option
@pass_context
def name_node(context: Context, mac: str, name: str, as_json: bool) -> None:
    """Call the machine with MAC NAME."""
    context.client.request("PUT", "nodes", mac, "name", body={"name": name})
    tell(as_json, {"node": mac, "name": name}, f"{mac}: {name}")


@node.command("unpark")
@click.argument("nodes", nargs=-1, required=True)
@json_option
@pass_context
def unpark(context: Context, nodes: tuple[str, ...], as_json: bool) -> None:
    """Let machines that gave up be tried again; of several NODES, such as @room2, those that are parked."""
    hosts = selected(context.client, nodes)
    if len(hosts) > 1:
        known = context.client.request("GET", "nodes", query=urlencode({"hosts": ",".join(nodes)}))
        parked = {item["mac"] for item in known if item["parked"]}
        hosts = [host for host in hosts if host["mac"] in parked]
    for host in hosts:
        context.client.request("DELETE", "nodes", host["mac"], "parked")
    lines = [f"{host['name']}: may be tried again" for host in hosts]
    tell(as_json, {"nodes": hosts}, *(lines or ["none of them is parked"]))


@node.command("wake")
@click.argument("nodes", nargs=-1, required=True)
@json_option
@pass_context
def wake(context: Context, nodes: tuple[str, ...], as_json: bool) -> int:
    """Send NODES a magic packet (wake-on-LAN). Whether one woke is seen when it boots: bootd node boots NODE."""
    return switch(context, nodes, "wake", as_json=as_json)


node.add_command(partitions)
