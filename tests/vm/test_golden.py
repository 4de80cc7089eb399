"""The golden disk alone, without bootd: when it does not boot here, no clone of it will."""

import shutil
from pathlib import Path

import pytest

from bootd.build.cache import DEFAULT
from tests.lab import golden, golden_root
from tests.lab.compare import first_difference
from tests.lab.machine import Firmware, Machine, Specification

ROOT = Path(__file__).parents[2]


@pytest.mark.vm
@pytest.mark.parametrize("firmware", [Firmware.BIOS, Firmware.UEFI])
def test_boots_to_a_login_and_never_writes_its_disk(firmware: Firmware, tmp_path: Path) -> None:
    image, disk = tmp_path / "golden.raw", tmp_path / "disk.raw"
    golden.build(image, ROOT / DEFAULT)
    shutil.copyfile(image, disk)
    machine = Machine(Specification("golden", firmware, "52:54:00:b0:07:ff", disk, "GOLDEN"), tmp_path)
    machine.power_on()
    try:
        machine.wait_for(rf"{golden_root.HOST} login:", 90, "login")
        machine.type(f"{golden_root.USER}\n")
        machine.wait_for("Password:", 20, "password")
        machine.type(f"{golden_root.PASSWORD}\n")
        machine.wait_for(r"# \Z", 20, "shell")
        said = machine.run("uname -r; sha256sum -c /srv/payload.sha256; ls /sys/firmware", 60, "payload")
        assert "/srv/payload: OK" in said
        assert ("efi" in said.split()) is (firmware is Firmware.UEFI)
    finally:
        machine.kill()
    assert first_difference(image, disk, image.stat().st_size) is None
