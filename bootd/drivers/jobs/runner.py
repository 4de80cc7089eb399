"""The jobs of the daemon: started, followed, cancelled. They end with the daemon; what they did by then stays."""

import asyncio
import json
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from bootd.drivers.jobs.worker import PREFIX
from bootd.drivers.workers import Worker
from bootd.errors import Exit, OperatorError

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-m", "bootd.drivers.jobs.worker")
MAX_RUNNING = 2
MAX_OPEN = 32  # running and waiting
MAX_KEPT = 100  # that have ended
MAX_NOTES = 500
QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"


@dataclass
class Job:
    """One piece of work. Times in seconds since the epoch; ``done`` and ``total`` in what the work counts."""

    id: str
    kind: str
    detail: str  # what was asked for, for people
    who: str
    created: float
    state: str = QUEUED
    done: int = 0
    total: int = 0
    text: str = ""
    ended: float | None = None
    notes: list[str] = field(default_factory=list)
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    def view(self) -> dict[str, Any]:
        """As the API tells it."""
        return asdict(self)


class Jobs:
    """All jobs of one run of the daemon. A `bootd.drivers.service.Service`; everything on the daemon's loop."""

    name = "jobs"

    def __init__(self, on_end: Callable[[Job], None] = lambda _: None, command: tuple[str, ...] = COMMAND) -> None:
        """``on_end`` hears of every job that has ended."""
        self._on_end, self._command = on_end, command
        self._open: dict[str, Job] = {}
        self._ended: deque[Job] = deque(maxlen=MAX_KEPT)
        self._workers: dict[str, Worker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(MAX_RUNNING)

    def start(self, kind: str, detail: str, who: str, order: dict[str, Any], work: str = "") -> Job:
        """A job that does ``work`` (a name of `bootd.drivers.jobs.worker.WORK`; ``kind`` if none is given) with
        ``order``. `OperatorError` (BUSY) when there are too many already."""
        if len(self._open) >= MAX_OPEN:
            raise OperatorError(f"{MAX_OPEN} jobs are waiting already", "bootd job list; cancel some", Exit.BUSY)
        job = Job(secrets.token_hex(4), kind, detail, who, time.time())
        self._open[job.id] = job
        line = json.dumps({"work": work or kind, "order": order}).encode()
        task = asyncio.create_task(self._run(job, line), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        return job

    def find(self, id_: str) -> Job:
        """`OperatorError` (USAGE) when there is none."""
        for job in self.all():
            if job.id == id_:
                return job
        raise OperatorError(f"there is no job {id_[:40]!r}", "bootd job list", Exit.USAGE)

    def all(self) -> list[Job]:
        """Those that have ended, oldest first, then the others."""
        return [*self._ended, *self._open.values()]

    def workers(self) -> list[int]:
        """Process ids of those that run."""
        return [worker.pid for worker in self._workers.values() if worker.running]

    async def cancel(self, id_: str) -> Job:
        """End a job; one that has ended stays as it is."""
        job = self.find(id_)
        if job.id in self._open:
            job.state = CANCELLED
            task = self._tasks[id_]
            worker = self._workers.get(id_)
            if worker is not None:
                await worker.stop()
            else:
                task.cancel()
            await asyncio.wait({task}, timeout=5)
        return job

    async def bind(self) -> None:
        """Nothing to bind."""

    async def serve(self) -> None:
        """Until cancelled: jobs run in tasks of their own."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """End all of them."""
        await asyncio.gather(*(self.cancel(id_) for id_ in list(self._open)))

    async def _run(self, job: Job, line: bytes) -> None:
        try:
            async with self._slots:
                if job.state == QUEUED:
                    job.state = RUNNING
                    await self._work(job, line)
        finally:
            job.ended = time.time()
            if job.state not in (DONE, FAILED):
                job.state = CANCELLED
            self._open.pop(job.id, None)
            self._workers.pop(job.id, None)
            self._ended.append(job)
            self._on_end(job)

    async def _work(self, job: Job, line: bytes) -> None:
        worker = Worker(f"job {job.id}", self._command, line, on_line=lambda text: _hear(job, text))
        self._workers[job.id] = worker
        try:
            await worker.start()
            reason = await worker.wait()
        except OSError as error:
            reason = f"cannot be started: {error}"
        if job.state == CANCELLED:
            return
        if job.result is not None:
            job.state = DONE
            return
        job.state = FAILED
        if job.error is None:
            job.error = {"message": f"the job {reason}", "hint": "see the log of bootd", "code": int(Exit.ERROR)}


def _hear(job: Job, line: str) -> bool:
    """Whether ``line`` is the job's word about itself."""
    if not line.startswith(PREFIX):
        return False
    try:
        told = json.loads(line.removeprefix(PREFIX))
        if "note" in told:
            if len(job.notes) < MAX_NOTES:
                job.notes.append(str(told["note"]))
        elif "result" in told:
            job.result = dict(told["result"])
        elif "error" in told:
            job.error = dict(told["error"])
        else:
            job.done, job.total, job.text = int(told["done"]), int(told["total"]), str(told["text"])
    except (ValueError, TypeError, KeyError) as error:
        log.error("a job says what nobody understands", job=job.id, error=str(error))  # noqa: TRY400
    return True
