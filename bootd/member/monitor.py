"""One lock around a member's decisions, and who is woken by them."""

import threading
import time
from types import TracebackType

from bootd.member.buffers import SlotPool
from bootd.wire.ring.member import RingMember, Wake


class Monitor:
    """``with monitor:`` is the only way to touch ``core``. Leaving it wakes the threads that have something to do
    now and gives back the buffers that are free again."""

    def __init__(self, core: RingMember, pool: SlotPool) -> None:
        self.core = core
        self.pool = pool
        self.stopping = threading.Event()
        self.settled = threading.Event()  # verified, failed or stopped
        self._lock = threading.RLock()
        self._conditions = {wake: threading.Condition(self._lock) for wake in Wake}

    def __enter__(self) -> RingMember:
        self._lock.acquire()
        return self.core

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spread()
        self._lock.release()

    def wait(self, activity: Wake, until: float | None = None) -> None:
        """Inside ``with``: until the activity has something to do, or the monotonic time ``until``; may return
        early."""
        self._spread()
        self._conditions[activity].wait(None if until is None else max(0.0, until - time.monotonic()))

    def fail(self, reason: str) -> None:
        """`RingMember.fail`, from a thread that does not hold the lock."""
        with self as core:
            core.fail(reason)

    def _spread(self) -> None:
        core = self.core
        for wake in core.wakes:
            self._conditions[wake].notify_all()
        if core.wakes:
            if core.is_stopping:
                self.stopping.set()
            if core.is_settled:
                self.settled.set()
            elif self.settled.is_set():
                self.settled.clear()
        core.wakes.clear()
        while core.window.freed:
            self.pool.put(core.window.freed.pop())
