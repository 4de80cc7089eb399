"""What goes wrong in one run, drawn from its seed, and what may come of it."""

import random
from dataclasses import dataclass, field

from tests.sim.disk import Fault


@dataclass
class Trouble:
    """Of one node. Times in seconds of the run; -1: never."""

    dies_at: int | float = -1  # power is lost
    back_after: float = -1  # so long after it died it boots again
    ends_at: float = -1  # the agent's process ends; it is started again after `back_after`
    freezes_at: float = -1
    frozen_for: float = 0
    resets_at: tuple[float, ...] = ()  # its connections break
    flips: int = 0  # chunks that it sends and that arrive with one bit changed
    forges: int = 0  # chunks that it sends changed, with a digest that matches the change
    slow_link: float = 1.0  # divides the rate
    fault: Fault = field(default_factory=Fault)

    @property
    def excuses(self) -> tuple[str, ...]:
        """Words of which one must be in the reason, if this node is not cloned. () for none."""
        words: list[str] = []
        if self.dies_at >= 0 or self.ends_at >= 0:
            words += ["silent", "restarted", "no node is left", "not ready", "never joined", "no progress"]
            words += ["never confirmed", "left before"]
        if self.freezes_at >= 0 and self.frozen_for > 4:
            words += ["silent", "not ready", "no progress", "no node is left", "never confirmed", "left before"]
        if self.fault.broken_at >= 0:
            words += ["writing the target at byte", "no node is left"]
        if self.fault.forgets >= 0 and self.fault.times > 1:
            words += ["does not keep what is written", "no node is left"]
        return tuple(words)

    @property
    def text(self) -> str:
        parts = []
        if self.dies_at >= 0:
            parts.append(f"loses power at {self.dies_at:.2f}, back after {self.back_after:.1f}")
        if self.ends_at >= 0:
            parts.append(f"agent ends at {self.ends_at:.2f}, back after {self.back_after:.1f}")
        if self.freezes_at >= 0:
            parts.append(f"frozen at {self.freezes_at:.2f} for {self.frozen_for:.1f}")
        if self.resets_at:
            parts.append(f"resets at {', '.join(f'{time:.2f}' for time in self.resets_at)}")
        if self.flips or self.forges:
            parts.append(f"flips {self.flips}, forges {self.forges}")
        if self.slow_link > 1 or self.fault.slowness > 1:
            parts.append(f"link {self.slow_link:.0f}x, disk {self.fault.slowness:.0f}x slower")
        if self.fault.broken_at >= 0:
            parts.append(f"{self.fault.error} at chunk {self.fault.broken_at}")
        if self.fault.forgets >= 0:
            parts.append(f"forgets chunk {self.fault.forgets} {self.fault.times} times")
        return "; ".join(parts) or "healthy"


def draw(chance: random.Random, chunks: int, span: float, share: float) -> Trouble:
    """Trouble for one node within ``span`` seconds, in ``share`` of all cases."""
    trouble = Trouble()
    kind = chance.choice(KINDS) if chance.random() < share else "none"
    when = chance.uniform(0, span)
    match kind:
        case "power":
            trouble.dies_at = when
            trouble.back_after = chance.choice((-1, -1, chance.uniform(1, 40)))
        case "process":
            trouble.ends_at, trouble.back_after = when, chance.choice((-1, chance.uniform(0.5, 20)))
        case "freeze":
            trouble.freezes_at, trouble.frozen_for = when, chance.choice((0.5, 3, 7, 12, 40))
        case "reset":
            trouble.resets_at = tuple(sorted(chance.uniform(0, span) for _ in range(chance.randint(1, 4))))
        case "flip":
            trouble.flips = chance.randint(1, 4)
        case "forge":
            trouble.forges = chance.randint(1, 4)
        case "slow":
            trouble.slow_link = chance.choice((1.0, 10.0))
            trouble.fault.slowness = chance.choice((1.0, 10.0, 30.0))
        case "broken":
            trouble.fault.broken_at = chance.randrange(chunks)
            trouble.fault.error = chance.choice(("Input/output error", "No space left on device"))
        case "forgets":
            trouble.fault.forgets, trouble.fault.times = chance.randrange(chunks), chance.choice((1, 2, 99))
    return trouble


KINDS = ("power", "process", "freeze", "reset", "flip", "forge", "slow", "broken", "forgets")
