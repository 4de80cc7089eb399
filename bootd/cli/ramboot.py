"""``bootd ramboot``: any folder as the root of nodes, in memory."""

from pathlib import Path

import click

from bootd.build.systems import check_folder
from bootd.cli.context import Context, json_option, pass_context, tell
from bootd.cli.hosts import selected
from bootd.cli.stage_systems import (
    check_name,
    config_option,
    init_option,
    make_of_folder,
    method_option,
    name_of,
    prepare,
    tell_daemon,
    title_option,
    view,
)
from bootd.errors import Exit, OperatorError


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("nodes", nargs=-1)
@click.option("--label", "name", default="", help="What the system and its label are called [default: DIR's name].")
@title_option
@method_option
@init_option
@click.option("--no-modules", is_flag=True, help="Do not add the modules of bootd's kernel to it.")
@click.option("--every-boot", is_flag=True, help="NODES boot it until told otherwise, not only once.")
@config_option
@json_option
@pass_context
def ramboot(
    context: Context, /, *, folder: Path, nodes: tuple[str, ...], path: Path | None, **given: object
) -> None:
    """Boot DIR, any folder with a first program in it, in the memory of NODES.

    It is packed into a squashfs, which a label of its name boots, and which each node mounts below a writable layer
    in memory. bootd's kernel runs it, with its modules added to DIR's own. Packed anew only when DIR has changed.
    NODES (names, MACs, lab[3-5], @GROUP) boot it the next time; without NODES it is only made ready.
    """
    settings = prepare(path)
    root = check_folder(folder)
    name = str(given["name"]) or name_of(root.name)
    words = {key: str(given[key]) for key in ("init", "method", "title")}
    check_name(settings, name, words["title"])
    made, is_new = make_of_folder(settings, name, root, modules=not given["no_modules"], **words)
    running = tell_daemon(context)
    if nodes and not running:
        raise OperatorError("the daemon does not answer: no node was told", f"then: bootd label set {name} ...")
    hosts = selected(context.client, nodes) if nodes else []
    if nodes and not hosts:
        raise OperatorError("nobody is in this host set", "bootd hosts, bootd node list", Exit.USAGE)
    once = not given["every_boot"]
    for host in hosts:
        context.client.request("PUT", "nodes", host["mac"], "label", body={"label": name, "once": once})
    lines = [f"{name}: {made.size / 1e6:.1f} MB, {made.init}{'' if is_new else ', as it was'}"]
    lines += [f"{host['name']}: {name}{' for the next boot' if once else ''}" for host in hosts]
    answer = view(name, made) | {"packed": is_new, "nodes": hosts, "once": once}
    tell(bool(given["as_json"]), answer, *lines)
