"""A thread that takes the pieces of a stream in their order: for the disk, or for one successor."""

import queue
import threading
import time
from collections.abc import Callable, Iterator

DEPTH = 8  # pieces that wait at most
_TICK = 0.25  # seconds
Piece = bytes | memoryview


class Aborted(Exception):  # noqa: N818 - not an error: what was begun is given up
    """Raised to whoever iterates over the pieces when there will be no whole stream."""


class Consumer:
    """``take`` gets an iterator over the pieces, in the thread; what it raises (`OSError`, or ``failures``) ends
    it. ``wake`` is called at the end, from the thread."""

    def __init__(
        self,
        name: str,
        take: Callable[[Iterator[Piece]], None],
        wake: Callable[[], None],
        failures: tuple[type[Exception], ...] = (),
    ) -> None:
        self._take, self._wake, self._failures = take, wake, failures
        self._queue: queue.Queue[Piece | None] = queue.Queue(DEPTH)
        self._aborted = threading.Event()
        self._done = threading.Event()
        self.failure = ""  # why it failed; "" when it has not
        self.taken = 0  # bytes
        self._thread = threading.Thread(target=self._run, name=f"bootd-{name}", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def give(self, piece: Piece, patience: float) -> bool:
        """Queue ``piece``. False when it is of no use any more: the consumer has failed, or has taken nothing for
        ``patience`` seconds, which it is then said to have failed of."""
        taken, since = self.taken, time.monotonic()
        while not self._done.is_set():
            try:
                self._queue.put(piece, timeout=_TICK)
            except queue.Full:
                if self.taken != taken:
                    taken, since = self.taken, time.monotonic()
                elif time.monotonic() - since > patience:
                    self.failure = self.failure or f"it took nothing for {patience:g} s"
                    return False
            else:
                return True
        return False

    def end(self, patience: float) -> None:
        """That was all."""
        if not self.give(b"", 0.0 if self.failure else patience):
            self.abort()

    def abort(self) -> None:
        """There will be no whole stream."""
        self._aborted.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._take(self._pieces())
        except Aborted:
            self.failure = self.failure or "given up"
        except OSError as error:
            self.failure = self.failure or error.strerror or str(error)
        except self._failures as error:
            self.failure = self.failure or str(error)
        except Exception as error:  # a defect here must not leave the others waiting
            self.failure = f"internal error: {error!r}"
        finally:
            self._done.set()
            self._wake()

    def _pieces(self) -> Iterator[Piece]:
        while True:
            if self._aborted.is_set():
                raise Aborted
            try:
                piece = self._queue.get(timeout=_TICK)
            except queue.Empty:
                continue
            if not piece:
                return
            yield piece
            self.taken += len(piece)
