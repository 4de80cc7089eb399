"""The operators' interface to the image store, and to jobs. Part of `operator.py`'s table."""

import asyncio
import ipaddress
import time
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from bootd.config import Images, Registry
from bootd.drivers.engine import Engine
from bootd.drivers.http import image_answers
from bootd.drivers.http.files import IMAGES
from bootd.drivers.http.image_tickets import Tickets
from bootd.drivers.http.requests import owner_of, read_as, who_asks
from bootd.drivers.http.routes import Route, Scope
from bootd.drivers.images import inspect, removal
from bootd.drivers.images.store import ImageStore
from bootd.drivers.jobs.runner import Jobs
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import DIGEST
from bootd.session.effects import AuditRecord, Persist
from bootd.wire.stored import image_of


class ImagePut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/images: ``path`` is a raw disk image or a block device of the server."""

    path: str
    name: str
    comment: str
    user: str = ""  # "" = who asks
    tags: tuple[str, ...] = ()
    kind: str = "disk"


class ImageGet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/images/REFERENCE/get: ``path`` is a new file of the server."""

    path: str


class ImageTag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/images/REFERENCE/tags: NAME:TAG, or NAME for NAME:latest."""

    tag: str


class ImageHeal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/image-heal. ``source``: folder, file or URL, for the server; ``token`` for a URL."""

    source: str
    images: tuple[str, ...] = ()
    token: str = ""
    authority: str = ""  # PEM file of the server


class ImageCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/image-verify; no images: all."""

    images: tuple[str, ...] = ()


class ImageCollect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/image-gc."""

    dry_run: bool = False
    now: bool = False  # also chunks that somebody asked for within the last day


