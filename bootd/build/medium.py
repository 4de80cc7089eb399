"""A medium that starts stage1 without the network: a USB stick, or a rescue partition on a node's own disk.

For machines whose firmware cannot boot from the network, as the service Linux on disk or floppy was. What is on it
asks for its words as under HTTP Boot (docs/decisions/0007-uki-asks-for-its-words.md), so it is the same for every
node and never out of date: stage2 comes from the server.
"""

import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

from bootd.build.cache import Cache
from bootd.build.debian import run, unpack
from bootd.errors import Exit, OperatorError

Progress = Callable[[str], None]

SECTOR = 512
MIB = 1 << 20
PACKAGE = "grub-pc-bin"
LABEL = "BOOTD"
VOLUME = "B007D0E5"
FILES = {"stage1/uki-x64.efi": "EFI/BOOT/BOOTX64.EFI", "stage1/vmlinuz": "vmlinuz", "stage1/initrd.img": "initrd.img"}
_MODULES = ("biosdisk", "part_gpt", "fat", "search_fs_uuid", "linux", "boot", "minicmd", "echo")
_BIOS_PART, _FAT_PART = MIB, 2 * MIB  # where they begin; GPT's second copy takes the last mebibyte
# grub-core/boot/i386/pc/boot.S and diskboot.S: where grub-install writes what depends on the disk.
_KERNEL_SECTOR = 0x5C  # boot.img: u64, first sector of the core image
_DRIVE_CHECK = 0x66  # boot.img: a jump that becomes two no-operations
_BOOT_CODE_END = 0x1B8  # the disk's signature and table follow
_BLOCK_LIST = SECTOR - 12  # the core's first sector: u64 start, u16 length


def build(boot_dir: Path, out: Path, cache: Path, console: str, progress: Progress, *, partition: bool) -> None:
    """Write ``out``, a file that is not there yet: a disk for BIOS and UEFI, or with ``partition`` its FAT file
    system alone. `OperatorError`."""
    for name in FILES:
        if not (boot_dir / name).is_file():
            raise OperatorError(f"{boot_dir / name} is not there", "bootd stage build", Exit.INPUT)
    if os.path.lexists(out):
        hint = "name a new file; copy it to its device by hand, when you are sure which that is"
        raise OperatorError(f"{out} is there already", hint, Exit.REFUSED)
    with tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=".bootd-medium-") as folder:
        work = Path(folder)
        progress("medium: file system")
        made = file_system(boot_dir, work)
        if not partition:
            progress("medium: GRUB and partition table")
            made = disk(made, work, unpack([PACKAGE], Cache(cache)) / "usr/lib/grub/i386-pc", console)
        made.rename(out)


def file_system(boot_dir: Path, work: Path) -> Path:
    """FAT with `FILES`, a quarter of it free."""
    image = work / "fat"
    size = sum((boot_dir / name).stat().st_size for name in FILES) * 4 // 3
    blocks = max(40 * MIB, -(-size // MIB) * MIB) // 1024  # smaller is no FAT32, which UEFI wants on disks
    command = ["mkfs.vfat", "-F", "32", "-s", "1", "-i", VOLUME, "-n", LABEL, "-C", str(image), str(blocks)]
    run(command, package="dosfstools")
    run(["mmd", "-i", str(image), "::/EFI", "::/EFI/BOOT"], package="mtools")
    for name, place in FILES.items():
        run(["mcopy", "-i", str(image), str(boot_dir / name), f"::/{place}"], package="mtools")
    return image


def disk(fat: Path, work: Path, library: Path, console: str) -> Path:
    """A disk with GRUB for BIOS, and ``fat``, from which UEFI starts by itself."""
    image, size = work / "disk", fat.stat().st_size
    with image.open("wb") as stream:
        stream.truncate(_FAT_PART + size + MIB)
    table = [
        "label: gpt",
        f"start={_BIOS_PART // SECTOR}, size={MIB // SECTOR}, type=21686148-6449-6E6F-744E-656564454649",
        f"start={_FAT_PART // SECTOR}, size={size // SECTOR}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name={LABEL}",
    ]
    run(["sfdisk", "--quiet", str(image)], package="fdisk", data="\n".join(table).encode() + b"\n")
    boot, core = (library / "boot.img").read_bytes(), core_image(work, library, console)
    sectors = -(-len(core) // SECTOR)
    if len(boot) != SECTOR or sectors > MIB // SECTOR:
        raise OperatorError(f"GRUB's images have {len(boot)} and {len(core)} bytes", "report this")
    struct.pack_into("<QH", core, _BLOCK_LIST, _BIOS_PART // SECTOR + 1, sectors - 1)
    code = bytearray(boot[:_BOOT_CODE_END])
    struct.pack_into("<Q", code, _KERNEL_SECTOR, _BIOS_PART // SECTOR)
    code[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"
    with image.open("r+b") as stream:
        stream.write(code)
        stream.seek(_BIOS_PART)
        stream.write(core)
    run(
        [
            *("dd", f"if={fat}", f"of={image}", "bs=1M", f"seek={_FAT_PART // MIB}"),
            *("conv=notrunc,sparse", "status=none"),
        ],
        package="coreutils",
    )
    return image


def core_image(work: Path, library: Path, console: str) -> bytearray:
    """GRUB with its only instructions inside."""
    volume = f"{VOLUME[:4]}-{VOLUME[4:]}"
    script = work / "grub.cfg"
    lines = [f"search.fs_uuid {volume} root", "echo bootd: starting stage1"]
    lines += [f"linux /vmlinuz bootd.ask {console}".strip(), "initrd /initrd.img", "boot"]
    script.write_text("\n".join(lines) + "\n")
    command = ["grub-mkimage", "-O", "i386-pc", "-d", str(library), "-p", "/grub", "-c", str(script)]
    run([*command, "-o", str(work / "core"), *_MODULES], package="grub-common")
    return bytearray((work / "core").read_bytes())
