"""``bootd lock``: disks and partitions that nobody may overwrite."""

import re
import time
from typing import Any
from urllib.parse import urlencode

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.cli.hosts import selected
from bootd.errors import Exit, OperatorError

_SPAN = re.compile(r"(\d{1,9})([smhdw]?)\Z")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_EVERY = "*"  # --disk without a serial

partition_option = click.option("--partition", default="", help="Number of the partition, or its PARTUUID.")
disk_option = click.option(
    "--disk", is_flag=False, flag_value=_EVERY, default="", help="Serial or WWN; alone: every disk of the node."
)


@click.group()
def lock() -> None:
    """What nobody may overwrite: whole disks, or disks with a partition to be kept."""


@lock.command("add")
@click.argument("nodes", metavar="NODES")
@partition_option
@disk_option
@click.option("--reason", required=True, help="Shown to whoever is refused.")
@click.option("--owner", default="", help="Whose it is [default: who runs this].")
@click.option("--expires", default="", help="After so long: 30m, 2h, 7d [default: never].")
@json_option
@pass_context
def add(
    context: Context, *, nodes: str, partition: str, disk: str, reason: str, owner: str, expires: str, as_json: bool
) -> None:
    """Lock a disk of NODES, or the disk that a partition is on: no session will write it.

    NODES are a name, a MAC, lab[3-5] or @room2; each is locked by itself.
    """
    place = _place(partition, disk)
    body = {**place, "reason": reason, "owner": owner, "seconds": seconds(expires)}
    made, lines = [], []
    for host in selected(context.client, [nodes]):
        locks = context.client.request("PUT", "nodes", host["mac"], "locks", body=body)
        made.append({"node": host["mac"], "name": host["name"], "locks": locks})
        lines += [f"{host['name']}: {line(item)}" for item in locks]
    tell(as_json, made, *lines)


@lock.command("remove")
@click.argument("nodes", metavar="NODES")
@partition_option
@disk_option
@json_option
@pass_context
def remove(context: Context, nodes: str, partition: str, disk: str, as_json: bool) -> None:
    """Take a lock of NODES away."""
    wanted = _place(partition, disk)
    gone, lines = [], []
    for host in selected(context.client, [nodes]):
        found = _remove(context, host["name"], host["mac"], wanted)
        gone.append({"node": host["mac"], "name": host["name"], "lock": found})
        lines.append(f"{host['name']}: {found['what']} is no longer locked")
    tell(as_json, gone, *lines)


def _remove(context: Context, node: str, mac: str, wanted: dict[str, Any]) -> dict[str, Any]:
    found = [item for item in context.client.get("nodes", mac, "locks") if _is_meant(item, wanted)]
    if len(found) != 1:
        what = "no such lock" if not found else f"{len(found)} such locks"
        raise OperatorError(f"{node} has {what}", f"see bootd lock list {node}; add --disk SERIAL", Exit.USAGE)
    query = urlencode({"place": found[0]["place"]})
    context.client.request("DELETE", "nodes", mac, "locks", query=query)
    gone: dict[str, Any] = found[0]
    return gone


@lock.command("list")
@click.argument("nodes", metavar="[NODES]", default="any")
@json_option
@pass_context
def list_locks(context: Context, nodes: str, as_json: bool) -> None:
    """The locks of NODES [default: all]."""
    known = context.client.request("GET", "nodes", query=urlencode({"hosts": nodes}))
    locks = [{"node": item["mac"], "name": item["name"], **lock} for item in known for lock in item["locks"]]
    if as_json:
        print_json(locks)
        return
    table = Table("node", "what", "owner", "reason", "until", box=None)
    for item in locks:
        table.add_row(item["name"], item["what"], item["owner"], item["reason"], until(item["expires"]))
    console().print(table)


def seconds(text: str) -> float:
    """``2h`` in seconds, 0 for ""; `OperatorError` for what is no span of time."""
    if not text:
        return 0.0
    match = _SPAN.match(text.strip())
    if match is None or not int(match.group(1)):
        raise OperatorError(f"{text!r} is no span of time", "say 30m, 2h, 7d or 4w", Exit.USAGE)
    return float(int(match.group(1)) * _SECONDS[match.group(2)])


def until(expires: float | None) -> str:
    """The end of a lock, in local time."""
    return "removed" if expires is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(expires))


def line(item: dict[str, Any]) -> str:
    """A lock as the API tells it, in one line."""
    end = "" if item["expires"] is None else f", until {until(item['expires'])}"
    return f"{item['what']} is locked by {item['owner']}: {item['reason']}{end}"


def _place(partition: str, disk: str) -> dict[str, Any]:
    if not partition and not disk:
        raise OperatorError("what is locked?", "say --partition N, or --disk [SERIAL]", Exit.USAGE)
    number = int(partition) if partition.isascii() and partition.isdigit() and len(partition) < 4 else 0
    if partition and not partition.strip("0"):
        raise OperatorError("partitions are numbered from 1", "see bootd plan, or sfdisk -l there", Exit.USAGE)
    return {
        "disk": "" if disk == _EVERY else disk,
        "partition": number,
        "partuuid": "" if number else partition.lower(),
    }


def _is_meant(item: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the lock ``item`` is the one that an operator names."""
    if wanted["partuuid"] or wanted["partition"]:
        key = "partuuid" if wanted["partuuid"] else "partition"
        return bool(item[key] == wanted[key] and wanted["disk"] in ("", item["disk"]))
    return bool(not item["partition"] and not item["partuuid"] and item["disk"] == wanted["disk"])
