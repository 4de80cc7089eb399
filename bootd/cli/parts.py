"""Options that deploy, init, restore and plan have in common, and how images are named."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bootd.errors import Exit, OperatorError

LAST = "@last"

disk_option = click.option(
    "--disk",
    "disks",
    multiple=True,
    help="only, or serial=, wwn=, model=, name=, size=40G, size>=40G; with commas. For a layout of several "
    "disks once for each, or all-of CONDITIONS.",
)
part_option = click.option(
    "--part",
    "parts",
    multiple=True,
    metavar="sda5[=IMAGE]",
    help="Only this partition, maybe from an image of its own; again for more, written in this order.",
)
grow_option = click.option(
    "--grow", is_flag=True, help="The last partition and its file system fill a larger disk afterwards."
)
after_option = click.option(
    "--after", type=click.Choice(["reboot", "stay"]), default="reboot", show_default=True, help="When verified."
)
wait_option = click.option(
    "--wait", "is_waiting", is_flag=True, help="Wait for the end; the exit code says how it went."
)


def image_of(text: str) -> str:
    """An image as the daemon is told: the full path of a file, an image of the store (no ``/`` in it), or `@last`.
    ``IMAGE#5`` is partition 5 of a disk image."""
    if not text or text == LAST or text.startswith("image:"):
        return text
    if "/" in text:
        return str(Path(text).absolute())
    here = [path for path in (Path(text), Path(text.partition("#")[0])) if path.exists()]
    if any(not path.is_dir() for path in here):  # a folder is no image
        raise OperatorError(
            f"{text} is a file here, and may be an image of the store", f"say ./{text} or image:{text}", Exit.USAGE
        )
    return text


def stored_images(order: dict[str, Any]) -> list[str]:
    """The images of the store that an order names, as its commands take them."""
    texts = [order["source"], order.get("layout", ""), *(part.partition("=")[2] for part in order["parts"])]
    names = [text for text in texts if text and not text.startswith("/") and text != LAST]
    return list(dict.fromkeys(text.removeprefix("image:").partition("#")[0].rpartition("@")[2] for text in names))


def check_place(disk: str, parts: Sequence[str]) -> None:
    """`click.UsageError` unless it is said what is written."""
    if not disk and not parts:
        text = "what is written is not said: --disk only, --disk serial=…, or --part sda5"
        raise click.UsageError(text, click.get_current_context(silent=True))


def part_of(text: str) -> str:
    """One ``--part`` with the path of its image in full."""
    name, separator, image = text.partition("=")
    return f"{name}={image_of(image)}" if separator else name
