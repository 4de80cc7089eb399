"""``bootd sync``: files of nodes made as a folder of the server has them, and kept so."""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from bootd.cli.client import Client
from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.cli.format import duration, size
from bootd.cli.sync_agent import write_package
from bootd.errors import Exit, OperatorError

_POLL_SECONDS = 0.5
_SHOWN = 40  # lines of changes for one node
_SIGNS = {"created": "+", "changed": "*", "attributes": ".", "deleted": "-"}
_cap = click.option("--cap", type=click.IntRange(1, 256), default=4, show_default=True, help="Nodes at once.")
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


@click.group()
def sync() -> None:
    """Files of nodes made as a folder of the server has them, with rsync: see docs/sync.md."""


@sync.command("run")
@click.argument("name", metavar="SET")
@click.argument("nodes", nargs=-1, required=True)
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would change.")
@click.option("--freeze", is_flag=True, help="Delete what the source does not have: deep-freeze.")
@click.option("--full", is_flag=True, help="Look into every file, also where size and time are equal.")
@click.option("--staged", is_flag=True, help="Make the whole new tree first, then swap.")
@click.option("--reboot", is_flag=True, help="Restart each node that is done.")
@click.option("--max-delete", type=click.IntRange(0, 100), help="Per cent of the files [default: as the set says].")
@click.option("--few", is_flag=True, help="Also from a source with fewer files than the set expects.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the end.")
@_cap
@_yes
@json_option
@pass_context
def run(
    context: Context,
    *,
    name: str,
    nodes: tuple[str, ...],
    dry_run: bool,
    freeze: bool,
    full: bool,
    staged: bool,
    reboot: bool,
    max_delete: int | None,
    few: bool,
    no_wait: bool,
    cap: int,
    yes: bool,
    as_json: bool,
) -> int:
    """Make the files of NODES as SET has them: nodes in stage2, or running with an agent.

    Exit code 0 when all are done, 3 when some are, or in part, 4 when a rule refused all, 1 when none is.
    """
    what = _set_named(context.client, name)
    if not yes and not dry_run:
        loss = "What else is there is deleted." if freeze else "What else is there stays."
        where = f"{what['target']} of {' '.join(nodes)} becomes as {what['source']}"
        click.confirm(f"{where}. {loss} Go on?", abort=True, err=True)
    body = {
        "set": name,
        "nodes": ",".join(nodes),
        "dry_run": dry_run,
        "freeze": freeze,
        "full": full,
        "staged": staged,
        "reboot": reboot,
        "max_delete": max_delete,
        "few": few,
        "cap": cap,
    }
    return _begin(context.client, body, as_json=as_json, no_wait=no_wait)


@sync.command("collect")
@click.argument("name", metavar="SET")
@click.argument("nodes", nargs=-1, required=True)
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would change on the server.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the end.")
@_cap
@json_option
@pass_context
def collect(
    context: Context, *, name: str, nodes: tuple[str, ...], dry_run: bool, no_wait: bool, cap: int, as_json: bool
) -> int:
    """The other way round: bring the target of SET from NODES to the server, into a folder for each."""
    body = {"set": name, "nodes": ",".join(nodes), "collect": True, "dry_run": dry_run, "cap": cap}
    return _begin(context.client, body, as_json=as_json, no_wait=no_wait)


@sync.command("list")
@json_option
@pass_context
def list_sets(context: Context, *, as_json: bool) -> None:
    """Sync sets, and the latest runs."""
    sets, runs = context.client.get("sync-sets"), context.client.get("syncs")
    if as_json:
        print_json({"sets": sets, "runs": runs})
        return
    table = Table("set", "source", "target", "leaves out", "", box=None)
    for one in sets:
        table.add_row(
            one["name"], one["source"], one["target"], escape(" ".join(one["exclude"])), escape(one["trouble"])
        )
    console().print(table)
    for one in runs:
        states = [node["state"] for node in one["nodes"]]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        click.echo(f"{one['id']}  {one['set']}{' (dry run)' if one['dry_run'] else ''}: {counts}, by {one['who']}")


@sync.command("show")
@click.argument("id_", metavar="ID")
@json_option
@pass_context
def show(context: Context, *, id_: str, as_json: bool) -> int:
    """A run: how far each node is, and what has changed on it."""
    found = context.client.get("syncs", id_)
    _print(found, as_json=as_json)
    return int(found["code"] or 0)


@sync.command("stop")
@click.argument("id_", metavar="ID")
@json_option
@pass_context
def stop(context: Context, *, id_: str, as_json: bool) -> None:
    """End a run wherever it is."""
    found = context.client.request("DELETE", "syncs", id_)
    tell(as_json, found, f"{id_} is being ended")


@sync.command("schedule")
@click.argument("name", metavar="SET")
@click.argument("nodes", nargs=-1, required=True)
@click.option("--at", required=True, metavar="HH:MM|boot|logon", help="Daily after this time, at boot, at logon.")
@click.option("--freeze", is_flag=True, help="Delete what the source does not have: deep-freeze.")
@click.option("--staged", is_flag=True, help="Make the whole new tree first, then swap.")
@click.option("--reboot", is_flag=True, help="Restart each node that is done.")
@_cap
@_yes
@json_option
@pass_context
def schedule(
    context: Context,
    *,
    name: str,
    nodes: tuple[str, ...],
    at: str,
    freeze: bool,
    staged: bool,
    reboot: bool,
    cap: int,
    yes: bool,
    as_json: bool,
) -> None:
    """Sync NODES to SET daily (who is down then, as it comes up), at boot, or when a user logs on."""
    if not yes:
        loss = ", and what else is there is deleted" if freeze else ""
        click.confirm(f"{' '.join(nodes)} become as {name} at {at}{loss}. Go on?", abort=True, err=True)
    body = {
        "set": name,
        "nodes": ",".join(nodes),
        "at": at,
        "freeze": freeze,
        "staged": staged,
        "reboot": reboot,
        "cap": cap,
    }
    _print_schedules(context.client.request("POST", "sync-schedules", body=body), as_json=as_json)


