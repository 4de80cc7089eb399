"""The head of a session as the coordinator sees it: where it listens, and whether it is to be started again."""

from dataclasses import dataclass, field

from bootd.session.plan import Limits
from bootd.wire.control import Address, MemberState, Report


@dataclass
class Head:
    """``host`` is the address that members dial. Times are monotonic seconds."""

    node: str  # "head-SESSION"
    host: str
    address: Address | None = None  # the last one: members go on trying it while the next process starts
    listens: bool = False
    report: Report | None = None
    heard: float | None = None  # since it was started
    started: float = 0.0
    starts: int = field(default=0)

    def start(self, now: float) -> None:
        """A process is being started."""
        self.starts += 1
        self.started, self.heard, self.report, self.listens = now, None, None, False

    def hear(self, report: Report, now: float) -> bool:
        """A report has come; True when the head listens now and did not before."""
        self.heard, self.report = now, report
        if report.state is MemberState.PREPARING or not report.port:
            return False
        was = self.address if self.listens else None
        self.address, self.listens = Address(self.host, report.port), True
        return self.address != was

    def is_silent(self, limits: Limits, now: float) -> bool:
        """Whether it has not been heard of for too long."""
        since = self.started + limits.ready if self.heard is None else self.heard
        return now - since > limits.silence

    def may_start(self, limits: Limits) -> bool:
        """Whether it may be started once more."""
        return self.starts < limits.head_starts
