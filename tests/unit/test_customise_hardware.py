"""Drivers from sysfs: a tree as the kernel shows it for a disk behind a controller behind a bridge."""

from pathlib import Path

from stage2.customise.hardware import drivers_in_use, firmware


def _device(top: Path, path: str, driver: str, module: str = "") -> Path:
    """A device with a driver, which belongs to a module or is built in."""
    device = top / "devices" / path
    device.mkdir(parents=True, exist_ok=True)
    bus = top / "bus/any/drivers" / driver
    bus.mkdir(parents=True, exist_ok=True)
    (device / "driver").symlink_to(bus)
    if module:
        (top / "module" / module).mkdir(parents=True, exist_ok=True)
        if not (bus / "module").exists():
            (bus / "module").symlink_to(top / "module" / module)
    return device


def test_every_driver_from_the_disk_and_the_card_up_to_the_bus(tmp_path: Path) -> None:
    """QEMU's q35 with AHCI and e1000e: modules are called other than their drivers (sd is in sd_mod)."""
    bridge = "pci0000:00/0000:00:1c.0"
    _device(tmp_path, bridge, "pcieport")  # built in
    _device(tmp_path, f"{bridge}/0000:01:00.0", "ahci", "ahci")
    scsi = _device(tmp_path, f"{bridge}/0000:01:00.0/ata1/host0/target0:0:0/0:0:0:0", "sd", "sd_mod")
    card = _device(tmp_path, "pci0000:00/0000:00:02.0", "e1000e", "e1000e")
    _device(tmp_path, "pci0000:00/0000:00:03.0", "snd_hda_intel", "snd_hda_intel")  # sound starts no machine
    for kind, name, device in (("block", "sda", scsi), ("class/net", "eth0", card)):
        (tmp_path / kind / name).mkdir(parents=True)
        (tmp_path / kind / name / "device").symlink_to(device)
    (tmp_path / "class/net/lo").mkdir()
    (tmp_path / "block/loop0").mkdir()
    assert drivers_in_use(str(tmp_path)) == ("ahci", "e1000e", "sd_mod")


def test_a_machine_without_sysfs_has_none(tmp_path: Path) -> None:
    assert drivers_in_use(str(tmp_path / "nothing")) == ()


def test_firmware(tmp_path: Path) -> None:
    assert firmware(str(tmp_path)) == "bios"
    (tmp_path / "firmware/efi").mkdir(parents=True)
    assert firmware(str(tmp_path)) == "uefi"