@sync.command("schedules")
@json_option
@pass_context
def schedules(context: Context, *, as_json: bool) -> None:
    """What is synced when."""
    _print_schedules(context.client.get("sync-schedules"), as_json=as_json)


@sync.command("unschedule")
@click.argument("id_", metavar="ID")
@json_option
@pass_context
def unschedule(context: Context, *, id_: str, as_json: bool) -> None:
    """Remove a schedule."""
    _print_schedules(context.client.request("DELETE", "sync-schedules", id_), as_json=as_json)


@sync.command("agent")
@click.argument("node")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A new file, .tar.gz.")
@json_option
@pass_context
def agent(context: Context, *, node: str, out: Path, as_json: bool) -> None:
    """Make the package of the agent for NODE's running system, with a key that is its own: unpack it at /."""
    if out.exists():
        raise OperatorError(f"{out} is there already", "another name, or remove it", Exit.USAGE)
    answer = context.client.request("POST", "sync-agents", body={"node": node})
    write_package(out, server=answer["server"], node=answer["node"], key=answer["key"])
    tell(
        as_json,
        {"node": answer["node"], "name": answer["name"], "file": str(out)},
        f"{out}: on {answer['name']}, as root: tar -xzf {out.name} -C / && systemctl enable --now bootd-agent",
    )


@sync.command("agents")
@json_option
@pass_context
def agents(context: Context, *, as_json: bool) -> None:
    """Machines whose running system may be synced."""
    _print_agents(context.client.get("sync-agents"), as_json=as_json)


@sync.command("revoke")
@click.argument("node")
@json_option
@pass_context
def revoke(context: Context, *, node: str, as_json: bool) -> None:
    """The key of NODE's agent counts no more."""
    _print_agents(context.client.request("DELETE", "sync-agents", node), as_json=as_json)


def _set_named(client: Client, name: str) -> dict[str, Any]:
    sets: list[dict[str, Any]] = client.get("sync-sets")
    for one in sets:
        if one["name"] == name:
            return one
    known = ", ".join(one["name"] for one in sets) or "none"
    raise OperatorError(
        f"there is no sync set {name!r}", f"known: {known}; see [[sync.set]] in bootd.toml", Exit.USAGE
    )


def _begin(client: Client, body: dict[str, Any], *, as_json: bool, no_wait: bool) -> int:
    found: dict[str, Any] = client.request("POST", "syncs", body=body)
    if no_wait:
        tell(as_json, found, f"sync {found['id']}: bootd sync show {found['id']}")
        return 0
    try:
        found = _follow(client, found["id"], is_silent=as_json)
    except KeyboardInterrupt:
        client.request("DELETE", "syncs", found["id"])
        click.echo("bootd: it is being ended everywhere", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            found = _follow(client, found["id"], is_silent=True)
    _print(found, as_json=as_json)
    return int(found["code"] if found["code"] is not None else Exit.ERROR)


def _follow(client: Client, id_: str, *, is_silent: bool) -> dict[str, Any]:
    """The run, once it is over; a line on standard error whenever a node goes on, for people also how far."""
    told: dict[str, str] = {}
    for_people = sys.stderr.isatty()
    while True:
        found: dict[str, Any] = client.get("syncs", id_)
        for node in found["nodes"]:
            line = node["state"]
            if for_people and line == "running":
                line += f", {node['created']} new, {node['changed']} changed, {size(node['wire'])}"
            if told.get(node["node"]) != line and not is_silent:
                click.echo(f"{node['name']}: {line}", err=True)
            told[node["node"]] = line
        if found["ended"]:
            return found
        time.sleep(_POLL_SECONDS)


def _print(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    would = "would be " if found["dry_run"] else ""
    table = Table(
        "node", "state", "files", "new", "changed", "attributes", "deleted", "bytes", "time", "", box=None
    )
    for node in found["nodes"]:
        numbers = [str(node[key]) for key in ("files", "created", "changed", "attributes", "deleted")]
        table.add_row(
            node["name"],
            node["state"],
            *numbers,
            size(node["wire"]),
            duration(node["seconds"]),
            escape(node["reason"]),
        )
    console().print(table)
    for node in found["nodes"]:
        for change in node["changes"][:_SHOWN]:
            click.echo(f"{node['name']}: {_SIGNS[change['kind']]} {would}{change['kind']} {change['path']}")
        total = sum(node[key] for key in _SIGNS)
        if total > min(len(node["changes"]), _SHOWN):
            more = total - min(len(node["changes"]), _SHOWN)
            click.echo(f"{node['name']}: and {more} more: bootd sync show {found['id']} --json")


def _print_schedules(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    table = Table("id", "set", "nodes", "at", "how", "due", "set by", box=None)
    for one in found:
        how = " ".join(key for key in ("freeze", "staged", "reboot") if one[key]) or "update"
        table.add_row(one["id"], one["set"], one["nodes"], one["at"], how, " ".join(one["due"]), one["who"])
    console().print(table)


def _print_agents(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    table = Table("node", "name", "agent", "since", "by", box=None)
    for one in found:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(one["created"]))
        table.add_row(one["node"], one["name"], "up" if one["up"] else "down", made, one["who"])
    console().print(table)
