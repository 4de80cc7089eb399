"""Trees of files through the whole of it: command, daemon, head, ring, the agent of stage2 on loop disks."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS
from tests.netns.files_lab import MACS, NODES, SIZES, Lab
from tests.netns.room import Room


@pytest.fixture
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with Room("server", *NODES) as room:
        room.address("server", f"{ADDRESS}/24")
        for number, name in enumerate(NODES, 1):
            room.address(name, f"10.9.0.{10 + number}/24")
            room.mac(name, MACS[name])
        made = Lab(room, folder)
        try:
            yield made
        finally:
            made.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_tree_goes_onto_disks_of_three_sizes(lab: Lab) -> None:
    """Stored, refused without a layout, shown, unpacked, proven, customised; each node is itself afterwards."""
    lab.daemon.command("label", "set-default", "kamethod")
    assert lab.put("golden", "-x", "/tmp")["new_bytes"] > 0
    assert lab.put("golden", "-x", "/tmp")["new_chunks"] == 0, "the same tree is the same image"
    assert "kind      files" in lab.daemon.command("image", "show", "golden")
    text = lab.daemon.command("deploy", "golden", "n1", "--disk", "only", "--yes", expect=Exit.INPUT)
    assert "--layout" in text
    for name in NODES:
        lab.boot(name).wait_for("joined")
    words = ["golden", "n[1-3]", "--disk", "only", "--layout", str(lab.layout), "-r", "none", "--skip", "initramfs"]
    card = lab.daemon.command("plan", *words)
    assert "MAKE    partition 3" in card
    assert "/home" in card
    lab.daemon.command("deploy", *words, "--yes", "--name", "one")
    lab.daemon.command("wait", "one", "--timeout", "120", seconds=150)
    for name in NODES:
        assert lab.nodes[name].wait(30) == 0, lab.output()
        lab.nodes[name].wait_for("rebooted")
        for word in ("kainstall1", "WAITING node", "kainstall2", "files proven", "Formatting"):
            assert word in lab.nodes[name].output
        lab.check(name, exclude=("/tmp/*",))
    sizes = {}
    for name, disk in lab.disks.items():
        done = subprocess.run(["sfdisk", "--json", disk.path], check=True, capture_output=True)
        sizes[name] = json.loads(done.stdout)["partitiontable"]["partitions"][2]["size"]
    assert sizes["n2"] - sizes["n1"] == (SIZES["n2"] - SIZES["n1"]) // 512, "what is left is filled"
