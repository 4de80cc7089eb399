"""Layouts on loop devices: sfdisk, blkid, fsck and the kernel's mount say what was made, not our own code.

RAID and LVM are in tests/vm/test_layouts.py: the kernel of a test machine may have neither.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bootd.cli.main import cli
from bootd.drivers import layouts
from bootd.wire.control import Disk
from bootd.wire.scheme import text
from bootd.wire.scheme.desc import completed
from bootd.wire.scheme.fitting import Fitted, Misfit, fit
from bootd.wire.scheme.model import MIB, Content, Scheme
from stage2 import formatting, mounting
from stage2.gate import Target
from stage2.made import Made
from tests.netns.disks import add_partitions

GIB = 1 << 30
KA_MANUAL = "linux 3500\nextended fill\nlogical swap 500\nlogical linux fill\n"
KA_NODE42 = "swap 7993\nlinux 29996\nextended 38326\nlogical linux 38326\n"
KA_CURED = """swap 509
linux 5992
extended fill
logical linux 52281
logical linux 19375
logical linux 78167
logical linux fill
"""
UEFI = """
[[partition]]
kind = "esp"
size = "300M"
label = "EFI"
[[partition]]
size = "1G"
mount = "/"
label = "root"
[[partition]]
kind = "swap"
size = "200M"
label = "swap"
[[partition]]
filesystem = "xfs"
mount = "/home"
size = "fill"
"""
GPT_BIOS = """
table = "gpt"
[[partition]]
size = "1G"
filesystem = "btrfs"
mount = "/"
label = "a label of btrfs"
[[partition]]
size = "fill"
filesystem = "ext3"
mount = "/srv"
make = ["-m", "1", "-O", "^resize_inode"]
"""
DATA = """
table = "dos"
[[partition]]
size = "100M"
filesystem = "ext2"
mount = "/boot"
active = true
[[partition]]
kind = "type"
type = "7"
size = "64M"
[[partition]]
kind = "extended"
size = "1G"
[[partition]]
logical = true
size = "400M"
mount = "/"
[[partition]]
logical = true
kind = "swap"
size = "fill"
"""
BY_NUMBER = {
    1: Content("ext3", mount="/"),
    2: Content("ext3", mount="/"),
    5: Content("ext4", mount="/home"),
    6: Content("xfs", mount="/var", label="var"),
}


@dataclass(frozen=True)
class Case:
    """``contents``: of the source, for a desc. ``table``: number -> (start, size in MiB, type) as sfdisk says."""

    text: str
    size: int
    table: dict[int, tuple[int, int, str]]
    firmware: str = "bios"
    sector: int = 512
    has_fat: bool = False
    contents: tuple[tuple[int, Content], ...] = ()


LINUX_GPT, SWAP_GPT = "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
ESP_GPT, BIOS_GPT = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "21686148-6449-6E6F-744E-656564454649"
CASES = {
    "ka manual": Case(
        KA_MANUAL,
        6 * GIB,
        {1: (1, 3500, "83"), 2: (3501, 2643, "5"), 5: (3502, 500, "82"), 6: (4003, 2141, "83")},
        contents=((1, BY_NUMBER[1]), (6, BY_NUMBER[6])),
    ),
    "ka node42, its disk": Case(
        KA_NODE42,
        80026361856,
        {1: (1, 7993, "82"), 2: (7994, 29996, "83"), 3: (37990, 38327, "5"), 5: (37991, 38326, "83")},
        contents=((2, BY_NUMBER[2]), (5, BY_NUMBER[5])),
    ),
    "ka, the large disk of the known bug": Case(
        KA_CURED,
        320 * 10**9,
        {
            1: (1, 509, "82"),
            2: (510, 5992, "83"),
            3: (6502, 298673, "5"),
            5: (6503, 52281, "83"),
            6: (58785, 19375, "83"),
            7: (78161, 78167, "83"),
            8: (156329, 148846, "83"),
        },
        contents=((2, BY_NUMBER[2]), (8, Content("ext4", mount="/home"))),
    ),
    "gpt uefi": Case(
        UEFI,
        3 * GIB,
        {1: (1, 300, ESP_GPT), 2: (301, 1024, LINUX_GPT), 3: (1325, 200, SWAP_GPT), 4: (1525, 1546, LINUX_GPT)},
        "uefi",
        has_fat=True,
    ),
    "gpt bios": Case(GPT_BIOS, 2 * GIB, {1: (2, 1024, LINUX_GPT), 2: (1026, 1021, LINUX_GPT), 3: (1, 1, BIOS_GPT)}),
    "dos with logical ones and a foreign type": Case(
        DATA,
        2 * GIB,
        {
            1: (1, 100, "83"),
            2: (101, 64, "7"),
            3: (165, 1024, "5"),
            5: (166, 400, "83"),
            6: (567, 622, "82"),
        },
    ),
    "sectors of 4096 bytes": Case(
        UEFI,
        3 * GIB,
        {1: (1, 300, ESP_GPT), 2: (301, 1024, LINUX_GPT), 3: (1325, 200, SWAP_GPT), 4: (1525, 1546, LINUX_GPT)},
        "uefi",
        sector=4096,
        has_fat=True,
    ),
    "sectors of 4096 bytes, dos": Case(
        KA_MANUAL,
        6 * GIB,
        {1: (1, 3500, "83"), 2: (3501, 2643, "5"), 5: (3502, 500, "82"), 6: (4003, 2141, "83")},
        sector=4096,
        contents=((1, BY_NUMBER[1]), (6, BY_NUMBER[6])),
    ),
}


class Disks:
    """Loop devices over sparse files that were written on before: an old table, old signatures."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.devices: list[str] = []

    def add(self, size: int, sector: int) -> str:
        path = self._folder / f"disk{len(self.devices)}"
        with path.open("wb") as stream:
            stream.truncate(size)
        old = "label: dos\n,200M\n,200M\n,,8e\n"
        subprocess.run(["sfdisk", "--quiet", str(path)], input=old.encode(), check=True)
        with path.open("r+b") as stream:
            for place in (MIB, 101 * MIB, size - MIB):
                stream.seek(place)
                stream.write(b"OLD CONTENT " * 4096)
        command = ["losetup", "--find", "--show", f"--sector-size={sector}", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        self.devices.append(done.stdout.strip())
        add_partitions(self.devices[-1])
        return self.devices[-1]

    def close(self) -> None:
        for device in self.devices:
            subprocess.run(["partx", "--delete", device], check=False, capture_output=True)
            subprocess.run(["losetup", "--detach", device], check=False)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    made = Disks(tmp_path)
    yield made
    made.close()


def opened(device: str, size: int, sector: int = 512) -> Target:
    descriptor = os.open(device, os.O_RDWR | os.O_EXCL | os.O_DIRECT)
    disk = Disk(device.removeprefix("/dev/"), size, sector, "S1", "", "", "", False, "", "d" * 64)
    return Target(disk, descriptor, (descriptor,))


def knows_fat() -> bool:
    """Whether this kernel mounts FAT; if not, tests/vm/test_layouts.py does."""
    subprocess.run(["modprobe", "vfat"], check=False, capture_output=True)
    return "\tvfat" in Path("/proc/filesystems").read_text()


def fitted_of(case: Case) -> tuple[Scheme, Fitted]:
    scheme = completed(text.parse(case.text), dict(case.contents))
    shown = [Disk("x", case.size, case.sector, "", "", "", "", False, "", "")]
    fitted = fit(scheme, shown, case.firmware)
    assert isinstance(fitted, Fitted), fitted
    return scheme, fitted


def check_table(device: str, case: Case) -> None:
    """sfdisk reads the table that was meant; its own check finds nothing."""
    done = subprocess.run(["sfdisk", "--json", device], check=True, capture_output=True, text=True)
    table = json.loads(done.stdout[done.stdout.find("{") :])["partitiontable"]
    assert table["sectorsize"] == case.sector
    unit = MIB // case.sector
    found = {
        int(one["node"].removeprefix(device).removeprefix("p")): (
            one["start"] / unit,
            one["size"] / unit,
            one["type"],
        )
        for one in table["partitions"]
    }
    assert found == case.table
    verified = subprocess.run(["sfdisk", "--verify", device], check=True, capture_output=True, text=True)
    assert "overlap" not in verified.stdout + verified.stderr


def probe(device: str) -> dict[str, str]:
    done = subprocess.run(["blkid", "--probe", "--output", "export", device], capture_output=True, text=True)
    return dict(line.split("=", 1) for line in done.stdout.replace("\\ ", " ").splitlines() if "=" in line)


CHECKS: dict[str, Callable[[str], list[str]]] = {
    "ext2": lambda device: ["e2fsck", "-f", "-n", device],
    "ext3": lambda device: ["e2fsck", "-f", "-n", device],
    "ext4": lambda device: ["e2fsck", "-f", "-n", device],
    "xfs": lambda device: ["xfs_repair", "-n", device],
    "btrfs": lambda device: ["btrfs", "check", "--readonly", device],
    "vfat": lambda device: ["fsck.vfat", "-n", device],
}


def check_filesystems(made: Made, scheme: Scheme) -> None:
    """blkid finds each with its label and identifier, and its own checker finds nothing wrong."""
    wanted = sorted((one.filesystem, one.label, one.mount) for one in scheme.contents if one.filesystem)
    own = [one for one in made.filesystems if one.mount != "/boot/efi" or scheme.table != "auto" or one.label]
    assert sorted((one.kind, one.label, one.mount) for one in own) == wanted
    for one in made.filesystems:
        tags = probe(one.device)
        assert (tags["TYPE"], tags["UUID"], tags.get("LABEL", "")) == (one.kind, one.uuid, one.label)
        assert one.partuuid == tags.get("PART_ENTRY_UUID", "")
        if one.kind in CHECKS:
            done = subprocess.run(CHECKS[one.kind](one.device), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    assert len({one.uuid for one in made.filesystems}) == len(made.filesystems)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_layout_on_a_disk(disks: Disks, tmp_path: Path, case: Case) -> None:
    scheme, fitted = fitted_of(case)
    device = disks.add(case.size, case.sector)
    told: list[str] = []
    made = formatting.make(fitted, [opened(device, case.size, case.sector)], told.append)
    check_table(device, case)
    check_filesystems(made, scheme)
    check_described(device, scheme, made, tmp_path / "fstab")
    if not case.has_fat or knows_fat():
        check_mounted(made, tmp_path / "root")
    name = device.removeprefix("/dev/")
    assert told[0] == f"Writing partition table for {name}...OK"
    assert sum(line.startswith("Formatting ") for line in told) == len(made.filesystems)
    os.close(os.open(device, os.O_RDWR | os.O_EXCL))  # nothing holds the disk any more


def check_described(device: str, scheme: Scheme, made: Made, fstab: Path) -> None:
    """`bootd layout from-disk` tells of it what was asked for; the last partition fills."""
    lines = [
        f"UUID={one.uuid} {one.mount or 'none'} {one.kind} {one.options or 'defaults'}" for one in made.filesystems
    ]
    fstab.write_text("\n".join(lines))
    derived = layouts.of_devices([device], fstab)
    found = {one.content for one in derived.scheme.partitions if one.content.filesystem}
    asked = {replace(one, make=()) for one in scheme.contents if one.filesystem}
    assert asked <= found
    shown = [Disk("x", made_size(device), 512, "", "", "", "", False, "", "")]
    assert isinstance(fit(derived.scheme, shown, "bios"), Fitted)


def made_size(device: str) -> int:
    done = subprocess.run(["blockdev", "--getsize64", device], check=True, capture_output=True, text=True)
    return int(done.stdout)


def check_mounted(made: Made, root: Path) -> None:
    """Every file system is where it belongs, takes a file, and is gone after `unmount`."""
    told: list[str] = []
    mounting.mount(made, str(root), told.append)
    try:
        for one in made.mounted:
            place = f"{root}{one.mount}".rstrip("/")
            asked = ["findmnt", "--noheadings", "--output", "SOURCE,FSTYPE,UUID", "--mountpoint", place]
            words = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
            assert words[1:] == [one.kind, one.uuid]
            assert Path(words[0]).stat().st_rdev == Path(one.device).stat().st_rdev
            Path(place, "a file").write_text(one.mount)
    finally:
        mounting.unmount(made, str(root))
    assert not [one for one in mounting.mounted_here() if one.point.startswith(str(root))]
    assert len(told) == len(made.mounted)
    mounting.unmount(made, str(root))  # nothing is mounted: nothing to do


@pytest.mark.parametrize(
    ("written", "size", "told"),
    [
        (KA_MANUAL, 6 * GIB, KA_MANUAL),
        (KA_NODE42, 80026361856, "swap 7993\nlinux 29996\nextended fill\nlogical linux fill\n"),
        (KA_CURED, 320 * 10**9, KA_CURED),
    ],
    ids=["manual", "node42", "large"],
)
def test_a_desc_comes_back_from_the_disk_that_it_made(disks: Disks, written: str, size: int, told: str) -> None:
    """`bootd layout from-disk --form desc`: what fdisk_to_desc should have said, for large disks too."""
    device = disks.add(size, 512)
    fitted = fit(text.parse(written), [Disk("x", size, 512, "", "", "", "", False, "", "")], "bios")
    assert isinstance(fitted, Fitted)
    formatting.make(fitted, [opened(device, size)], print)
    words = ["layout", "from-disk", device, "--form", "desc"]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).output == told


def test_nothing_of_the_old_content_shows(disks: Disks) -> None:
    """A partition without a file system, where one was before, holds none; the old table's backup is gone, too."""
    device = disks.add(1 * GIB, 512)
    old = f"{device}p1"
    subprocess.run(["mkfs.ext4", "-q", "-F", old], check=True)
    fitted = fit(
        text.parse("type83 200\nlinux fill\n"), [Disk("x", GIB, 512, "", "", "", "", False, "", "")], "bios"
    )
    assert isinstance(fitted, Fitted)
    assert probe(old)["TYPE"] == "ext4"
    formatting.make(fitted, [opened(device, GIB)], print)
    assert "TYPE" not in probe(old)
    assert b"OLD CONTENT" not in Path(old).read_bytes()[: 1 * MIB]


def test_boot_code_and_none(disks: Disks) -> None:
    device = disks.add(GIB, 512)
    scheme = text.parse("linux fill\n")
    coded = Scheme(scheme.partitions, boot_code=b"\xeb\x63" + b"BOOT" * 111)
    for one, wanted in ((coded, coded.boot_code[:440]), (scheme, bytes(440))):
        fitted = fit(one, [Disk("x", GIB, 512, "", "", "", "", False, "", "")], "bios")
        assert isinstance(fitted, Fitted)
        formatting.make(fitted, [opened(device, GIB)], print)
        with Path(device).open("rb") as stream:
            start = stream.read(512)
        assert start[:440] == wanted
        assert start[510:] == b"\x55\xaa"
        assert int.from_bytes(start[440:444], "little") != 0


def test_a_disk_that_is_held_is_not_touched(disks: Disks, tmp_path: Path) -> None:
    """Between table and file systems somebody else takes a partition: an error, and the disk is let go."""
    device = disks.add(GIB, 512)
    fitted = fit(text.parse("linux fill\n"), [Disk("x", GIB, 512, "", "", "", "", False, "", "")], "bios")
    assert isinstance(fitted, Fitted)
    target = opened(device, GIB)
    with pytest.raises(formatting.FormattingError, match="for 1 disks, 2 are open"):
        formatting.make(fitted, [target, opened(disks.add(GIB, 512), GIB)], print)
    for one in disks.devices:
        os.close(os.open(one, os.O_RDWR | os.O_EXCL))


def test_mkfs_that_fails_says_why(disks: Disks) -> None:
    device = disks.add(GIB, 512)
    scheme = text.parse('[[partition]]\nsize = "fill"\nmount = "/"\nmake = ["-b", "77"]\n')
    fitted = fit(scheme, [Disk("x", GIB, 512, "", "", "", "", False, "", "")], "bios")
    assert isinstance(fitted, Fitted)
    with pytest.raises(formatting.FormattingError, match=r"mkfs.ext4 failed: .*block size"):
        formatting.make(fitted, [opened(device, GIB)], print)
    os.close(os.open(device, os.O_RDWR | os.O_EXCL))


def test_too_small_by_how_much() -> None:
    shown = Disk("x", 80026361856, 512, "", "", "", "", False, "", "")
    assert fit(text.parse(KA_CURED), [shown], "bios") == Misfit(
        "disk 0 has room for 76318 MiB, the layout needs 156329 MiB: 80011 MiB too little"
    )
