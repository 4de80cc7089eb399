"""The golden disk: a small raw disk image that boots to a login prompt on BIOS and on UEFI.

GPT with three partitions: BIOS boot (GRUB's core image), EFI system (FAT16) and an ext4 root. File systems are
made as files of their own and copied to their offsets, because not every kernel parses partitions on loop
devices.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bootd.build.cache import Cache, digest_of
from bootd.build.modules import kernel_image, kernel_tree, kernel_version
from tests.lab import golden_root, grub
from tests.lab.errors import LabError

MIB = 1 << 20
SECTOR = grub.SECTOR
DEFAULT_SIZE = 64 * MIB
DEFAULT_PAYLOAD = 24 * MIB
ROOT_UUID = "6d9f7a52-0d0c-4f7f-9f42-b007d0000001"

_DISK_GUID = "6D9F7A52-0D0C-4F7F-9F42-B007D0000000"
_PARTITION_GUID = "6D9F7A52-0D0C-4F7F-9F42-B007D00000%02X"
_BIOS_BOOT = (1 * MIB, 1 * MIB)  # offset, size
_ESP = (2 * MIB, 6 * MIB)
ROOT_OFFSET = 8 * MIB
TAIL = MIB  # room for the backup table
_TYPES = (
    ("bios", "21686148-6449-6E6F-744E-656564454649"),
    ("esp", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
    ("root", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
)
_ROOT = "hd0,gpt3"
COMMAND_LINE = f"root=UUID={ROOT_UUID} ro console=ttyS0,115200 quiet loglevel=3 panic=10"

# GRUB's rescue parser runs this before any other module is needed: no menu, no time-out.
_BIOS_CONFIGURATION = f"""\
search.fs_uuid {ROOT_UUID} root {_ROOT}
linux /boot/vmlinuz {COMMAND_LINE}
initrd /boot/initrd.img
boot
"""
_EFI_CONFIGURATION = _BIOS_CONFIGURATION


def build(
    path: Path,
    cache: Path,
    *,
    size: int = DEFAULT_SIZE,
    payload: int = DEFAULT_PAYLOAD,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Write the golden disk to ``path`` (``size`` bytes), from ``cache`` when the same was built before.

    ``payload`` bytes of it are incompressible. The kernel is Debian's newest, as the stages have it.
    """
    if size % MIB or size < ROOT_OFFSET + payload + 24 * MIB:
        raise LabError("golden disk", "size", f"{size} bytes are too few for {payload} bytes of payload")
    grub.check_installed()
    store = Cache(cache)
    kernel = kernel_tree(store)

    def make(target: Path) -> None:
        progress("building the golden disk")
        _make(target, kernel, size, payload)

    image = store.get("golden", _key(kernel, size, payload), make)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    _run("copy", ["cp", "--sparse=always", str(image), str(path)])


def _make(target: Path, kernel: Path, size: int, payload: int) -> None:
    with tempfile.TemporaryDirectory(prefix="golden-") as work:
        _assemble(Path(work), kernel, size, payload)
        shutil.copyfile(Path(work) / "disk.raw", target)


def _assemble(work: Path, kernel: Path, size: int, payload: int) -> None:
    disk, version = work / "disk.raw", kernel_version(kernel)
    root_size = size - ROOT_OFFSET - TAIL
    with disk.open("wb") as file:
        file.truncate(size)
    _partition(disk, root_size)

    initrd = golden_root.make_initrd(kernel, version)
    tree = work / "root"
    golden_root.make_root(tree, kernel, version, initrd, payload)
    root = work / "root.ext4"
    options = ["-U", ROOT_UUID, "-L", "golden-root", "-m", "0", "-O", "^orphan_file,^metadata_csum_seed"]
    options += ["-E", f"hash_seed={ROOT_UUID},lazy_itable_init=0,root_owner=0:0"]
    _run("mke2fs", ["mke2fs", "-q", "-t", "ext4", "-d", str(tree), *options, str(root), f"{root_size // 1024}k"])
    bios, efi = work / "bios.cfg", work / "efi.cfg"
    bios.write_text(_BIOS_CONFIGURATION)
    efi.write_text(_EFI_CONFIGURATION)
    esp = _esp(work, grub.efi_image(work, efi))
    boot, core = grub.bios_images(work, bios, _ROOT)
    with disk.open("r+b") as file:
        sector0 = file.read(SECTOR)
        first = _BIOS_BOOT[0] // SECTOR
        sector0, core = grub.place_on_disk(sector0, boot, core, first, _BIOS_BOOT[1] // SECTOR)
        for offset, data in ((0, sector0), (_BIOS_BOOT[0], core)):
            file.seek(offset)
            file.write(data)
        for offset, image in ((_ESP[0], esp), (ROOT_OFFSET, root)):
            file.seek(offset)
            with image.open("rb") as source:
                shutil.copyfileobj(source, file, MIB)


def _partition(disk: Path, root_size: int) -> None:
    places = (_BIOS_BOOT, _ESP, (ROOT_OFFSET, root_size))
    lines = ["label: gpt", f"label-id: {_DISK_GUID}"]
    for number, ((offset, length), (name, kind)) in enumerate(zip(places, _TYPES, strict=True), start=1):
        guid = _PARTITION_GUID % number
        lines.append(f"start={offset // SECTOR}, size={length // SECTOR}, type={kind}, uuid={guid}, name={name}")
    _run("sfdisk", ["sfdisk", "--quiet", str(disk)], "\n".join(lines) + "\n")


def _esp(work: Path, loader: Path) -> Path:
    image = work / "esp.fat"
    command = ["mkfs.vfat", "--invariant", "-F", "16", "-s", "1", "-i", "B007D001", "-n", "GOLDEN-ESP"]
    _run("mkfs.vfat", [*command, "-C", str(image), str(_ESP[1] // 1024)])
    os.utime(loader, (315619200, 315619200))  # 1980-01-02: FAT knows no earlier year
    _run("mmd", ["mmd", "-i", str(image), "::/EFI", "::/EFI/BOOT"])
    _run("mcopy", ["mcopy", "-m", "-i", str(image), str(loader), "::/EFI/BOOT/BOOTX64.EFI"])
    return image


def _key(kernel: Path, size: int, payload: int) -> str:
    """Digest of everything that the disk is made of."""
    sources = [Path(module.__file__ or "") for module in (golden_root, grub)]
    parts: list[str | Path] = [f"{size} {payload}", Path(__file__), *sources, kernel_image(kernel)]
    parts.append(golden_root.busybox())
    parts += [grub.GRUB_LIBRARY / target / "kernel.img" for target in grub.TARGETS]
    return digest_of(*parts)


def _run(step: str, command: Sequence[str], text: str | None = None) -> None:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        raise LabError("golden disk", step, f"{command[0]} is not installed") from None
    if done.returncode:
        raise LabError("golden disk", step, (done.stderr or done.stdout).strip()[-400:])
