"""The way back: what lies at both ends of the target goes to the server before anything is written."""

import os
import subprocess
import time
from collections.abc import Callable

from bootd.member.control import ControlError
from bootd.wire.saved import MAX_DUMP, SavedTable, encode
from stage2.gate import Target
from stage2.inventory import read_ends

TRIES = 3
PAUSE = 2.0  # seconds, doubled every time
SFDISK_SECONDS = 20.0


class WayBackError(Exception):
    """There is no way back, so nothing may be written; the text says why."""


def save(session: str, target: Target, send: Callable[[bytes], None], dev_root: str = "/dev") -> int:
    """Read both ends of the disk of the open ``target`` and have the server confirm that it keeps them.

    Bytes that were sent. `WayBackError` when the ends are not those of the plan any more, cannot be read, or the
    server does not confirm within `TRIES`.
    """
    disk, path = target.disk, f"/proc/self/fd/{target.reader}"
    try:
        content = _read(path, disk.size)
    except OSError as error:
        raise WayBackError(f"the old partition table cannot be read: {error.strerror or error}") from None
    text = dump(f"{dev_root}/{disk.name}")
    table = SavedTable(session, disk.name, disk.serial, disk.wwn, disk.size, disk.sector, text, content)
    if table.digest != disk.table_digest:
        raise WayBackError("the partition table changed while it was being saved")
    data = encode(table)
    for number in range(TRIES):
        try:
            send(data)
        except (ControlError, OSError) as error:
            if number + 1 == TRIES or (isinstance(error, ControlError) and error.is_final):
                raise WayBackError(f"the server does not keep the old partition table: {error}") from None
            time.sleep(PAUSE * (1 << number))
        else:
            break
    return len(data)


def _read(path: str, size: int) -> bytes:
    # A second descriptor of the very same device: the first takes aligned buffers only (O_DIRECT).
    reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(read_ends(reader, size))
    finally:
        os.close(reader)


def dump(path: str) -> str:
    """What ``sfdisk --dump`` says of the device: for people, beside the bytes. "" when it knows no table."""
    command = ["sfdisk", "--dump", path]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SFDISK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("ascii", "replace")[:MAX_DUMP] if done.returncode == 0 else ""
