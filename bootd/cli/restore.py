"""``bootd restore``: an image back onto partitions of many machines, or onto whole disks."""

import click

from bootd.cli.context import Context, json_option, pass_context
from bootd.cli.deploy import carry_out
from bootd.cli.parts import after_option, grow_option, image_of, part_of, part_option, wait_option


@click.command()
@click.argument("image")
@click.argument("nodes", nargs=-1, required=True)
@part_option
@click.option("--disk", default="", help="Which disk, where --part gives numbers alone or there is none.")
@grow_option
@click.option("--full", is_flag=True, help="Send everything; else only chunks that differ from what is there.")
@click.option("--expect", type=click.IntRange(min=1), help="Start when so many are ready [default: all named].")
@click.option("--start-now", is_flag=True, help="Start with the first that is ready; later ones join behind.")
@click.option("--label", default="kamethod", show_default=True, help="What these machines boot meanwhile.")
@click.option("--name", default="", help="Name of the session.")
@after_option
@wait_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@pass_context
def restore(
    context: Context,
    *,
    image: str,
    nodes: tuple[str, ...],
    parts: tuple[str, ...],
    disk: str,
    grow: bool,
    full: bool,
    expect: int | None,
    start_now: bool,
    label: str,
    name: str,
    after: str,
    is_waiting: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Put IMAGE back onto NODES: partitions (--part sda5), in the order given, or whole disks (--disk).

    IMAGE is a file on the server, FILE#5 for partition 5 of a disk image, or @last for what was last put there.
    Only what differs is written. Other partitions of the disk are not touched.
    """
    wanted = {
        "source": image_of(image),
        "nodes": ",".join(nodes),
        "disk": disk,
        "parts": [part_of(text) for text in parts],
        "grow": grow,
        "compare": not full,
        "expect": expect or 0,
        "start_now": start_now,
        "label": label,
        "name": name,
        "after": after,
    }
    return carry_out(context, wanted, is_waiting=is_waiting, yes=yes, as_json=as_json)