class ImageRoutes:
    """Answers the requests of `IMAGE_ROUTES`."""

    def __init__(
        self, engine: Engine, directory: Path, settings: Images, jobs: Jobs, registry: Registry | None = None
    ) -> None:
        self._engine, self.jobs = engine, jobs
        self.settings, self.registry = settings, registry or Registry()
        self._directory = directory
        self._store: ImageStore | None = None
        self.tickets, self.bulk_port = Tickets(), 0  # what the bulk workers have
        engine.image_store = lambda: self.store

    @property
    def store(self) -> ImageStore:
        """Opened when it is first needed: a daemon whose store cannot be used boots nodes all the same."""
        if self._store is None:
            self._store = ImageStore(self._directory)
        return self._store

    async def list_images(self, request: web.Request) -> web.Response:
        return web.json_response(
            await asyncio.to_thread(inspect.list_images, self.store, request.query.get("name", ""))
        )

    async def show_image(self, request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(inspect.show, self.store, _reference(request)))

    async def image_history(self, request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(inspect.history, self.store, _reference(request)))

    async def image_manifest(self, request: web.Request) -> web.Response:
        """As docs/images.md describes it; ``ETag`` is its id."""
        store, reference = self.store, _reference(request)
        id_ = await asyncio.to_thread(store.resolve, reference)
        data = await asyncio.to_thread(store.read_encoded, id_)
        return web.Response(body=data, content_type="text/plain", charset="utf-8", headers={"ETag": f'"{id_}"'})

    async def image_chunk(self, request: web.Request) -> web.Response:
        """As it is stored: raw, or one Zstandard frame."""
        name = request.match_info["digest"]
        if not DIGEST.match(name):
            raise OperatorError("a chunk is named by 64 hexadecimal digits", "see the manifest", Exit.USAGE)
        return web.Response(body=await asyncio.to_thread(self.store.read_stored, name))

    async def image_ticket(self, request: web.Request) -> web.Response:
        """For the address that asks, or another one that it names."""
        address = request.query.get("address", "") or request.remote or ""
        try:
            address = str(ipaddress.ip_address(address))
        except ValueError:
            raise OperatorError("a ticket is for an address", "name it: ?address=192.0.2.7", Exit.USAGE) from None
        ticket, end = self.tickets.issue(address, time.time())
        self.audit(who_asks(request), "image-ticket", address)
        answer = {"ticket": ticket, "address": address, "expires": end, "port": self.bulk_port, "path": IMAGES}
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def put_image(self, request: web.Request) -> web.Response:
        wanted, who = await read_as(request, ImagePut), who_asks(request)
        order = {
            "store": str(self.store.directory),
            "path": wanted.path,
            "name": wanted.name,
            "user": owner_of(request, wanted.user),
            "comment": wanted.comment,
            "tags": wanted.tags,
            "kind": wanted.kind,
        }
        return self.start("image-put", f"{wanted.path} as {wanted.name}", who, order)

    async def get_image(self, request: web.Request) -> web.Response:
        wanted, who = await read_as(request, ImageGet), who_asks(request)
        if not wanted.path.startswith("/"):
            raise OperatorError(
                f"{wanted.path}: not an absolute path", "name a file with its full path", Exit.USAGE
            )
        id_ = await asyncio.to_thread(self.store.resolve, _reference(request))
        order = {"store": str(self.store.directory), "image": id_, "path": wanted.path}
        return self.start("image-get", f"{_reference(request)} to {wanted.path}", who, order)

    async def verify_images(self, request: web.Request) -> web.Response:
        wanted, who = await read_as(request, ImageCheck), who_asks(request)
        order = {"store": str(self.store.directory), "images": wanted.images}
        return self.start("image-verify", ", ".join(wanted.images) or "all images", who, order)

    async def heal_images(self, request: web.Request) -> web.Response:
        wanted, who = await read_as(request, ImageHeal), who_asks(request)
        order = {
            "store": str(self.store.directory),
            "source": wanted.source,
            "images": wanted.images,
            "token": wanted.token,
            "authority": wanted.authority,
        }
        what = ", ".join(wanted.images) or "all images"
        return self.start("image-heal", f"{what} from {wanted.source}", who, order)

    async def collect_images(self, request: web.Request) -> web.Response:
        wanted, who = await read_as(request, ImageCollect), who_asks(request)
        order = {
            "store": str(self.store.directory),
            "keep": self.settings.keep,
            "in_use": sorted(self.in_use()),
            "dry_run": wanted.dry_run,
            "now_too": wanted.now,
        }
        detail = " ".join(["dry run"] * wanted.dry_run + ["now"] * wanted.now)
        return self.start("image-gc", detail, who, order)

    async def remove_image(self, request: web.Request) -> web.Response:
        who, store = who_asks(request), self.store
        id_ = await asyncio.to_thread(store.resolve, _reference(request))
        if id_ in self.in_use():
            raise OperatorError(f"image {id_[:12]} is in use by an open session", "bootd state", Exit.BUSY)
        image = await asyncio.to_thread(removal.remove, store, id_)
        self.audit(who, "image-rm", f"{image.header.name} {id_}")
        return web.json_response(inspect.view(image))

    async def tag_image(self, request: web.Request) -> web.Response:
        wanted, who = await read_as(request, ImageTag), who_asks(request)
        id_ = await asyncio.to_thread(self.store.tag, _reference(request), wanted.tag)
        self.audit(who, "image-tag", f"{wanted.tag} {id_}")
        return web.json_response(await asyncio.to_thread(inspect.show, self.store, id_))

    async def untag_image(self, request: web.Request) -> web.Response:
        who, tag = who_asks(request), request.match_info["tag"]
        await asyncio.to_thread(removal.untag, self.store, tag)
        self.audit(who, "image-untag", tag)
        return web.Response(status=204)

    async def list_jobs(self, _request: web.Request) -> web.Response:
        return web.json_response([job.view() for job in self.jobs.all()])

    async def show_job(self, request: web.Request) -> web.Response:
        return web.json_response(self.jobs.find(request.match_info["id"]).view())

    async def cancel_job(self, request: web.Request) -> web.Response:
        job = await self.jobs.cancel(request.match_info["id"])
        self.audit(who_asks(request), "job-cancel", f"{job.id} {job.kind} {job.detail}")
        return web.json_response(job.view())

    def start(self, kind: str, detail: str, who: str, order: dict[str, Any]) -> web.Response:
        """Start a job and answer with it."""
        job = self.jobs.start(kind, detail, who, order)
        self.audit(who, kind, detail)
        return web.json_response(job.view(), status=202)

    def audit(self, who: str, what: str, detail: str) -> None:
        """Who did what."""
        self._engine.run([Persist(AuditRecord(who, what, detail))])

    def in_use(self) -> set[str]:
        """Ids of images that open sessions send, also those whose head has not begun."""
        open_ = (session for session in self._engine.coordinator.sessions.values() if not session.ended)
        sources = [source for session in open_ for source in (session.plan.source, *session.plan.sources)]
        return {id_ for id_ in map(image_of, sources) if id_}


