"""Images made by the real tools of other programs, on plain files: no root, no loop device."""

import os
import subprocess
from pathlib import Path

MIB = 1 << 20
# Filesystem: its mkfs with options, its partclone, bytes that it needs.
FILESYSTEMS = {
    "ext4": (("mkfs.ext4", "-q", "-F"), "extfs", 12 * MIB),
    "xfs": (("mkfs.xfs", "-q", "-f"), "xfs", 320 * MIB),
    "btrfs": (("mkfs.btrfs", "-q", "-f"), "btrfs", 120 * MIB),
    "ntfs": (("mkfs.ntfs", "-q", "-F", "-f"), "ntfs", 8 * MIB),
    "vfat": (("mkfs.vfat",), "fat", 16 * MIB),
    "exfat": (("mkfs.exfat",), "exfat", 24 * MIB),
}
_ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}


def tool(*command: str | Path, data: bytes | None = None, status: int | None = 0) -> bytes:
    """Standard output of a tool that must end with ``status`` (None: any)."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=data, capture_output=True, env=_ENVIRONMENT, timeout=120)
    text = done.stderr.decode("utf-8", "replace")[-500:]
    assert status is None or done.returncode == status, f"{words}: {done.returncode} {text}"
    return done.stdout


def make_filesystem(kind: str, path: Path) -> Path:
    """A filesystem of ``kind`` in the new file ``path``, with the files of this directory where its mkfs can."""
    command, _, size = FILESYSTEMS[kind]
    with path.open("xb") as file:
        file.truncate(size)
    more = ("-d", str(Path(__file__).parent / "unit")) if kind in ("ext4",) else ()
    tool(*command, *more, path)
    return path


def clone(kind: str, source: Path, image: Path, *options: str) -> Path:
    """partclone's image of the filesystem in ``source``; plain. (-f 0: it does not wait to show its progress.)"""
    program = FILESYSTEMS[kind][1]
    tool(
        f"partclone.{program}",
        "-c",
        "-f",
        "0",
        *options,
        "-s",
        source,
        "-o",
        image,
        "-L",
        image.with_suffix(".log"),
    )
    return image


def restore(image: Path, size: int) -> bytes:
    """What partclone itself makes of an image, as a partition of ``size`` bytes that was zeros before."""
    target = image.with_suffix(".restored")
    with target.open("wb") as file:
        file.truncate(size)
    # It writes all of a small btrfs image and then aborts in its own tidying up: the exit status is not asked.
    status = None if b"BTRFS" in image.read_bytes()[:64] else 0
    tool(
        "partclone.restore",
        "-C",
        "-f",
        "0",
        "-s",
        image,
        "-O",
        target,
        "-L",
        image.with_suffix(".log"),
        status=status,
    )
    data = target.read_bytes()
    target.unlink()
    return data
