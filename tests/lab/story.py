"""What a node's serial console must show from power-on to the cloned system's login prompt, in order.

Every step has a deadline; the first that is missed, or a line that says the node gave up, ends the node's story
with a `LabError` that names node, step and log file.
"""

from dataclasses import dataclass, field

from tests.lab.console import Console, Marker
from tests.lab.errors import LabError
from tests.lab.machine import Firmware

MIB = 1 << 20
_SLOWEST = 0.4 * MIB  # bytes per second that a transfer is granted, under emulation


@dataclass(frozen=True)
class Step:
    name: str
    pattern: str
    seconds: float  # after the step before


@dataclass(frozen=True)
class Phase:
    """The time between two steps, for the table at the end. ``after`` "" is power-on."""

    title: str
    after: str
    until: str


PHASES = (
    Phase("firmware to boot loader", "", "loader"),
    Phase("boot loader to stage1", "loader", "stage1"),
    Phase("stage1 fetches stage2", "stage1", "switching root"),
    Phase("stage2 to ready", "switching root", "ready"),
    Phase("waiting for the others", "ready", "receiving"),
    Phase("transfer", "receiving", "durable"),
    Phase("verify", "durable", "verified"),
    Phase("release", "verified", "rebooting"),
    Phase("reboot to login", "rebooting", "login"),
)

# What the boot loader that came over the network says first.
LOADER = {Firmware.BIOS: r"PXELINUX \d", Firmware.UEFI: r"iPXE initialising devices"}

# What a node that boots its disk fetches and sees instead.
LOCAL_LOADER = {**LOADER, Firmware.UEFI: r"bootd: starting \(hd"}

# Lines after which nothing good can come.
GIVEN_UP = (
    r"bootd-stage2: refused [^\r\n]*|bootd-stage[12]: (?:failed|parked)[^\r\n]*"
    r"|Kernel panic - not syncing[^\r\n]*|No bootable device|golden: no disk with UUID[^\r\n]*"
)


def steps_for(firmware: Firmware, size: int, login: str) -> tuple[Step, ...]:
    """``size`` of the image in bytes; ``login`` is the pattern of the cloned system's prompt."""
    transfer = 60 + size / _SLOWEST
    return (
        Step("loader", LOADER[firmware], 120),
        Step("stage1", r"bootd-stage1: start", 90),
        Step("network", r"bootd-stage1: network [0-9.]+", 60),
        Step("stage2 fetched", r"bootd-stage1: stage2 fetched \d+", 120),
        Step("switching root", r"bootd-stage1: switching root", 60),
        Step("stage2", r"bootd-stage2: start", 90),
        Step("joined", r"bootd-stage2: joined", 60),
        Step("plan", r"bootd-stage2: plan [^\r\n]+", 90 + size / (50 * MIB)),
        Step("ready", r"bootd-stage2: ready \d+", 60),
        Step("receiving", r"bootd-stage2: receiving", 240),
        Step("durable", r"bootd-stage2: durable \d+", transfer),
        Step("verified", r"bootd-stage2: verified \d+", transfer),
        Step("rebooting", r"bootd-stage2: rebooting", transfer),
        Step("login", login, 180),
    )


@dataclass
class Story:
    """Follows one console through ``steps``."""

    console: Console
    steps: tuple[Step, ...]
    reached: dict[str, float] = field(default_factory=dict)  # step -> seconds since power-on
    _since: float = 0.0

    @property
    def done(self) -> bool:
        return len(self.reached) == len(self.steps)

    def next_step(self) -> Step | None:
        return None if self.done else self.steps[len(self.reached)]

    def expects(self, name: str) -> bool:
        """Whether ``name`` is the next step."""
        step = self.next_step()
        return step is not None and step.name == name

    def advance(self) -> list[tuple[Step, Marker]]:
        """The steps that the console has reached since the last call; `LabError` when it will not go on."""
        news = []
        while (step := self.next_step()) is not None:
            marker = self.console.find(step.pattern)
            if marker is None:
                self._check(step)
                break
            self.reached[step.name] = marker.at
            self._since = marker.at
            news.append((step, marker))
        return news

    def phases(self) -> dict[str, float]:
        """Seconds per phase, of those that are over."""
        times = {"": 0.0, **self.reached}
        return {
            phase.title: times[phase.until] - times[phase.after]
            for phase in PHASES
            if phase.until in times and phase.after in times
        }

    def _check(self, step: Step) -> None:
        name, log = self.console.who, self.console.log
        given_up = self.console.has(GIVEN_UP)
        if given_up is not None:
            raise LabError(name, step.name, given_up.text.strip(), log)
        if not self.console.running():
            raise LabError(name, step.name, "the machine ended", log)
        if self.console.age - self._since > step.seconds:
            last = self.console.last_line()[-160:]
            raise LabError(name, step.name, f"not within {step.seconds:.0f} s; last line: {last!r}", log)
