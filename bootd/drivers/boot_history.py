"""What the kept timeline says of a node's boots: for operators, and to break loops."""

import time
from collections.abc import Collection
from typing import Any

import structlog

from bootd.config import Boot
from bootd.drivers.engine import Engine
from bootd.netboot import timeline
from bootd.netboot.timeline import Happening, State, Step

log = structlog.get_logger(__name__)

MAX_SHOWN = 50


def happenings(engine: Engine, mac: str) -> list[Happening]:
    """Everything kept of ``mac``, oldest first."""
    return [Happening(line["time"], line["kind"], line["text"]) for line in engine.timeline_of(mac)]


def boots_of(
    engine: Engine, mac: str, now: float | None = None, foreign: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The boots of ``mac``, oldest first, as ``bootd node boots --json`` prints them.

    ``now`` and ``begun`` in seconds since the epoch; ``after`` of a step in seconds since ``begun``, ``took`` since
    the step before. ``foreign`` as in `timeline.judge`.
    """
    clock = time.time() if now is None else now
    attempts = timeline.boots(happenings(engine, mac))[-MAX_SHOWN:]
    shown = []
    for index, boot in enumerate(attempts):
        verdict = timeline.judge(boot, clock, last=index == len(attempts) - 1, foreign=foreign)
        steps, before = [], boot.begun
        for step, reached in boot.reached.items():
            steps.append(
                {
                    "step": step.name.lower(),
                    "text": step.value,
                    "after": round(reached - boot.begun, 3),
                    "took": round(reached - before, 3),
                }
            )
            before = reached
        stalled = verdict.stalled_after if verdict.state is State.STALLED else None
        shown.append(
            {
                "begun": boot.begun,
                "state": verdict.state.name.lower(),
                "label": boot.label or ("local" if Step.LOCAL in boot.reached else None),
                "offered": boot.offered or None,
                "steps": steps,
                "stalled_after": stalled.name.lower() if stalled else None,
                "waiting_seconds": round(clock - boot.last, 1) if index == len(attempts) - 1 else None,
                "reason": verdict.reason or None,
                "trouble": list(boot.trouble),
            }
        )
    return shown


class LoopBreaker:
    """Asked before a node gets a configuration: parks one that boots the same stage again and again."""

    def __init__(self, engine: Engine, settings: Boot, foreign: Collection[str] = ()) -> None:
        """``foreign`` are labels of an operator's own kernels: how their boots end is not known here."""
        self._engine, self._foreign = engine, foreign
        self._count, self._seconds = settings.loop_boots, settings.loop_minutes * 60

    def check(self, mac: str, now: float | None = None) -> None:
        """``now`` in seconds since the epoch."""
        coordinator = self._engine.coordinator
        node = coordinator.nodes.get(mac)
        if not self._count or node is None or node.parked:
            return
        clock = time.time() if now is None else now
        known = [one for one in happenings(self._engine, mac) if clock - one.time <= self._seconds]
        freed = max((index for index, one in enumerate(known) if _frees(one)), default=-1)
        # The present boot is the last one, whether it began with an offer or with this very request.
        attempts = timeline.boots([*known[freed + 1 :], Happening(clock, "configuration", "")])[:-1]
        known_end = max((index for index, boot in enumerate(attempts) if boot.label in self._foreign), default=-1)
        attempts = attempts[known_end + 1 :]
        reason = timeline.looping(attempts, clock, self._count, self._seconds)
        if reason:
            log.warning("node is parked", node=mac, reason=reason, hint=f"bootd node unpark {node.name}")
            self._engine.run(coordinator.park(mac, reason))


def _frees(one: Happening) -> bool:
    return one.kind == "policy" and ": unpark by " in one.text
