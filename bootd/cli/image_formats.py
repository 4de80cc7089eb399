"""``bootd image import|export``: images of other programs, in and out."""

import getpass
from pathlib import Path

import click

from bootd.cli.context import Context, json_option, pass_context, print_json
from bootd.cli.format import size
from bootd.cli.image import folder, open_store
from bootd.cli.job import follow, here


@click.command("import")
@click.argument("source", metavar="FILE|DIRECTORY", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="What the image is called here.")
@click.option("--comment", "-m", default="", help="Why it is kept [default: what CloneSys's imagedesc.txt says].")
@click.option("--user", default="", help="Whose it is; root only [default: who runs this].")
@click.option("--tag", "tags", multiple=True, help="Also NAME:TAG; may be said several times.")
@click.option(
    "--device", default="", help="The disk or partition of several, as the directory names it: sda, sda5."
)
@click.option("--kind", type=click.Choice(["disk", "partition"]), help="What a FILE is of [default: as it looks].")
@json_option
@pass_context
def import_(
    context: Context,
    *,
    source: Path,
    name: str,
    comment: str,
    user: str,
    tags: tuple[str, ...],
    device: str,
    kind: str | None,
    as_json: bool,
) -> None:
    """Store an image of another program as a new version of NAME.

    A FILE is raw, an image of partclone, either of them compressed (gzip, bzip2, xz, zstd, lz4, lzop), or a virtual
    disk (qcow2, vmdk, vdi, vhdx). A DIRECTORY is one of Clonezilla, FOG or CloneSys; all images of CloneSys's
    directory become NAME-DEVICE-IMAGENAME. What it is, is seen in the files. What is cut off or damaged is refused.
    """
    order = {
        "path": str(source.absolute()),
        "name": name,
        "comment": comment,
        "tags": tags,
        "device": device,
        "kind": kind or "",
    }
    store = folder()
    if store is None:
        job = context.client.request("POST", "image-import", body={**order, "user": user})
        result = follow(context.client, job)
    else:
        from bootd.drivers.formats.importing import import_image  # noqa: PLC0415 - not where the daemon does it

        result = here(import_image, store=str(store), user=user or getpass.getuser(), **order)
    if as_json:
        print_json(result)
        return
    for item in result["images"]:
        click.echo(
            f"{item['name']} is {item['id'][:12]}: {item['format']}, {item['kind']} of {size(item['size'])},"
            f" {size(item['used'])} in use, {size(item['new_bytes'])} of it new"
        )


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.argument("target", metavar="PATH", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["raw", "qcow2", "clonezilla", "partclone"]),
    default="raw",
    show_default=True,
    help="clonezilla: a directory. partclone: of a partition, compressed with zstd.",
)
@json_option
@pass_context
def export(context: Context, *, reference: str, target: Path, format_: str, as_json: bool) -> None:
    """Write IMAGE to the new PATH, for other programs; every chunk is checked."""
    path, store = str(target.absolute()), folder()
    if store is None:
        body = {"path": path, "format": format_}
        result = follow(context.client, context.client.request("POST", "images", reference, "export", body=body))
    else:
        from bootd.drivers.formats.exporting import export_image  # noqa: PLC0415 - not where the daemon does it

        open_store()
        result = here(export_image, store=str(store), image=reference, path=path, format_=format_)
    if as_json:
        print_json(result)
    else:
        click.echo(f"{target}: {format_}, {size(result['size'])}")
