"""``bootd label``: which boot menu entry a node boots."""

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json


@click.group()
def label() -> None:
    """Boot labels: the default, per node, for one boot."""


@label.command("list")
@json_option
@pass_context
def list_labels(context: Context, as_json: bool) -> None:
    """All labels, the default, and what each known node boots next."""
    answer = context.client.get("labels")
    nodes = context.client.get("nodes")
    answer["nodes"] = [{key: node[key] for key in ("mac", "name", "next_label", "why")} for node in nodes]
    if as_json:
        print_json(answer)
        return
    table = Table("", "label", "title", "kind", "command line", box=None)
    for item in answer["labels"]:
        mark = "*" if item["name"] == answer["default"] else ""
        table.add_row(mark, item["name"], item["title"], item["kind"], item["append"] or item["kernel"])
    output = console()
    output.print(table)
    output.print(f"default: {answer['default']}")
    if nodes:
        policies = Table("node", "MAC", "boots next", "why", box=None)
        for node in nodes:
            policies.add_row(node["name"], node["mac"], node["next_label"], node["why"])
        output.print(policies)


@label.command("set-default")
@click.argument("name")
@pass_context
def set_default(context: Context, name: str) -> None:
    """Nodes without a label of their own boot NAME."""
    context.client.request("PUT", "labels", "default", body={"label": name})
    click.echo(f"default label: {name}")


@label.command("set")
@click.argument("name")
@click.option("--node", "nodes", required=True, multiple=True, help="Name or MAC; may be repeated.")
@click.option("--once", is_flag=True, help="For the next boot only.")
@pass_context
def set_label(context: Context, name: str, nodes: tuple[str, ...], once: bool) -> None:
    """A node boots NAME, until `clear` or for one boot."""
    for node in nodes:
        context.client.request("PUT", "nodes", node, "label", body={"label": name, "once": once})
        click.echo(f"{node}: {name}{' for the next boot' if once else ''}")


@label.command("clear")
@click.option("--node", "nodes", required=True, multiple=True, help="Name or MAC; may be repeated.")
@pass_context
def clear(context: Context, nodes: tuple[str, ...]) -> None:
    """A node boots what its session or the default says."""
    for node in nodes:
        context.client.request("DELETE", "nodes", node, "label")
        click.echo(f"{node}: cleared")
