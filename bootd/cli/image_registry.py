"""``bootd image push|pull|fetch``: images to and from registries, and from the bootd of another site."""

import os
from pathlib import Path
from typing import Any

import click

from bootd.cli.client import Client
from bootd.cli.context import Context, json_option, pass_context, print_json
from bootd.cli.format import size
from bootd.cli.image import folder, open_store
from bootd.cli.job import follow, here

# With --store there is no bootd.toml to say these.
_access = (
    click.option(
        "--credentials",
        type=click.Path(path_type=Path, dir_okay=False),
        help="With --store: docker's config.json [the daemon's: see bootd.toml].",
    ),
    click.option(
        "--authority", type=click.Path(path_type=Path, dir_okay=False), help="With --store: PEM to be trusted too."
    ),
)


def _with_access(function: Any) -> Any:
    for option in reversed(_access):
        function = option(function)
    return function


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.argument("target", metavar="REGISTRY/REPOSITORY[:TAG]")
@click.option("--mount-from", multiple=True, help="A repository there that has much of the data; may be repeated.")
@_with_access
@json_option
@pass_context
def push(
    context: Context,
    *,
    reference: str,
    target: str,
    mount_from: tuple[str, ...],
    credentials: Path | None,
    authority: Path | None,
    as_json: bool,
) -> None:
    """Send IMAGE to a registry (OCI). Only data that no image of the repository has is sent.

    Without TLS only to this machine, or where [registry] plain_hosts allows it: http://HOST:PORT/REPOSITORY. A push
    that was interrupted goes on when it is ordered again.
    """
    if folder() is None:
        body = {"target": target, "mount_from": mount_from}
        result = follow(context.client, context.client.request("POST", "images", reference, "push", body=body))
    else:
        from bootd.drivers.registry.work import push as work  # noqa: PLC0415 - not where the daemon does it

        access = _order(credentials, authority)
        result = here(work, image=reference, target=target, mount_from=mount_from, **access)
    if as_json:
        print_json(result)
        return
    click.echo(
        f"{result['reference']} is {result['image'][:12]}: {size(result['sent_bytes'])} sent in"
        f" {result['sent_packs']} packs, {result['reused_packs']} were there"
    )
    click.echo(f"digest {result['digest']}")


@click.command()
@click.argument("source", metavar="REGISTRY/REPOSITORY[:TAG|@DIGEST]")
@click.option("--name", default="", help="NAME or NAME:TAG that it gets here, beside its own name with that TAG.")
@_with_access
@json_option
@pass_context
def pull(
    context: Context, *, source: str, name: str, credentials: Path | None, authority: Path | None, as_json: bool
) -> None:
    """Fetch an image from a registry (OCI). Only chunks that are not here are fetched, all are checked.

    The image is there when it is whole; a pull that was interrupted goes on when it is ordered again.
    """
    if folder() is None:
        body = {"source": source, "name": name}
        result = follow(context.client, context.client.request("POST", "image-pull", body=body))
    else:
        from bootd.drivers.registry.work import pull as work  # noqa: PLC0415 - not where the daemon does it

        result = here(work, source=source, name=name, **_order(credentials, authority))
    if as_json:
        print_json(result)
        return
    click.echo(
        f"{' '.join(result['tags']) or source} is {result['image'][:12]}: {size(result['fetched_bytes'])} fetched,"
        f" {result['fetched_chunks']} chunks; {result['present_chunks']} were here"
    )


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.option("--refresh", is_flag=True, help="Ask there even if the image is here: its name may mean another now.")
@json_option
@pass_context
def fetch(context: Context, *, reference: str, refresh: bool, as_json: bool) -> None:
    """Have IMAGE here: if it is not, it comes from [images] upstream, the bootd or registry of another site."""
    result = fetch_missing(context.client, reference, refresh=refresh)
    if as_json:
        print_json(result)
    elif result["fetched_chunks"]:
        click.echo(f"{reference} is {result['image'][:12]}: {result['fetched_chunks']} chunks fetched")
    else:
        click.echo(f"{reference} is {result['image'][:12]}: all of it was here")


def fetch_missing(client: Client, reference: str, *, refresh: bool = False) -> dict[str, Any]:
    """Wait until the daemon has the image; what its job tells. `OperatorError` when it cannot get it."""
    found = client.request("POST", "image-fetch", body={"image": reference, "refresh": refresh})
    if found["job"] is None:
        return {"image": found["id"], "fetched_chunks": 0, "fetched_bytes": 0}
    return follow(client, found["job"])


def _order(credentials: Path | None, authority: Path | None) -> dict[str, Any]:
    """For work on a store without the daemon: whoever does that may use his own docker login."""
    own = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "config.json"
    chosen = credentials or (own if own.is_file() else None)
    return {
        "store": str(open_store().directory),
        "credentials": str(chosen or ""),
        "authority": str(authority or ""),
    }
