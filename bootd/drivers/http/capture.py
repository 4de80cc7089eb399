"""The capture requests of the node interface: `bootd.wire.captured` says what is in them.

A node speaks only for tasks of its own that are open, and sends only chunks that it was asked for: with its boot
token for those of stage2, with the key of its agent for those of its running system. 409: the daemon
knows nothing of this run (any more), so the node describes its source again.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from bootd.drivers.captures import MAX_STORED, CaptureStore, UnknownRunError
from bootd.drivers.engine import Engine
from bootd.drivers.http.server import Handler, read_body, text_error
from bootd.errors import OperatorError
from bootd.session.captures import Task
from bootd.wire import captured, control, marks
from bootd.wire.control import CaptureReport
from bootd.wire.digest import DIGEST_SIZE
from bootd.wire.errors import PeerProtocolError

log = structlog.get_logger(__name__)

_FOLDER = "/node/v1/capture/{task}"
_Answer = Callable[[web.Request, Task], Awaitable[web.Response]]


class CaptureRequests:
    """``check`` (request, node) raises unless the request carries the boot token of that node."""

    def __init__(self, engine: Engine, check: Callable[[web.Request, str], None]) -> None:
        self._engine, self._check = engine, check

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(f"{_FOLDER}/report", self._report),
            web.put(f"{_FOLDER}/source", self._of_open_task(self._source)),
            web.post(f"{_FOLDER}/chunks", self._of_open_task(self._chunks)),
            web.post(f"{_FOLDER}/marks", self._of_open_task(self._marks)),
            web.put(f"{_FOLDER}/chunk/{{digest}}", self._of_open_task(self._chunk)),
            web.post(f"{_FOLDER}/commit", self._of_open_task(self._commit)),
        ]

    async def _report(self, request: web.Request) -> web.Response:
        node = request.query.get("node", "")
        is_agent = self._is_agent(request, node)
        message = control.decode_as(CaptureReport, await read_body(request, control.MAX_MESSAGE))
        if message.node != node or message.task != request.match_info["task"]:
            raise PeerProtocolError("a report of another task or node")
        task = self._engine.coordinator.captures.tasks.get(message.task)
        if task is not None and task.running != is_agent:
            return text_error(404, "no such backup of this node")
        self._engine.run(self._engine.coordinator.captures.reported(message, self._engine.now()))
        self._forget_ended()
        return web.Response(status=204)

    async def _source(self, request: web.Request, task: Task) -> web.Response:
        body = await read_body(request, captured.MAX_DESCRIPTION)
        await self._store.begin(task, await asyncio.to_thread(captured.decode, body))
        return web.Response(status=204)

    async def _chunks(self, request: web.Request, task: Task) -> web.Response:
        digests = await read_body(request, captured.ASKED * DIGEST_SIZE)
        missing = await self._store.ask(task, _number(request, "first"), digests)
        return web.Response(body=captured.encode_answer(missing), content_type="application/json")

    async def _marks(self, request: web.Request, task: Task) -> web.Response:
        question = marks.decode(await read_body(request, marks.MAX_QUESTION))
        known = await self._store.ask_marks(task, question)
        return web.Response(body=marks.encode_answer(known), content_type="application/octet-stream")

    async def _chunk(self, request: web.Request, task: Task) -> web.Response:
        try:
            name = bytes.fromhex(request.match_info["digest"])
        except ValueError:
            raise PeerProtocolError("the name of a chunk is no digest") from None
        await self._store.put(task, name, await read_body(request, MAX_STORED))
        return web.Response(status=204)

    async def _commit(self, request: web.Request, task: Task) -> web.Response:
        if task.is_completing:
            return text_error(503, "the image is being made")
        task.is_completing = True
        # Once begun it is carried to its end, also when the node loses its connection meanwhile.
        completing = asyncio.create_task(
            self._complete(task, _number(request, "count"), _number(request, "size", "0"))
        )
        return web.Response(text=f"{await asyncio.shield(completing)}\n")

    async def _complete(self, task: Task, count: int, size: int) -> str:
        coordinator = self._engine.coordinator
        try:
            origin = f"{coordinator.nodes.name(task.mac)} ({task.mac}), {task.source}"
            image = await self._store.commit(task, origin, count, size)
            self._engine.run(coordinator.captures.committed(task.id, image, self._engine.now()))
        finally:
            task.is_completing = False
        return image

    def _is_agent(self, request: web.Request, node: str) -> bool:
        """Whether the key of the agent of ``node`` is shown; raises unless that, or its boot token, is."""
        _, _, key = request.headers.get("Authorization", "").partition(" ")
        keeper = self._engine.sync
        if keeper is not None and keeper.store.is_agent(node, key.strip()):
            return True
        self._check(request, node)
        return False

    @property
    def _store(self) -> CaptureStore:
        if self._engine.captures is None:
            raise OperatorError("images are not kept here", "see server.state_dir")
        return self._engine.captures

    def _of_open_task(self, answer: _Answer) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            node = request.query.get("node", "")
            is_agent = self._is_agent(request, node)
            task = self._engine.coordinator.captures.tasks.get(request.match_info["task"])
            if task is None or task.mac != node or task.running != is_agent:
                return text_error(404, "no such backup of this node")
            if task.image and answer == self._commit:
                return web.Response(text=f"{task.image}\n")  # the same again: an answer that did not arrive
            if not task.open:
                return text_error(410, f"the backup is {task.state.value}: {task.reason}")
            try:
                return await answer(request, task)
            except UnknownRunError:
                return text_error(409, "nothing is known of this run: describe the source")
            except OperatorError as error:
                log.error("capture not kept", task=task.id, node=node, error=error.message, hint=error.hint)  # noqa: TRY400
                return text_error(507, f"{error.message}: {error.hint}")

        return handle

    def _forget_ended(self) -> None:
        tasks = self._engine.coordinator.captures.tasks
        for id_ in self._store.ongoing():
            if id_ not in tasks or not tasks[id_].open:
                self._store.forget(id_)


def _number(request: web.Request, key: str, default: str = "") -> int:
    text = request.query.get(key, default)
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise PeerProtocolError(f"{key} is no number")
    return int(text)
