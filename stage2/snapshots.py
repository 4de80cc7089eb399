"""Snapshots of file systems in use: made, looked at, removed; also those that a killed program has left behind.

LVM's is a volume beside the origin, which keeps what is overwritten there meanwhile: it needs room in its group,
and is worth nothing once that is full. btrfs's is a subvolume in its top folder. See lvcreate(8), lvmthin(7),
btrfs-subvolume(8).
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from stage2.programs import ProgramError, run

PREFIX = "bootd-backup-"
TAG = "bootd-backup"  # of LVM; a name alone might be anybody's
TOP_ID = 5  # of the subvolume that holds all others (BTRFS_FS_TREE_OBJECTID)
_SUBVOLUME_INODE = 256  # of the root of each subvolume (BTRFS_FIRST_FREE_OBJECTID)
_COLUMNS = (
    *("vg_name", "lv_name", "lv_size", "lv_kernel_major", "lv_kernel_minor", "vg_free_count", "vg_extent_size"),
    *("lv_layout", "origin", "lv_tags", "data_percent", "lv_snapshot_invalid"),
)
LEAST = 0.02  # of the origin: with less room a snapshot is not begun
_LEAST_BYTES = 32 << 20


@dataclass(frozen=True)
class Volume:
    """A logical volume. Sizes in bytes."""

    group: str
    name: str
    size: int
    number: str  # MAJOR:MINOR; "-1:-1" when it is not active
    free: int  # extents of the group
    extent: int
    thin: bool
    origin: str
    tags: tuple[str, ...]
    full: float  # per cent of what the snapshot can keep
    is_invalid: bool  # it was full, and is no snapshot of anything any more

    @property
    def path(self) -> str:
        return f"{self.group}/{self.name}"

    @property
    def device(self) -> str:
        return f"/dev/{self.group}/{self.name}"

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(PREFIX) and TAG in self.tags and bool(self.origin)


def volumes() -> list[Volume]:
    """Every logical volume; [] without LVM. `ProgramError`."""
    if shutil.which("lvs") is None:
        return []
    words = ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", ",".join(_COLUMNS)]
    try:
        rows = json.loads(run(words))["report"][0]["lv"]
        return [_volume(row) for row in rows]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ProgramError(f"lvs says what cannot be understood: {error!r}") from None


def _volume(row: dict[str, str]) -> Volume:
    return Volume(
        row["vg_name"],
        row["lv_name"],
        int(row["lv_size"]),
        f"{row['lv_kernel_major']}:{row['lv_kernel_minor']}",
        int(row["vg_free_count"]),
        int(row["vg_extent_size"]),
        "thin" in row["lv_layout"].split(","),
        row["origin"],
        tuple(row["lv_tags"].split(",")),
        float(row["data_percent"] or 0),
        bool(row["lv_snapshot_invalid"]) and row["lv_snapshot_invalid"] not in ("0", "unknown"),
    )


def room(volume: Volume, together: Iterable[Volume]) -> int:
    """Extents for what is overwritten in ``volume`` meanwhile: its share of what is free in the group, where
    ``together`` are all of which there is to be a snapshot. 0 = of a pool that grows by itself, or too few."""
    if volume.thin:
        return 0
    all_ = sum(one.size for one in together if one.group == volume.group and not one.thin)
    # A snapshot keeps a little more than the origin, if all of it is overwritten: its own table.
    most = -(-volume.size * 102 // 100 // volume.extent) + 1
    share = min(most, volume.free * volume.size // max(all_, volume.size))
    least = max(int(volume.size * LEAST), min(_LEAST_BYTES, volume.size // 4))
    return share if share * volume.extent >= least else 0


def snapshot_volume(volume: Volume, name: str, extents: int) -> str:
    """The device of a snapshot of ``volume``, which has `room` for so much. `ProgramError`."""
    words = ["lvcreate", "--snapshot", "--yes", "--quiet", "--addtag", TAG, "--name", name]
    words += ["--setactivationskip", "n"] if volume.thin else ["--extents", str(extents)]
    run([*words, volume.path])
    return f"/dev/{volume.group}/{name}"


def trouble(names: Iterable[str]) -> str:
    """Why one of the snapshots of volumes is worth nothing; "" = all are what they were."""
    known = {one.name: one for one in volumes()}
    for name in names:
        one = known.get(name)
        if one is None:
            return f"the snapshot {name} was removed while it was read"
        if one.is_invalid or (one.full >= 100 and not one.thin):
            return (
                f"more was written to {one.group}/{one.origin} meanwhile than its snapshot can keep "
                f"({one.size / 1e9:.1f} GB): begin again when less is written, or free more of group {one.group}"
            )
    return ""


def remove_volume(path: str) -> None:
    """`ProgramError`."""
    run(["lvremove", "--yes", "--quiet", path])


def mount_top(device: str, place: str) -> None:
    """The folder that holds every subvolume of a btrfs. `ProgramError`."""
    run(["mount", "-t", "btrfs", "-o", f"subvolid={TOP_ID},noatime", device, place])


def snapshot_subvolume(place: str, top: str, name: str) -> str:
    """The folder of a snapshot of the subvolume mounted at ``place``, of the btrfs at ``top``. `ProgramError`."""
    run(["btrfs", "subvolume", "snapshot", "-r", place, f"{top}/{name}"])
    return f"{top}/{name}"


def remove_subvolume(folder: str) -> None:
    """`ProgramError`."""
    run(["btrfs", "subvolume", "delete", folder])


def inner_subvolumes(place: str, inner: str) -> list[str]:
    """Paths, from ``place`` on, of the subvolumes right below the one mounted there, which is the folder ``inner``
    of its btrfs. In a snapshot of it they are empty folders. `ProgramError`."""
    prefix = inner.strip("/")
    found = []
    for line in run(["btrfs", "subvolume", "list", "-o", place]).splitlines():
        path = line.partition(" path ")[2].strip("/")
        if prefix and not path.startswith(f"{prefix}/"):
            continue
        path = path[len(prefix) :].lstrip("/")
        if path and not path.startswith(PREFIX):
            found.append(f"/{path}")
    return sorted(found)


def remove_left(devices: Iterable[tuple[str, str]], say: Callable[[str], None]) -> None:
    """Remove what a program that was killed has left: of LVM, and in each btrfs, whose device and an empty folder
    to mount it at are given. What cannot be removed is said."""
    try:
        left = [one for one in volumes() if one.is_ours]
    except ProgramError as error:
        say(f"snapshots of before cannot be looked for: {error}")
        left = []
    for one in left:
        _try(partial(remove_volume, one.path), one.path, say)
    for device, place in devices:
        try:
            mount_top(device, place)
            try:
                for name in os.listdir(place):
                    folder = f"{place}/{name}"
                    if name.startswith(PREFIX) and os.lstat(folder).st_ino == _SUBVOLUME_INODE:
                        _try(partial(remove_subvolume, folder), f"{device} {name}", say)
            finally:
                run(["umount", place])
        except (ProgramError, OSError) as error:
            say(f"{device}: snapshots of before cannot be looked for: {error}")


def _try(remove: Callable[[], None], what: str, say: Callable[[str], None]) -> None:
    try:
        remove()
        say(f"snapshot {what}, left by a backup that was killed, is removed")
    except ProgramError as error:
        say(f"snapshot {what} was left by a backup that was killed: {error}")
