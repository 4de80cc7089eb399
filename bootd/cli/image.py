"""``bootd image``: the image store. With ``--store`` the commands work on a folder, without the daemon."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.cli.format import size
from bootd.errors import Exit, OperatorError

# Commands that are in modules of their own: module of `bootd.cli`, name in it.
ELSEWHERE = {
    "export": ("image_formats", "export"),
    "gc": ("image_work", "gc"),
    "fetch": ("image_registry", "fetch"),
    "get": ("image_work", "get"),
    "import": ("image_formats", "import_"),
    "heal": ("image_work", "heal"),
    "pull": ("image_registry", "pull"),
    "push": ("image_registry", "push"),
    "put": ("image_work", "put"),
    "verify": ("image_work", "verify"),
}
_STORE = "bootd.image.store"


class ImageCommands(click.Group):
    """Those of this module, and `ELSEWHERE`, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, name = ELSEWHERE[cmd_name]
        command: click.Command = getattr(import_module(f"bootd.cli.{module}"), name)
        return command


@click.group(cls=ImageCommands)
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    help="Work on this folder, without the daemon [default: the daemon's].",
)
@click.pass_context
def image(context: click.Context, store: Path | None) -> None:
    """Images: stored once by content, named, checked, mended, removed.

    IMAGE is NAME (its latest version), NAME:TAG, or an id or the begin of one.
    """
    context.meta[_STORE] = store


def folder() -> Path | None:
    """The folder to work on; None: ask the daemon."""
    found: Path | None = click.get_current_context().meta[_STORE]
    return found


@image.command("list")
@click.argument("name", default="")
@json_option
@pass_context
def list_(context: Context, name: str, as_json: bool) -> None:
    """All images, or the versions of NAME, oldest first."""
    found = [item for item in ask(context, "list_images") if not name or item["name"] == name]
    if as_json:
        print_json(found)
        return
    table = Table("id", "names", "size", "created", "user", "comment", box=None)
    for item in found:
        names = " ".join(item["tags"]) or f"({item['name']})"
        words = (item["id"][:12], names, size(item["size"]), item["created"], item["user"], item["comment"])
        table.add_row(*words)
    console().print(table)


@image.command("show")
@click.argument("reference", metavar="IMAGE")
@json_option
@pass_context
def show(context: Context, reference: str, as_json: bool) -> None:
    """What is known of IMAGE: who, when, why, partitions, file systems, room."""
    found = ask(context, "show", reference)
    if as_json:
        print_json(found)
        return
    for key in ("id", "name", "tags", "user", "created", "comment", "origin", "kind"):
        value = found[key]
        click.echo(f"{key:<10}{' '.join(value) if isinstance(value, list) else value}")
    click.echo(f"{'size':<10}{size(found['size'])} ({found['size']} bytes), {size(found['used_bytes'])} in use")
    click.echo(
        f"{'chunks':<10}{found['chunks']}: {found['zero_chunks']} of zeros, {found['distinct_chunks']} stored"
        f" in {size(found['stored_bytes'])}"
    )
    if found["missing_chunks"]:
        click.echo(f"{'MISSING':<10}{found['missing_chunks']} chunks: bootd image heal {reference} --from SOURCE")
    for part in (found["table"] or {}).get("partitions", ()):
        words = (
            part.get("node", "?"),
            f"start {part.get('start')}",
            f"{part.get('size')} sectors",
            part.get("type"),
        )
        click.echo(f"{'partition':<10}{' '.join(str(word) for word in words)}")
    for item in (found["tree"] or {}).get("mounts", ()):
        where = item["path"] or "swap"
        click.echo(
            f"{'tree':<10}{where} {item['kind'] or 'no file system known'}, {item['files']} files in"
            f" {size(item['used'])}"
        )
    if found["tree"]:
        click.echo(f"{'':<10}clone it: bootd deploy {reference} NODES --layout FILE --disk SELECTOR")
    for item in found["filesystems"]:
        click.echo(f"{'files':<10}{item['type']} {item['label']} {item['uuid']} at byte {item['start']}")


