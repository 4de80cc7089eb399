"""``bootd label``: which boot menu entry a node boots."""

import secrets
import subprocess
import sys

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.cli.hosts import HELP, selected
from bootd.errors import Exit, OperatorError
from bootd.netboot.passwords import MAX_PASSWORD, SALT_BYTES, make_grub_hash


@click.group()
def label() -> None:
    """Boot labels: the default, per group, per node, for one boot."""


@label.command("list")
@json_option
@pass_context
def list_labels(context: Context, as_json: bool) -> None:
    """All labels, the default, those of groups, and what each known node boots next."""
    answer = context.client.get("labels")
    nodes = context.client.get("nodes")
    groups = [group for group in context.client.get("groups") if group["label"]]
    answer["groups"] = [{key: group[key] for key in ("name", "label")} for group in groups]
    answer["nodes"] = [{key: node[key] for key in ("mac", "name", "next_label", "why")} for node in nodes]
    if as_json:
        print_json(answer)
        return
    table = Table("", "label", "title", "kind", "command line", box=None)
    for item in answer["labels"]:
        mark = "*" if item["name"] == answer["default"] else ""
        marks = [word for word in ("protected", "hidden") if item[word]]
        title = f"{item['title']} ({', '.join(marks)})" if marks else item["title"]
        table.add_row(mark, item["name"], title, item["kind"], item["append"] or item["kernel"])
    output = console()
    output.print(table)
    output.print(f"default: {answer['default']}")
    for group in answer["groups"]:
        output.print(f"group {group['name']}: {group['label']}", highlight=False)
    if nodes:
        policies = Table("node", "MAC", "boots next", "why", box=None)
        for node in nodes:
            policies.add_row(node["name"], node["mac"], node["next_label"], node["why"])
        output.print(policies)


@label.command("show")
@click.argument("name")
@json_option
@pass_context
def show_label(context: Context, name: str, as_json: bool) -> None:
    """One label: what it boots, and who boots it next."""
    answer = context.client.get("labels")
    item = next((one for one in answer["labels"] if one["name"] == name), None)
    if item is None:
        there = ", ".join(one["name"] for one in answer["labels"])
        raise OperatorError(f"there is no label {name}", f"there are: {there}", Exit.USAGE)
    nodes = [node for node in context.client.get("nodes") if node["next_label"] == name]
    item["default"] = name == answer["default"]
    item["groups"] = [group["name"] for group in context.client.get("groups") if group["label"] == name]
    item["nodes"] = [{key: node[key] for key in ("mac", "name", "why")} for node in nodes]
    lines = [f"{key}: {_shown(value)}" for key, value in item.items() if key != "nodes"]
    tell(as_json, item, *lines, *(f"next of {node['name']}: {node['why']}" for node in nodes))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "-")


@label.command("set-default")
@click.argument("name")
@json_option
@pass_context
def set_default(context: Context, name: str, as_json: bool) -> None:
    """Nodes without a label of their own boot NAME."""
    context.client.request("PUT", "labels", "default", body={"label": name})
    tell(as_json, {"default": name}, f"default label: {name}")


@label.command("set")
@click.argument("name")
@click.option("--node", "nodes", multiple=True, help=f"{HELP} May be repeated.")
@click.option("--group", "groups", multiple=True, help="What its machines boot by default; may be repeated.")
@click.option("--once", is_flag=True, help="For the next boot only.")
@json_option
@pass_context
def set_label(
    context: Context, *, name: str, nodes: tuple[str, ...], groups: tuple[str, ...], once: bool, as_json: bool
) -> None:
    """A node boots NAME, until `clear` or for one boot; or: the machines of a group boot NAME by default.

    --node @room2 gives each machine that is in room2 now a label of its own; --group room2 is for all that are in
    it whenever they boot. A group's label counts after a machine's own, after sessions and what the last one left,
    and before the default. `local` for a group also keeps its machines out of sessions for `any`.
    """
    _check(nodes, groups)
    if groups and once:
        raise OperatorError("a group's label is for every boot", "say --once with --node", Exit.USAGE)
    hosts = selected(context.client, nodes) if nodes else []
    for host in hosts:
        context.client.request("PUT", "nodes", host["mac"], "label", body={"label": name, "once": once})
    changed = [
        context.client.request("PUT", "groups", group.removeprefix("@"), body={"label": name}) for group in groups
    ]
    lines = [f"{host['name']}: {name}{' for the next boot' if once else ''}" for host in hosts]
    lines += [f"group {item['name']}: {name} for {len(item['nodes'])} nodes" for item in changed]
    tell(as_json, {"label": name, "once": once, "nodes": hosts, "groups": changed}, *lines)


@label.command("clear")
@click.option("--node", "nodes", multiple=True, help=f"{HELP} May be repeated.")
@click.option("--group", "groups", multiple=True, help="Back to its label in bootd.toml, or none; may be repeated.")
@json_option
@pass_context
def clear(context: Context, nodes: tuple[str, ...], groups: tuple[str, ...], as_json: bool) -> None:
    """A node boots what its session, its group or the default says; a group has no label by operators any more."""
    _check(nodes, groups)
    hosts = selected(context.client, nodes) if nodes else []
    for host in hosts:
        context.client.request("DELETE", "nodes", host["mac"], "label")
    changed = [
        context.client.request("PUT", "groups", group.removeprefix("@"), body={"label": ""}) for group in groups
    ]
    lines = [f"{host['name']}: cleared" for host in hosts]
    lines += [f"group {item['name']}: {item['label'] or 'no label'}" for item in changed]
    tell(as_json, {"nodes": hosts, "groups": changed}, *lines)


def _check(nodes: tuple[str, ...], groups: tuple[str, ...]) -> None:
    if not nodes and not groups:
        raise click.UsageError("say --node NODES or --group GROUP")


@label.command("password")
@json_option
def password(as_json: bool) -> None:
    """Make the hashes of a password, for `password` of a [[label]].

    Asks for it twice, or reads one line of standard input. It is printed nowhere and sent nowhere.
    """
    if sys.stdin.isatty():
        text = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    else:
        text = sys.stdin.readline().rstrip("\n")
    if not text or len(text) > MAX_PASSWORD or not text.isascii() or not text.isprintable():
        raise OperatorError(
            "a password is 1 to 64 printable ASCII characters",
            "boot loaders have a plain keyboard only",
            Exit.USAGE,
        )
    hashes = [make_grub_hash(text, secrets.token_bytes(SALT_BYTES)), *_crypt_hash(text)]
    if as_json:
        print_json({"password": hashes})
        return
    click.echo("password = [")
    for line in hashes:
        click.echo(f'    "{line}",')
    click.echo("]")


def _crypt_hash(text: str) -> list[str]:
    """crypt(3)'s SHA-512, by openssl: Python's own goes with its version 3.13."""
    try:
        done = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=text.encode(), capture_output=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        click.echo("bootd: without openssl there is no hash for PXELINUX: its menu leaves the entry out", err=True)
        return []
    return [done.stdout.decode().strip()]
