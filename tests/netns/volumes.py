"""Real file systems on loop devices, made by their own tools, filled, and made dirty for real."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

MIB = 1 << 20


@dataclass(frozen=True)
class Kind:
    """How one file system is made. ``mount``: its type for mount, "ntfs-3g", "mtools", "" = not mounted here."""

    name: str
    size: int  # MiB
    make: Sequence[str]
    mount: str
    partclone: str  # "" = none


KINDS = [
    Kind("ext2", 64, ("mkfs.ext2", "-q", "-F", "-b", "1024"), "ext2", "extfs"),
    Kind("ext3", 64, ("mkfs.ext3", "-q", "-F"), "ext3", "extfs"),
    Kind("ext4", 96, ("mkfs.ext4", "-q", "-F", "-b", "4096"), "ext4", "extfs"),
    Kind("xfs", 320, ("mkfs.xfs", "-q", "-f"), "xfs", "xfs"),
    Kind("btrfs", 192, ("mkfs.btrfs", "-q", "-f"), "btrfs", "btrfs"),
    Kind("btrfs", 256, ("mkfs.btrfs", "-q", "-f", "-d", "dup", "-m", "dup", "-n", "4096"), "btrfs", "btrfs"),
    Kind("ntfs", 64, ("mkntfs", "-q", "-F", "-f"), "ntfs-3g", "ntfs"),
    Kind("fat16", 64, ("mkfs.vfat", "-F16"), "mtools", "fat"),
    Kind("fat32", 128, ("mkfs.vfat", "-F32"), "mtools", "fat"),
    Kind("exfat", 64, ("mkfs.exfat",), "", "exfat"),
    Kind("f2fs", 128, ("mkfs.f2fs", "-q", "-f"), "", ""),
    Kind("swap", 16, ("mkswap",), "", ""),
]
BY_NAME = {kind.name: kind for kind in reversed(KINDS)}


def run(*command: object) -> bytes:
    """Standard output; `AssertionError` with what it said when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout + done.stderr!r}"
    return done.stdout


def make(kind: Kind, path: Path) -> Path:
    """An empty file system in a new file, whose free blocks hold what was there before."""
    with path.open("wb") as stream:
        for number in range(kind.size):
            stream.write((b"left over %07d " % number) * (MIB // 18) + bytes(MIB % 18))
    run(*kind.make, path)
    return path


@contextmanager
def loop(path: Path, *options: str) -> Iterator[str]:
    done = subprocess.run(["losetup", "--find", "--show", *options, str(path)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop device: {done.stderr.decode().strip()}")
    device = done.stdout.decode().strip()
    try:
        # Blocks of the file that it was attached to before may be cached still, if somebody had it open meanwhile.
        run("blockdev", "--flushbufs", device)
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)


@contextmanager
def disk(path: Path, *options: str) -> Iterator[str]:
    """A loop device with devices for its partitions, also where the kernel itself reads no tables."""
    with loop(path, *options) as device:
        # What another file had under this number may have been left behind, where its user was killed.
        subprocess.run(["partx", "--delete", device], capture_output=True, check=False)
        subprocess.run(["partx", "--add", device], capture_output=True, check=False)  # fails for those there are
        try:
            yield device
        finally:
            # Not left to the last close: somebody else on this machine may have them open, for lsblk.
            for part in sorted(Path("/dev").glob(f"{Path(device).name}p*")):
                subprocess.run(["blockdev", "--flushbufs", str(part)], capture_output=True, check=False)
            subprocess.run(["partx", "--delete", device], capture_output=True, check=False)


@contextmanager
def mounted(kind: str, device: str, folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    run(*(["ntfs-3g"] if kind == "ntfs-3g" else ["mount", "-t", kind]), device, folder)
    try:
        yield folder
    finally:
        run("umount", folder)


def write_files(folder: Path) -> dict[str, bytes]:
    """Files of all sizes, with holes between them where others were removed."""
    content = {}
    for number in range(24):
        data = bytes((number * 7 + index) % 251 for index in range(997)) * (1 + number * number)
        name = f"file{number:02}"
        (folder / name).write_bytes(data)
        content[name] = data
    for number in range(0, 24, 3):
        (folder / f"file{number:02}").unlink()
        del content[f"file{number:02}"]
    return content


def fill(kind: Kind, path: Path, folder: Path) -> dict[str, bytes]:
    """Put files into the file system; what is in them afterwards. {} for those that cannot be mounted here."""
    if kind.mount == "mtools":
        source = folder / "source"
        source.mkdir()
        content = write_files(source)
        run("mcopy", "-i", path, *(source / name for name in content), "::")
        shutil.rmtree(source)
        return content
    if not kind.mount:
        return {}
    with loop(path) as device, mounted(kind.mount, device, folder / "mount"):
        return write_files(folder / "mount")


def read_files(kind: Kind, path: Path, folder: Path) -> dict[str, bytes]:
    """All files in it."""
    target = folder / "read"
    shutil.rmtree(target, ignore_errors=True)
    if kind.mount == "mtools":
        target.mkdir()
        run("mcopy", "-n", "-i", path, "::*", target)
        return {item.name: item.read_bytes() for item in target.iterdir()}
    with loop(path) as device, mounted(kind.mount, device, folder / "mount"):
        return {item.name: item.read_bytes() for item in (folder / "mount").iterdir() if item.is_file()}


def check(kind: Kind, path: Path) -> None:
    """The file system's own checker finds nothing."""
    commands: dict[str, Sequence[str]] = {
        "ext2": ("e2fsck", "-fn"),
        "ext3": ("e2fsck", "-fn"),
        "ext4": ("e2fsck", "-fn"),
        "xfs": ("xfs_repair", "-n"),
        "btrfs": ("btrfs", "check", "--readonly", "--check-data-csum"),
        "ntfs": ("ntfsresize", "--info", "--force", "--no-progress-bar"),
        "fat16": ("fsck.fat", "-n"),
        "fat32": ("fsck.fat", "-n"),
        "exfat": ("fsck.exfat", "-n"),
        "f2fs": ("fsck.f2fs", "--dry-run"),
    }
    if kind.name in commands:
        run(*commands[kind.name], path)


def spoil(kind: str, path: Path, folder: Path) -> None:
    """Leave a file system as a crash does: copied while it is mounted and has just been written to."""
    living = folder / "living"
    shutil.copyfile(path, living)
    with loop(living) as device, mounted(kind, device, folder / "mount") as place:
        for number in range(20):
            (place / f"late{number}").write_bytes(b"late" * 5000)
        run("sync", "-f", place)
        with (place / "fsynced").open("wb", buffering=0) as stream:
            stream.write(b"x" * 40960)
            run("sync", place / "fsynced")
        shutil.copyfile(living, path)


def kill_ntfs(path: Path, folder: Path) -> None:
    """An NTFS that Windows wants to check."""
    run("ntfsfix", path)


def hibernate(path: Path, folder: Path) -> None:
    """What Windows leaves behind when it sleeps: its memory, in a file that says so."""
    with loop(path) as device, mounted("ntfs-3g", device, folder / "mount") as place:
        (place / "hiberfil.sys").write_bytes(b"hibr" + bytes(8192))
