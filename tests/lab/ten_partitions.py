"""The golden system as a multi-boot machine had it: a DOS table of ten partitions, hidden and active flags, GRUB in
the gap before the first one, the system on a logical partition."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab import golden, grub
from tests.lab.errors import LabError
from tests.lab.golden import MIB, SECTOR

ROOT = 6  # number of the partition with the system
_DISK_ID = 0x6D9F7A52
_GAP = 1 * MIB // SECTOR - 1  # sectors between the table and the first partition
_SMALL = 2  # MiB of each of the others
# Type, whether it is active, what lies on it. Partition 4 is the extended one; logical ones lie a MiB apart.
_PRIMARY = (("83", True, "ext2"), ("16", False, "vfat"), ("82", False, "swap"))
_LOGICAL = (("83", "ext2"), ("83", "root"), ("1b", "vfat"), ("82", "swap"), ("7", "noise"), ("da", "noise"))


def build(path: Path, cache: Path) -> None:
    """Write the disk to ``path``; the root file system is that of `golden`."""
    with tempfile.TemporaryDirectory(prefix="golden-ten-") as folder:
        work = Path(folder)
        source = work / "golden.raw"
        golden.build(source, cache)
        _assemble(path, source, work)


def _assemble(path: Path, source: Path, work: Path) -> None:
    size = (source.stat().st_size - golden.ROOT_OFFSET - golden.TAIL) // MIB
    places, lines, at = [], [], 1
    for number, (kind, active, content) in enumerate(_PRIMARY, start=1):
        lines.append(f"{number} : start={at * MIB // SECTOR}, size={_SMALL * MIB // SECTOR}, type={kind}"
                     + (", bootable" if active else ""))  # fmt: skip
        places.append((number, content, at, _SMALL))
        at += _SMALL
    first = at
    for number, (kind, content) in enumerate(_LOGICAL, start=5):
        length = size if content == "root" else _SMALL
        at += 1
        lines.append(f"{number} : start={at * MIB // SECTOR}, size={length * MIB // SECTOR}, type={kind}")
        places.append((number, content, at, length))
        at += length
    lines.insert(3, f"4 : start={first * MIB // SECTOR}, size={(at - first) * MIB // SECTOR}, type=5")
    with path.open("wb") as file:
        file.truncate((at + 1) * MIB)
    table = "\n".join(["label: dos", f"label-id: {_DISK_ID:#x}", *lines]) + "\n"
    _run(["sfdisk", "--quiet", str(path)], table)
    configuration = work / "bios.cfg"
    root = f"hd0,msdos{ROOT}"
    configuration.write_text(
        f"search.fs_uuid {golden.ROOT_UUID} root {root}\nlinux /boot/vmlinuz {golden.COMMAND_LINE}\n"
        "initrd /boot/initrd.img\nboot\n"
    )
    boot, core = grub.bios_images(work, configuration, root)
    with path.open("r+b") as file:
        sector0, core = grub.place_on_disk(file.read(SECTOR), boot, core, 1, _GAP)
        file.seek(0)
        file.write(sector0 + core)
        for number, content, start, length in places:
            file.seek(start * MIB)
            if content == "root":
                with source.open("rb") as system:
                    system.seek(golden.ROOT_OFFSET)
                    file.write(system.read(length * MIB))
            else:
                file.write(_content(work, number, content, length * MIB))


def _content(work: Path, number: int, kind: str, size: int) -> bytes:
    if kind == "noise":
        return os.urandom(size)
    image = work / f"part{number}"
    with image.open("wb") as file:
        file.truncate(size)
    makers = {"ext2": ["mke2fs", "-q"], "vfat": ["mkfs.vfat"], "swap": ["mkswap"]}
    _run([*makers[kind], str(image)])
    return image.read_bytes()


def _run(command: Sequence[str], text: str | None = None) -> None:
    if shutil.which(command[0]) is None:
        raise LabError("golden disk", command[0], f"{command[0]} is not installed")
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise LabError("golden disk", command[0], (done.stderr or done.stdout).strip()[-400:])
