"""The image repository on real firmware: a machine's disk is backed up, goes through a registry, and comes back."""

import json
import shutil
import time
from pathlib import Path

import pytest

from bootd.build.cache import DEFAULT
from tests.clonezilla import SAVE, clonezilla, loop
from tests.lab import golden, ten_partitions
from tests.lab.compare import first_difference
from tests.lab.lab import GOLDEN_LOGIN, STAGE_LABEL, build_artefacts
from tests.lab.machine import Firmware, Machine, Specification
from tests.lab.room import Room
from tests.lab.server import Server
from tests.unit.docker_registry import DockerRegistry
from tests.vm.test_clone import Log

ROOT = Path(__file__).parents[2]
MAC = "52:54:00:b0:07:01"
REBOOTING = r"bootd-stage2: rebooting"


@pytest.mark.vm
def test_ten_partitions_through_backup_registry_and_restore(tmp_path: Path) -> None:
    boot, original = tmp_path / "boot", tmp_path / "golden.raw"
    build_artefacts(boot, ROOT / DEFAULT, Log())
    ten_partitions.build(original, ROOT / DEFAULT)
    size = original.stat().st_size
    node = Specification("node1", Firmware.BIOS, MAC, tmp_path / "disk.raw", "LAB-DISK-1")
    with Room(tmp_path / "room", 1) as room:
        room.start_dhcp()
        with Server(room, boot, {node.name: node.mac}) as server:
            shutil.copyfile(original, node.disk)
            server.command("backup", node.name, "golden", "-m", "as it was taken over", "--no-wait")
            machine = powered_on(room, node, "backup")
            stand(machine, 420)
            assert first_difference(original, node.disk, size) is None, "a backup changes nothing"
            machine.kill()

            there_and_back(server, room.folder / "state" / "images", tmp_path)

            node.disk.unlink()
            with node.disk.open("wb") as file:
                file.truncate(size)
            words = ("--disk", "only", "--label", STAGE_LABEL, "--yes")
            server.command("restore", "golden", node.name, *words)
            machine = powered_on(room, node, "restore")
            stand(machine, 420)
            assert first_difference(original, node.disk, size) is None
            machine.resume()
            machine.wait_for(GOLDEN_LOGIN, 180, "login")
            shown = server.query("node", "partitions", node.name)
            assert "installed" in json.dumps(shown)


@pytest.mark.vm
@pytest.mark.long
def test_an_image_of_clonezilla_boots(tmp_path: Path) -> None:
    """Saved by Clonezilla from a disk with GPT, imported, restored onto a UEFI machine: it comes to its login."""
    boot, original = tmp_path / "boot", tmp_path / "golden.raw"
    build_artefacts(boot, ROOT / DEFAULT, Log())
    golden.build(original, ROOT / DEFAULT)
    saved = tmp_path / "partimag"
    saved.mkdir()
    with loop(original) as device:
        clonezilla(saved, *SAVE, "-z9p", "savedisk", "room", device)
    node = Specification("node1", Firmware.UEFI, MAC, tmp_path / "disk.raw", "LAB-DISK-1")
    with Room(tmp_path / "room", 1) as room:
        room.start_dhcp()
        with Server(room, boot, {node.name: node.mac}) as server:
            server.command("image", "import", str(saved / "room"), "--name", "room", "-m", "theirs", seconds=120)
            with node.disk.open("wb") as file:
                file.truncate(original.stat().st_size)
            words = ("--disk", "only", "--label", STAGE_LABEL, "--yes")
            server.command("restore", "room", node.name, *words)
            machine = powered_on(room, node, "restore")
            stand(machine, 420)
            machine.resume()
            machine.wait_for(GOLDEN_LOGIN, 180, "login")
            shown = server.query("node", "partitions", node.name)
            assert "installed" in json.dumps(shown)


def powered_on(room: Room, node: Specification, name: str) -> Machine:
    machine = Machine(node, room.folder / name)
    room.own(machine)
    machine.power_on(room.network(0), room.inside(room.switch))
    return machine


def stand(machine: Machine, seconds: float) -> None:
    """Until stage2 has said that it reboots and the machine stands at its reset; SeaBIOS's own are passed."""
    deadline = time.monotonic() + seconds
    while machine.has(REBOOTING) is None or not machine.standing.is_set():
        if machine.standing.is_set() and machine.standing_for > 3.0 and machine.has(REBOOTING) is None:
            machine.resume(hold=True)
        if time.monotonic() > deadline:
            machine.wait_for(REBOOTING, 0.1, "rebooting")  # says where it stands
        machine.standing.wait(0.5)


def there_and_back(server: Server, store: Path, folder: Path) -> None:
    """The image goes to a registry, is removed here with all its chunks, and comes back."""
    before = server.query("image", "show", "golden")
    assert (before["kind"], len(before["table"]["partitions"])) == ("disk", 10)
    with DockerRegistry(folder / "registry") as registry:
        place = f"http://127.0.0.1:{registry.port}/rooms/golden:1"
        server.command("image", "--store", str(store), "push", "golden", place, seconds=120)
        server.command("image", "rm", "golden", "--yes")
        server.command("image", "gc", "--now")
        assert server.query("image", "list") == []
        server.command("image", "--store", str(store), "pull", place, "--name", "golden", seconds=120)
    after = server.query("image", "show", "golden")
    assert after["id"] == before["id"]
