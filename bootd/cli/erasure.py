"""Before disks that are not empty are erased for a tree of files: shown, and confirmed in words."""

import sys
from typing import Any

import click
from rich.console import Console

from bootd.cli.client import Client
from bootd.cli.plan import print_cards
from bootd.errors import Exit, OperatorError


def confirm_erasure(client: Client, order: dict[str, Any]) -> None:
    """Have it typed when disks that are not empty would be erased: their serials are in ``order`` afterwards."""
    plan = client.request("POST", "preview", body={**order, "erases": ["*"]})
    written = [disk for card in plan["nodes"] if card["disk"] for disk in (card["disk"], *card["further"])]
    full = [disk for disk in written if _is_full(disk)]
    wanted = [_identity(disk) for disk in full]
    missing = [name for name in wanted if name not in order["erases"]]
    if not missing:
        return
    print_cards(Console(stderr=True), plan, plan["disk"])
    if not sys.stdin.isatty():
        raise OperatorError(
            f"{len(missing)} disks are not empty, and nobody can be asked here: {', '.join(missing)}",
            "say --erase SERIAL for each of them",
            Exit.REFUSED,
        )
    words = f"erase {len(missing)} disks" if len(missing) > 1 else f"erase {missing[0]}"
    typed = click.prompt(f"These disks are not empty. To erase them, type: {words}\n", prompt_suffix="> ", err=True)
    if typed.strip() != words:
        raise click.Abort
    order["erases"] = [*order["erases"], *missing]


def _is_full(disk: dict[str, Any]) -> bool:
    return bool(disk["partitions"] or disk["filesystem"])


def _identity(disk: dict[str, Any]) -> str:
    return str(disk["serial"] or disk["wwn"] or disk["name"])
