"""Old partition tables and both ends of every disk that was written: ``state_dir/tables/NODE/DISK/TIME``.

A file is one line ``bootd saved table 1 SHA256`` over the rest, which is `bootd.wire.saved`. It is on the disk,
with its name, when `TableStore.keep` returns. At most `KEPT` of a disk: the oldest go. What is equal to the latest
one is not kept twice, so a node that is tried again and again pushes nothing out.
"""

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootd.errors import Exit, OperatorError
from bootd.member.durable import sync_folder, write_file
from bootd.wire import saved
from bootd.wire.errors import PeerProtocolError
from bootd.wire.saved import SavedTable

KEPT = 20  # of one disk
_MAGIC = b"bootd saved table 1 "
_TIME = re.compile(r"\d{8}T\d{6}Z(-\d{1,3})?\Z")
_HINT = "check server.state_dir: its owner and its free space"


@dataclass(frozen=True)
class Kept:
    """One saved table: ``disk`` and ``time`` name it, as in the file system."""

    disk: str
    time: str  # UTC, 20260131T235959Z
    table: SavedTable | None  # None: damaged
    trouble: str = ""


class TableStore:
    """Files below ``folder``. Methods block; each may run in a thread of its own."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock

    def keep(self, node: str, table: SavedTable) -> str:
        """Keep ``table`` of the node with this MAC; the name of its time. `OperatorError` when the disk says no."""
        folder = self._place(node) / disk_name(table)
        data = saved.encode(table)
        data = _MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            times = _times(folder)
            if times and _same(folder / times[-1], table):
                return times[-1]
            name = self._free_name(folder, times)
            write_file(folder / name, data)
            for place in (folder.parent, folder.parent.parent):
                sync_folder(place)
            for old in times[: max(0, len(times) + 1 - KEPT)]:
                (folder / old).unlink(missing_ok=True)
        except OSError as error:
            raise OperatorError(f"cannot keep a partition table in {folder}: {error}", _HINT) from None
        return name

    def kept(self, node: str) -> list[Kept]:
        """Everything that is kept of a node, oldest first for each disk. `OperatorError`."""
        found: list[Kept] = []
        try:
            for folder in sorted(self._place(node).glob("*")):
                found += [self._read(folder, name) for name in _times(folder)]
        except OSError as error:
            raise OperatorError(f"cannot read partition tables: {error}", _HINT) from None
        return found

    def find(self, node: str, disk: str, name: str) -> Kept:
        """One table; `OperatorError` when there is none."""
        for kept in self.kept(node):
            if (kept.disk, kept.time) == (disk, name):
                return kept
        raise OperatorError(f"no table of disk {disk} at {name} is kept", "see bootd undo-table NODE", Exit.USAGE)

    def _place(self, node: str) -> Path:
        return self._folder / node.replace(":", "-")

    def _free_name(self, folder: Path, times: list[str]) -> str:
        """Later than all there are, also when the clock was set back."""
        stem = max(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock())), times[-1][:16] if times else "")
        for number in range(1, 1000):
            name = stem if number == 1 else f"{stem}-{number:03}"
            if name not in times and (not times or name > times[-1]):
                return name
        raise OSError(f"{folder}: too many tables in one second")

    def _read(self, folder: Path, name: str) -> Kept:
        try:
            line, _, data = (folder / name).read_bytes().partition(b"\n")
            if line != _MAGIC + hashlib.sha256(data).hexdigest().encode():
                return Kept(folder.name, name, None, "damaged: its digest does not match")
            return Kept(folder.name, name, saved.decode(data))
        except (OSError, PeerProtocolError) as error:
            return Kept(folder.name, name, None, f"damaged: {error}")


def view_kept(kept: Kept) -> dict[str, Any]:
    """A saved table as the API tells it, without the bytes. ``trouble`` is "" unless it is damaged."""
    table = kept.table
    return {
        "disk": kept.disk,
        "time": kept.time,
        "trouble": kept.trouble,
        "session": table.session if table else "",
        "name": table.name if table else "",
        "serial": table.serial if table else "",
        "wwn": table.wwn if table else "",
        "size": table.size if table else 0,
        "sector": table.sector if table else 0,
        "dump": table.dump if table else "",
        "digest": table.digest if table else "",
    }


def disk_name(table: SavedTable) -> str:
    """A disk as a folder: its serial, else its WWN, else its kernel name. Never a way out of the folder above."""
    identity = table.serial or table.wwn or f"no-serial-{table.name}"
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", identity)[:80]
    if plain == identity:
        return plain
    return f"{plain}.{hashlib.sha256(identity.encode()).hexdigest()[:8]}"  # two that look alike are two


def _times(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if _TIME.match(path.name))


def _same(path: Path, table: SavedTable) -> bool:
    """Whether the file holds these ends of the disk, whatever session it is from."""
    with suppress(OSError, PeerProtocolError):
        line, _, data = path.read_bytes().partition(b"\n")
        if line == _MAGIC + hashlib.sha256(data).hexdigest().encode():
            return saved.decode(data).digest == table.digest
    return False
