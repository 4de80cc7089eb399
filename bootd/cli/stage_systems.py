"""``bootd stage import``, ``list``, ``remove``, and what ``bootd ramboot`` shares with them."""

import os
import re
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from bootd import config
from bootd.build import systems as building
from bootd.build.described import describe
from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.config import Settings
from bootd.drivers import systems
from bootd.drivers.systems import METHODS, System
from bootd.errors import Exit, OperatorError
from bootd.netboot.labels import NAME, problem

MAX_IMAGE = 4 << 30  # bytes: what stage1 takes
config_option = click.option(
    "--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="Settings, for server.boot_dir."
)
method_option = click.option(
    "--method",
    type=click.Choice(METHODS),
    default="ka",
    show_default=True,
    help="How nodes fetch it: ka, dolly: from node to node; http: each from the server.",
)
init_option = click.option("--init", default="", help="Its first program [default: /sbin/init or what is like it].")
title_option = click.option("--title", default="", help="Its line in boot menus.")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", default="", help="What it and its label are called [default: the name of the file].")
@title_option
@method_option
@init_option
@click.option("--replace", is_flag=True, help="In place of the system of that name.")
@config_option
@json_option
@pass_context
def import_system(
    context: Context, /, *, file: Path, path: Path | None, replace: bool, as_json: bool, **given: str
) -> None:
    """Take over an operator's own system: nodes boot it in memory, in place of stage2.

    FILE is a squashfs (rescue.sqfs), an ext file system (stage2.img), an ISO 9660 file, or a cpio or tar archive,
    compressed or not. It becomes a squashfs and a label; bootd's own kernel runs it.
    """
    settings = _prepare(path)
    name = given["name"] or name_of(file.stem.split(".")[0])
    check_name(settings, name, given["title"])
    if not replace and (settings.boot_dir / systems.FOLDER / f"{name}.json").exists():
        raise OperatorError(f"there is a system {name!r}", "--replace, or another --name", Exit.REFUSED)
    kind = building.kind_of(file)
    with systems.changing(settings.boot_dir) as work:
        folder, image = work / "root", work / "image"
        kind.unpack(file, folder)  # a squashfs, too: what is damaged shows
        init = building.find_init(building.in_folder(folder), given["init"])
        if kind.name == "squashfs":
            building.copy(file, image)
        else:
            building.pack(building.Folder(folder), image)
        made = _system(name, image, init=init, method=given["method"], title=given["title"], origin=file.name)
        systems.keep(settings.boot_dir, name, image, made)
    tell_daemon(context)
    tell(as_json, view(name, made), f"{name}: {made.size / 1e6:.1f} MB from {file.name} ({kind.name})", _hint(name))


@click.command("list")
@json_option
@pass_context
def list_systems(context: Context, as_json: bool) -> None:
    """Systems that were imported, or made of a folder."""
    found = context.client.get("systems")
    if as_json:
        print_json(found)
        return
    table = Table("label", "size", "method", "init", "from", "trouble", box=None)
    for item in found:
        size = f"{item['size'] / 1e6:.1f} MB"
        table.add_row(item["name"], size, item["method"], item["init"], item["origin"], item["problem"])
    console().print(table)


@click.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
@pass_context
def remove_system(context: Context, /, *, name: str, yes: bool, path: Path | None, as_json: bool) -> None:
    """Remove a system and its label. Nodes whose label it is boot the default."""
    settings = _prepare(path)
    if not yes:
        click.confirm(f"Remove the system {name} and its image?", abort=True, err=True)
    systems.remove(settings.boot_dir, name)
    tell_daemon(context)
    tell(as_json, {"removed": name}, f"{name}: removed")


def make_of_folder(
    settings: Settings, name: str, root: Path, *, modules: bool, **given: str
) -> tuple[System, bool]:
    """The system of the folder ``root``, and whether it had to be packed: what has not changed is there already."""
    init = building.find_init(building.in_folder(root), given["init"])
    with systems.changing(settings.boot_dir) as work:
        folder = building.Folder(root)
        if modules:
            folder = building.with_modules(root, settings.boot_dir / "stage2" / "stage2.squashfs", work)
        content = building.digest(folder)
        before = next((item.system for item in systems.list_systems(settings.boot_dir) if item.name == name), None)
        image = work / "image"
        kept = settings.boot_dir / systems.FOLDER / (before.image if before is not None else "")
        is_new = before is None or before.content != content or not kept.is_file()
        if is_new:
            building.pack(folder, image)
        else:
            os.link(kept, image)
        made = _system(name, image, init=init, origin=str(root), content=content, **_without(given, "init"))
        systems.keep(settings.boot_dir, name, image, made)
    return made, is_new


def _without(given: dict[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in given.items() if name != key}


def _system(name: str, image: Path, **fields: str) -> System:
    described = describe(image)
    if described["size"] > MAX_IMAGE:
        raise OperatorError(
            f"{name} has {described['size'] >> 20} MiB packed, at most {MAX_IMAGE >> 20} fit",
            "leave something out: nodes keep it in memory",
            Exit.INPUT,
        )
    image_name = systems.image_name(name, described["sha256"])
    return msgspec.convert({**described, "image": image_name, **fields}, System)


def _prepare(path: Path | None) -> Settings:
    """Settings, for one who may write the boot folder."""
    settings, _ = config.load(path)
    if os.geteuid() != 0:
        raise OperatorError("owners and devices are kept, which needs root", "sudo bootd ...", Exit.ERROR)
    return settings


prepare = _prepare


def name_of(text: str) -> str:
    """A label's name out of a file's."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text).strip("-._")[:32] or "system"


def check_name(settings: Settings, name: str, title: str) -> None:
    """`OperatorError` when no label can be called so, or another is."""
    if not NAME.match(name):
        raise OperatorError(f"{name!r} cannot be a label", "letters, digits, '_', '-', '.'; at most 32", Exit.USAGE)
    configured = settings.labels.get(name)
    if configured is not None and configured.system != name:
        raise OperatorError(f"there is a label {name!r} already", "choose another name", Exit.USAGE)
    wrong = problem(System(1, "0" * 64, title=title).label(name))
    if wrong:
        raise OperatorError(wrong, "choose another one", Exit.USAGE)


def tell_daemon(context: Context) -> bool:
    """Have the daemon look again; False when none runs: it looks when it starts."""
    try:
        context.client.request("POST", "systems")
    except OperatorError as error:
        if error.code is not Exit.UNREACHABLE:
            raise
        return False
    return True


def view(name: str, system: System) -> dict[str, Any]:
    return systems.Listed(name, system).view()


def _hint(name: str) -> str:
    return f"boot it: bootd label set {name} --node NODES --once"
