"""The firmware's own menu on real firmware: prompt, time-out, boot server discovery, the first item's file.

No artefact is built: the test ends when the firmware has fetched the file that the boot server named.
"""

import re
import sys
from pathlib import Path

import pytest

from tests.lab.console import Console
from tests.lab.machine import Firmware, Machine, Specification
from tests.lab.room import SERVER_ADDRESS, Room

MAC = "52:54:00:b0:0e:01"
SETTINGS = """
[server]
interface = "eth0"
address = "%s"
state_dir = "%s"
[menu]
prompt = "Press F8 to view menu ..."
seconds = 2
multicast = "%s"
broadcast = %s
uefi = true
[[menu.item]]
title = "Clone"
[[menu.item]]
title = "Local boot"
local = true
"""


@pytest.mark.vm
@pytest.mark.parametrize(
    ("firmware", "discovery", "ports", "file"),
    [
        (Firmware.BIOS, ("", "true"), ["67"], "lpxelinux.0"),
        # EDK2 asks on 4011 once before: there it gets the menu (quirk no-discovery-for-uefi).
        (Firmware.UEFI, ("224.0.1.2", "false"), ["4011", "4011"], "ipxe.efi"),
    ],
    ids=["iPXE ROM by broadcast", "EDK2 by multicast"],
)
def test_prompt_then_discovery_then_the_file(
    tmp_path: Path, firmware: Firmware, discovery: tuple[str, str], ports: list[str], file: str
) -> None:
    boot = tmp_path / "boot"
    boot.mkdir()
    for name in ("lpxelinux.0", "ldlinux.c32", "ipxe.efi"):
        (boot / name).write_bytes(b"\xf4" * 4096)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    with Room(tmp_path / "room", 1) as room:
        room.start_dhcp()
        daemon = room.own(Console("bootd", tmp_path / "bootd.log"))
        settings = SETTINGS % (SERVER_ADDRESS, tmp_path, *discovery)
        words = [sys.executable, "-m", "tests.netns.boot_plane", str(boot), settings]
        daemon.start([*room.inside(room.server), *words])
        daemon.wait_for("ready", 20, "start")
        machine = Machine(Specification("node1", firmware, MAC, disk, "MENU-1", 256), tmp_path)
        room.own(machine)
        machine.power_on(room.network(0), room.inside(room.switch))
        machine.wait_for(r"Press F8 to view menu \.\.\.", 90, "the prompt")
        daemon.wait_for(rf'"kind": "fetched"[^\n]*{re.escape(file)}', 60, "the file")
    log = (tmp_path / "bootd.log").read_text()
    assert re.findall(r"boot-file +architecture=[^\n]* port=(\d+)", log) == ports  # each asked once
