"""``bootd state`` and ``bootd watch``: sessions and nodes, once or live."""

import contextlib
import json
import time
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bootd.cli.client import Client
from bootd.cli.context import Context, console, json_option, pass_context, print_json
from bootd.cli.format import duration, megabytes, remaining, size
from bootd.cli.node import remark
from bootd.cli.times import clock
from bootd.errors import Exit, OperatorError

_COLOURS = {
    **dict.fromkeys(("done", "verified"), "green"),
    **dict.fromkeys(("failed", "lost", "evicted", "ejected", "parked", "refused", "cancelled", "partly"), "red"),
    **dict.fromkeys(("receiving", "verifying", "running", "finishing", "reading"), "cyan"),
}
_RETRY_SECONDS = 1.0
_BAR_WIDTH = 24


@click.command()
@json_option
@pass_context
def state(context: Context, as_json: bool) -> None:
    """Sessions and nodes, now."""
    value = context.client.get("state")
    if as_json:
        print_json(value)
        return
    output = console()
    output.print(overview(value))
    if not value["sessions"]:
        output.print("no sessions")


@click.command()
@click.argument("name", required=False)
@json_option
@pass_context
def watch(context: Context, name: str | None, as_json: bool) -> None:
    """Sessions live, until Ctrl-C; with NAME until that session has ended.

    With --json the events as they come, one JSON object in a line: {"event": "state" or "line", "value": …}.
    """
    with contextlib.suppress(KeyboardInterrupt):  # wherever it comes: that is how watching is ended
        if as_json:
            _watch_events(context.client, name)
        else:
            _watch_live(context.client, name)


def _watch_events(client: Client, name: str | None) -> None:
    for kind, value in client.events():
        click.echo(json.dumps({"event": kind, "value": value}, ensure_ascii=False))
        if name and kind == "state" and _has_ended(value, name):
            return


def _watch_live(client: Client, name: str | None) -> None:
    output = Console()
    lines: list[str] = []
    trouble = ""
    shown: dict[str, Any] = {}
    with Live(console=output, refresh_per_second=4, transient=False) as live:
        while True:
            try:
                for kind, value in client.events():
                    trouble = ""
                    if kind == "line":
                        lines = [*lines[-7:], _line(value)]
                    else:
                        shown = value
                    live.update(Group(overview(shown, name), Text("\n".join(lines), style="dim")))
                    if name and _has_ended(shown, name):
                        return
            except OperatorError as error:
                if error.code is not Exit.UNREACHABLE or not (shown or trouble):
                    raise
                trouble = error.message
            live.update(Group(overview(shown, name), Text(trouble or "the daemon ended the stream", style="red")))
            time.sleep(_RETRY_SECONDS)


def overview(value: dict[str, Any], name: str | None = None) -> RenderableType:
    """Sessions (all, or the one with that name or id), then the nodes that are in none."""
    parts: list[RenderableType] = []
    for session in value.get("sessions", []):
        if name is None or name in (session["name"], session["id"]):
            parts += _session(session)
    if name is None and value.get("backups"):
        parts.append(backups_table(value["backups"]))
    if name is None and value.get("nodes"):
        parts.append(_nodes(value["nodes"]))
    if value.get("journal", "ok") != "ok":
        parts.append(Text(f"journal: {value['journal']}", style="red"))
    if name is None and "default_label" in value:
        parts.append(Text(f"default label: {value['default_label']}"))
    return Group(*parts)


def backups_table(backups: list[dict[str, Any]]) -> Table:
    """Disks that are read into images, oldest first."""
    table = Table("backup", "id", "node", "of", "state", "", "MB in use", "new", "MB/s", "ETA", "note", box=None)
    for item in backups:
        table.add_row(
            item["image"],
            item["id"],
            item["name"],
            item["source"],
            Text(item["state"], style=_COLOURS.get(item["state"], "")),
            ProgressBar(total=1.0, completed=item["done"] / max(1, item["total"]), width=_BAR_WIDTH),
            megabytes(item["total"]) if item["total"] else "-",
            megabytes(item["sent"]) if item["total"] else "-",
            _rate(item["rate"]),
            duration(item["remaining_seconds"]),
            item["reason"] or "; ".join(item["notes"]),
        )
    return table


def print_session(session: dict[str, Any]) -> None:
    """One session, on standard output."""
    console().print(Group(*_session(session)))


