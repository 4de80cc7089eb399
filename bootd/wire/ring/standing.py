"""Where a member stands: its state, why it failed, what it has to say about a neighbour."""

from bootd.wire.control import MemberState
from bootd.wire.errors import LocalProtocolError

_FOLLOWING: dict[MemberState, frozenset[MemberState]] = {
    MemberState.PREPARING: frozenset({MemberState.READY, MemberState.FAILED}),
    # Straight to VERIFYING: the target had everything already.
    MemberState.READY: frozenset({MemberState.RECEIVING, MemberState.VERIFYING, MemberState.FAILED}),
    MemberState.RECEIVING: frozenset({MemberState.VERIFYING, MemberState.FAILED}),
    # Back to RECEIVING: a chunk did not read back, or a phase is complete and the next is open.
    MemberState.VERIFYING: frozenset({MemberState.RECEIVING, MemberState.VERIFIED, MemberState.FAILED}),
    # Back to RECEIVING: the disk gave a successor something else than it had given the check.
    MemberState.VERIFIED: frozenset({MemberState.RECEIVING, MemberState.FAILED}),
    MemberState.FAILED: frozenset(),
}
_MAX_REASON = 500


class Standing:
    """``has_news`` is true from each change until it is set back by who has reported it."""

    def __init__(self, state: MemberState) -> None:
        self.state = state
        self.reason = ""
        self.trouble = ""
        self.has_news = True

    @property
    def has_failed(self) -> bool:
        return self.state is MemberState.FAILED

    def enter(self, state: MemberState) -> bool:
        """Go to ``state``; False when the member has failed meanwhile. `LocalProtocolError` outside the table."""
        if state is self.state:
            return True
        if self.has_failed:
            return False
        if state not in _FOLLOWING[self.state]:
            raise LocalProtocolError(f"member cannot go from {self.state.value} to {state.value}")
        self.state = state
        self.has_news = True
        return True

    def fail(self, reason: str) -> bool:
        """For good, with one sentence; False when it had failed before (the first reason stays)."""
        if not self.enter(MemberState.FAILED) or self.reason:
            return False
        self.reason = reason[:_MAX_REASON]
        return True

    def complain(self, trouble: str) -> None:
        """About a neighbour; reported at once when it is new."""
        if trouble[:_MAX_REASON] != self.trouble:
            self.trouble = trouble[:_MAX_REASON]
            self.has_news = True

    def forgive(self, trouble: str) -> None:
        """Forget ``trouble`` if it is still the last word: it has been reported and is over."""
        if self.trouble == trouble:
            self.trouble = ""
