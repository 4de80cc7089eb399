"""The whole story in the virtual room: from empty disks to the cloned systems' login prompts.

`run` is what the demo shows and what the tests of the vm tier check. It returns a result per node; a `LabError`
means that the room itself failed (no artefacts, no server), so that there is nothing to say about nodes.
"""

import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from bootd.build import loaders
from stage1 import recipe as stage1_recipe
from stage2 import recipe as stage2_recipe
from tests.lab import golden, golden_root, status
from tests.lab.compare import first_difference
from tests.lab.errors import LabError
from tests.lab.machine import Firmware, Machine, Specification
from tests.lab.room import Room
from tests.lab.server import CONSOLE, Server
from tests.lab.story import LOCAL_LOADER, MIB, Step, Story, steps_for

MOST_NODES = 3
SESSION = "demo"
STAGE_LABEL = "kamethod"
LOCAL_LABEL = "local"
GOLDEN_LOGIN = rf"{golden_root.HOST} login:"
_POLL = 1.0  # seconds between two looks at the daemon's state
_LAST_WORDS = 3.0  # seconds for the console's last line to arrive after the reset
_SPARE_DISK = 16 * MIB  # a node's disk is larger than the image by this


@dataclass(frozen=True)
class Kill:
    """Cut the power of ``node`` when it has written ``percent`` of the image."""

    node: str
    percent: float


@dataclass(frozen=True)
class Options:
    """``image`` None: the golden disk. ``rate``: what each node receives at most from the moment it is ready for
    the image, megabits per second. ``power_cycle``: boot the cloned nodes once more, over the network."""

    firmware: tuple[Firmware, ...]
    folder: Path
    cache: Path
    boot: Path
    image: Path | None = None
    login: str = ""
    kill: Kill | None = None
    rate: float | None = None
    power_cycle: bool = False


class View(Protocol):
    """Who looks on. Called from one thread."""

    def step(self, text: str) -> None:
        """The room as a whole goes on to ``text``."""

    def node_step(self, node: str, step: Step, seconds: float) -> None:
        """``node`` has reached ``step``, ``seconds`` after power-on."""

    def node_status(self, node: str, now: status.NodeStatus) -> None:
        """What the daemon says about ``node``."""

    def node_failed(self, node: str, error: LabError) -> None:
        """``node``'s story has ended."""


@dataclass
class NodeResult:
    """``failure`` "" when the node was cloned, verified, booted and found equal to the image."""

    name: str
    firmware: Firmware
    mac: str
    failure: str = ""
    label: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    last: status.NodeStatus = field(default_factory=lambda: status.NodeStatus("", "", 0, 0, 0, 0, 0))


@dataclass
class Result:
    """``trouble``: what is wrong beyond the nodes (the default label did not flip)."""

    nodes: list[NodeResult]
    image_size: int
    default_label: str = ""
    trouble: str = ""

    @property
    def good(self) -> int:
        return sum(1 for node in self.nodes if not node.failure)

    @property
    def ok(self) -> bool:
        return self.good == len(self.nodes) and not self.trouble


def run(options: Options, view: View) -> Result:
    count = len(options.firmware)
    if not 1 <= count <= MOST_NODES:
        raise LabError("room", "start", f"{count} nodes: 1 to {MOST_NODES} run at a time under emulation")
    options.folder.mkdir(parents=True, exist_ok=True)
    build_artefacts(options.boot, options.cache, view)
    image = _image(options, view)
    size = image.stat().st_size
    specifications = [
        _specification(options.folder, index, kind, size) for index, kind in enumerate(options.firmware)
    ]
    if options.kill and options.kill.node not in {node.name for node in specifications}:
        raise LabError("room", "start", f"no node {options.kill.node!r} to kill")
    with ExitStack() as stack:
        view.step("network room with a foreign DHCP server")
        room = stack.enter_context(Room(options.folder, count))
        room.start_dhcp()
        view.step("bootd serve")
        names = {node.name: node.mac for node in specifications}
        server = stack.enter_context(Server(room, options.boot, names))
        server.command("label", "set-default", STAGE_LABEL)
        expect = ("--expect", str(count), "--name", SESSION, "--label", STAGE_LABEL)
        server.command("deploy", str(image.resolve()), "any", "--disk", "only", *expect, "--yes")
        view.step(f"{count} {'nodes boot' if count > 1 else 'node boots'} from the network")
        run_ = _Run(options, view, room, server, image)
        for index, specification in enumerate(specifications):
            run_.power_on(index, specification)
        result = run_.follow()
        if options.power_cycle:
            view.step("power cycle: the network now sends nodes to their own disks")
            run_.power_cycle()
        return result


def build_artefacts(boot: Path, cache: Path, view: View) -> None:
    """Loaders, stage1 and stage2 in ``boot``, from the cache where nothing has changed."""
    for name, build in (
        ("boot loaders", loaders.build),
        ("stage1", partial(stage1_recipe.build, console=CONSOLE)),
        ("stage2", stage2_recipe.build),
    ):
        view.step(f"building {name}")
        build(boot, cache, view.step)


def _image(options: Options, view: View) -> Path:
    if options.image is not None:
        return options.image
    view.step("building the golden disk")
    path = options.folder / "golden.raw"
    golden.build(path, options.cache, progress=view.step)
    return path


def _specification(folder: Path, index: int, firmware: Firmware, image_size: int) -> Specification:
    name = f"node{index + 1}"
    disk = folder / f"{name}.raw"
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(image_size + _SPARE_DISK)
    return Specification(name, firmware, f"52:54:00:b0:07:{index + 1:02x}", disk, f"LAB-DISK-{index + 1}")


