"""Where a member stands: its state, why it failed, what it has to say about a neighbour."""

import threading
from collections.abc import Callable

from bootd.wire.control import MemberState
from bootd.wire.errors import LocalProtocolError

_FOLLOWING: dict[MemberState, frozenset[MemberState]] = {
    MemberState.READY: frozenset({MemberState.RECEIVING, MemberState.FAILED}),
    MemberState.RECEIVING: frozenset({MemberState.VERIFYING, MemberState.FAILED}),
    MemberState.VERIFYING: frozenset({MemberState.VERIFIED, MemberState.FAILED}),
    # Back to VERIFYING: the disk gave a successor something else than it had given the check.
    MemberState.VERIFIED: frozenset({MemberState.VERIFYING, MemberState.FAILED}),
    MemberState.FAILED: frozenset(),
}
_MAX_REASON = 500


class Standing:
    """Shared by all threads of a member. ``news`` is set whenever there is something to report at once.

    ``when_failed`` is called once, in the thread that fails the member and with no lock held.
    """

    def __init__(self) -> None:
        self.when_failed: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._state = MemberState.READY
        self._reason = ""
        self._trouble = ""
        self.news = threading.Event()
        self.settled = threading.Event()  # verified, failed or stopped
        self.stopping = threading.Event()

    @property
    def state(self) -> MemberState:
        return self._state

    @property
    def reason(self) -> str:
        return self._reason

    @property
    def trouble(self) -> str:
        return self._trouble

    def enter(self, state: MemberState) -> bool:
        """Go to ``state``; False when the member has failed meanwhile. `LocalProtocolError` outside the table."""
        with self._lock:
            if state is self._state:
                return True
            if self._state is MemberState.FAILED:
                return False
            if state not in _FOLLOWING[self._state]:
                raise LocalProtocolError(f"member cannot go from {self._state.value} to {state.value}")
            self._state = state
        if state is MemberState.VERIFIED:
            self.settled.set()
        elif state is MemberState.VERIFYING:
            self.settled.clear()
        self.news.set()
        return True

    def fail(self, reason: str) -> bool:
        """For good, with one sentence; False when it had failed before (the first reason stays)."""
        with self._lock:
            if self._state is MemberState.FAILED:
                return False
            self._state = MemberState.FAILED
            self._reason = reason[:_MAX_REASON]
        if self.when_failed is not None:
            self.when_failed()
        self.settled.set()
        self.news.set()
        return True

    def complain(self, trouble: str) -> None:
        """About a neighbour; reported at once when it is new."""
        with self._lock:
            if trouble == self._trouble:
                return
            self._trouble = trouble[:_MAX_REASON]
        self.news.set()

    def forgive(self, trouble: str) -> None:
        """Forget ``trouble`` if it is still the last word: it has been reported and is over."""
        with self._lock:
            if self._trouble == trouble:
                self._trouble = ""
