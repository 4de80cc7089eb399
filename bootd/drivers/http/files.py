"""Files over HTTP as firmware needs them: always a Content-Length, never chunks, no empty header, no compression,
and the connection stays open after HEAD (EDK2 loses its GET when the server closes then).

Bytes go from the page cache to the socket (sendfile). A file is opened below the boot folder without following a
link out of it; what is served is the state that was opened, whatever happens to its name meanwhile.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from bootd.drivers.http.image_tickets import Tickets
from bootd.drivers.tree import File, NotFound, open_file, plain_file
from bootd.netboot.files import http_ranges
from bootd.netboot.files.http_ranges import Failed, NotModified, Parts, Unsatisfiable, Version, Whole

OnSent = Callable[[str, str, int], None]
"""(path, peer, bytes): a file, or the part that was asked for, is sent to its end. Must not raise."""

_TYPES = {
    ".efi": "application/efi",
    ".iso": "application/vnd.efi-iso",
    ".img": "application/octet-stream",  # EDK2 would take vnd.efi-img for a disk; ours are initrds
    ".json": "application/json",
    ".ipxe": "text/plain",
    ".cfg": "text/plain",
}
_SENDFILE = 1 << 30  # bytes of one call; the loop comes back sooner, when the socket is full


IMAGES = "/.images"  # below it, for who has a ticket: manifests/ID and chunks/DIGEST of the image store


def application(
    root: Path, on_sent: OnSent, images: Path | None = None, tickets: Tickets | None = None
) -> web.Application:
    """GET and HEAD of the files below ``root``, and of ``images`` with a ticket; everything else is refused with
    404 or 405."""

    async def get_image(request: web.Request) -> web.StreamResponse:
        ticket = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if images is None or tickets is None or not tickets.check(ticket, request.remote or "", time.time()):
            text = "no ticket for images, or one of another address, or one that has ended\n"
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"}, text=text)
        kind, name = request.match_info["kind"], request.match_info["name"]
        below = f"manifests/{name}" if kind == "manifests" else f"chunks/{name[:2]}/{name[2:]}"
        return await send(request, plain_file(images, below), lambda *_: None)

    async def get(request: web.Request) -> web.StreamResponse:
        return await send(request, plain_file(root, request.match_info["path"]), on_sent)

    app = web.Application(client_max_size=4096)
    app.router.add_get(f"{IMAGES}/{{kind:manifests|chunks}}/{{name:[0-9a-f]{{64}}}}", get_image)
    app.router.add_get("/{path:.*}", get)
    return app


async def send(request: web.Request, found: File | NotFound, on_sent: OnSent) -> web.StreamResponse:
    """The answer to GET or HEAD of ``found``, sent when this returns."""
    descriptor = open_file(found) if isinstance(found, File) else found
    if isinstance(descriptor, NotFound):
        return web.Response(status=404, text=f"{descriptor.reason}\n")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return await _answer(request, file, on_sent)


async def _answer(request: web.Request, file: BinaryIO, on_sent: OnSent) -> web.StreamResponse:
    status = os.fstat(file.fileno())
    size = status.st_size
    version = Version(f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{size:x}"', int(status.st_mtime))
    decision = http_ranges.decide(request.headers, version, size, request.method == "GET")
    headers = {"ETag": version.tag, "Last-Modified": version.date, "Accept-Ranges": "bytes"}
    kind = _TYPES.get(Path(request.path).suffix.lower(), "application/octet-stream")
    match decision:
        case NotModified():
            return web.Response(status=304, headers=headers)
        case Failed():
            return web.Response(status=412, headers=headers, text="the file has changed\n")
        case Unsatisfiable():
            text = f"the file has {size} bytes\n"
            return web.Response(status=416, headers={"Content-Range": f"bytes */{size}", **headers}, text=text)
        case Whole():
            response = web.StreamResponse(status=200, headers={"Content-Type": kind, **headers})
            pieces: list[bytes | tuple[int, int]] = [(0, size)]
        case Parts(((start, length),)):
            range_header = {"Content-Range": f"bytes {start}-{start + length - 1}/{size}"}
            response = web.StreamResponse(status=206, headers={"Content-Type": kind, **range_header, **headers})
            pieces = [(start, length)]
        case Parts(ranges):
            boundary = secrets.token_hex(12)
            several = {"Content-Type": f"multipart/byteranges; boundary={boundary}"}
            response = web.StreamResponse(status=206, headers={**several, **headers})
            pieces = []
            for start, length in ranges:
                where = f"bytes {start}-{start + length - 1}/{size}"
                pieces.append(
                    f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {where}\r\n\r\n".encode()
                )
                pieces.append((start, length))
            pieces.append(f"\r\n--{boundary}--\r\n".encode())
    total = sum(len(piece) if isinstance(piece, bytes) else piece[1] for piece in pieces)
    response.content_length = total
    await response.prepare(request)
    if request.method != "HEAD":
        for piece in pieces:
            if isinstance(piece, bytes):
                await response.write(piece)
            else:
                await _send_part(request, file, *piece)
    await response.write_eof()
    if request.method != "HEAD":
        on_sent(request.path, request.remote or "", total)
    return response


async def _send_part(request: web.Request, file: BinaryIO, start: int, length: int) -> None:
    """`ConnectionResetError` when the client is gone, or the file has shrunk: then the connection must end, since
    its Content-Length has been promised."""
    loop = asyncio.get_running_loop()
    end = start + length
    while start < end:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        sent = await loop.sendfile(transport, file, start, min(end - start, _SENDFILE))
        if sent <= 0:
            transport.abort()
            raise ConnectionResetError("the file has shrunk")
        start += sent
