"""``bootd init``: a disk from nothing: partition table, boot code, and the partitions in order."""

import sys
from typing import Any

import click
from rich.console import Console

from bootd.cli.context import Context, json_option, pass_context
from bootd.cli.deploy import carry_out
from bootd.cli.parts import after_option, grow_option, image_of, part_of, wait_option
from bootd.cli.plan import print_cards
from bootd.errors import Exit, OperatorError


@click.command()
@click.argument("node")
@click.option("--layout", required=True, help="Disk image, or a table as sfdisk --json prints it.")
@click.option("--disk", default="only", show_default=True, help="Which disk, as for deploy.")
@click.option(
    "--part", "parts", multiple=True, metavar="N=IMAGE", help="What goes there [default: all of the disk image]."
)
@grow_option
@click.option("--erase", default="", metavar="SERIAL", help="Erase this disk though it is not empty.")
@click.option("--label", default="kamethod", show_default=True, help="What the machine boots meanwhile.")
@click.option("--name", default="", help="Name of the session.")
@after_option
@wait_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask, if the disk is empty.")
@json_option
@pass_context
def init(
    context: Context,
    *,
    node: str,
    layout: str,
    disk: str,
    parts: tuple[str, ...],
    grow: bool,
    erase: str,
    label: str,
    name: str,
    after: str,
    is_waiting: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Give one disk of NODE the partition table of LAYOUT, its boot code, and its partitions in order.

    A disk that is not empty is refused, unless its words are typed (or given: --erase SERIAL).
    """
    path = image_of(layout)
    wanted: dict[str, Any] = {
        "source": path,
        "layout": path,
        "nodes": node,
        "disk": disk,
        "parts": [part_of(text) for text in parts],
        "grow": grow,
        "label": label,
        "name": name,
        "after": after,
    }
    # The card of a disk that may be erased shows what that disk is; without the words nothing is.
    plan = context.client.request("POST", "preview", body={**wanted, "erase": "*"})
    if plan["any"] or len(plan["nodes"]) != 1:
        raise OperatorError("init is for one machine", "name it; several: bootd deploy", Exit.USAGE)
    card = plan["nodes"][0]
    words = _words(card)
    if words and not erase:
        _have_typed(plan, words)
        wanted["erase"] = _identity(card)
    elif erase:
        if erase != _identity(card):
            there = _identity(card) or "not known"
            text = f"{erase} is not the disk of {card['name']} that would be erased: {there}"
            raise OperatorError(text, "see bootd plan", Exit.REFUSED)
        wanted["erase"] = erase
    return carry_out(context, wanted, is_waiting=is_waiting, yes=yes or bool(wanted.get("erase")), as_json=as_json)


def _identity(card: dict[str, Any]) -> str:
    disk = card["disk"]
    return str(disk["serial"] or disk["wwn"] or disk["name"]) if disk else ""


def _words(card: dict[str, Any]) -> str:
    """What must be typed; "" when the disk is empty, or not known yet: then only an empty one is written."""
    disk = card["disk"]
    if disk is None or not (disk["partitions"] or disk["filesystem"]):
        return ""
    return f"erase {_identity(card)} of {card['name']}"


def _have_typed(plan: dict[str, Any], words: str) -> None:
    print_cards(Console(stderr=True), plan, plan["disk"])
    if not sys.stdin.isatty():
        raise OperatorError(
            "the disk is not empty, and nobody can be asked here",
            "say --erase SERIAL, as on the card",
            Exit.REFUSED,
        )
    typed = click.prompt(f"This disk is not empty. To erase it, type: {words}\n", prompt_suffix="> ", err=True)
    if typed.strip() != words:
        raise click.Abort
