"""The operators' interface to images elsewhere: registries, and the bootd of another site. Part of `operator.py`'s
table."""

import asyncio
from typing import Annotated, Any

import msgspec
from aiohttp import web

from bootd.drivers.http import image_answers
from bootd.drivers.http.images import ImageRoutes
from bootd.drivers.http.requests import read_as, who_asks
from bootd.drivers.http.routes import Route, Scope
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import DIGEST, ImageError
from bootd.images.names import parse_reference as parse_image
from bootd.images.oci.reference import parse_reference

MOST_CHUNKS = 64  # of one answer
STREAMS = 2  # of chunks, at a time
_PART = 256 << 10  # the daemon's loop is given back after so many bytes
_streams = asyncio.Semaphore(STREAMS)


class ImagePush(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/images/REFERENCE/push. ``target``: HOST[:PORT]/REPOSITORY[:TAG]; ``mount_from``: other
    repositories of that registry, whose data need not be sent."""

    target: str
    mount_from: tuple[str, ...] = ()


class ImagePull(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/image-pull. ``source``: HOST[:PORT]/REPOSITORY[:TAG|@sha256:DIGEST]; ``name``: NAME or
    NAME:TAG that the image gets beside its own."""

    source: str
    name: str = ""


class ImageFetch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/image-fetch: ``refresh``: ask [images] upstream even if the image is here."""

    image: str
    refresh: bool = False


class ChunkList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/chunks."""

    digests: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MOST_CHUNKS)]


async def push_image(images: ImageRoutes, request: web.Request) -> web.Response:
    """Start the job that sends an image to a registry."""
    wanted, who = await read_as(request, ImagePush), who_asks(request)
    reference = request.match_info["image"]
    target = parse_reference(wanted.target)
    order = {
        **_store_and_access(images),
        "image": await asyncio.to_thread(images.store.resolve, reference),
        "target": wanted.target,
        "mount_from": wanted.mount_from,
    }
    return images.start("image-push", f"{reference} to {target}", who, order)


async def pull_image(images: ImageRoutes, request: web.Request) -> web.Response:
    """Start the job that fetches an image from a registry."""
    wanted, who = await read_as(request, ImagePull), who_asks(request)
    source = parse_reference(wanted.source)
    if wanted.name:
        parse_image(wanted.name)
    order = {**_store_and_access(images), "source": wanted.source, "name": wanted.name}
    return images.start("image-pull", str(source), who, order)


async def fetch_image(images: ImageRoutes, request: web.Request) -> web.Response:
    """The id of an image that is here, or the job that fetches it from the upstream."""
    wanted, who = await read_as(request, ImageFetch), who_asks(request)
    parse_image(wanted.image)
    upstream = images.settings.upstream
    if not (wanted.refresh and upstream):
        try:
            # With an upstream, a name means what it says: an old version that is here is not taken for the latest.
            id_ = await asyncio.to_thread(images.store.resolve, wanted.image)
            return web.json_response({"id": id_, "job": None})
        except ImageError:
            if not upstream:
                raise
    for job in images.jobs.all():  # two who ask for the same wait for the same
        if job.ended is None and (job.kind, job.detail) == ("image-fetch", wanted.image):
            return web.json_response({"id": "", "job": job.view()})
    order = {
        **_store_and_access(images),
        "image": wanted.image,
        "upstream": upstream,
        "token": images.settings.upstream_token,
        "upstream_authority": images.settings.upstream_authority,
    }
    job = images.jobs.start("image-fetch", wanted.image, who, order)
    images.audit(who, "image-fetch", f"{wanted.image} from {upstream}")
    return web.json_response({"id": "", "job": job.view()})


async def send_chunks(images: ImageRoutes, request: web.Request) -> web.StreamResponse:
    """Each chunk as it is stored, after its length in 4 bytes, most significant first; in the order asked for.

    What cannot be read cuts the answer off, which the other side notices: it has not come to its end.
    """
    wanted = await read_as(request, ChunkList)
    if not all(DIGEST.match(name) for name in wanted.digests):
        raise OperatorError("a chunk is named by 64 hexadecimal digits", "see the manifest", Exit.USAGE)
    store = images.store
    async with _streams:
        for name in wanted.digests:
            if not store.chunk_path(name).exists():
                await asyncio.to_thread(store.read_stored, name)  # says that there is none
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        for name in wanted.digests:
            try:
                data = await asyncio.to_thread(store.read_stored, name)
            except ImageError:
                if request.transport is not None:
                    request.transport.abort()
                break
            await response.write(len(data).to_bytes(4, "big"))
            for start in range(0, len(data), _PART):
                await response.write(data[start : start + _PART])
        else:
            await response.write_eof()
    return response


def _store_and_access(images: ImageRoutes) -> dict[str, Any]:
    registry = images.registry
    return {
        "store": str(images.store.directory),
        "credentials": registry.credentials,
        "authority": registry.authority,
        "plain_hosts": registry.plain_hosts,
    }


TRANSFER_ROUTES = (
    Route(
        "POST",
        "/images/{image}/push",
        push_image,
        "Send an image to a registry",
        image_answers.Job,
        ImagePush,
        status=202,
        needs=Scope.ADMIN,  # what is on disks goes wherever the caller says
    ),
    Route(
        "POST",
        "/image-pull",
        pull_image,
        "Fetch an image from a registry",
        image_answers.Job,
        ImagePull,
        status=202,
        needs=Scope.ADMIN,  # and comes from there
    ),
    Route(
        "POST",
        "/image-fetch",
        fetch_image,
        "Have an image here: it is, or a job fetches it from [images] upstream",
        image_answers.Fetched,
        ImageFetch,
    ),
    Route(
        "POST",
        "/chunks",
        send_chunks,
        "Several chunks as they are stored, each after its length (4 bytes, big-endian)",
        bytes,
        ChunkList,
        media="application/octet-stream",
        needs=Scope.EXPORT,
    ),
)
