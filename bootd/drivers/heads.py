"""The heads of the sessions: one worker process each, whose death is an event for the coordinator."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Sequence

import structlog

from bootd.drivers.workers import Worker
from bootd.session.effects import StartHead

log = structlog.get_logger(__name__)

HEAD_COMMAND = (sys.executable, "-m", "bootd.member.head")
_GRACE_SECONDS = 3.0  # a head that was told to finish ends by itself within


class Heads:
    """Starts and ends heads. ``on_end(session, reason)`` is called when one ends that was not stopped."""

    def __init__(
        self,
        server: str,
        host: str,
        on_end: Callable[[str, str], None],
        command: Sequence[str] = HEAD_COMMAND,
        *,
        cache: str = "",
        images: str = "",
    ) -> None:
        """``server`` is HOST:PORT of the node interface, ``host`` the address that successors dial, ``cache`` the
        folder where heads remember the digests of files, ``images`` that of the image store."""
        self._server, self._host, self._on_end, self._command = server, host, on_end, command
        self._folders = {key: path for key, path in (("cache", cache), ("images", images)) if path}
        self._workers: dict[str, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by session, of the heads that run."""
        return {session: worker.pid for session, worker in self._workers.items() if worker.running}

    def start(self, order: StartHead) -> None:
        """Start the head of a session; a failure to start is told to ``on_end`` like a death."""
        line = json.dumps(
            {
                "server": self._server,
                "node": order.node,
                "token": order.node_token,
                "session": order.session,
                "join_token": order.join_token,
                "source": order.source,
                "host": self._host,
                **({"sources": order.sources} if order.sources else {}),
                **self._folders,
            }
        )
        worker = Worker(order.node, self._command, line.encode())
        self._workers[order.session] = worker
        self._spawn(self._run(order.session, worker), f"head of {order.session}")

    def stop(self, session: str) -> None:
        """End the head of ``session``, if there is one; its end is no event."""
        worker = self._workers.pop(session, None)
        if worker is not None:
            self._spawn(worker.stop(_GRACE_SECONDS), f"end of the head of {session}")

    async def close(self) -> None:
        """End all heads and wait for them."""
        for session in list(self._workers):
            self.stop(session)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, session: str, worker: Worker) -> None:
        try:
            await worker.start()
            reason = await worker.wait()
        except OSError as error:
            reason = f"cannot be started: {error}"
        if self._workers.get(session) is worker:
            del self._workers[session]
            self._on_end(session, reason)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("supervision of a head failed", task=task.get_name(), exc_info=error)
