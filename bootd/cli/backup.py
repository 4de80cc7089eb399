"""``bootd backup`` and ``bootd backups``: read disks of nodes into images."""

import time
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from bootd.cli.client import Client
from bootd.cli.context import Context, console, json_option, pass_context, print_json
from bootd.cli.format import size
from bootd.cli.state import backups_table
from bootd.errors import Exit, OperatorError

_POLL_SECONDS = 0.5
_CODES = {"done": Exit.OK, "refused": Exit.REFUSED}


@click.command()
@click.argument("node")
@click.argument("image")
@click.option("-m", "--comment", required=True, help="Why this image is made.")
@click.option("--user", default="", help="Who it is from [default: who asks]; root only.")
@click.option("--disk", default="only", show_default=True, help="Which disk, as for deploy: serial=, name=, …")
@click.option("--part", "parts", multiple=True, help="Only this partition (sda5, or a number); may be repeated.")
@click.option("--tag", "tags", multiple=True, help="Also IMAGE:TAG; may be repeated.")
@click.option("--files", is_flag=True, help="The files of the system on the disk, for disks of any size.")
@click.option(
    "--running", is_flag=True, help="With --files: of the system that runs there, at one moment, by its agent."
)
@click.option("--exclude", "-x", multiple=True, metavar="DIR", help="With --files: this folder (/tmp) stays empty.")
@click.option("--dirty", is_flag=True, help="Also file systems that were not left cleanly; every block of them.")
@click.option("--raw", is_flag=True, help="Also encrypted volumes, as they are.")
@click.option(
    "--quick",
    is_flag=True,
    help="Do not read files of ext2/3/4 that have not changed since the last backup, by their times.",
)
@click.option(
    "--after", type=click.Choice(["reboot", "stay"]), default="reboot", show_default=True, help="When it is done."
)
@click.option(
    "--wait/--no-wait", "is_waiting", default=True, help="Wait for the end; the exit code says how it went."
)
@click.option("--timeout", type=float, help="Seconds to wait; then exit code 1, and it goes on.")
@json_option
@pass_context
def backup(
    context: Context,
    *,
    node: str,
    image: str,
    comment: str,
    user: str,
    disk: str,
    parts: tuple[str, ...],
    tags: tuple[str, ...],
    files: bool,
    running: bool,
    exclude: tuple[str, ...],
    dirty: bool,
    raw: bool,
    quick: bool,
    after: str,
    is_waiting: bool,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Read a disk of NODE, or partitions of it, into IMAGE. Nothing on the node is changed.

    The node does it in stage2, into which it boots the next time it starts. With several --part there is an image
    of each: IMAGE-5 for partition 5. With --files the file systems are mounted as the system's fstab says, for
    reading, and become one archive: bootd deploy --layout makes disks of other sizes of it. With --running too, the
    agent (bootd sync agent) reads snapshots of the running system, LVM's or btrfs's, and it goes on running.
    """
    ordered = []
    for number, part in enumerate(parts or ("",), 1):
        body = {
            "node": node,
            "image": image_name(image, part) if len(parts) > 1 else image,
            "comment": comment,
            "user": user,
            "disk": disk,
            "part": part,
            "tags": tags,
            "files": files,
            "running": running,
            "exclude": exclude,
            "dirty": dirty,
            "raw": raw,
            "quick": quick,
            "after": after if number == max(1, len(parts)) else "stay",
        }
        ordered.append(context.client.request("POST", "backups", body=body))
    if not running:
        _say_what_to_do(context.client, ordered[0])
    if not is_waiting:
        return _announce(ordered, as_json)
    deadline = None if timeout is None else time.monotonic() + timeout
    ended = [_follow(context.client, item["id"], deadline) for item in ordered]
    if as_json:
        print_json(ended if len(parts) > 1 else ended[0])
    else:
        for item in ended:
            _say_end(item)
    codes = {_CODES.get(item["state"], Exit.ERROR) for item in ended}
    if len(codes) == 1:
        return int(codes.pop())
    return int(Exit.PARTLY if Exit.OK in codes else Exit.ERROR)


def image_name(image: str, part: str) -> str:
    """The image of one of several partitions: its number behind the name."""
    digits = part[len(part.rstrip("0123456789")) :]
    return f"{image}-{digits or part}"


@click.group()
def backups() -> None:
    """Backups that were asked for: list, show, cancel."""


@backups.command("list")
@json_option
@pass_context
def list_(context: Context, as_json: bool) -> None:
    """All backups, oldest first."""
    found = context.client.get("backups")
    if as_json:
        print_json(found)
    else:
        console().print(backups_table(found))


@backups.command()
@click.argument("id_", metavar="ID")
@json_option
@pass_context
def show(context: Context, id_: str, as_json: bool) -> None:
    """One backup."""
    found = context.client.get("backups", id_)
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        click.echo(f"{key:18} {', '.join(value) if isinstance(value, list) else '-' if value is None else value}")


@backups.command()
@click.argument("id_", metavar="ID")
@json_option
@pass_context
def cancel(context: Context, id_: str, as_json: bool) -> None:
    """End a backup. What has been sent is kept: the next backup of this disk does not send it again."""
    found = context.client.request("DELETE", "backups", id_)
    if as_json:
        print_json(found)
    else:
        click.echo(f"backup {id_} is {found['state']}")


def _say_what_to_do(client: Client, item: dict[str, Any]) -> None:
    """A node that is not in stage2 has to start anew, and to boot what reads its disk."""
    if item["state"] != "waiting":
        return
    node = next((one for one in client.get("nodes") if one["mac"] == item["node"]), None)
    if node is None or node["present"]:
        return
    text = f"{item['name']} is not in stage2: a running system's disk is not read. Start it anew"
    click.echo(f"{text}; it boots {node['next_label']} then ({node['why']})", err=True)


def _announce(ordered: list[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        print_json(ordered if len(ordered) > 1 else ordered[0])
    for item in ordered if not as_json else ():
        click.echo(f"backup {item['id']} of {item['name']} is {item['state']}: bootd backups show {item['id']}")
    return Exit.OK


def _follow(client: Client, id_: str, deadline: float | None) -> dict[str, Any]:
    """Poll until the end, so that a restart of the daemon only delays."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    output = Console(stderr=True)
    with Progress(*columns, console=output, disable=not output.is_terminal) as progress:
        shown = progress.add_task("backup", total=None)
        unreachable = 0
        while True:
            try:
                found: dict[str, Any] = client.get("backups", id_)
                unreachable = 0
            except OperatorError as error:
                unreachable += 1
                if error.code is not Exit.UNREACHABLE or unreachable > 60 / _POLL_SECONDS:
                    raise
            else:
                progress.update(
                    shown,
                    description=f"{found['image']} of {found['name']}: {found['state']} {found['reason']}",
                    total=found["total"] or None,
                    completed=found["done"],
                )
                if found["ended"]:
                    return found
            if deadline is not None and time.monotonic() >= deadline:
                raise OperatorError(f"backup {id_} has not ended yet", f"bootd backups show {id_}", Exit.ERROR)
            time.sleep(_POLL_SECONDS)


def _say_end(item: dict[str, Any]) -> None:
    if item["state"] == "done":
        click.echo(
            f"image {item['image']} {item['image_id'][:16]}: {size(item['total'])} in use, {size(item['sent'])} of"
            f" it new, {size(item['wire'])} sent, {item['seconds'] or 0:.1f} s"
            + (f", {size(item['skipped'])} not read" if item["quick"] else "")
        )
    else:
        click.echo(f"{item['image']}: {item['state']}: {item['reason']}", err=True)
    for note in item["notes"]:
        click.echo(f"  {note}", err=True)
