"""What the offer decision is told of a node, from its policy: a stage, its own disk at once, or neither."""

import itertools
from pathlib import Path

import pytest

from bootd.config import parse
from bootd.drivers.boot_context import BootContext
from bootd.drivers.engine import Engine
from bootd.drivers.journal import Journal
from bootd.netboot.diagnosis import DOCTOR_MAC
from bootd.netboot.offer import NodePolicy
from bootd.session.admission import Unknown
from bootd.session.coordinator import Coordinator
from bootd.session.effects import ContentRecord, Persist

MAC = "52:54:00:00:00:01"
SETTINGS = '[[label]]\nname = "memtest"\nkind = "kernel"\nkernel = "memtest.bin"\n'


def test_a_machine_that_is_ignored_gets_no_boot_file_and_no_configuration(tmp_path: Path) -> None:
    boots, coordinator = context(tmp_path, "kamethod", unknown=Unknown.IGNORE)
    assert "bootd node approve" in boots.policy(MAC).no_boot
    assert boots(MAC) is None
    assert coordinator.nodes.get(MAC) is None
    assert boots.policy(DOCTOR_MAC).no_boot == "", "bootd doctor asks what those get that are known"
    coordinator.admission.approve([MAC])
    assert boots(MAC) is not None
    assert boots.policy(MAC) == NodePolicy(stage=True)


def context(
    tmp_path: Path, default: str, settings: str = SETTINGS, unknown: Unknown = Unknown.ACCEPT
) -> tuple[BootContext, Coordinator]:
    parsed = parse(settings)
    numbers = itertools.count(1)
    coordinator = Coordinator(
        labels=list(parsed.labels),
        default_label=default,
        names={},
        node_labels={},
        head_host="192.0.2.1",
        unknown=unknown,
        draw=lambda count: f"{next(numbers):0{2 * count}x}",
    )
    engine = Engine(coordinator, Journal(tmp_path / "bootd.db"), clock=itertools.count(1.0).__next__)
    return BootContext(engine, parsed, "192.0.2.1"), coordinator


@pytest.mark.parametrize(
    ("default", "wanted"),
    [
        ("kamethod", NodePolicy(stage=True, disk=False)),
        ("memtest", NodePolicy(stage=False, disk=False)),
        ("local", NodePolicy(stage=False, disk=True)),
    ],
)
def test_label_of_a_known_node(tmp_path: Path, default: str, wanted: NodePolicy) -> None:
    boots, _ = context(tmp_path, default)
    assert boots(MAC) is not None  # its configuration was asked for once
    assert boots.policy(MAC) == wanted


def test_a_machine_that_nobody_knows_comes_for_its_configuration_first(tmp_path: Path) -> None:
    boots, coordinator = context(tmp_path, "local")
    assert boots.policy(MAC) == NodePolicy(stage=False, disk=False)
    assert coordinator.nodes.get(MAC) is None, "asking must not make a node of it"


def test_a_one_shot_label_is_used_up_by_the_configuration(tmp_path: Path) -> None:
    boots, coordinator = context(tmp_path, "kamethod")
    boots(MAC)
    coordinator.set_label(MAC, "local", once=True, who="test")
    assert boots.policy(MAC) == NodePolicy(stage=False, disk=False)


def test_a_one_shot_stage_whose_time_is_over_is_not_sent_as_a_kernel_image(tmp_path: Path) -> None:
    """Its configuration would use the label up and then have no words for the image: iPXE copes with that."""
    boots, coordinator = context(tmp_path, "local")
    coordinator.set_label(MAC, "kamethod", once=True, who="test")
    assert boots.policy(MAC).stage
    boots(MAC)
    known = coordinator.nodes.get(MAC)
    assert known is not None
    known.once_until = 0.5  # the clock of these tests is past it
    assert boots.policy(MAC) == NodePolicy(stage=False, disk=False)


def test_with_a_menu_every_node_is_shown_it(tmp_path: Path) -> None:
    boots, _ = context(tmp_path, "local", "[boot]\nprompt_seconds = 5\n")
    boots(MAC)
    assert boots.policy(MAC) == NodePolicy(stage=False, disk=False)


def test_a_label_of_a_partition_is_in_the_menu_once_that_is_verified(tmp_path: Path) -> None:
    """Written is not verified, and a disk that is written anew takes its partitions along."""
    own = """
        [boot]
        prompt_seconds = 5
        [[label]]
        name = "exam"
        kind = "kernel"
        kernel = "exam/vmlinuz"
        partition = 5
    """
    boots, coordinator = context(tmp_path, "local", own)

    def record(partition: int, state: str, disk: str = "S1") -> None:
        known = ContentRecord(MAC, disk, partition, "", "golden", "ab" * 32, 1 << 20, state, "root", "s1")
        boots._engine.run([Persist(known)])

    def shown() -> bool:
        made = boots(MAC)
        assert made is not None
        return "exam" in made.labels

    assert not shown()
    for partition, state, wanted in (
        (5, "wanted", False),
        (5, "writing", False),
        (6, "installed", False),
        (5, "installed", True),
        (5, "writing", False),
        (0, "wanted", False),
        (0, "writing", False),
        (0, "installed", True),
        (6, "writing", True),
        (5, "writing", False),
    ):
        record(partition, state)
        assert shown() is wanted, (partition, state)
    record(5, "installed", disk="S2")
    assert shown(), "on another disk"
    coordinator.set_label(MAC, "exam", True, "root")
    record(5, "writing", disk="S2")
    assert shown(), "a policy has chosen it"
