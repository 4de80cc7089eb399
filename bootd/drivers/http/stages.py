"""``GET /node/v1/stage2``: what a node in stage1 fetches, and from whom."""

import time
from collections.abc import Callable
from pathlib import Path

import structlog
from aiohttp import web

from bootd.drivers.engine import Engine
from bootd.drivers.http.server import text_error
from bootd.drivers.systems import StageFile, read_stage
from bootd.session.stage_ring import Feed, StageRing

log = structlog.get_logger(__name__)


class StageRequests:
    """Answers for one node interface: nodes that hand on to each other reach each other on its network."""

    def __init__(
        self, engine: Engine, boot_dir: Path, bulk: str, check: Callable[[web.Request, str], None]
    ) -> None:
        """``bulk`` is the URL of the bulk port; ``check`` raises unless the request carries that node's token."""
        self._engine, self._boot_dir, self._bulk, self._check = engine, boot_dir, bulk, check
        self._ring = StageRing()

    async def answer(self, request: web.Request) -> web.Response:
        """Query: ``node``; ``system`` in place of stage2; ``port``, where the node hands on; ``failed``, the URL of
        a predecessor that did not."""
        node, system = request.query.get("node", ""), request.query.get("system", "")
        self._check(request, node)
        try:
            file, path = read_stage(self._boot_dir, system)
        except ValueError as error:
            hint = f"bootd stage list: {system[:40]}" if system else "bootd stage build"
            log.error("stage2 cannot be offered", node=node, error=str(error), hint=hint)  # noqa: TRY400
            self._engine.note("stage1", node, "", f"asks for {system[:40] or 'stage2'}, which is not here")
            return text_error(503, f"{system[:40] or 'stage2'} is not here: {hint}")
        feed = self._arrange(request, node, file)
        self._engine.note("stage1", node, "", self._what(system, feed, request.query.get("failed", "")))
        answer = {"url": f"{self._bulk}/{path}", "size": file.size, "sha256": file.sha256}
        if file.blocks:
            answer |= {"block": file.block, "blocks": file.blocks}
        if feed.url:
            answer |= {"peer": feed.url, "patience": feed.patience}
        return web.json_response(answer)

    def _arrange(self, request: web.Request, node: str, file: StageFile) -> Feed:
        """From the server, unless the node takes part in handing on."""
        port = request.query.get("port", "")
        if not file.blocks or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
            return Feed()
        # Only its own address: a node cannot send others anywhere else.
        url = f"http://{request.remote}:{int(port)}/{file.sha256}"
        return self._ring.arrange(node, url, file.sha256, request.query.get("failed", "")[:300], time.monotonic())

    def _what(self, system: str, feed: Feed, failed: str) -> str:
        text = f"asks for {system[:40] or 'stage2'}"
        if feed.peer:
            known = self._engine.coordinator.nodes.get(feed.peer)
            text += f", has it from {known.name if known else feed.peer}"
        return (
            f"{text}, complains of {failed[:60]}" if failed.isascii() and failed.isprintable() and failed else text
        )
