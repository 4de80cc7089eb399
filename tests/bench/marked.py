"""``python -m tests.bench.marked OUT ARGUMENT…``: ``bootd ARGUMENT…`` itself, and the moments of its ring member.

OUT is JSON: for each moment the seconds of CLOCK_MONOTONIC and the CPU seconds (user and system) that this process
had used by then. ``ready``: the member listens (before that: start of Python, and on the sender the digest of the
source); ``arranged``: it has its first place; ``sent``: the head has sent everything once; ``durable``: fdatasync
has returned for the last byte; ``verified``: the last byte was read back and matched; ``end``. And ``rss``: bytes
at the peak.
"""

import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootd.cli.main import main
from bootd.member.member import Member
from bootd.wire.control import MemberState
from bootd.wire.ring.member import RingMember

Moment = Callable[[Any, Any], bool]  # whether it has come, by the object and what the call gave back


class Marks:
    """Moments by name; a later one of the same name replaces the earlier one unless ``first`` says otherwise."""

    def __init__(self) -> None:
        self.times: dict[str, tuple[float, float]] = {}

    def set(self, name: str, *, first: bool) -> None:
        if not first or name not in self.times:
            self.times[name] = (time.monotonic(), time.process_time())

    def after(self, owner: type, method: str, name: str, moment: Moment, *, first: bool = True) -> None:
        """Whenever ``method`` returns and ``moment`` says yes."""
        real = getattr(owner, method)

        @functools.wraps(real)
        def marked(subject: Any, *arguments: Any, **named: Any) -> Any:
            result = real(subject, *arguments, **named)
            if moment(subject, result):
                self.set(name, first=first)
            return result

        setattr(owner, method, marked)


def watch() -> Marks:
    """Every ring member of this process from here on."""
    marks = Marks()
    marks.after(Member, "start", "ready", lambda _, port: bool(port))
    marks.after(RingMember, "arrange", "arranged", lambda _, taken: bool(taken))
    marks.after(RingMember, "count_sent", "sent", lambda core, _: bool(core.sent >= core.manifest.size))
    marks.after(RingMember, "synced", "durable", _is_durable)
    marks.after(RingMember, "checked", "verified", lambda core, _: core.standing.state is MemberState.VERIFIED)
    return marks


def _is_durable(core: RingMember, _: object) -> bool:
    return core.ledger.sums().durable == core.manifest.size


def run(out: Path, arguments: list[str]) -> None:
    sys.argv = ["bootd", *arguments]
    marks = watch()
    try:
        main()
    finally:
        marks.set("end", first=False)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        out.write_text(json.dumps({"marks": marks.times, "rss": rss}))


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2:])
