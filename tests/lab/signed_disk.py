"""A disk as Debian leaves it with Secure Boot: shim and GRUB, both signed, on the EFI system partition.

There is no system behind it: its GRUB says `MARKER`, which nothing else does.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bootd.build.cache import Cache
from bootd.build.debian import unpack
from tests.lab.errors import LabError

MIB = 1 << 20
SIZE = 16 * MIB
MARKER = "signed disk: its own GRUB runs"
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_FILES = {  # on the partition -> in Debian's packages
    "shimx64.efi": "usr/lib/shim/shimx64.efi.signed",
    "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
}


def build(path: Path, cache: Path) -> None:
    """Write the disk to ``path``, `SIZE` bytes."""
    packages = unpack(["shim-signed", "grub-efi-amd64-signed"], Cache(cache))
    partition = path.with_suffix(".esp")
    configuration = path.with_suffix(".cfg")
    configuration.write_text(f'echo "{MARKER}, lockdown=$lockdown"\nsleep 60\n')
    _run(["mkfs.vfat", "-F", "16", "-C", str(partition), str((SIZE - 2 * MIB) // 1024)])
    _run(["mmd", "-i", str(partition), "::/EFI", "::/EFI/debian"])
    for name, source in _FILES.items():
        _run(["mcopy", "-i", str(partition), str(packages / source), f"::/EFI/debian/{name}"])
    _run(["mcopy", "-i", str(partition), str(configuration), "::/EFI/debian/grub.cfg"])
    with path.open("wb") as disk:
        disk.truncate(SIZE)
    _run(["sfdisk", "--quiet", str(path)], f"label: gpt\nstart=2048, size={(SIZE - 2 * MIB) // 512}, type={_ESP}\n")
    with path.open("r+b") as disk, partition.open("rb") as source_file:
        disk.seek(MIB)
        shutil.copyfileobj(source_file, disk)


def _run(command: Sequence[str], text: str | None = None) -> None:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise LabError("signed disk", command[0], "is not installed") from None
    if done.returncode:
        raise LabError("signed disk", command[0], (done.stderr or done.stdout).strip()[-400:])