class _Run:
    """The nodes under way, their stories and what the daemon says about them."""

    def __init__(self, options: Options, view: View, room: Room, server: Server, image: Path) -> None:
        self._options = options
        self._view = view
        self._room = room
        self._server = server
        self._image = image
        self._size = image.stat().st_size
        self._machines: dict[str, Machine] = {}
        self._stories: dict[str, Story] = {}
        self._results: dict[str, NodeResult] = {}
        self._ports: dict[str, int] = {}
        self._login = options.login or (GOLDEN_LOGIN if options.image is None else r"login:")
        self._compared: set[str] = set()
        self._changed = threading.Event()
        self._looked = 0.0

    def power_on(self, index: int, node: Specification) -> None:
        machine = Machine(node, self._options.folder)
        machine.changed = self._changed
        self._room.own(machine)
        machine.power_on(self._room.network(index), self._room.inside(self._room.switch))
        self._ports[node.name] = index
        self._machines[node.name] = machine
        self._stories[node.name] = Story(machine, steps_for(node.firmware, self._size, self._login))
        self._results[node.name] = NodeResult(node.name, node.firmware, node.mac)

    def follow(self) -> Result:
        """Until every node's story has ended: at its login prompt or at its failure."""
        while any(not self._ended(name) for name in self._stories):
            self._server.check()
            for name in self._stories:
                if not self._ended(name):
                    self._advance(name)
            if time.monotonic() - self._looked >= _POLL:
                self._look()
            self._changed.wait(_POLL / 4)
            self._changed.clear()
        self._look()
        return self._judge()

    def power_cycle(self) -> None:
        """Reset every good node: through the network's boot loader it must come back to its login prompt."""
        good = [result for result in self._results.values() if not result.failure]
        for result in good:
            self._machines[result.name].reset()
        for result in good:
            machine = self._machines[result.name]
            try:
                machine.wait_for(LOCAL_LOADER[result.firmware], 120, "power cycle, loader")
                machine.wait_for(self._login, 180, "power cycle, login")
            except LabError as error:
                self._fail(result.name, error)

    def _ended(self, name: str) -> bool:
        return self._stories[name].done or bool(self._results[name].failure)

    def _advance(self, name: str) -> None:
        story, machine = self._stories[name], self._machines[name]
        try:
            for step, marker in story.advance():
                self._view.node_step(name, step, marker.at)
                if step.name == "ready" and self._options.rate:
                    self._room.limit(self._ports[name], self._options.rate)
            if machine.standing.is_set():
                self._pass_reset(name, story, machine)
            if story.done:
                self._check_compared(name)
        except LabError as error:
            self._fail(name, error)

    def _pass_reset(self, name: str, story: Story, machine: Machine) -> None:
        """A reset is the firmware's own until the agent has said that it reboots: then the disk is compared."""
        if story.expects("rebooting") and machine.standing_for < _LAST_WORDS:
            return  # its last line may still be on the way
        if "rebooting" in story.reached and name not in self._compared:
            self._compare(name)
        machine.resume(hold=name not in self._compared)

    def _check_compared(self, name: str) -> None:
        if name not in self._compared:
            log = self._machines[name].log
            raise LabError(name, "compare", "the node came to its login without a reset", log)

    def _fail(self, name: str, error: LabError) -> None:
        self._results[name].failure = str(error)
        self._view.node_failed(name, error)

    def _compare(self, name: str) -> None:
        """Between the node's reset and the cloned system's start: what is there now is what the clone wrote."""
        disk = self._machines[name].specification.disk
        offset = first_difference(self._image, disk, self._size)
        if offset is not None:
            raise LabError(name, "compare", f"{disk} differs from {self._image} at byte {offset}")
        self._compared.add(name)

    def _look(self) -> None:
        self._looked = time.monotonic()
        now = status.session_status(self._server, SESSION)
        for result in self._results.values():
            node = now.nodes.get(result.mac)
            if node is None:
                continue
            result.last = node
            self._view.node_status(result.name, node)
            self._cut_power(result, node)

    def _cut_power(self, result: NodeResult, node: status.NodeStatus) -> None:
        kill = self._options.kill
        if kill is None or kill.node != result.name or result.failure or not node.total:
            return
        if node.written * 100 >= kill.percent * node.total:
            self._machines[result.name].kill()
            share = node.written * 100 // node.total
            self._fail(result.name, LabError(result.name, "transfer", f"killed with {share} % written"))

    def _judge(self) -> Result:
        labels = status.labels(self._server)
        for result in self._results.values():
            result.phases = self._stories[result.name].phases()
            result.label = labels.nodes.get(result.mac, "?")
            if result.failure:
                continue
            if result.last.verified != self._size:
                self._fail(
                    result.name,
                    LabError(result.name, "verify", f"bootd counts {result.last.verified} bytes verified"),
                )
            elif result.label != LOCAL_LABEL:
                self._fail(
                    result.name, LabError(result.name, "policy", f"next label is {result.label!r}, not local")
                )
        outcome = Result(list(self._results.values()), self._size, labels.default)
        if labels.default != LOCAL_LABEL and outcome.good:
            outcome.trouble = f"the default label is {labels.default!r}, not {LOCAL_LABEL!r}"
        return outcome


def free_space_needed(image_size: int, nodes: int) -> int:
    """Bytes on disk that a run takes at most, beyond the cache."""
    return (image_size + _SPARE_DISK) * (nodes + 1)


def check_space(folder: Path, needed: int) -> None:
    """`LabError` when ``folder``'s file system has less than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LabError("room", "start", f"{folder}: {needed // MIB} MiB needed, {free // MIB} MiB free")
