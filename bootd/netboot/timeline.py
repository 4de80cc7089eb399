"""A machine's way from its first DISCOVER to its operating system, told from the events that servers noted of it.

Pure: events in order of time go in, boots come out, each with its steps, and what it waits for when it does not go
on. Times are seconds since the epoch.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

IDLE_SECONDS = 120.0  # without a word for so long: what comes next is another boot
RESCUE = "rescue"  # its stage2 gives a shell and does not join
PATIENCE = 60.0  # seconds until a step that is not followed by another is called stalled


class Step(Enum):
    """In the order in which they are reached; the value is for people."""

    DISCOVER = "offer sent"
    BOOT_SERVER = "boot file named on 4011"
    LOADER = "loader fetched"
    CONFIGURATION = "configuration fetched"
    KERNEL = "kernel fetched"
    INITRD = "initrd fetched"
    STAGE1 = "stage1 is up"
    STAGE2 = "stage2 fetched"
    JOINED = "joined"
    PLAN = "plan received"
    READY = "ready"
    VERIFIED = "disk verified"
    DONE = "cloned, reboots"
    LOCAL = "boots its disk"


_ORDER = list(Step)
_KINDS = {
    "boot-file": Step.BOOT_SERVER,
    "stage1": Step.STAGE1,
    "stage2": Step.STAGE2,
    "joined": Step.JOINED,
    "plan": Step.PLAN,
    "ready": Step.READY,
    "verified": Step.VERIFIED,
    "done": Step.DONE,
}
_TROUBLE = frozenset(
    ("ignored", "refused", "conflict", "exhausted", "rival", "not-found", "aborted", "stalled", "parked", "failed",
     "lost", "evicted", "cancelled")
)  # fmt: skip
_LOCAL_FILE = "local.efi"
_KEPT_TROUBLE = 8  # lines of one boot


@dataclass(frozen=True)
class Happening:
    """One line of the timeline of one node."""

    time: float
    kind: str
    text: str


class State(Enum):
    UNDER_WAY = "under way"
    COMPLETE = "complete"  # it boots its disk, was cloned, or is up in stage2
    STALLED = "stalled"
    PARKED = "parked"


@dataclass
class Boot:
    """One attempt. ``reached`` has the time of each step when it was first seen, in the order seen."""

    begun: float
    reached: dict[Step, float] = field(default_factory=dict)
    last: float = 0.0
    label: str = ""
    offered: str = ""  # what the firmware was told to fetch first
    trouble: list[str] = field(default_factory=list)
    parked: bool = False

    @property
    def furthest(self) -> Step | None:
        return max(self.reached, key=_ORDER.index, default=None)

    def has(self, step: Step) -> bool:
        """``step`` or one beyond it was reached."""
        furthest = self.furthest
        return furthest is not None and _ORDER.index(furthest) >= _ORDER.index(step)

    @property
    def succeeded(self) -> bool:
        """There is nothing more to wait for in the boot itself."""
        return self.has(Step.JOINED) or (self.label == RESCUE and self.has(Step.STAGE2))


@dataclass(frozen=True)
class Verdict:
    state: State
    stalled_after: Step | None = None
    reason: str = ""  # the likely one; "" when nothing is wrong


def boots(happenings: Iterable[Happening]) -> list[Boot]:
    """The attempts in ``happenings``, oldest first."""
    found: list[Boot] = []
    for one in happenings:
        step = _step_of(one)
        if step is None and one.kind not in _TROUBLE:
            continue
        if not found or (step is not None and _begins(found[-1], one, step)):
            found.append(Boot(one.time))
        _take(found[-1], one, step)
    return found


def judge(boot: Boot, now: float, *, last: bool = True, foreign: Collection[str] = ()) -> Verdict:
    """How far it is, and when it does not go on, why probably. ``last``: no other boot came after it. ``foreign``
    are labels of an operator's own kernels, of which no more is heard."""
    if boot.parked:
        return Verdict(State.PARKED, boot.furthest, boot.trouble[-1] if boot.trouble else "")
    if boot.succeeded or (boot.label in foreign and boot.has(Step.KERNEL)):
        return Verdict(State.COMPLETE)
    if last and now - boot.last < PATIENCE:
        return Verdict(State.UNDER_WAY, boot.furthest)
    return Verdict(State.STALLED, boot.furthest, reason(boot))


