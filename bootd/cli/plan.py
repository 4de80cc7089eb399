"""``bootd plan``: a card per node, of what a deploy would do to it. `deploy` shows the same before it asks."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bootd.cli.context import Context, console, json_option, pass_context, print_json
from bootd.cli.files import files_body, files_options
from bootd.cli.format import size
from bootd.cli.lock import line
from bootd.cli.parts import check_place, disk_option, grow_option, image_of, part_of, part_option
from bootd.errors import Exit


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("nodes", nargs=-1, required=True)
@disk_option
@part_option
@grow_option
@files_options
@json_option
@pass_context
def plan(
    context: Context,
    /,
    *,
    image: Path,
    nodes: tuple[str, ...],
    disks: tuple[str, ...],
    parts: tuple[str, ...],
    grow: bool,
    as_json: bool,
    **files: Any,
) -> int:
    """What cloning IMAGE onto NODES would do: their disks, what is on them, locks, refusals. Nothing happens.

    Exit code 4 when every node would be refused.
    """
    disk = disks[0] if disks else ""
    check_place(disk, parts)
    order = {
        "source": image_of(str(image)),
        "nodes": ",".join(nodes),
        "disk": disk,
        "further": disks[1:],
        "parts": [part_of(text) for text in parts],
        "grow": grow,
        **files_body(files),
    }
    preview = context.client.request("POST", "preview", body=order)
    if as_json:
        print_json(preview)
    else:
        print_cards(console(), preview, preview.get("disk") or disk)
    return Exit.REFUSED if all_refused(preview) else Exit.OK


def all_refused(preview: dict[str, Any]) -> bool:
    """Whether there are nodes and none of them would be written; one that was not seen yet may still be."""
    return bool(preview["nodes"]) and all(card["refusal"] for card in preview["nodes"])


def print_cards(output: Console, preview: dict[str, Any], selector: str) -> None:
    """The image, and a card for each node."""
    made_for = f", for sectors of {preview['sector']} bytes" if preview.get("sector") else ""
    _say(output, f"image   {preview['source']} ({size(preview['size'])}{made_for})")
    _say(output, f"disk    {selector}")
    for card in preview["nodes"]:
        _say(output, f"\n{card['name']}  {card['node']}")
        for text in card_lines(card):
            _say(output, f"  {text}")
    if preview["any"]:
        _say(output, "\nand every other node that boots into this session")


def card_lines(card: dict[str, Any]) -> list[str]:
    """One node: what would be written, what is there now, its locks, and why not."""
    lines = []
    chosen = card["disk"]
    written = [chosen, *card["further"]] if chosen is not None else []
    if card["parts"]:
        lines += part_lines(card)
    elif chosen is not None and card["makes"]:
        for number, disk in enumerate(written):
            place = f"  disk {number} of the layout" if len(written) > 1 else ""
            lines += [
                f"ERASE   {disk_line(disk)}{place}",
                *(f"        now: {text}" for text in content_lines(disk)),
            ]
        lines.append(f"TABLE   of {card['layout']}")
        lines += [f"MAKE    {making_line(made)}" for made in card["makes"]]
        lines.append(f"UNPACK  {size(card['write'])} of files")
    elif chosen is not None:
        lines.append(f"ERASE   {disk_line(chosen)}")
        lines += [f"        now: {text}" for text in content_lines(chosen)]
        lines.append(f"WRITE   {size(card['write'])} of the image")
    for disk in card["disks"]:
        if disk["name"] not in [one["name"] for one in written]:
            why = f": excluded, {disk['excluded']}" if disk["excluded"] else ""
            lines.append(f"keep    {disk_line(disk)}{why}")
            lines += [f"        now: {text}" for text in content_lines(disk)]
    lines += [f"LOCK    {line(lock)}" for lock in card["locks"]]
    if card["refusal"]:
        lines.append(f"REFUSED {card['refusal']}")
    elif card["note"]:
        lines.append(card["note"])
    return lines


def part_lines(card: dict[str, Any]) -> list[str]:
    """The partitions of one disk that would be written, and those that stay."""
    disk = card["disk"]
    lines = [f"disk    {disk_line(disk)}"]
    if card["layout"]:
        lines = [f"ERASE   {disk_line(disk)}", *(f"        now: {text}" for text in content_lines(disk))]
        lines.append(f"TABLE   of {card['layout']}")
        return lines + [
            f"WRITE   {part['name']}  {size(part['write'])} of {part['image']}" for part in card["parts"]
        ]
    written = {part["number"]: part for part in card["parts"]}
    for part in card["parts"]:
        lines.append(f"ERASE   {part['name']}  {partition_line(part)}")
        lines.append(f"WRITE   {part['name']}  {size(part['write'])} of {part['image']}")
    lines += [f"keep    {partition_line(part)}" for part in disk["partitions"] if part["number"] not in written]
    return lines


def making_line(made: dict[str, Any]) -> str:
    """A partition, an array or a volume of a layout for files."""
    words = [made["what"], size(made["size"]), made["filesystem"] or "-", made["mount"], made["label"]]
    return "  ".join(word for word in words if word)


def disk_line(disk: dict[str, Any]) -> str:
    """A disk as it is labelled."""
    identity = (
        f"serial {disk['serial']}" if disk["serial"] else f"WWN {disk['wwn']}" if disk["wwn"] else "no serial"
    )
    words = [
        disk["name"],
        disk["model"] or "model not known",
        identity,
        size(disk["size"]),
        f"({disk['size']} bytes)",
    ]
    return "  ".join(words)


def content_lines(disk: dict[str, Any]) -> list[str]:
    """What is on a disk, as far as its node has told."""
    lines = [f"{disk['filesystem']} on the whole disk"] if disk["filesystem"] else []
    lines += [partition_line(part) for part in disk["partitions"]]
    return lines or ["no partitions known"]


def partition_line(part: dict[str, Any]) -> str:
    """A partition, as far as its node has told."""
    label = f" {part['label']!r}" if part["label"] else ""
    name = f"  {part['partuuid']}" if part["partuuid"] else ""
    filesystem = part["filesystem"] or "no filesystem known"
    return f"partition {part['number']}  {size(part['size'])}  {filesystem}{label}{name}"


def _say(output: Console, text: str) -> None:
    """As it is: what a disk calls itself must not be taken for markup."""
    output.print(text, markup=False, highlight=False, soft_wrap=True)
