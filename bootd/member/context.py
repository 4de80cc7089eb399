"""What the threads of one member share."""

import threading
from dataclasses import dataclass, field

from bootd.member.buffers import SlotPool
from bootd.member.progress import Progress
from bootd.member.standing import Standing
from bootd.member.store import Store
from bootd.member.window import Window
from bootd.wire.manifest import Manifest

WINDOW_BYTES = 24 << 20
LEAST_WINDOW = 4  # chunks
MAX_SUCCESSORS = 8  # proven links at a time; each holds one slot at most
MAX_ATTEMPTS = 3  # times that one chunk is fetched because the disk did not keep it
SILENCE = 5.0  # seconds without a byte after which a predecessor is given up
PING_INTERVAL = 1.0  # seconds after which a predecessor with nothing to send says so
REPORT_INTERVAL = 0.9  # seconds between two reports when there is no news: one per second is promised
PATIENCE = 60.0  # seconds that a successor may take no byte


@dataclass(frozen=True)
class Limits:
    """Time limits of a member, seconds."""

    silence: float = SILENCE
    ping_interval: float = PING_INTERVAL
    patience: float = PATIENCE
    report_interval: float = REPORT_INTERVAL


class Attempts:
    """Counts how often each chunk had to be fetched again because the disk gave back something else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}

    def add(self, index: int) -> int:
        with self._lock:
            self._counts[index] = self._counts.get(index, 0) + 1
            return self._counts[index]


@dataclass(frozen=True)
class Context:
    node: str
    session: str
    token: str
    manifest: Manifest
    store: Store
    is_head: bool
    progress: Progress
    standing: Standing
    window: Window
    pool: SlotPool
    limits: Limits
    attempts: Attempts = field(default_factory=Attempts)

    def lose(self, index: int) -> None:
        """The disk gave back something else than was written: fetch the chunk again, a bounded number of times."""
        times = self.attempts.add(index)
        if times >= MAX_ATTEMPTS:
            self.standing.fail(
                f"the target does not keep what is written: chunk {index} at byte {self.manifest.offset(index)} "
                f"reads back different, {times} times"
            )
            return
        self.progress.mark_absent(index)


def make_context(
    *,
    node: str,
    session: str,
    token: str,
    manifest: Manifest,
    store: Store,
    is_head: bool,
    limits: Limits,
) -> Context:
    """A context whose window and buffers stay within some 60 MiB whatever the size of image and chunks."""
    page_rounded = -(-manifest.chunk_size // 4096) * 4096
    capacity = max(LEAST_WINDOW, min(WINDOW_BYTES // page_rounded, manifest.count + 1))
    # One slot per chunk in the window, one per successor that is being served, one for the check.
    pool = SlotPool(page_rounded, capacity + MAX_SUCCESSORS + 1)
    return Context(
        node=node,
        session=session,
        token=token,
        manifest=manifest,
        store=store,
        is_head=is_head,
        progress=Progress(manifest, complete=is_head),
        standing=Standing(),
        window=Window(capacity, pool),
        pool=pool,
        limits=limits,
    )


def describe(error: OSError) -> str:
    """The kernel's words without Python's decoration."""
    return error.strerror or str(error)
