"""The bulk workers: processes that serve the boot artefacts over HTTP with sendfile, apart from the daemon's loop.

`BulkService` is the daemon's side: it binds the port, passes the socket on and starts a worker again when it dies.
Run as a module this file is a worker: one JSON line on standard input, ``{"socket": FD, "root": FOLDER,
"connections": N, "per_address": N, "images": FOLDER, "key": HEX}``; it ends when its standard input closes.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from bootd.drivers import metrics
from bootd.drivers.dhcp.neighbours import neighbour
from bootd.drivers.http.files import application
from bootd.drivers.http.gate import DEFAULT_BOUNDS, Bounds
from bootd.drivers.http.image_tickets import Tickets
from bootd.drivers.http.server import HttpServer
from bootd.drivers.logging_setup import set_up_logging
from bootd.drivers.sockets import listen
from bootd.drivers.workers import Backoff, Worker

log = structlog.get_logger(__name__)

_LOADED = "loaded "  # a worker's line that begins so is for the timeline


class BulkService:
    """The listening socket and the supervised workers behind it. A `bootd.drivers.service.Service`."""

    name = "bulk"

    def __init__(
        self,
        address: str,
        port: int,
        root: Path,
        on_event: Callable[[str, str, str, str], None] = lambda *_: None,
        *,
        bounds: Bounds = DEFAULT_BOUNDS,
        workers: int = 2,
        images: Path | None = None,
        tickets: Tickets | None = None,
    ) -> None:
        """``on_event`` (kind, mac, address, detail) is told of every file that was sent to its end: ``loaded``.

        ``bounds`` are those of all ``workers`` together; each keeps its share. ``images``: the folder of the image
        store, for who has one of ``tickets``.
        """
        self._address, self._port, self._root, self._on_event = address, port, root, on_event
        self._bounds = bounds
        self._images, self._tickets = images, tickets
        self._socket: socket.socket | None = None
        self._workers: list[Worker | None] = [None] * workers

    @property
    def trouble(self) -> str:
        """For `Health`."""
        running = any(worker is not None and worker.running for worker in self._workers)
        return "" if running else "no worker serves large files: see the log"

    async def bind(self) -> None:
        """Listen. Clients that come while no worker runs wait in the kernel's queue."""
        self._socket = listen(self._address, self._port, "large files", "server.bulk_port")

    async def serve(self) -> None:
        """Keep the workers running until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(len(self._workers)):
                group.create_task(self._keep(number))

    async def _keep(self, number: int) -> None:
        backoff = Backoff()
        while True:
            begun = time.monotonic()
            try:
                reason = await self._run_once(number)
            except OSError as error:
                reason = f"cannot be started: {error}"
            metrics.WORKERS_LOST.labels("files").inc()
            delay = backoff.after_run_of(time.monotonic() - begun)
            log.error("bulk worker is gone", reason=reason, restart_seconds=delay)
            await asyncio.sleep(delay)

    async def close(self) -> None:
        """End the workers and close the port."""
        await asyncio.gather(*(worker.stop() for worker in self._workers if worker is not None))
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _run_once(self, number: int) -> str:
        if self._socket is None:
            return "not bound"
        fd = self._socket.fileno()
        share = max(1, len(self._workers))
        order = {
            "socket": fd,
            "root": str(self._root),
            "connections": -(-self._bounds.connections // share),
            "per_address": -(-self._bounds.per_address // share),
            "images": str(self._images or ""),
            "key": self._tickets.key.hex() if self._tickets is not None else "",
        }
        command = [sys.executable, "-m", "bootd.drivers.http.bulk"]
        worker = Worker("bulk", command, json.dumps(order).encode(), pass_fds=[fd], on_line=self._on_line)
        self._workers[number] = worker
        await worker.start()
        return await worker.wait()

    def _on_line(self, line: str) -> bool:
        """Whether ``line`` is the worker's word that a file was sent."""
        if not line.startswith(_LOADED):
            return False
        try:
            told = json.loads(line.removeprefix(_LOADED))
            peer, size = str(told["peer"]), int(told["size"])
            detail = f"{told['path']}, {size} bytes"
        except (ValueError, TypeError, KeyError):
            return False
        metrics.HTTP_FILES.inc()
        metrics.HTTP_FILE_BYTES.inc(max(0, size))
        self._on_event("loaded", neighbour(peer), peer, detail)
        return True


def _tell(path: str, peer: str, size: int) -> None:
    """Says on standard error what was sent."""
    told = {"path": path.lstrip("/")[:200], "peer": peer, "size": size}
    sys.stderr.write(f"{_LOADED}{json.dumps(told)}\n")
    sys.stderr.flush()


async def _work(listener: socket.socket, root: Path, bounds: Bounds, images: str, key: str) -> None:
    tickets = Tickets(bytes.fromhex(key)) if key else None
    server = HttpServer(listener, application(root, _tell, Path(images) if images else None, tickets), bounds)
    await server.prepare()
    await server.serve()
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    watch = asyncio.create_task(_until_closed(reader, gone))
    await gone.wait()
    watch.cancel()
    await server.close()


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
        bounds = Bounds(connections=int(order["connections"]), per_address=int(order["per_address"]))
        images, key = str(order.get("images", "")), str(order.get("key", ""))
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.error("bulk worker got no usable order", error=str(error))  # noqa: TRY400 (not a trace, one line)
        sys.exit(2)
    asyncio.run(_work(listener, root, bounds, images, key))


if __name__ == "__main__":
    main()
