"""``bootd image put|get|verify|gc|heal``: what takes long. The daemon does it as a job."""

import getpass
import itertools
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from bootd.cli.context import Context, json_option, pass_context, print_json, tell
from bootd.cli.format import size
from bootd.cli.image import folder, open_store
from bootd.cli.job import follow, here
from bootd.errors import Exit, OperatorError


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--comment", "-m", required=True, help="Why it is kept.")
@click.option("--user", default="", help="Whose it is; root only [default: who runs this].")
@click.option("--tag", "tags", multiple=True, help="Also NAME:TAG; may be said several times.")
@click.option("--partition", "is_partition", is_flag=True, help="FILE is a partition, not a whole disk.")
@click.option("--tree", "is_tree", is_flag=True, help="FILE is a folder with a system in it: its files are stored.")
@click.option("--exclude", "-x", multiple=True, metavar="DIR", help="With --tree: this folder (/tmp) stays empty.")
@click.option("--also", multiple=True, metavar="DIR", help="With --tree: the file system mounted there in it.")
@json_option
@pass_context
def put(
    context: Context,
    *,
    file: Path,
    name: str,
    comment: str,
    user: str,
    tags: tuple[str, ...],
    is_partition: bool,
    is_tree: bool,
    exclude: tuple[str, ...],
    also: tuple[str, ...],
    as_json: bool,
) -> None:
    """Store FILE, a raw disk image or a disk of the server, as a new version of NAME.

    With --tree FILE is a folder, and who runs this reads its files: bootd deploy --layout unpacks them.
    """
    if is_tree:
        result = _put_tree(context, file, name, comment, user=user, tags=tags, exclude=exclude, also=also)
        text = f"{result['files']} files, {size(result['size'])}, {size(result['new_bytes'])} of it new"
        tell(as_json, result, f"{name} is {result['id'][:12]}: {text}")
        return
    if exclude or also:
        raise OperatorError("--exclude and --also are for trees of files", "say --tree", Exit.USAGE)
    kind = "partition" if is_partition else "disk"
    order = {"path": str(file.absolute()), "name": name, "comment": comment, "tags": tags, "kind": kind}
    store = folder()
    if store is None:
        job = context.client.request("POST", "images", body={**order, "user": user})
        result = follow(context.client, job)
    else:
        from bootd.drivers.images.put import put_file  # noqa: PLC0415 - not where the daemon does it

        result = here(put_file, store=str(store), user=user or getpass.getuser(), **order)
    if as_json:
        print_json(result)
    else:
        click.echo(f"{name} is {result['id'][:12]}: {size(result['size'])}, {size(result['new_bytes'])} of it new")


def _put_tree(
    context: Context,
    folder_: Path,
    name: str,
    comment: str,
    *,
    user: str,
    tags: tuple[str, ...],
    exclude: tuple[str, ...],
    also: tuple[str, ...],
) -> dict[str, Any]:
    from bootd.drivers.images import tree  # noqa: PLC0415 - of this command only

    store, path = folder(), str(folder_.absolute())
    about: dict[str, Any] = {"name": name, "comment": comment}
    if store is not None:
        places = {"exclude": exclude, "also": also}
        return here(
            tree.put_tree, store=str(store), path=path, user=user or getpass.getuser(), tags=tags, **about, **places
        )
    found = tree.look(path, also, exclude)
    query = urlencode({**about, "user": user, "origin": f"{socket.gethostname()}:{path}", "tag": tags}, doseq=True)
    pieces = itertools.chain((tree.head_of(found),), tree.stream(path, found))
    result: dict[str, Any] = context.client.send("image-trees", pieces=pieces, query=query)
    return result


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@pass_context
def get(context: Context, reference: str, file: Path, as_json: bool) -> None:
    """Write IMAGE to the new FILE, as a raw disk image; every chunk is checked."""
    store = folder()
    if store is None:
        body = {"path": str(file.absolute())}
        result = follow(context.client, context.client.request("POST", "images", reference, "get", body=body))
    else:
        from bootd.drivers.images.get import get_file  # noqa: PLC0415 - not where the daemon does it

        open_store()
        result = here(get_file, store=str(store), image=reference, path=str(file.absolute()))
    if as_json:
        print_json(result)
    else:
        click.echo(f"{file}: {size(result['size'])}")


