"""The operators' interface to images of other programs. Part of `operator.py`'s table."""

import asyncio
from typing import Literal

import msgspec
from aiohttp import web

from bootd.drivers.http import image_answers
from bootd.drivers.http.images import ImageRoutes
from bootd.drivers.http.requests import owner_of, read_as, who_asks
from bootd.drivers.http.routes import Route, Scope
from bootd.errors import Exit, OperatorError


class ImageImport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/image-import. ``path``: a file or directory of the server, full; ``kind`` "" = as it
    looks; ``device`` chooses a disk or partition of several."""

    path: str
    name: str
    comment: str = ""  # "" = what CloneSys's imagedesc.txt says
    user: str = ""  # "" = who asks
    tags: tuple[str, ...] = ()
    kind: Literal["", "disk", "partition"] = ""
    device: str = ""


class ImageExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/images/REFERENCE/export. ``path``: a new file or directory of the server, full."""

    path: str
    format: Literal["raw", "qcow2", "clonezilla", "partclone"] = "raw"


async def import_image(images: ImageRoutes, request: web.Request) -> web.Response:
    """Start the job that takes a foreign image in."""
    wanted, who = await read_as(request, ImageImport), who_asks(request)
    user = owner_of(request, wanted.user)
    _check_full(wanted.path)
    order = {
        "store": str(images.store.directory),
        "path": wanted.path,
        "name": wanted.name,
        "user": user,
        "comment": wanted.comment,
        "tags": wanted.tags,
        "kind": wanted.kind,
        "device": wanted.device,
    }
    return images.start("image-import", f"{wanted.path} as {wanted.name}", who, order)


async def export_image(images: ImageRoutes, request: web.Request) -> web.Response:
    """Start the job that writes an image for another program."""
    wanted, who = await read_as(request, ImageExport), who_asks(request)
    _check_full(wanted.path)
    reference = request.match_info["image"]
    id_ = await asyncio.to_thread(images.store.resolve, reference)
    order = {
        "store": str(images.store.directory),
        "image": id_,
        "path": wanted.path,
        "format_": wanted.format,
    }
    return images.start("image-export", f"{reference} to {wanted.path}, {wanted.format}", who, order)


def _check_full(path: str) -> None:
    if not path.startswith("/"):
        raise OperatorError(
            f"{path[:200]}: not a full path", "name it from / on, as the server sees it", Exit.USAGE
        )


FORMAT_ROUTES = (
    Route(
        "POST",
        "/image-import",
        import_image,
        "Store an image of another program that is on the server",
        image_answers.Job,
        ImageImport,
        status=202,
        needs=Scope.ADMIN,
    ),
    Route(
        "POST",
        "/images/{image}/export",
        export_image,
        "Write an image for other programs, on the server",
        image_answers.Job,
        ImageExport,
        status=202,
        needs=Scope.ADMIN,
    ),
)
