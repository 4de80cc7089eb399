"""GRUB for the golden disk: images from grub-mkimage, and their place on a BIOS disk.

`grub-install` needs a block device with partitions that the kernel knows; here the disk is a plain file, so
the two block lists that it would write are written here. Offsets are those of GRUB 2's
`grub-core/boot/i386/pc/{boot,diskboot}.S` and `include/grub/i386/pc/boot.h`.
"""

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.lab.errors import LabError

SECTOR = 512
GRUB_LIBRARY = Path("/usr/lib/grub")
TARGETS = {"i386-pc": "grub-pc-bin", "x86_64-efi": "grub-efi-amd64-bin"}  # and the package of each

_KERNEL_SECTOR = 0x5C  # boot.img: 64-bit LBA of the first sector of the core image
_DRIVE_CHECK = 0x66  # boot.img: a jump that grub-install replaces with two no-operations on hard disks
_BOOT_CODE_END = 0x1B8  # disk signature and partition table follow: they belong to the disk
_BLOCK_LIST = SECTOR - 12  # diskboot.img, the core's first sector: u64 start, u16 length, u16 segment

_COMMON = ("part_gpt", "ext2", "search_fs_uuid", "linux", "boot", "minicmd")
_BIOS_MODULES = (*_COMMON, "biosdisk", "part_msdos")
_EFI_MODULES = (*_COMMON, "fat", "part_msdos")


def check_installed() -> None:
    """`LabError` names the package that is missing."""
    for target, package in TARGETS.items():
        if not (GRUB_LIBRARY / target / "kernel.img").exists():
            raise LabError("golden disk", "GRUB", f"{GRUB_LIBRARY / target} is missing: install {package}")


def bios_images(work: Path, configuration: Path, root: str) -> tuple[bytes, bytes]:
    """(boot code for sector 0, core image), without their block lists. ``root``: partition, as GRUB names it."""
    core = work / "core.img"
    _mkimage("i386-pc", core, configuration, _BIOS_MODULES, f"({root})/boot/grub")
    return (GRUB_LIBRARY / "i386-pc/boot.img").read_bytes(), core.read_bytes()


def efi_image(work: Path, configuration: Path) -> Path:
    r"""A loader for ``\EFI\BOOT\BOOTX64.EFI`` with ``configuration`` inside."""
    loader = work / "BOOTX64.EFI"
    _mkimage("x86_64-efi", loader, configuration, _EFI_MODULES, "/boot/grub")
    return loader


def place_on_disk(sector0: bytes, boot: bytes, core: bytes, first: int, sectors: int) -> tuple[bytes, bytes]:
    """Sector 0 with the boot code, and the core image as it must stand from LBA ``first`` on.

    ``sector0`` is the disk's present first sector: its partition table is kept. ``sectors`` is the size of its
    place (the BIOS boot partition, or the gap before the first one): more is a `LabError`.
    """
    if len(sector0) != SECTOR or len(boot) != SECTOR or len(core) < 2 * SECTOR:
        raise LabError("golden disk", "GRUB", f"images of {len(boot)} and {len(core)} bytes")
    needed = -(-len(core) // SECTOR)
    if needed > sectors:
        raise LabError("golden disk", "GRUB", f"core image needs {needed} sectors, there is room for {sectors}")
    code = bytearray(boot[:_BOOT_CODE_END])
    struct.pack_into("<Q", code, _KERNEL_SECTOR, first)
    code[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"
    body = bytearray(core)
    struct.pack_into("<QH", body, _BLOCK_LIST, first + 1, needed - 1)
    return bytes(code) + sector0[_BOOT_CODE_END:], bytes(body)


def _mkimage(target: str, out: Path, configuration: Path, modules: Sequence[str], prefix: str) -> None:
    library = GRUB_LIBRARY / target
    command = ["grub-mkimage", "-O", target, "-d", str(library), "-p", prefix, "-c", str(configuration)]
    done = subprocess.run([*command, "-o", str(out), *modules], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise LabError("golden disk", "grub-mkimage", done.stderr.strip()[-400:])