@click.command()
@click.argument("references", metavar="[IMAGE]...", nargs=-1)
@json_option
@pass_context
def verify(context: Context, references: tuple[str, ...], as_json: bool) -> int:
    """Read every chunk of IMAGE, or of all, and compare it with its digest. Exit code 3: something is damaged.

    What is damaged is named and put aside: the next backup that has it, or heal, brings a good copy.
    """
    store = folder()
    if store is None:
        body = {"images": references}
        result = follow(context.client, context.client.request("POST", "image-verify", body=body))
    else:
        from bootd.drivers.images.verify import verify as work  # noqa: PLC0415 - not where the daemon does it

        open_store()
        result = here(work, store=str(store), images=references)
    if as_json:
        print_json(result)
    else:
        click.echo(f"{result['images']} images, {result['chunks']} chunks ({size(result['bytes'])}) read")
        for id_, reason in result["broken"].items():
            click.echo(f"image {id_[:12]}: {reason}")
        click.echo("all good" if result["ok"] else "mend it: bootd image heal --from FOLDER|FILE|URL")
    return Exit.OK if result["ok"] else Exit.PARTLY


@click.command()
@click.argument("references", metavar="[IMAGE]...", nargs=-1)
@click.option("--from", "source", required=True, help="Folder of images, disk image, disk, or https://BOOTD:7469.")
@click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False), help="Token of scope export for a URL."
)
@click.option("--ca", default="", help="Authority of the URL's certificate, PEM [default: the system's].")
@json_option
@pass_context
def heal(
    context: Context, *, references: tuple[str, ...], source: str, token_file: Path | None, ca: str, as_json: bool
) -> None:
    """Bring the chunks that IMAGE, or any image, lacks from another copy. Exit code 3: some are still missing.

    Verify finds what is damaged. A copy is believed only as far as its digest agrees, so any disk may be tried.
    """
    token = ""
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"{token_file}: {error}", "name a token file", Exit.INPUT) from None
    place = source if "://" in source else str(Path(source).absolute())
    order = {"source": place, "images": references, "token": token, "authority": ca}
    store = folder()
    if store is None:
        result = follow(context.client, context.client.request("POST", "image-heal", body=order))
    else:
        from bootd.drivers.images.heal import heal as work  # noqa: PLC0415 - not where the daemon does it

        open_store()
        result = here(work, store=str(store), **order)
    if as_json:
        print_json(result)
    else:
        click.echo(f"{result['images']} images are whole; {result['mended']} chunks were brought")


@click.command()
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would go.")
@click.option("--now", is_flag=True, help="Also chunks of the last day, which an upload may want to go on with.")
@json_option
@pass_context
def gc(context: Context, dry_run: bool, now: bool, as_json: bool) -> None:
    """Remove images that [images] keep_last and keep_days do not keep, and chunks that belong to no image."""
    store = folder()
    if store is None:
        body = {"dry_run": dry_run, "now": now}
        result = follow(context.client, context.client.request("POST", "image-gc", body=body))
    else:
        from bootd.drivers.images.removal import collect  # noqa: PLC0415 - not where the daemon does it

        open_store()
        result = here(collect, store=str(store), dry_run=dry_run, now_too=now)
    if as_json:
        print_json(result)
        return
    will = "would be " if dry_run else ""
    for item in result["images"]:
        click.echo(f"{item['name']} {item['id'][:12]} {will}removed: {item['why']}")
    click.echo(f"{result['removed']} images and {result['chunks']} chunks {will}removed, {size(result['bytes'])}")
