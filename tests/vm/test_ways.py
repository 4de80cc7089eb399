"""Systems in memory, booted by a machine: by the ring's way and from a real NFS export."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootd.build.cache import DEFAULT
from tests.lab import nfs
from tests.lab.arrival import follow
from tests.lab.lab import build_artefacts
from tests.lab.machine import Firmware, Machine, Specification
from tests.lab.room import Room
from tests.lab.server import Server
from tests.lab.story import Step
from tests.vm.test_clone import Log

ROOT = Path(__file__).parents[2]
MAC, OTHER = "52:54:00:b0:07:01", "52:54:00:b0:07:02"
INIT = """#!/bin/sh
echo written > /etc/written
modprobe nls_utf8 && grep -q nls_utf8 /proc/modules && modules=ours
exec >/dev/console 2>&1
root=$(grep ' / overlay ' /proc/mounts | cut -d ' ' -f 3)
echo "mini: $(cat /etc/marker) in $root, $(cat /etc/written), modules $modules"
while :; do sleep 3600; done
"""
NFS_LABEL = """
[[label]]
name = "nfs"
system = "mini"
append = "automatic=method:nfs,interface:auto,network:dhcp,server:10.47.0.2,directory:/cs4"
"""


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The boot folder, as `bootd stage build` leaves it."""
    folder = tmp_path_factory.mktemp("artefacts") / "boot"
    build_artefacts(folder, ROOT / DEFAULT, Log())
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A very small system: BusyBox and one script."""
    root = tmp_path / "mini"
    for name in ("bin", "sbin", "etc", "proc", "sys", "dev", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "cat", "cut", "grep", "sleep", "modprobe"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin/modprobe").symlink_to("../bin/busybox")
    (root / "etc/marker").write_text("a folder became a machine\n")
    (root / "sbin/init").write_text(INIT)
    (root / "sbin/init").chmod(0o755)
    return root


@contextmanager
def serving(folder: Path, boot: Path) -> Iterator[tuple[Room, Server]]:
    with Room(folder, 1) as room:
        room.start_dhcp()
        server = Server(room, boot, {"node1": MAC, "node2": OTHER})
        with (folder / "bootd.toml").open("a") as settings:
            settings.write(NFS_LABEL)
        with server:
            yield room, server


def power_on(room: Room, folder: Path, node: Specification | None = None) -> Machine:
    disk = folder / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    machine = Machine(node or Specification("node1", Firmware.BIOS, MAC, disk, "WAYS-1", 768), folder)
    room.own(machine)
    machine.power_on(room.network(0), room.inside(room.switch))
    return machine


ALIVE = Step("its own init", r"mini: a folder became a machine in overlay, written, modules ours", 60)


def as_another_node(room: Room, script: str) -> str:
    """What a script prints in the namespace of the server; ``token`` is that of `OTHER`."""
    begin = f"from tests.netns.ring_node import boot_token; token = boot_token('10.47.0.2:7467', '{OTHER}')\n"
    command = [*room.inside(room.server), sys.executable, "-c", begin + script]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


PEER = f"""
import json, urllib.request
url = "http://10.47.0.2:7467/node/v1/stage2?node={OTHER}&system=mini&port=9"
request = urllib.request.Request(url, headers={{"Authorization": "Bearer " + token}})
print(json.load(urllib.request.urlopen(request))["peer"])
"""
DIGEST = "import hashlib, urllib.request; print(hashlib.sha256(urllib.request.urlopen('{}').read()).hexdigest())"


@pytest.mark.vm
def test_a_folder_is_the_root_of_a_machine(boot: Path, tmp_path: Path, tree: Path) -> None:
    """And from there the machine still hands it on to the next."""
    with serving(tmp_path, boot) as (room, server):
        server.command("ramboot", str(tree), "node1", "node2", "--config", str(tmp_path / "bootd.toml"))
        machine = power_on(room, tmp_path)
        follow(machine, (Step("stage1", "bootd-stage1: start", 120), Step("fetched", "stage2 fetched", 60)))
        peer = as_another_node(room, PEER)
        follow(machine, (ALIVE,))
        assert as_another_node(room, DIGEST.format(peer)) in (boot / "systems/mini.json").read_text()


@pytest.mark.vm
@pytest.mark.long
def test_from_a_real_nfs_export(boot: Path, tmp_path: Path, tree: Path) -> None:
    """Mounted by the kernel of stage1 from NFS-Ganesha; then the same export with a byte changed is refused."""
    with serving(tmp_path, boot) as (room, server):
        server.command("ramboot", str(tree), "--config", str(tmp_path / "bootd.toml"))
        (image,) = (boot / "systems").glob("mini-*.squashfs")
        export = tmp_path / "export"
        export.mkdir()
        shutil.copy(image, export / "stage2.squashfs")
        nfs.serve(room, export, "/cs4")
        server.command("label", "set", "nfs", "--node", "node1")
        machine = power_on(room, tmp_path)
        way = Step("NFS", r"stage2 comes from 10\.47\.0\.2:/cs4/stage2\.squashfs", 150)
        follow(machine, (way, Step("fetched", "stage2 fetched", 60), ALIVE))
        data = bytearray(image.read_bytes())
        data[len(data) // 2] ^= 1
        (export / "stage2.squashfs").write_bytes(data)
        assert hashlib.sha256(data).hexdigest() not in (boot / "systems/mini.json").read_text()
        machine.reset()
        machine.wait_for(r"Can't reach a valid NFS server: stage2 is wrong between byte \d+", 150, "refusal")


@pytest.mark.vm
@pytest.mark.long
@pytest.mark.parametrize("firmware", [Firmware.BIOS, Firmware.UEFI], ids=["BIOS", "UEFI"])
def test_a_stick_for_a_machine_that_cannot_boot_from_the_network(
    boot: Path, tmp_path: Path, firmware: Firmware
) -> None:
    """A card without any ROM: the firmware has nothing but the disk."""
    with serving(tmp_path, boot) as (room, server):
        stick = tmp_path / "stick.img"
        cache = ("--cache", str(ROOT / DEFAULT))
        server.command("stage", "medium", str(stick), "--config", str(tmp_path / "bootd.toml"), *cache)
        server.command("label", "set-default", "kamethod")
        machine = power_on(
            room, tmp_path, Specification("node1", firmware, MAC, stick, "STICK-1", 1024, "rtl8139,romfile=")
        )
        told = Step("words", r"bootd-stage1: the server has told my command line", 60)
        network = Step("network", r"bootd-stage1: network [0-9.]+", 60)
        follow(machine, (Step("stage1", r"bootd-stage1: start", 150), told, network))
