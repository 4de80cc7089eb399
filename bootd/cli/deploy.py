"""``bootd deploy`` and ``bootd wait``: make a session, and wait for what becomes of it."""

import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bootd.cli.client import Client
from bootd.cli.context import Context, console, json_option, pass_context, print_json
from bootd.cli.erasure import confirm_erasure
from bootd.cli.files import files_body, files_options
from bootd.cli.image_registry import fetch_missing
from bootd.cli.parts import (
    after_option,
    check_place,
    disk_option,
    grow_option,
    image_of,
    part_of,
    part_option,
    stored_images,
    wait_option,
)
from bootd.cli.plan import print_cards
from bootd.cli.power import ask_power, print_switched
from bootd.cli.state import print_session
from bootd.cli.times import clock, parse_time
from bootd.errors import Exit, OperatorError
from bootd.session.arrangement import ORDERS
from bootd.session.hosts import ANY
from bootd.session.request import MAX_DELAY, MAX_KEEP_OPEN

_POLL_SECONDS = 0.5
notify_option = click.option(
    "--notify", multiple=True, help="Have mailto:ADDRESS or an https:// webhook told of the end; may be repeated."
)


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("nodes", nargs=-1, required=True)
@disk_option
@part_option
@grow_option
@click.option("--expect", type=click.IntRange(min=1), help="Start when so many are ready [default: all named].")
@click.option("--start-now", is_flag=True, help="Start with the first that is ready; later ones join behind.")
@click.option("--at", default="", help="Begin at 02:00 or 2026-01-31T02:00:00+01:00, with who is there then.")
@click.option("--label", default="kamethod", show_default=True, help="What these nodes boot meanwhile.")
@click.option("--name", default="", help="Name of the session, also for kaopt=NAME.")
@after_option
@click.option("--fan-out", type=click.IntRange(1, 4), default=1, show_default=True, help="1: chain; 2 to 4: tree.")
@click.option("--order", type=click.Choice(ORDERS), default="ip", show_default=True, help="Who follows whom.")
@click.option("--delta", is_flag=True, help="Digest what is on the disks first, and send only what differs.")
@click.option(
    "--zeros",
    type=click.Choice(["write", "discard"]),
    default="write",
    show_default=True,
    help="How they get there.",
)
@click.option(
    "--keep-open",
    type=click.FloatRange(0, MAX_KEEP_OPEN),
    default=0.0,
    help="Seconds for late nodes after the end.",
)
@click.option("--wake", is_flag=True, help="Switch the named nodes on, when the session opens.")
@click.option(
    "--delay",
    type=click.FloatRange(0, MAX_DELAY),
    default=0.0,
    help="Seconds between two nodes that are let go at the end.",
)
@files_options
@notify_option
@wait_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@pass_context
def deploy(
    context: Context,
    /,
    *,
    image: Path,
    nodes: tuple[str, ...],
    disks: tuple[str, ...],
    parts: tuple[str, ...],
    grow: bool,
    expect: int | None,
    start_now: bool,
    at: str,
    label: str,
    name: str,
    after: str,
    fan_out: int,
    order: str,
    delta: bool,
    zeros: str,
    keep_open: float,
    wake: bool,
    delay: float,
    notify: tuple[str, ...],
    is_waiting: bool,
    yes: bool,
    as_json: bool,
    **files: Any,
) -> int:
    """Clone IMAGE, a raw image on the server, onto one disk of each of NODES, or onto partitions of it (--part).

    NODES are names, ranges such as lab[3-5], MACs, or `any`. IMAGE `@last` is what was last put there. An image of
    files goes onto disks of any size: --layout says what is made there first. Disks that are not empty are erased
    then only when that is typed, or with --erase SERIAL.
    """
    if wake and ANY in re.split(r"[,\s]+", ",".join(nodes).lower()):
        raise OperatorError("'any' cannot be woken", "name the nodes, or leave --wake out", Exit.USAGE)
    start_at = parse_time(at, datetime.now().astimezone()) if at else 0.0
    wanted = {
        "source": image_of(str(image)),
        "nodes": ",".join(nodes),
        "disk": disks[0] if disks else "",
        "further": disks[1:],
        "parts": [part_of(text) for text in parts],
        "grow": grow,
        "expect": expect or 0,
        "start_now": start_now or bool(at and not expect),
        "at": start_at,
        "wake": bool(wake and start_at),
        "label": label,
        "name": name,
        "after": after,
        "fan_out": fan_out,
        "order": order,
        "compare": delta,
        "zeros": zeros,
        "keep_open": keep_open,
        "delay": delay,
        "notify": notify,
        **files_body(files),
    }
    if wanted.get("scheme"):
        check_place(wanted["disk"], wanted["parts"])
        for name_ in stored_images(wanted):
            fetch_missing(context.client, name_)
        confirm_erasure(context.client, wanted)
    waking = nodes if wake and not start_at else ()
    return carry_out(context, wanted, is_waiting=is_waiting, yes=yes, as_json=as_json, waking=waking)