def _reference(request: web.Request) -> str:
    return request.match_info["image"]


IMAGE_ROUTES = (
    Route(
        "GET",
        "/images",
        ImageRoutes.list_images,
        "All images, oldest first",
        list[image_answers.Image],
        query=(("name", "Only those of this name"),),
    ),
    Route(
        "POST",
        "/images",
        ImageRoutes.put_image,
        "Store a raw disk image of the server",
        image_answers.Job,
        ImagePut,
        status=202,
        needs=Scope.ADMIN,
    ),
    Route("GET", "/images/{image}", ImageRoutes.show_image, "One image", image_answers.WholeImage),
    Route(
        "DELETE",
        "/images/{image}",
        ImageRoutes.remove_image,
        "Remove an image and its names; chunks go with the next gc",
        image_answers.Image,
    ),
    Route(
        "GET",
        "/images/{image}/history",
        ImageRoutes.image_history,
        "The versions of a name, and what each brought",
        list[image_answers.Version],
    ),
    Route(
        "GET",
        "/images/{image}/manifest",
        ImageRoutes.image_manifest,
        "A manifest, as it is stored",
        str,
        media="text/plain",
        needs=Scope.EXPORT,
    ),
    Route(
        "POST",
        "/images/{image}/get",
        ImageRoutes.get_image,
        "Write an image to a new raw file of the server",
        image_answers.Job,
        ImageGet,
        status=202,
        needs=Scope.ADMIN,
    ),
    Route(
        "POST",
        "/images/{image}/tags",
        ImageRoutes.tag_image,
        "Give an image another name",
        image_answers.WholeImage,
        ImageTag,
    ),
    Route("DELETE", "/image-tags/{tag}", ImageRoutes.untag_image, "NAME:TAG names nothing any more"),
    Route(
        "GET",
        "/chunks/{digest}",
        ImageRoutes.image_chunk,
        "A chunk, as it is stored",
        bytes,
        media="application/octet-stream",
        needs=Scope.EXPORT,
    ),
    Route(
        "POST",
        "/image-ticket",
        ImageRoutes.image_ticket,
        "Read images from the bulk port, from one address, for an hour",
        image_answers.ImageTicket,
        query=(("address", "Who will read; who asks without it"),),
        needs=Scope.EXPORT,
    ),
    Route(
        "POST",
        "/image-verify",
        ImageRoutes.verify_images,
        "Read every chunk of images and compare it",
        image_answers.Job,
        ImageCheck,
        status=202,
    ),
    Route(
        "POST",
        "/image-heal",
        ImageRoutes.heal_images,
        "Bring missing chunks from another copy",
        image_answers.Job,
        ImageHeal,
        status=202,
    ),
    Route(
        "POST",
        "/image-gc",
        ImageRoutes.collect_images,
        "Remove what the rules do not keep, and chunks of no image",
        image_answers.Job,
        ImageCollect,
        status=202,
    ),
    Route("GET", "/jobs", ImageRoutes.list_jobs, "Long work: all jobs", list[image_answers.Job]),
    Route("GET", "/jobs/{id}", ImageRoutes.show_job, "One job", image_answers.Job),
    Route("DELETE", "/jobs/{id}", ImageRoutes.cancel_job, "End a job", image_answers.Job, needs=Scope.OPERATE),
)
