"""A golden Debian unpacked onto loop devices, as the files method leaves it: partitioned, formatted, mounted."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stage2.made import SWAP, Filesystem, Made
from tests.lab import debian_tree
from tests.netns.room import until
from tests.netns.volumes import disk, run

MIB = 1 << 20
SIZE = 2600 * MIB
SCRIPTS = {
    "dos": "label: dos\nsize=256MiB, type=82\ntype=83\n",
    "gpt": "label: gpt\nsize=128MiB, type=uefi\nsize=256MiB, type=swap\nsize=256MiB, type=home\ntype=linux\n",
}
# Partition number, kind, mount point.
PLACES: dict[str, Sequence[tuple[int, str, str]]] = {
    "dos": ((1, SWAP, ""), (2, "ext4", "/")),
    "gpt": ((1, "vfat", "/boot/efi"), (2, SWAP, ""), (3, "ext4", "/home"), (4, "ext4", "/")),
}
_MAKE = {
    SWAP: ("mkswap", "-q"),
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1"),
    "vfat": ("mkfs.vfat", "-F32"),
}


@contextmanager
def prepared(path: Path, table: str, root: Path, tree: Path) -> Iterator[Made]:
    """A disk with this table, its file systems mounted below ``root`` and the golden tree in them."""
    with path.open("wb") as stream:
        stream.truncate(SIZE)
    subprocess.run(["sfdisk", "--quiet", str(path)], input=SCRIPTS[table].encode(), check=True)
    with disk(path) as device, ExitStack() as stack:
        made = Made((device,), table, tuple(_make(device, *place) for place in PLACES[table]))
        if table == "gpt":
            made = Made(made.disks, table, made.filesystems, esp=f"{device}p1")
        root.mkdir()
        for one in made.mounted:
            stack.enter_context(_mounted(one, root / one.mount.lstrip("/")))
            if one.mount == "/":
                debian_tree.copy(tree, root)
        yield made


def _make(device: str, number: int, kind: str, mount: str) -> Filesystem:
    part = f"{device}p{number}"
    run(*_MAKE[kind], part)
    uuid = run("blkid", "--probe", "-o", "value", "-s", "UUID", part).decode().strip()
    return Filesystem(part, kind, uuid, "", mount)


@contextmanager
def _mounted(one: Filesystem, folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    if one.kind == "vfat" and not knows_vfat():
        # The same file system by another program, where the kernel has none: grub-install reads the device itself.
        if shutil.which("fusefat") is None:
            pytest.skip("this kernel has no vfat, and there is no fusefat")
        run("fusefat", "-o", f"rw+,fsname={one.device}", one.device, folder)
    else:
        run("mount", "-t", one.kind, one.device, folder)
    try:
        yield
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    """Somebody may look at it for a moment (udev, a shell): again, for a while."""
    words = ["umount", str(folder)]
    until(
        lambda: not subprocess.run(words, capture_output=True, check=False).returncode, 10, f"{folder} is unmounted"
    )


def knows_vfat() -> bool:
    subprocess.run(["modprobe", "vfat"], capture_output=True, check=False)
    return any(line.split()[-1:] == ["vfat"] for line in Path("/proc/filesystems").read_text().splitlines())
