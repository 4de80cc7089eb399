"""Clonezilla's own program, on loop devices. Needs root."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.foreign_images import tool

COMMON = ("-batch", "-nogui", "-j2", "-p", "true", "-l", "en_US.UTF-8")
SAVE = (*COMMON, "-q2", "-sfsck", "-senc", "-scs", "-luks", "no", "-i", "1")
RESTORE = (*COMMON, "-k0", "-scr", "-iefi", "-irhr", "-irvd", "-ius", "-iui")


@contextmanager
def loop(path: Path) -> Iterator[str]:
    """A loop device of ``path`` with its partitions, as sda is in a machine: only its name, without /dev."""
    device = tool("losetup", "--find", "--show", path).decode().strip()
    try:
        tool("partx", "--delete", device, status=None)  # what somebody left on a loop device of this number
        tool("partx", "--add", device, status=None)
        yield device.removeprefix("/dev/")
    finally:
        tool("partx", "--delete", device, status=None)
        tool("losetup", "--detach", device)


def clonezilla(root: Path, *words: str) -> str:
    """Run ocs-sr with images below ``root``; all that it said."""
    done = subprocess.run(
        ["ocs-sr", "-or", str(root), *words], capture_output=True, stdin=subprocess.DEVNULL, timeout=400
    )
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, text[-3000:]
    return text