def reason(boot: Boot) -> str:
    """Why a boot probably ended after its furthest step."""
    told = f" ({boot.trouble[-1]})" if boot.trouble else ""
    match boot.furthest:
        case None:
            return boot.trouble[-1] if boot.trouble else "no offer was made"
        case Step.DISCOVER:
            if any(line.startswith(("not-found", "aborted", "stalled")) for line in boot.trouble):
                return f"{boot.offered} could not be fetched over TFTP{told}"
            return (
                "the offer was not taken: the firmware chose another boot server, its DHCP server answered too "
                "late, or TFTP (UDP 69) is blocked between it and bootd" + told
            )
        case Step.BOOT_SERVER:
            return f"{boot.offered or 'the boot file'} was named but not fetched: TFTP (UDP 69) is blocked" + told
        case Step.LOADER if boot.offered.startswith(("shim", "grub")):
            # What shim looks for in vain (revocations_sku.efi and others) is optional, and no reason.
            return (
                "GRUB was fetched and did not come for its configuration: it asks the server that gave the "
                "address. Name bootd as next server there (bootd export), or let bootd give addresses"
            )
        case Step.LOADER:
            why = (
                f"{boot.offered or 'the loader'} was fetched but asked for nothing: made for another architecture, "
                "or refused by Secure Boot (set boot.secure_boot), or it cannot use this network card"
            )
            return why + told
        case Step.CONFIGURATION:
            return (
                f"the loader got label {boot.label or '?'} but fetched no kernel: the bulk port is blocked, "
                "the kernel is missing (bootd stage build), or the loader has no HTTP" + told
            )
        case Step.KERNEL:
            return "the kernel was fetched, the initrd was not: out of memory, or the transfer broke" + told
        case Step.INITRD:
            return (
                "kernel and initrd were fetched and stage1 never spoke: no driver for the network card, Secure "
                "Boot refused the kernel, too little memory, or the link was not up in time" + told
            )
        case Step.STAGE1:
            return "stage1 is up but did not get stage2: see the node's screen" + told
        case Step.STAGE2:
            return "stage2 was fetched but did not join: too little memory, or it cannot reach bootd" + told
        case _:
            return boot.trouble[-1] if boot.trouble else ""


def looping(attempts: Sequence[Boot], now: float, count: int, seconds: float) -> str:
    """Why the node should be parked before it boots once more, or "".

    A loop is ``count`` boots within the last ``seconds`` that were told to load something and never joined.
    ``attempts`` are those before the present one.
    """
    loaded = [boot for boot in attempts if boot.label or boot.succeeded]
    recent = loaded[-count:] if count > 0 else []
    if len(recent) < max(count, 1) or now - recent[0].begun > seconds or any(boot.succeeded for boot in recent):
        return ""
    best = max(recent, key=lambda boot: _ORDER.index(boot.furthest) if boot.furthest else -1)
    step = best.furthest.value if best.furthest else "nothing"
    return f"boot loop: {count} boots within {seconds / 60:g} min ended after '{step}': {reason(best)}"


def _begins(boot: Boot, one: Happening, step: Step) -> bool:
    """Whether ``one`` is the first sign of another boot after ``boot``."""
    if one.time - boot.last > IDLE_SECONDS and step in (Step.DISCOVER, Step.CONFIGURATION, Step.LOADER):
        return True
    if step is Step.DISCOVER:
        # A loader asks for an address again, too, but before it fetches its configuration.
        return boot.has(Step.CONFIGURATION)
    if step in (Step.CONFIGURATION, Step.LOCAL):
        return boot.has(Step.KERNEL) and not one.text.startswith("stage1 ")
    return False


def _take(boot: Boot, one: Happening, step: Step | None) -> None:
    boot.last = one.time
    if one.kind in _TROUBLE:
        line = f"{one.kind}: {one.text}"
        if line not in boot.trouble and len(boot.trouble) < _KEPT_TROUBLE:
            boot.trouble.append(line)
        boot.parked = boot.parked or one.kind == "parked"
        return
    if step is None:
        return
    boot.reached.setdefault(step, one.time)
    if step in (Step.DISCOVER, Step.BOOT_SERVER) and not boot.offered:
        boot.offered = one.text.partition(": ")[2].split(" (")[0]
    if step is Step.CONFIGURATION:
        boot.label = _label_of(one.text) or boot.label


def _step_of(one: Happening) -> Step | None:
    match one.kind:
        case "offer":
            return Step.DISCOVER
        case "config" | "configuration":
            return Step.LOCAL if _label_of(one.text) == "local" else Step.CONFIGURATION
        case "fetched" | "loaded":
            return _file_step(one.text.split(",")[0].split(" ")[0].replace("\\", "/").lstrip("/"))
        case kind:
            return _KINDS.get(kind)


def _file_step(path: str) -> Step | None:
    name = path.rpartition("/")[2]
    if name.startswith("vmlinuz"):
        return Step.KERNEL
    if name.startswith("initrd"):
        return Step.INITRD
    if name.endswith(".squashfs"):
        return Step.STAGE2
    if name == _LOCAL_FILE:
        return Step.LOCAL
    if name.startswith("uki-"):
        return Step.INITRD  # kernel and initrd are one file
    return Step.LOADER if name.endswith((".0", ".efi", ".kpxe", ".pxe", ".img", ".scr")) else None


def _label_of(text: str) -> str:
    """``kamethod`` of ``iPXE configuration, label kamethod, over HTTP``."""
    return text.partition("label ")[2].split(",")[0].split(" ")[0]