def carry_out(
    context: Context,
    wanted: dict[str, Any],
    *,
    is_waiting: bool,
    yes: bool,
    as_json: bool,
    waking: tuple[str, ...] = (),
) -> int:
    """Have the images here, ask unless told not to, make the session, and wait for it if wanted."""
    check_place(wanted["disk"], wanted["parts"])
    for image in stored_images(wanted):
        fetch_missing(context.client, image)
    if not yes:
        _ask(context.client, wanted)
    session = context.client.request("POST", "sessions", body=wanted)
    if waking:  # now that they boot into it
        print_switched(ask_power(context, waking, "on"), stderr=True)
    if not is_waiting:
        if as_json:
            print_json(session)
        else:
            what = f"begins at {clock(wanted['at'])}" if wanted.get("at") else "is open"
            click.echo(f"session {session['name'] or session['id']} ({session['id']}) {what}")
            click.echo(f"follow it: bootd watch {session['name'] or session['id']}")
        return Exit.OK
    return _wait_for(context.client, session["id"], None, as_json)


@click.command()
@click.argument("session")
@click.option("--timeout", type=float, help="Seconds; then exit code 1.")
@notify_option
@json_option
@pass_context
def wait(context: Context, *, session: str, timeout: float | None, notify: tuple[str, ...], as_json: bool) -> int:
    """Wait for the end of SESSION: 0 all cloned, 3 some, 4 all refused, 1 none.

    With --notify the daemon tells of the end, also when this command is interrupted.
    """
    for target in notify:
        context.client.request("POST", "sessions", session, "notices", body={"target": target})
    return _wait_for(context.client, session, timeout, as_json)


def _ask(client: Client, order: dict[str, Any]) -> None:
    """Show what will be written where, and have it confirmed."""
    plan = client.request("POST", "preview", body=order)
    output = Console(stderr=True)
    print_cards(output, plan, plan.get("disk") or order["disk"])
    output.print(f"after   {order['after']}")
    if order["at"]:
        output.print(f"at      {clock(order['at'])}")
    if not sys.stdin.isatty():
        raise OperatorError("this erases disks and nobody can be asked here", "say --yes", Exit.USAGE)
    what = "these partitions" if order.get("parts") else "these disks"
    click.confirm(f"Everything on {what} is lost. Go on?", abort=True, err=True)


def _wait_for(client: Client, id_: str, timeout: float | None, as_json: bool) -> int:
    """Follow a session by polling, so that a restart of the daemon only delays."""
    deadline = None if timeout is None else time.monotonic() + timeout
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    output = Console(stderr=True)
    with Progress(*columns, console=output, disable=not output.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}
        session = client.get("sessions", id_)
        while not session["ended"]:
            _show_progress(progress, tasks, session)
            if deadline is not None and time.monotonic() >= deadline:
                raise OperatorError(f"session {id_} is still {session['state']}", f"bootd watch {id_}", Exit.ERROR)
            time.sleep(_POLL_SECONDS)
            session = client.get("sessions", session["id"])
        _show_progress(progress, tasks, session)
    if as_json:
        print_json(session)
    else:
        print_session(session)
        console().print(f"{session['state']}: {session['reason']}")
    return int(session["outcome"]["code"])


def _show_progress(progress: Progress, tasks: dict[str, TaskID], session: dict[str, Any]) -> None:
    for member in session["members"]:
        if member["node"] not in tasks:
            tasks[member["node"]] = progress.add_task(member["name"], total=None)
        total = 2 * (member["total"] or 0) // 1_000_000
        progress.update(
            tasks[member["node"]],
            description=f"{member['name']} {member['state']} (MB written and verified)",
            total=total or None,
            completed=(member["written"] + member["verified"]) // 1_000_000,
        )
