"""What was made is mounted below a folder, as the system in it will see it, and unmounted again."""

import errno
import os
import time
from collections.abc import Callable

from bootd.wire.mounts import Mounted, parse_mountinfo
from stage2.made import Made
from stage2.programs import ProgramError, run

MOUNT_SECONDS = 300.0
FREE_SECONDS = 30.0
UNMOUNT_SECONDS = 1800.0  # what is not on the disk yet is written


class MountError(Exception):
    """Something is not mounted, or still is; the text says what and why."""


def mount(made: Made, root: str, tell: Callable[[str], None]) -> None:
    """Mount every file system of ``made`` that has a place, outermost first; folders are made on the way.

    ``root``: an absolute path; it is made if it is not there. What was mounted is unmounted again when one fails:
    `MountError`.
    """
    os.makedirs(root, exist_ok=True)
    try:
        for one in made.mounted:
            place = _place(root, one.mount)
            run(["mount", "-t", one.kind, one.device, place], seconds=MOUNT_SECONDS)
            tell(f"Mounting {one.device} as {place}...OK")
    except (ProgramError, OSError) as error:
        try:
            unmount(made, root)
        except MountError as left:
            raise MountError(f"{error}; {left}") from None
        raise MountError(str(error)) from None


def _place(root: str, mount: str) -> str:
    """The folder for ``mount``, made if need be. A link on the way (in a file system that was kept) is refused."""
    place = os.path.normpath(f"{root}/{mount}")
    os.makedirs(place, exist_ok=True)
    if os.path.realpath(place) != os.path.normpath(f"{os.path.realpath(root)}/{mount}"):
        raise OSError(f"{mount} leads out of the tree by a link")
    return place


def unmount(made: Made, root: str) -> None:
    """Unmount whatever of ``made`` is mounted below ``root``, innermost first. `MountError` names what stays."""
    mounted = {one.point for one in mounted_here()}
    top = os.path.realpath(root)
    trouble = []
    for one in reversed(made.mounted):
        place = os.path.normpath(f"{top}/{one.mount}")
        if place not in mounted:
            continue
        try:
            run(["umount", place], seconds=UNMOUNT_SECONDS)
            _await_free(one.device)
        except (ProgramError, OSError) as error:
            trouble.append(str(error))
    if trouble:
        raise MountError("; ".join(trouble))


def _await_free(device: str) -> None:
    """btrfs lets go of its device some time after umount has returned; who comes next opens it alone. OSError."""
    end = time.monotonic() + FREE_SECONDS
    while True:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def mounted_here() -> list[Mounted]:
    """What is mounted, as this thread sees it. OSError."""
    with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        return parse_mountinfo(stream.read())
