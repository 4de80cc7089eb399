"""The demo's story as a test: real firmware, netboot, clone, verify, byte-for-byte comparison, reboot to login.

The comparison itself is in `tests.lab.lab`: each node stands still at its reset until its disk was read.
"""

from pathlib import Path

import pytest

from bootd.build.cache import DEFAULT
from tests.lab.errors import LabError
from tests.lab.lab import Kill, Options, Result, run
from tests.lab.machine import Firmware
from tests.lab.status import NodeStatus
from tests.lab.story import PHASES, Step

ROOT = Path(__file__).parents[2]


class Log:
    """A view that prints, for pytest to show when a test fails."""

    def step(self, text: str) -> None:
        print(text)

    def node_step(self, node: str, step: Step, seconds: float) -> None:
        print(f"{node}: {step.name} ({seconds:.1f} s)")

    def node_status(self, node: str, now: NodeStatus) -> None:
        pass

    def node_failed(self, node: str, error: LabError) -> None:
        print(error)


def clone(folder: Path, kill: Kill | None = None, rate: float | None = None) -> Result:
    options = Options(
        firmware=(Firmware.BIOS, Firmware.UEFI),
        folder=folder,
        cache=ROOT / DEFAULT,
        boot=folder / "boot",
        kill=kill,
        rate=rate,
        power_cycle=kill is None,
    )
    return run(options, Log())


@pytest.mark.vm
def test_bios_and_uefi_nodes_are_cloned_verified_and_boot(tmp_path: Path) -> None:
    result = clone(tmp_path)
    assert [node.failure for node in result.nodes] == ["", ""]
    assert result.trouble == ""
    for node in result.nodes:
        assert node.last.written >= result.image_size
        assert node.last.durable == node.last.verified == result.image_size
        assert node.label == "local"
        assert set(node.phases) == {phase.title for phase in PHASES}
    assert result.default_label == "local"
    assert result.ok


@pytest.mark.vm
def test_a_node_killed_in_the_middle_takes_nobody_with_it(tmp_path: Path) -> None:
    result = clone(tmp_path, kill=Kill("node1", 40), rate=24)
    killed, other = result.nodes
    assert "killed with" in killed.failure
    assert killed.last.verified < result.image_size
    assert other.failure == ""
    assert other.last.verified == result.image_size
    assert (result.good, result.ok) == (1, False)
