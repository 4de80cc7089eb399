"""Judging disks from recorded lsblk output (util-linux 2.38) and sysfs trees as the kernel lays them out."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bootd.wire.saved import TABLE_REGION, table_regions
from stage2.inventory import (
    Facts,
    disks_of,
    normal_wwn,
    parse_serial_page,
    read_facts,
    table_digest,
)

# `lsblk --json --bytes --output NAME,KNAME,TYPE,SIZE,RO,RM,MOUNTPOINTS,FSTYPE,TRAN,MODEL,LOG-SEC`, a device of each
# kind.
RECORDED = """
{"blockdevices": [
 {"name":"loop0","kname":"loop0","type":"loop","size":40734720,"ro":true,"rm":false,
  "mountpoints":["/run/bootd/lower"],"fstype":"squashfs","tran":null,"model":null,"log-sec":512},
 {"name":"sda","kname":"sda","type":"disk","size":480103981056,"ro":false,"rm":false,"mountpoints":[null],
  "fstype":null,"tran":"sata","model":"SAMSUNG MZ7LH480","log-sec":512,"children":[
   {"name":"sda1","kname":"sda1","type":"part","size":536870912,"ro":false,"rm":false,"mountpoints":[null],
    "fstype":"vfat","tran":null,"model":null,"log-sec":512},
   {"name":"sda2","kname":"sda2","type":"part","size":479565012992,"ro":false,"rm":false,"mountpoints":[null],
    "fstype":"LVM2_member","tran":null,"model":null,"log-sec":512}]},
 {"name":"sdb","kname":"sdb","type":"disk","size":480103981056,"ro":false,"rm":false,"mountpoints":[null],
  "fstype":null,"tran":"sata","model":"SAMSUNG MZ7LH480","log-sec":512,"children":[
   {"name":"sdb1","kname":"sdb1","type":"part","size":480102000000,"ro":false,"rm":false,"mountpoints":[null],
    "fstype":"linux_raid_member","tran":null,"model":null,"log-sec":512}]},
 {"name":"sdc","kname":"sdc","type":"disk","size":31457280000,"ro":false,"rm":true,"mountpoints":[null],
  "fstype":null,"tran":"usb","model":"Cruzer Blade","log-sec":512},
 {"name":"sdd","kname":"sdd","type":"disk","size":64023257088,"ro":false,"rm":true,"mountpoints":[null],
  "fstype":null,"tran":"sata","model":"SATADOM","log-sec":512},
 {"name":"sde","kname":"sde","type":"disk","size":64023257088,"ro":true,"rm":false,"mountpoints":[null],
  "fstype":null,"tran":"sas","model":"locked","log-sec":512},
 {"name":"sdf","kname":"sdf","type":"disk","size":64023257088,"ro":false,"rm":false,"mountpoints":[null],
  "fstype":null,"tran":"iscsi","model":"VIRTUAL-DISK","log-sec":512},
 {"name":"sdg","kname":"sdg","type":"disk","size":64023257088,"ro":false,"rm":false,"mountpoints":[null],
  "fstype":null,"tran":"sas","model":"x","log-sec":512,"children":[
   {"name":"sdg1","kname":"sdg1","type":"part","size":64022208512,"ro":false,"rm":false,"mountpoints":[null],
    "fstype":"LVM2_member","tran":null,"model":null,"log-sec":512,"children":[
     {"name":"vg-root","kname":"dm-0","type":"lvm","size":64000000000,"ro":false,"rm":false,
      "mountpoints":[null],"fstype":"ext4","tran":null,"model":null,"log-sec":512}]}]},
 {"name":"sdh","kname":"sdh","type":"disk","size":64023257088,"ro":false,"rm":false,"mountpoints":[null],
  "fstype":null,"tran":"sas","model":"x","log-sec":512,"children":[
   {"name":"sdh1","kname":"sdh1","type":"part","size":64022208512,"ro":false,"rm":false,
    "mountpoints":["/mnt"],"fstype":"ext4","tran":null,"model":null,"log-sec":512}]},
 {"name":"sdi","kname":"sdi","type":"disk","size":64023257088,"ro":false,"rm":false,"mountpoints":["[SWAP]"],
  "fstype":"swap","tran":"sas","model":"x","log-sec":512},
 {"name":"sr0","kname":"sr0","type":"rom","size":1073741312,"ro":false,"rm":true,"mountpoints":[null],
  "fstype":null,"tran":"sata","model":"QEMU DVD-ROM","log-sec":512},
 {"name":"zram0","kname":"zram0","type":"disk","size":1073741824,"ro":false,"rm":false,"mountpoints":[null],
  "fstype":null,"tran":null,"model":null,"log-sec":4096},
 {"name":"nvme0n1","kname":"nvme0n1","type":"disk","size":1000204886016,"ro":false,"rm":false,
  "mountpoints":[null],"fstype":null,"tran":"nvme","model":"WD_BLACK","log-sec":4096},
 {"name":"vda","kname":"vda","type":"disk","size":134217728,"ro":false,"rm":false,"mountpoints":[null],
  "fstype":null,"tran":"virtio","model":null,"log-sec":512}
]}
"""
LSBLK: dict[str, Any] = json.loads(RECORDED)
NAMES = [device["kname"] for device in LSBLK["blockdevices"]]
READABLE = {name: Facts(serial=f"S-{name}", table_digest="d" * 64) for name in NAMES}


def test_recorded_machine() -> None:
    found = {disk.name: disk.excluded for disk in disks_of(LSBLK, READABLE)}
    assert found == {
        "loop0": "loop device",
        "sda": "",  # LVM that nobody has activated is what an old installation looks like
        "sdb": "raid member",
        "sdc": "usb",
        "sdd": "removable",
        "sde": "read-only",
        "sdf": "network",
        "sdg": "LVM in use",
        "sdh": "mounted at /mnt",
        "sdi": "used as swap",
        "sr0": "optical drive",
        "zram0": "zram",
        "nvme0n1": "",
        "vda": "",
    }


def test_facts_arrive() -> None:
    disks = {disk.name: disk for disk in disks_of(LSBLK, READABLE)}
    disk = disks["nvme0n1"]
    assert (disk.size, disk.sector, disk.serial, disk.transport) == (1000204886016, 4096, "S-nvme0n1", "nvme")
    assert disk.table_digest == "d" * 64


def test_a_disk_that_cannot_be_read_is_no_target() -> None:
    facts = {**READABLE, "vda": Facts(trouble="unreadable: Input/output error")}
    disks = {disk.name: disk for disk in disks_of(LSBLK, facts)}
    assert disks["vda"].excluded == "unreadable: Input/output error"
    without = {disk.name: disk for disk in disks_of(LSBLK, {})}
    assert without["vda"].excluded == "unreadable"


def test_two_paths_to_one_medium() -> None:
    facts = {
        **READABLE,
        "vda": Facts("A", "0x5000c500", table_digest="d"),
        "sda": Facts("A", "0x5000c500", "", "", "d"),
    }
    disks = {disk.name: disk.excluded for disk in disks_of(LSBLK, facts)}
    assert disks["sda"] == "multipath: same WWN as vda"
    assert disks["vda"] == "multipath: same WWN as sda"


def test_empty_card_reader() -> None:
    device = {
        "name": "sdz",
        "kname": "sdz",
        "type": "disk",
        "size": 0,
        "ro": False,
        "rm": False,
        "mountpoints": [None],
    }
    (disk,) = disks_of({"blockdevices": [device]}, {})
    assert disk.excluded == "no medium"


@pytest.mark.parametrize(
    ("page", "serial"),
    [
        (b"\x00\x80\x00\x08  QM0001", "QM0001"),
        (b"\x00\x80\x00\x14S3YJNX0M\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "S3YJNX0M"),
        (b"\x00\x83\x00\x04ABCD", ""),
        (b"\x00\x80", ""),
        (b"", ""),
    ],
)
def test_serial_page(page: bytes, serial: str) -> None:
    assert parse_serial_page(page) == serial


@pytest.mark.parametrize(
    ("text", "wwn"),
    [
        ("naa.5002538e40a1b2c3", "0x5002538e40a1b2c3"),
        ("eui.0025385b71b00ed4", "eui.0025385b71b00ed4"),
        ("t10.ATA     QEMU HARDDISK    QM00001", ""),
        ("nvme.1b36-64656164-51454d55-00000001", ""),
        ("", ""),
    ],
)
def test_wwn(text: str, wwn: str) -> None:
    assert normal_wwn(text) == wwn


def test_identity_from_sysfs(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name, files in {
        "vda": {"serial": b"DISK0"},  # the kernel writes no newline there
        "sda": {
            "device/vpd_pg80": b"\x00\x80\x00\x06QM0001",
            "device/wwid": b"naa.5000c500\n",
            "device/model": b"Q  D \n",
        },
        "nvme0n1": {"device/serial": b"NV1   \n", "wwid": b"eui.0011\n", "device/transport": b"pcie\n"},
        "mmcblk0": {"device/serial": b"0xdeadbeef\n"},
    }.items():
        for path, content in files.items():
            place = tmp_path / "sys/block" / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        (tmp_path / "dev" / name).write_bytes(name.encode().ljust(4096, b"\0"))

    def facts(name: str) -> Facts:
        return read_facts(name, 4096, str(tmp_path / "sys"), str(tmp_path / "dev"))

    assert facts("vda").serial == "DISK0"
    assert (facts("sda").serial, facts("sda").wwn, facts("sda").model) == ("QM0001", "0x5000c500", "Q D")
    assert (facts("nvme0n1").serial, facts("nvme0n1").wwn, facts("nvme0n1").transport) == (
        "NV1",
        "eui.0011",
        "nvme",
    )
    assert (facts("mmcblk0").serial, facts("mmcblk0").transport) == ("0xdeadbeef", "mmc")
    assert len({facts(name).table_digest for name in ("vda", "sda", "nvme0n1", "mmcblk0")}) == 4
    gone = read_facts("sdx", 4096, str(tmp_path / "sys"), str(tmp_path / "dev"))
    assert gone.table_digest == ""
    assert gone.trouble.startswith("unreadable: ")


@pytest.mark.parametrize("size", [512, 2 * TABLE_REGION, 5 * TABLE_REGION + 512])
def test_table_digest_covers_both_ends_and_the_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "disk"
    content = bytearray(number % 251 for number in range(size))

    def digest(data: bytes | bytearray, claimed: int = size) -> str:
        path.write_bytes(data)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return table_digest(descriptor, claimed)
        finally:
            os.close(descriptor)

    before = digest(content)
    assert digest(content) == before
    for place in (0, 446, 510, size - 512, size - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        assert digest(changed) != before, place
    if size > 2 * TABLE_REGION:
        changed = bytearray(content)
        changed[size // 2] ^= 1
        assert digest(changed) == before, "a file system at work is no change of the table"
        assert digest(content, size - 512) != before
    with pytest.raises(OSError, match="ends at byte"):
        digest(content[: size - 1])


def test_regions_never_overlap() -> None:
    assert table_regions(TABLE_REGION) == [(0, TABLE_REGION)]
    assert table_regions(3 * TABLE_REGION) == [(0, TABLE_REGION), (2 * TABLE_REGION, TABLE_REGION)]
