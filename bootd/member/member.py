"""One member of a ring: the threads around a `RingMember`: receive, write, flush, read back, serve, report."""

import logging
import threading
import time
from collections.abc import Callable

from bootd.member import working
from bootd.member.context import CHECKERS, Security, make_context
from bootd.member.receiving import Receiver
from bootd.member.serving import Server
from bootd.member.store import Store
from bootd.wire.control import Arrange, Report
from bootd.wire.manifest import Manifest
from bootd.wire.ring.member import Limits, Wake

_LEAST_INTERVAL = 0.05  # seconds between two reports, however much news there is
_JOIN_SECONDS = 10.0
_log = logging.getLogger("bootd.member")


class Member:
    """A node or the head in one session.

    ``store`` holds what ``manifest`` describes and stays open; it is closed by whoever made it, after `stop`.
    ``report`` is called from a thread of its own, at once when there is news and at least once per second; it may
    block, but should not raise. ``is_head``: the store is the source and has everything. ``compare``: the store is
    digested before READY, and only what differs is received. ``tls``: links are encrypted, see `tls.load`.
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
        compare: bool = False,
        limits: Limits | None = None,
        tls: Security | None = None,
    ) -> None:
        self._context = make_context(
            node=node,
            session=session,
            token=join_token,
            manifest=manifest,
            store=store,
            is_head=is_head,
            compare=compare,
            limits=limits or Limits(),
            tls=tls,
        )
        self._monitor = self._context.monitor
        self._report = report
        self._receiver = Receiver(self._context)
        self._server = Server(self._context, listen_host)
        self._threads: list[threading.Thread] = []
        self._is_head = is_head
        self._port = 0

    def start(self) -> int:
        """Listen and start the threads; the port. `OSError` when the host cannot be bound."""
        self._port = self._server.open()
        context = self._context
        bodies: list[tuple[str, Callable[[], None]]] = [
            ("accept", self._server.run),
            ("report", self._run_reporter),
        ]
        if not self._is_head:
            bodies += [
                ("receive", self._receiver.run),
                ("write", lambda: working.run_writer(context)),
                ("flush", lambda: working.run_flusher(context)),
                *[("check", lambda: working.run_checker(context))] * CHECKERS,
            ]
        for name, body in bodies:
            thread = threading.Thread(target=self._guard, args=(name, body), name=f"bootd-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self._port

    def arrange(self, message: Arrange) -> bool:
        """Take the place that the message gives; False when its epoch is over, known, or of another session."""
        return self._receiver.arrange(message)

    def snapshot(self) -> Report:
        """Where the member stands now. Rates and ``sent`` count bytes of image, not bytes on the wire."""
        with self._monitor as core:
            return core.snapshot(self._port, time.monotonic())

    def wait(self, timeout: float | None = None) -> Report:
        """Until the member is verified, has failed or was stopped, or for ``timeout`` seconds; the state then."""
        self._monitor.settled.wait(timeout)
        return self.snapshot()

    def stop(self, reason: str = "") -> None:
        """End all threads and links. With a ``reason`` a member that is not verified has failed for it."""
        with self._monitor as core:
            core.stop(reason)
        self._receiver.interrupt()
        self._server.close()
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
            self._monitor.fail(f"internal error in thread {name}: {error}")

    def _run_reporter(self) -> None:
        monitor, interval = self._monitor, self._context.limits.report_interval
        has_failed = False
        while True:
            with monitor as core:
                until = time.monotonic() + interval
                while not core.standing.has_news and not core.is_stopping and time.monotonic() < until:
                    monitor.wait(Wake.REPORT, until)
                core.standing.has_news = False
                received, is_last = core.ledger.received, core.is_stopping
                snapshot = core.snapshot(self._port, time.monotonic())
            if core.standing.has_failed and not has_failed:
                has_failed = True
                self._receiver.interrupt()  # nothing more is taken in; what is here can still be asked for
            self._report(snapshot)
            with monitor as core:
                core.reported(snapshot, received)
            if is_last:
                return
            monitor.stopping.wait(_LEAST_INTERVAL)
