"""Archives of files that become images, as they come. Part of `operator.py`'s table.

The body is one line of JSON (`bootd.wire.tree.Tree`) and then the archive, sent in chunks (RFC 9112, 7.1): who
reads the tree ends the body properly only when all was read well, so a broken one leaves no image behind.
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from bootd.drivers.http import image_answers
from bootd.drivers.http.images import ImageRoutes
from bootd.drivers.http.requests import owner_of, who_asks
from bootd.drivers.http.routes import Route
from bootd.drivers.images.tree import CHUNK, MAX_TREE, TreeWriter, parse_head
from bootd.errors import Exit, OperatorError

SILENCE_SECONDS = 300.0  # who sends may read a large sparse file meanwhile
STREAMS = 2  # at a time
_streams = asyncio.Semaphore(STREAMS)


async def put_tree(images: ImageRoutes, request: web.Request) -> web.Response:
    """Take an archive in; answers with the image."""
    query, who = request.query, who_asks(request)
    if _streams.locked():
        raise OperatorError(f"{STREAMS} trees are being stored", "wait for one of them", Exit.BUSY)
    async with _streams:
        try:
            pieces = _pieces(request)
            tree = parse_head(await anext(pieces, b""))
            writer = await asyncio.to_thread(
                lambda: TreeWriter(
                    images.store,
                    tree,
                    name=query.get("name", ""),
                    user=owner_of(request, query.get("user", "")),
                    comment=query.get("comment", ""),
                    origin=query.get("origin", ""),
                    tags=query.getall("tag", []),
                )
            )
            async for piece in pieces:
                await asyncio.to_thread(writer.add, piece)
        except (TimeoutError, ValueError, web.PayloadAccessError) as error:
            text = f"the archive did not come to its end: {error or 'nothing more came'}"
            raise OperatorError(text, "send it again: what has come is kept", Exit.INPUT) from None
        result = await asyncio.to_thread(writer.commit)
    images.audit(who, "image-put", f"files of {query.get('origin', '')[:200]} as {result['name']} {result['id']}")
    return web.json_response(result, status=201)


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The first line of the body, then the rest in pieces of a chunk."""
    buffer, has_head = bytearray(), False
    content = request.content.iter_chunked(1 << 16)
    while True:
        async with asyncio.timeout(SILENCE_SECONDS):
            part = await anext(content, b"")
        buffer += part
        if not has_head:
            line, separator, rest = buffer.partition(b"\n")
            if not separator and part:
                if len(line) > MAX_TREE:
                    raise OperatorError(f"description of {len(line)} bytes", "see docs/files.md", Exit.USAGE)
                continue
            has_head, buffer = True, bytearray(rest)
            yield bytes(line)
        while len(buffer) >= CHUNK or (buffer and not part):
            yield bytes(buffer[:CHUNK])
            del buffer[:CHUNK]
        if not part:
            return


TREE_ROUTES = (
    Route(
        "POST",
        "/image-trees",
        put_tree,
        "Store an archive of files: its description (one line of JSON), then the archive",
        image_answers.PutTree,
        query=(
            ("name", "Of the image"),
            ("comment", "Why it is kept"),
            ("user", "Whose it is; the unix socket only"),
            ("origin", "Where it is from"),
            ("tag", "Also NAME:TAG; may be repeated"),
        ),
        status=201,
    ),
)
