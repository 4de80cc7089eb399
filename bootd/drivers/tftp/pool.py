"""The daemon's side of the processes that carry TFTP transfers (`bootd.drivers.tftp.worker`)."""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog

from bootd.drivers import metrics
from bootd.drivers.workers import Backoff, Worker

log = structlog.get_logger("bootd.tftp")

_MESSAGES = 256  # taken per wake-up
_QUEUE = 1 << 20  # bytes that orders may wait in

OnMessage = Callable[[dict[str, Any]], None]


class Carriers:
    """A fixed number of workers, each started again when it dies; a transfer goes to the one with the fewest."""

    def __init__(self, count: int, on_message: OnMessage, on_lost: Callable[[list[int]], None]) -> None:
        """``on_lost`` gets the ids of the transfers that a worker took with it."""
        self._slots = [_Slot(on_message, on_lost) for _ in range(count)]

    def bind(self) -> None:
        for slot in self._slots:
            slot.open()

    @property
    def running(self) -> bool:
        """Whether any worker runs."""
        return any(slot.running for slot in self._slots)

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            for slot in self._slots:
                group.create_task(slot.serve())

    async def close(self) -> None:
        for slot in self._slots:
            await slot.close()

    def start(self, order: dict[str, Any], descriptor: int) -> bool:
        """Hand a transfer over, ``order["id"]`` being its id; False when no worker takes it now."""
        slot = min(self._slots, key=lambda item: len(item.numbers))
        return slot.send(order, descriptor)

    def cancel(self, number: int) -> None:
        for slot in self._slots:
            if number in slot.numbers:
                slot.send({"cancel": number}, -1)


class _Slot:
    """One worker and the socket to it."""

    def __init__(self, on_message: OnMessage, on_lost: Callable[[list[int]], None]) -> None:
        self.numbers: set[int] = set()  # transfers that it carries
        self._on_message, self._on_lost = on_message, on_lost
        self._mine: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self._worker: Worker | None = None

    @property
    def running(self) -> bool:
        return self._worker is not None and self._worker.running

    def open(self) -> None:
        """Orders may be sent from now on; they wait until the worker runs."""
        self._mine, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._mine.setblocking(False)
        for one in (self._mine, self._theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE)

    async def serve(self) -> None:
        """Keep a worker running until cancelled."""
        backoff = Backoff()
        while True:
            began = time.monotonic()
            try:
                reason = await self._run_once()
            except OSError as error:
                reason = f"cannot be started: {error}"
            metrics.WORKERS_LOST.labels("tftp").inc()
            self._lose()
            delay = backoff.after_run_of(time.monotonic() - began)
            log.error("transfer worker is gone", reason=reason, restart_seconds=delay)
            await asyncio.sleep(delay)

    async def close(self) -> None:
        if self._worker is not None:
            await self._worker.stop()
        self._shut()

    def send(self, order: dict[str, Any], descriptor: int) -> bool:
        if self._mine is None:
            return False
        line = json.dumps(order).encode()
        try:
            socket.send_fds(self._mine, [line], [descriptor] if descriptor >= 0 else [])
        except OSError:  # full, or the worker has just died: the client asks again
            return False
        if descriptor >= 0:
            self.numbers.add(order["id"])
        return True

    async def _run_once(self) -> str:
        if self._mine is None or self._theirs is None:
            self.open()
        mine, theirs = self._mine, self._theirs
        if mine is None or theirs is None:
            return "no socket"
        loop = asyncio.get_running_loop()
        first = json.dumps({"control": theirs.fileno()}).encode()
        command = [sys.executable, "-m", "bootd.drivers.tftp.worker"]
        self._worker = Worker("tftp", command, first, pass_fds=[theirs.fileno()])
        loop.add_reader(mine, self._receive, mine)
        try:
            await self._worker.start()
            theirs.close()  # so that the end of the worker is the end of this connection
            self._theirs = None
            return await self._worker.wait()
        finally:
            loop.remove_reader(mine)

    def _receive(self, mine: socket.socket) -> None:
        for _ in range(_MESSAGES):
            try:
                line = mine.recv(1 << 16)
            except OSError:
                return
            if not line:
                asyncio.get_running_loop().remove_reader(mine)
                return
            message = json.loads(line)
            self.numbers.discard(message.get("id", -1))
            self._on_message(message)

    def _lose(self) -> None:
        """What the dead worker had said is heard, then its transfers are lost; the next one gets a fresh socket."""
        if self._mine is not None:
            self._receive(self._mine)
        lost, self.numbers = sorted(self.numbers), set()
        self._shut()
        self.open()
        self._on_lost(lost)

    def _shut(self) -> None:
        for one in (self._mine, self._theirs):
            if one is not None:
                one.close()
        self._mine = self._theirs = None
