"""What a session is asked to do, and the deadlines it works under."""

from dataclasses import dataclass

from bootd.session.selector import Selector


@dataclass(frozen=True)
class Limits:
    """Deadlines in seconds, and how often a node may fail."""

    silence: float = 8.0  # a member or head not heard of for so long is lost
    ready: float = 60.0  # from plan to READY; from start of the head to its first report
    stall: float = 60.0  # no byte written for so long, though the predecessor has some to give
    finish: float = 60.0  # from Finish to the report of the reboot
    rejoin: float = 60.0  # a session without a live member waits so long for one to come back
    once: float = 120.0  # a boot that uses a one-shot label may ask for it again so long (loaders ask twice)
    attempts: int = 5  # failed attempts of a node before it is parked


@dataclass(frozen=True)
class SessionPlan:
    """What an operator asked for, checked."""

    id: str  # 8 hex digits
    name: str
    source: str  # path
    source_size: int  # bytes
    nodes: frozenset[str] | None  # MACs; None = any
    selector: Selector
    label: str
    after: str  # "reboot" or "stay"
    join_token: str  # hex
    head_token: str  # hex
    flip_default: bool = True  # a default label that is the session's becomes "local" when it has cloned
