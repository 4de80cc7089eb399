"""One member of a ring: threads that receive, write, flush, verify, serve and report, and what they share."""

import logging
import threading
import time
from collections.abc import Callable

from bootd.member import writing
from bootd.member.context import Limits, make_context
from bootd.member.receiving import Receiver
from bootd.member.serving import Server
from bootd.member.store import Store
from bootd.wire.control import Arrange, MemberState, Report
from bootd.wire.manifest import Manifest

_RATE_SECONDS = 1.0
_LEAST_INTERVAL = 0.05  # seconds between two reports, however much news there is
_JOIN_SECONDS = 10.0
_log = logging.getLogger("bootd.member")


class Member:
    """A node or the head in one session.

    ``store`` holds at least ``manifest.size`` bytes and stays open; it is closed by whoever made it, after `stop`.
    ``report`` is called from a thread of its own, at once when there is news and at least once per second; it may
    block, but should not raise. ``is_head``: the store is the source and has everything.
    """

    def __init__(
        self,
        *,
        node: str,
        session: str,
        join_token: str,
        manifest: Manifest,
        store: Store,
        listen_host: str,
        report: Callable[[Report], object],
        is_head: bool,
        limits: Limits | None = None,
    ) -> None:
        self._context = make_context(
            node=node,
            session=session,
            token=join_token,
            manifest=manifest,
            store=store,
            is_head=is_head,
            limits=limits or Limits(),
        )
        self._report = report
        self._receiver = Receiver(self._context)
        self._context.standing.when_failed = self._end_receiving
        self._server = Server(self._context, listen_host, lambda: self._receiver.epoch)
        self._threads: list[threading.Thread] = []
        self._port = 0
        self._rate = 0

    def start(self) -> int:
        """Listen and start the threads; the port. `OSError` when the host cannot be bound."""
        self._port = self._server.open()
        context = self._context
        bodies: list[tuple[str, Callable[[], None]]] = [
            ("accept", self._server.run),
            ("report", self._run_reporter),
        ]
        if not context.is_head:
            bodies += [
                ("receive", self._receiver.run),
                ("write", lambda: writing.run_writer(context)),
                ("flush", lambda: writing.run_flusher(context)),
                ("verify", lambda: writing.run_verifier(context)),
            ]
        for name, body in bodies:
            thread = threading.Thread(target=self._guard, args=(name, body), name=f"bootd-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self._port

    def arrange(self, message: Arrange) -> bool:
        """Take the place that the message gives; False when its epoch is over, known, or of another session."""
        if message.session != self._context.session:
            return False
        taken = self._receiver.arrange(message)
        if taken:
            self._context.standing.news.set()
        return taken

    def snapshot(self) -> Report:
        """Where the member stands now. Rate and ``sent`` count bytes of image, not bytes on the wire."""
        context = self._context
        sums = context.progress.sums()
        head = context.is_head
        return Report(
            node=context.node,
            session=context.session,
            state=context.standing.state,
            epoch=self._receiver.epoch,
            port=self._port,
            total=context.manifest.size,
            written=sums.written,  # the head: digested
            durable=0 if head else sums.durable,
            verified=0 if head else sums.verified,
            rate=self._rate,
            sent=self._server.sent,
            reason=context.standing.reason,
            trouble=context.standing.trouble,
        )

    def wait(self, timeout: float | None = None) -> Report:
        """Until the member is verified, has failed or was stopped, or for ``timeout`` seconds; the state then."""
        self._context.standing.settled.wait(timeout)
        return self.snapshot()

    def stop(self, reason: str = "") -> None:
        """End all threads and links. With a ``reason`` a member that is not verified has failed for it."""
        context = self._context
        if reason and context.standing.state is not MemberState.VERIFIED:
            context.standing.fail(reason)
        context.standing.stopping.set()
        context.progress.stop()
        context.window.close()
        self._receiver.interrupt()
        self._server.close()
        context.standing.news.set()
        context.standing.settled.set()
        deadline = time.monotonic() + _JOIN_SECONDS  # a disk that hangs must not hang the node's farewell too
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _guard(self, name: str, body: Callable[[], None]) -> None:
        """A defect in one thread fails the member; it never hangs it."""
        try:
            body()
        except Exception as error:
            _log.exception("thread %s", name)
            self._context.standing.fail(f"internal error in thread {name}: {error}")

    def _end_receiving(self) -> None:
        """A failed member takes nothing more in; what it has can still be asked for."""
        self._context.window.close()
        self._receiver.interrupt()
        self._context.progress.wake()

    def _run_reporter(self) -> None:
        standing, progress = self._context.standing, self._context.progress
        before, measured = 0, time.monotonic()
        while True:
            standing.news.wait(self._context.limits.report_interval)
            standing.news.clear()
            is_last = standing.stopping.is_set()
            received, now = progress.received, time.monotonic()
            if now - measured >= _RATE_SECONDS:
                self._rate = int((received - before) / (now - measured))
                before, measured = received, now
            snapshot = self.snapshot()
            self._report(snapshot)
            if snapshot.trouble and progress.received > received:
                standing.forgive(snapshot.trouble)  # it was told, and chunks arrive again
            if is_last:
                return
            standing.stopping.wait(_LEAST_INTERVAL)
