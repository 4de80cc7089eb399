"""Images of the store deployed through the whole of it: command, daemon, head, ring, agents on loop disks."""

import json

import pytest

from bootd.errors import Exit
from tests.netns.disks import MIB, TEN, LoopDisk
from tests.netns.test_restore import NODES, SIZE, Lab, differences, lab, start_of

__all__ = ["lab"]
pytestmark = pytest.mark.netns


@pytest.fixture
def golden(lab: Lab) -> LoopDisk:
    """Another disk with ten partitions, stored as the image `golden`."""
    disk = LoopDisk(lab.folder / "golden.img", SIZE, 9, TEN)
    disk.close()
    lab.daemon.command("image", "put", str(disk.path), "golden", "-m", "before the exam")
    return disk


def test_a_stored_image_on_whole_disks(lab: Lab, golden: LoopDisk) -> None:
    """And it is not removed while a session is open that will send it."""
    id_ = json.loads(lab.daemon.command("image", "show", "golden", "--json"))["id"]
    golden.path.unlink()  # only the store has it now
    words = ("golden", "n[1-2]", "--disk", "size>=1M", "--name", "one")
    assert f"image:golden@{id_}" in lab.daemon.command("plan", *words[:4])
    lab.daemon.command("deploy", *words, "--yes")
    assert "in use by an open session" in lab.daemon.command("image", "rm", "golden", "--yes", expect=Exit.BUSY)
    for name in NODES:
        lab.boot(name)
    done = json.loads(lab.daemon.command("wait", "one", "--timeout", "60", "--json", seconds=90))
    assert done["source"] == f"image:golden@{id_}"
    assert [member["verified"] for member in done["members"]] == [SIZE, SIZE]
    for name in NODES:
        assert lab.nodes[name].wait(20) == 0, lab.output()
    back = lab.folder / "back.img"
    lab.daemon.command("image", "get", id_, str(back))
    for disk in lab.disks.values():
        assert disk.content() == back.read_bytes()
    lab.daemon.command("image", "rm", "golden", "--yes")


def test_a_partition_of_a_stored_image(lab: Lab, golden: LoopDisk) -> None:
    before = lab.disks["n1"].content()
    words = (
        "restore",
        "golden",
        "n1",
        "--part",
        "6=image:golden#7",
        "--disk",
        "size>=1M",
        "--name",
        "one",
        "--yes",
    )
    lab.daemon.command(*words)
    lab.boot("n1")
    lab.daemon.command("wait", "one", "--timeout", "60", seconds=90)
    assert lab.nodes["n1"].wait(20) == 0, lab.output()
    start = start_of(golden, 7)
    expected = bytearray(before)
    expected[start_of(golden, 6) : start_of(golden, 6) + 2 * MIB] = golden.path.read_bytes()[
        start : start + 2 * MIB
    ]
    after = lab.disks["n1"].content()
    assert after == bytes(expected), differences(after, bytes(expected))
    image = lab.places("n1")[6]["actual"]["image"]
    assert image.startswith("image:golden@")
    assert image.endswith("#7")


def test_what_is_wrong_with_an_image_is_said_before_a_session(lab: Lab, golden: LoopDisk) -> None:
    for words, code, text in (
        (("other", "n1", "--disk", "only"), Exit.INPUT, "there is no image other"),
        (("golden:none", "n1", "--disk", "only"), Exit.INPUT, "there is no image golden:none"),
        (("image:golden@../../x", "n1", "--disk", "only"), Exit.INPUT, "there is no image"),
        (("image:x", "n1", "--part", "6=image:golden#4", "--disk", "only"), Exit.INPUT, "has no partition 4"),
    ):
        assert text in lab.daemon.command("plan", *words, expect=code)
    assert lab.daemon.state()["sessions"] == []
