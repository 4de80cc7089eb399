"""Hardware from sysfs trees as the kernel lays them out, and from this machine as lscpu and ip see it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from bootd.wire.control import Hardware, Nic
from stage2.hardware import read_hardware
from stage2.node import Node, join_of

# Files of /sys/class/dmi/id of a Dell desktop, serials made up.
SMBIOS = {
    "sys_vendor": "Dell Inc.",
    "product_name": "OptiPlex 7040",
    "product_serial": "1AB2CD3",
    "product_uuid": "4C4C4544-0041-4210-8032-B1C04F434433",
    "board_vendor": "Dell Inc.",
    "board_name": "0Y7WYT",
    "board_serial": "/1AB2CD3/CNWS20066P00AB/",
    "chassis_serial": "1AB2CD3",
    "chassis_asset_tag": " ",
    "bios_vendor": "Dell Inc.",
    "bios_version": "1.18.0",
    "bios_date": "07/12/2020",
}


def nic(root: Path, name: str, bus: str, driver: str, **files: str) -> None:
    """A network card below ``root``; a driver that is "" has no device behind it."""
    folder = root / "class/net" / name
    folder.mkdir(parents=True)
    for key, text in {"type": "1", **files}.items():
        (folder / key).write_text(text + "\n")
    if driver:
        device = root / "devices" / bus / name
        device.mkdir(parents=True)
        for link, target in (("driver", f"bus/{bus}/drivers/{driver}"), ("subsystem", f"bus/{bus}")):
            (root / target).mkdir(parents=True, exist_ok=True)
            (device / link).symlink_to(root / target)
        (folder / "device").symlink_to(device)


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """A machine with one socket, two cores with two threads each, and cards of all kinds."""
    system, processes = tmp_path / "sys", tmp_path / "proc"
    identity = system / "class/dmi/id"
    identity.mkdir(parents=True)
    for name, text in SMBIOS.items():
        (identity / name).write_text(text + "\n")
    for number in range(4):
        topology = system / f"devices/system/cpu/cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{number % 2}\n")
        (topology / "core_cpus_list").write_text(f"{number % 2},{number % 2 + 2}\n")
    (system / "devices/system/cpu/cpu4").mkdir()  # switched off: no topology
    (system / "devices/system/cpu/cpufreq").mkdir()
    nic(system, "eno1", "pci", "e1000e", address="64:00:6A:00:00:01", carrier="1", speed="1000")
    nic(system, "enx00e04c680001", "usb", "r8152", address="00:e0:4c:68:00:01", carrier="0", speed="-1")
    nic(system, "wwan0", "usb", "cdc_mbim", address="", type="65534")
    nic(system, "br0", "", "", address="64:00:6a:00:00:01", carrier="1")
    processes.mkdir()
    (processes / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Intel(R) Core(TM)  i5-6500 CPU @ 3.20GHz\n")
    (processes / "meminfo").write_text("MemTotal:        8046856 kB\n")
    return system, processes


def test_a_desktop(roots: tuple[Path, Path]) -> None:
    assert read_hardware(*map(str, roots)) == Hardware(
        vendor="Dell Inc.",
        product="OptiPlex 7040",
        product_serial="1AB2CD3",
        board_vendor="Dell Inc.",
        board="0Y7WYT",
        board_serial="/1AB2CD3/CNWS20066P00AB/",
        chassis_serial="1AB2CD3",
        asset_tag="",
        bios_vendor="Dell Inc.",
        bios_version="1.18.0",
        bios_date="07/12/2020",
        cpu="Intel(R) Core(TM) i5-6500 CPU @ 3.20GHz",
        sockets=1,
        cores=2,
        threads=4,
        nics=(
            Nic("eno1", "64:00:6a:00:00:01", "e1000e", "pci", 1000, True),
            Nic("enx00e04c680001", "00:e0:4c:68:00:01", "r8152", "usb", 0, False),
        ),
    )


def test_the_join_carries_it(roots: tuple[Path, Path]) -> None:
    node = Node("64:00:6a:00:00:01", "10.0.0.254:7467", "t", "ka", "", None, "eno1", "10.0.0.1", False)
    join = join_of(node, (), *map(str, roots))
    assert (join.uuid, join.memory) == ("4c4c4544-0041-4210-8032-b1c04f434433", 8046856 << 10)
    assert join.hardware.board_serial == "/1AB2CD3/CNWS20066P00AB/"


def test_a_board_with_a_device_tree(tmp_path: Path) -> None:
    tree = tmp_path / "firmware/devicetree/base"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\x00")
    (tree / "serial-number").write_bytes(b"10000000abcdef01\x00")
    found = read_hardware(str(tmp_path), str(tmp_path))
    assert (found.product, found.product_serial) == ("Raspberry Pi 4 Model B Rev 1.4", "10000000abcdef01")


def test_a_machine_that_tells_nothing_stops_nobody(tmp_path: Path) -> None:
    assert read_hardware(str(tmp_path), str(tmp_path)) == Hardware()
    noise = tmp_path / "class/dmi/id"
    noise.mkdir(parents=True)
    (noise / "product_name").write_bytes(b"\xff\x00\x1b[31m" + b"x" * 9000)
    product = read_hardware(str(tmp_path), str(tmp_path)).product
    assert product == ("[31m" + "x" * 9000)[:128]


def test_processors_as_lscpu_counts_them() -> None:
    told = json.loads(subprocess.run(["lscpu", "-J"], capture_output=True, check=True, timeout=30).stdout)
    fields: dict[str, str] = {}

    def collect(items: list[dict[str, object]]) -> None:
        for item in items:
            fields[str(item["field"])] = str(item.get("data") or "")
            collect(item.get("children", []))  # type: ignore[arg-type]

    collect(told["lscpu"])
    found = read_hardware()
    assert found.cpu == fields["Model name:"]
    assert found.sockets == int(fields["Socket(s):"])
    assert found.cores == int(fields["Socket(s):"]) * int(fields["Core(s) per socket:"])
    assert found.threads == os.cpu_count()


def test_cards_as_ip_sees_them() -> None:
    told = json.loads(
        subprocess.run(["ip", "-d", "-j", "link"], capture_output=True, check=True, timeout=30).stdout
    )
    wanted = {(item["ifname"], item["address"], item["parentbus"]) for item in told if "parentbus" in item}
    assert {(card.name, card.mac, card.bus) for card in read_hardware().nics} == wanted
