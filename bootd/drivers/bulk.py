"""The bulk worker: a process that serves the boot artefacts over HTTP with sendfile, apart from the daemon's loop.

`BulkService` is the daemon's side: it binds the port, passes the socket on and starts the worker again when it
dies. Run as a module this file is the worker: one JSON line on standard input, ``{"socket": FD, "root": FOLDER}``;
it ends when its standard input closes.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from bootd.drivers.logging_setup import set_up_logging
from bootd.drivers.neighbours import neighbour
from bootd.drivers.sockets import listen
from bootd.drivers.workers import Backoff, Worker

log = structlog.get_logger(__name__)

_LOADED = "loaded "  # a worker's line that begins so is for the timeline


class BulkService:
    """The listening socket and the supervised worker behind it. A `bootd.drivers.service.Service`."""

    name = "bulk"

    def __init__(
        self,
        address: str,
        port: int,
        root: Path,
        on_event: Callable[[str, str, str, str], None] = lambda *_: None,
    ) -> None:
        """``on_event`` (kind, mac, address, detail) is told of every file that was sent to its end: ``loaded``."""
        self._address, self._port, self._root, self._on_event = address, port, root, on_event
        self._socket: socket.socket | None = None
        self._worker: Worker | None = None

    @property
    def pid(self) -> int:
        """Process id of the worker; 0 while there is none."""
        return self._worker.pid if self._worker and self._worker.running else 0

    async def bind(self) -> None:
        """Listen. Clients that come while no worker runs wait in the kernel's queue."""
        self._socket = listen(self._address, self._port, "large files", "server.bulk_port")

    async def serve(self) -> None:
        """Keep one worker running until cancelled."""
        backoff = Backoff()
        while True:
            begun = time.monotonic()
            try:
                reason = await self._run_once()
            except OSError as error:
                reason = f"cannot be started: {error}"
            delay = backoff.after_run_of(time.monotonic() - begun)
            log.error("bulk worker is gone", reason=reason, restart_seconds=delay)
            await asyncio.sleep(delay)

    async def close(self) -> None:
        """End the worker and close the port."""
        if self._worker is not None:
            await self._worker.stop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _run_once(self) -> str:
        if self._socket is None:
            return "not bound"
        fd = self._socket.fileno()
        line = json.dumps({"socket": fd, "root": str(self._root)}).encode()
        command = [sys.executable, "-m", "bootd.drivers.bulk"]
        worker = Worker("bulk", command, line, pass_fds=[fd], on_line=self._on_line)
        self._worker = worker
        await worker.start()
        return await worker.wait()

    def _on_line(self, line: str) -> bool:
        """Whether ``line`` is the worker's word that a file was sent."""
        if not line.startswith(_LOADED):
            return False
        try:
            told = json.loads(line.removeprefix(_LOADED))
            peer, detail = str(told["peer"]), f"{told['path']}, {int(told['size'])} bytes"
        except (ValueError, TypeError, KeyError):
            return False
        self._on_event("loaded", neighbour(peer), peer, detail)
        return True


class _Told(web.FileResponse):
    """Says on standard error when all of it was sent."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        writer = await super().prepare(request)
        if request.method == "GET" and self.status in (200, 206):
            told = {"path": request.path.lstrip("/")[:200], "peer": request.remote, "size": self.content_length}
            sys.stderr.write(f"{_LOADED}{json.dumps(told)}\n")
            sys.stderr.flush()
        return writer


def find_file(root: Path, path: str) -> Path | None:
    """The regular file that ``path`` means below ``root``, or None. Symbolic links do not lead outside."""
    if "\0" in path:
        return None
    try:
        base = root.resolve()
        found = (base / path.lstrip("/")).resolve()
        inside = found.is_relative_to(base) and found.is_file()
    except (OSError, RuntimeError):  # a name that is too long, a loop of links
        return None
    return found if inside else None


def application(root: Path) -> web.Application:
    """GET and HEAD of files below ``root``, ranges included; everything else is refused."""

    async def get(request: web.Request) -> web.StreamResponse:
        found = find_file(root, request.match_info["path"])
        if found is None:
            raise web.HTTPNotFound(text=f"no such file: {request.path[:200]}\n")
        return _Told(found, chunk_size=1 << 18)

    app = web.Application(client_max_size=4096)
    app.router.add_get("/{path:.*}", get)
    return app


async def _work(listener: socket.socket, root: Path) -> None:
    runner = web.AppRunner(application(root), access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    watch = asyncio.create_task(_until_closed(reader, gone))
    await gone.wait()
    watch.cancel()
    await runner.cleanup()


async def _until_closed(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    while await reader.read(4096):
        pass
    gone.set()


def main() -> None:
    """Entry of the worker process."""
    set_up_logging()
    try:
        order = json.loads(sys.stdin.buffer.readline(1 << 16))
        listener = socket.socket(fileno=int(order["socket"]))
        root = Path(order["root"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.error("bulk worker got no usable order", error=str(error))  # noqa: TRY400 (not a trace, one line)
        sys.exit(2)
    asyncio.run(_work(listener, root))


if __name__ == "__main__":
    main()