def _session(session: dict[str, Any]) -> list[RenderableType]:
    hop = session.get("slowest_hop")
    parts: list[RenderableType] = [_title(session), _members(session)]
    if hop and not session["ended"]:
        text = (
            f"slowest: {hop['from']} to {hop['to']}, {hop['rate'] / 1e6:.1f} MB/s, {size(hop['waiting'])} waiting"
        )
        parts.append(Text(text, style="dim"))
    return parts


def _has_ended(value: dict[str, Any], name: str) -> bool:
    return any(
        session["ended"] for session in value.get("sessions", []) if name in (session["name"], session["id"])
    )


def _title(session: dict[str, Any]) -> Text:
    text = Text(f"session {session['name'] or session['id']} ", style="bold")
    text.append(session["state"], style=_COLOURS.get(session["state"], ""))
    details = [f"id {session['id']}", f"{session['source']} ({size(session['source_size'])})"]
    head = session.get("head")
    if session["state"] == "preparing" and head:
        details.append(f"digested {100 * head['digested'] // max(1, session['source_size'])} %")
    if session["state"] == "waiting":
        details.append(f"{session['ready']} of {session['expect']} nodes ready")
    if session["state"] == "scheduled":
        details.append(f"begins at {clock(session['start_at'])}")
    details += _options(session)
    total = session.get("seconds", {}).get("total")
    if total is not None:
        details.append(duration(total))
    if session["reason"]:
        details.append(session["reason"])
    text.append("  " + " · ".join(details), style="not bold")
    return text


def _options(session: dict[str, Any]) -> list[str]:
    """What was asked for beyond a plain chain."""
    words = []
    if session.get("fan_out", 1) > 1:
        words.append(f"fan-out {session['fan_out']}")
    if session.get("order", "ip") != "ip":
        words.append(f"order {session['order']}")
    if session.get("compare"):
        words.append("delta")
    if session.get("zeros", "write") != "write":
        words.append("zeros discarded")
    if session.get("keep_open"):
        words.append(f"open {session['keep_open']:g} s longer")
    if session.get("delay"):
        words.append(f"{session['delay']:g} s between two ends")
    if session.get("parent"):
        words.append(f"retry of {session['parent']}")
    if (session.get("phases") or 1) > 1:
        words.append(f"phase {session['phase'] + 1} of {session['phases']}")
    return words


def _members(session: dict[str, Any]) -> Table:
    columns = (
        "node",
        "state",
        "",
        "MB written",
        "durable",
        "verified",
        "kept",
        "MB/s in",
        "out",
        "disk",
        "MB behind",
    )
    table = Table(*columns, "ETA", "note", box=None)
    members = session["members"]
    for member in members:
        total = member.get("total") or 0
        share = (member["written"] + member["verified"]) / (2 * total) if total else 0.0
        note = member["reason"] or member.get("trouble") or ("in a side lane" if member.get("aside") else "")
        table.add_row(
            member["name"],
            Text(member["state"], style=_COLOURS.get(member["state"], "")),
            ProgressBar(total=1.0, completed=share, width=_BAR_WIDTH),
            megabytes(member["written"]),
            megabytes(member["durable"]),
            megabytes(member["verified"]),
            megabytes(member.get("kept", 0)) if member.get("kept") else "-",
            *(_rate(member.get(key, 0)) for key in ("rate", "rate_out", "rate_disk")),
            megabytes(member["lag"]) if member.get("lag") else "-",
            duration(remaining(member)),
            note,
        )
    seen = {member["node"] for member in members}
    for verdict in session["outcome"]["nodes"]:
        if verdict["node"] not in seen:
            style = _COLOURS.get(verdict["state"], "")
            blanks = ["", *["-"] * (len(columns) - 2)]
            table.add_row(verdict["name"], Text(verdict["state"], style=style), *blanks, verdict["reason"])
    return table


def _rate(count: int) -> str:
    return f"{count / 1e6:.1f}" if count else "-"


def _nodes(nodes: list[dict[str, Any]]) -> Table:
    table = Table("node", "MAC", "address", "boots next", "why", "note", box=None)
    for node in nodes:
        table.add_row(
            node["name"], node["mac"], node["address"] or "-", node["next_label"], node["why"], remark(node)
        )
    return table


def _line(value: dict[str, Any]) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(value["time"]))
    return f"{clock} {value['node'] or value['session'] or '-':17} {value['kind']}: {value['text']}"
