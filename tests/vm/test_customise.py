"""A real Debian that was customised boots from its new disk to a login, as itself, on BIOS and on UEFI."""

from pathlib import Path

import pytest

from bootd.build.cache import DEFAULT
from stage2.customise import Facts, customise
from tests.lab import debian_tree
from tests.lab.login import asked, log_in
from tests.lab.machine import Firmware, Machine, Specification
from tests.netns.customise_disks import prepared

ROOT = Path(__file__).parents[2]
MAC = "52:54:00:b0:07:07"


@pytest.mark.vm
@pytest.mark.parametrize(
    ("firmware", "table"), [pytest.param(Firmware.BIOS, "dos", marks=pytest.mark.long), (Firmware.UEFI, "gpt")]
)
def test_boots_to_a_login_as_itself(firmware: Firmware, table: str, tmp_path: Path) -> None:
    tree = debian_tree.build(ROOT / DEFAULT)
    disk, lines = tmp_path / "disk.raw", list[str]()
    with prepared(disk, table, tmp_path / "root", tree) as made:
        facts = Facts("node7", MAC, firmware.value)
        result = customise(str(tmp_path / "root"), made, facts, lines.append)
        assert result.is_done, "\n".join(lines[-30:])
    root = next(one.uuid for one in made.filesystems if one.mount == "/")
    machine = Machine(Specification("node7", firmware, MAC, disk, "LAB-DISK-7"), tmp_path)
    machine.power_on()
    try:
        log_in(machine, "node7", 300)
        said = asked(machine, "findmnt -no UUID /; cat /etc/machine-id; ls /sys/firmware").split()
        assert root in said
        assert ("efi" in said) is (firmware is Firmware.UEFI)
        ids = [word for word in said if len(word) == 32]
        assert len(ids) == 1
        assert ids[0] != (tree / "etc/machine-id").read_text().strip()
        mounted = asked(machine, "findmnt -lno TARGET --real; swapon --noheadings --show=TYPE").split()
        assert {one.mount for one in made.mounted} <= set(mounted)
        assert "partition" in mounted
        assert asked(machine, "systemctl --failed --plain --no-legend").strip() == ""
        assert "active" in asked(machine, "systemctl is-active ssh").split()
    finally:
        machine.kill()
