"""How each file system of a running system can be read as of one moment: decided from what is mounted, pure.

A file system on a logical volume or btrfs has a snapshot. Another one (/boot, the EFI system partition) is read as
it is, and counts only when nobody writes to it meanwhile. ``/`` is always written to, so it needs a snapshot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bootd.wire.mounts import Entry, Mounted
from bootd.wire.tree import SWAP
from stage2 import snapshots
from stage2.golden import OPTIONS
from stage2.used_blocks import RefusedError

STAGE2 = "boot it into stage2 (bootd backup --files, without --running)"
NAMES = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/")  # of devices, in fstab


@dataclass(frozen=True)
class View:
    """How one file system is to be read."""

    mounted: Mounted
    options: str  # as fstab has them
    volume: snapshots.Volume | None = None
    extents: int = 0

    @property
    def is_btrfs(self) -> bool:
        return self.mounted.kind == "btrfs"

    @property
    def is_still(self) -> bool:
        return self.volume is None and not self.is_btrfs

    def told(self) -> str:
        """For the report."""
        how = "a snapshot of btrfs"
        if self.volume is not None:
            keeps = (
                f", {self.extents * self.volume.extent / 1e9:.1f} GB may be written meanwhile"
                if self.extents
                else ""
            )
            how = f"a snapshot of LVM{keeps}"
        elif self.is_still:
            how = "as it is, as long as nobody writes to it"
        return f"{self.mounted.point}: {self.mounted.kind} on {self.mounted.device}: {how}"


def choose(
    mounts: Sequence[Mounted], lines: Sequence[Entry], volumes: Sequence[snapshots.Volume]
) -> tuple[list[View], list[str]]:
    """How each file system of this system is read, ``/`` first, and notes on what is left out. `RefusedError`."""
    by_point = {one.point: one for one in mounts}  # of two at one point the later one is seen
    by_number = {one.number: one for one in volumes}
    options = {line.point: line.options for line in lines if line.kind != SWAP and line.device.startswith(NAMES)}
    notes = [f"{point} is not mounted: left out" for point in options if point not in by_point and point != "/"]
    views = []
    for point in sorted({"/", *(point for point in options if point in by_point)}):
        found = by_point.get(point)
        if found is None or not found.device.startswith("/dev/"):
            raise RefusedError(
                f"{point} is on {found.device if found else 'nothing'}, no disk of this machine: {STAGE2}"
            )
        if found.kind not in OPTIONS:
            raise RefusedError(
                f"{point}: files of {found.kind} cannot be read: unmount it, or take it out of fstab"
            )
        view = View(found, options.get(point, ""), None if found.kind == "btrfs" else by_number.get(found.number))
        if view.is_still and point == "/":
            raise RefusedError(
                f"/ is {found.kind} on {found.device}, of which there can be no snapshot: {STAGE2}, "
                "or have / on LVM or btrfs"
            )
        if not view.is_btrfs and found.inner != "/":
            raise RefusedError(f"{point} is the folder {found.inner} of {found.device}: {STAGE2}")
        views.append(view)
    sources = {view.volume.path: view.volume for view in views if view.volume is not None}
    for index, view in enumerate(views):
        if view.volume is None:
            continue
        extents = snapshots.room(view.volume, sources.values())
        if not extents and not view.volume.thin:
            raise RefusedError(
                f"volume group {view.volume.group} has {view.volume.free * view.volume.extent / 1e6:.0f} MB free, "
                f"too little to keep what is written to {view.volume.path} meanwhile: free some, or {STAGE2}"
            )
        views[index] = replace(view, extents=extents)
    taken = {view.mounted.number for view in views}
    for one in by_point.values():
        if (
            one.device.startswith("/dev/")
            and one.kind in OPTIONS
            and one.number not in taken
            and one.point not in options
        ):
            notes.append(f"{one.point} ({one.kind} on {one.device}) is not in fstab: left out")
            taken.add(one.number)
    return views, notes
