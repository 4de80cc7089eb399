"""``bootd group``: machines that go by one name."""

from typing import Any

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json


@click.group()
def group() -> None:
    """Groups of machines: @NAME stands for them wherever nodes are named."""


@group.command("list")
@json_option
@pass_context
def list_groups(context: Context, as_json: bool) -> None:
    """All groups; where a machine is in several with different labels, the first counts, and `local` before all."""
    groups = context.client.get("groups")
    if as_json:
        print_json(groups)
        return
    table = Table("group", "nodes", "label", "from", "note", box=None)
    for item in groups:
        source = "bootd.toml" if item["configured"] else "operators"
        note = f"nobody is called {', '.join(item['missing'])}" if item["missing"] else ""
        table.add_row(item["name"], str(len(item["nodes"])), item["label"] or "-", source, note)
    console().print(table)


@group.command("show")
@click.argument("name")
@json_option
@pass_context
def show(context: Context, name: str, as_json: bool) -> None:
    """Who is in group NAME, and what each boots next."""
    item = context.client.get("groups", _bare(name))
    if as_json:
        print_json(item)
        return
    table = Table("node", "MAC", "boots next", box=None)
    for node in item["nodes"]:
        table.add_row(node["name"], node["mac"], node["label"])
    output = console()
    output.print(f"{item['name']}: {len(item['nodes'])} nodes, label {item['label'] or '-'}", highlight=False)
    output.print(table)
    if item["missing"]:
        output.print(f"nobody is called {', '.join(item['missing'])}", highlight=False)


@group.command("add")
@click.argument("name")
@click.argument("nodes", nargs=-1, required=True)
@json_option
@pass_context
def add(context: Context, name: str, nodes: tuple[str, ...], as_json: bool) -> None:
    """Put NODES into group NAME, which is made if need be.

    NODES are names, ranges such as lab[3-5], MACs, or the present members of another @GROUP.
    """
    _change(context, name, {"add": ",".join(nodes)}, as_json)


@group.command("remove")
@click.argument("name")
@click.argument("nodes", nargs=-1)
@json_option
@pass_context
def remove(context: Context, name: str, nodes: tuple[str, ...], as_json: bool) -> None:
    """Take NODES out of group NAME; without NODES, forget the group. Its machines stay as they are."""
    if nodes:
        _change(context, name, {"drop": ",".join(nodes)}, as_json)
        return
    context.client.request("DELETE", "groups", _bare(name))
    if as_json:
        print_json({"removed": _bare(name)})
    else:
        click.echo(f"{_bare(name)}: removed")


def _change(context: Context, name: str, body: dict[str, Any], as_json: bool) -> None:
    item = context.client.request("PUT", "groups", _bare(name), body=body)
    if as_json:
        print_json(item)
    else:
        click.echo(f"{item['name']}: {len(item['nodes'])} nodes")


def _bare(name: str) -> str:
    return name.removeprefix("@")