@image.command("history")
@click.argument("name")
@json_option
@pass_context
def history(context: Context, name: str, as_json: bool) -> None:
    """The versions of NAME, oldest first, and what each brought that the one before had not."""
    found = ask(context, "history", name)
    if as_json:
        print_json(found)
        return
    if not found:
        raise OperatorError(f"no image was stored as {name}", "bootd image list", Exit.INPUT)
    table = Table("id", "created", "user", "new", "tags", "comment", box=None)
    for item in found:
        tags = " ".join(item["tags"])
        table.add_row(
            item["id"][:12], item["created"], item["user"], size(item["new_bytes"]), tags, item["comment"]
        )
    console().print(table)


@image.command("tag")
@click.argument("reference", metavar="IMAGE")
@click.argument("tag", metavar="NAME:TAG")
@json_option
@pass_context
def tag(context: Context, reference: str, tag: str, as_json: bool) -> None:
    """Give IMAGE another name; one that another image had is taken from it."""
    if folder() is None:
        found = context.client.request("POST", "images", reference, "tags", body={"tag": tag})["id"]
    else:
        found = open_store().tag(reference, tag)
    tell(as_json, {"tag": tag, "id": found}, f"{tag} is {found[:12]}")


@image.command("untag")
@click.argument("tag", metavar="NAME:TAG")
@json_option
@pass_context
def untag(context: Context, tag: str, as_json: bool) -> None:
    """NAME:TAG names nothing any more; the image stays."""
    if folder() is None:
        context.client.request("DELETE", "image-tags", tag)
    else:
        from bootd.drivers.images import removal  # noqa: PLC0415 - of this command only

        removal.untag(open_store(), tag)
    tell(as_json, {"tag": tag}, f"{tag} names no image now")


@image.command("rm")
@click.argument("reference", metavar="IMAGE")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@pass_context
def rm(context: Context, reference: str, yes: bool, as_json: bool) -> None:
    """Remove IMAGE with all its names. Its chunks go with the next gc, unless other images have them too.

    An image that a session or another command reads is not removed: exit code 6.
    """
    found = ask(context, "show", reference)
    if not yes:
        names = ", ".join(found["tags"]) or "no name any more"
        click.echo(
            f"{found['id'][:12]} {names}: {found['comment']} ({found['user']}, {found['created']})", err=True
        )
        if not sys.stdin.isatty():
            raise OperatorError("this removes an image and nobody can be asked here", "say --yes", Exit.USAGE)
        click.confirm("Remove it?", abort=True, err=True)
    if folder() is None:
        context.client.request("DELETE", "images", found["id"])
    else:
        from bootd.drivers.images import removal  # noqa: PLC0415 - of this command only

        removal.remove(open_store(), found["id"])
    if as_json:
        print_json({"removed": found["id"]})
    else:
        click.echo(f"{found['id'][:12]} is removed; bootd image gc frees its room")


def ask(context: Context, what: str, *words: str) -> Any:
    """What the daemon, or the store at `folder`, tells: a function of `bootd.drivers.images.inspect`."""
    if folder() is None:
        below = {"list_images": ("images",), "show": ("images", *words), "history": ("images", *words, "history")}
        return context.client.get(*below[what])
    from bootd.drivers.images import inspect  # noqa: PLC0415 - not where the daemon is asked

    return getattr(inspect, what)(open_store(), *words)


def open_store() -> Any:
    """The store at `folder`, which must be there."""
    from bootd.drivers.images.store import ImageStore  # noqa: PLC0415 - not where the daemon is asked

    path = folder()
    if path is None or not (path / "format").is_file():
        raise OperatorError(f"{path} is no store of images", "bootd image --store DIR put makes one", Exit.INPUT)
    return ImageStore(path)
