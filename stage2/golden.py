"""The system on a golden node's disk, mounted so that nothing of it changes: by its own fstab, no journal replayed.

A file system that was not left cleanly would be read as it never was, so it is refused: ``--dirty`` takes whole
disks only.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bootd.member import archive
from bootd.wire import volumes
from bootd.wire.control import Capture, Disk
from bootd.wire.mounts import Entry, parse_fstab
from bootd.wire.tree import SWAP, Mount, Tree
from stage2.mounting import MOUNT_SECONDS, UNMOUNT_SECONDS
from stage2.node import firmware
from stage2.programs import ProgramError, run
from stage2.source import find, flush, partition_name
from stage2.used_blocks import RefusedError, places_of, probe, read_table

FOLDER = "/run/bootd"
# How each is mounted without a byte written: ext4(5), xfs(5), btrfs(5).
OPTIONS = {
    "ext2": "ro",
    "ext3": "ro,noload",
    "ext4": "ro,noload",
    "xfs": "ro,norecovery",
    "btrfs": "ro,rescue=nologreplay",
    "vfat": "ro",
}
_ROOTS = ("ext2", "ext3", "ext4", "xfs", "btrfs")


@dataclass(frozen=True)
class Part:
    """A partition of the golden disk, with what blkid says of it."""

    device: str
    size: int  # bytes
    kind: str
    uuid: str
    label: str
    partuuid: str
    partlabel: str

    def is_meant(self, word: str) -> bool:
        """Whether the first word of a line of fstab names it."""
        key, separator, value = word.partition("=")
        value = value.strip('"')
        if not separator:
            return os.path.realpath(word) == os.path.realpath(self.device) or word.endswith(
                (f"by-uuid/{self.uuid}", f"by-partuuid/{self.partuuid}")
            )
        known = {"UUID": self.uuid, "LABEL": self.label, "PARTUUID": self.partuuid, "PARTLABEL": self.partlabel}
        return bool(value) and known.get(key, "").lower() == value.lower()


@contextlib.contextmanager
def golden_tree(
    order: Capture, take: Callable[[], Sequence[Disk]], say: Callable[[str], None], dev_root: str = "/dev"
) -> Iterator[tuple[str, Tree]]:
    """The folder in which the system is mounted, and what is known of it; unmounted at the end. `RefusedError`."""
    disk = find(order, take())
    table = read_table(f"{dev_root}/{disk.name}")
    parts = _parts(disk, f"{dev_root}/{disk.name}", table, dev_root)
    os.makedirs(FOLDER, exist_ok=True)
    root = tempfile.mkdtemp(prefix="golden-", dir=FOLDER)
    mounted: list[str] = []
    try:
        system = _mount_root(parts, root, mounted)
        lines = parse_fstab(_read(f"{root}/etc/fstab"))
        mounts = [_described(system, "/", _options(lines, "/"))]
        for line in sorted(lines, key=lambda one: one.point):
            part = next((one for one in parts if one.is_meant(line.device)), None)
            if line.kind == SWAP and part is not None:
                mounts.append(replace(_described(part, "", line.options), kind=SWAP))
            elif part is not None and line.point.startswith("/") and line.point != "/":
                _mount(part, f"{root}{line.point}", line.options, mounted)
                mounts.append(_described(part, line.point, line.options))
                say(f"{line.point}: {part.kind} on {part.device}")
            elif line.device.startswith(("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/")):
                say(f"{line.point}: {line.device} is not on this disk: left out")
        places = [one.path for one in mounts if one.path]
        amounts = archive.measure(root, places, order.exclude)
        measured = [
            replace(one, used=amounts[one.path].used, files=amounts[one.path].files) if one.path else one
            for one in mounts
        ]
        ordered = sorted(measured, key=lambda one: (not one.path, one.path))
        label = str((table or {}).get("label", ""))
        kind = label if label in ("dos", "gpt") else ""
        yield root, Tree(tuple(ordered), firmware(), kind, disk.size, order.exclude)
    except ProgramError as error:
        raise RefusedError(str(error)) from None
    finally:
        for place in reversed(mounted):
            with contextlib.suppress(ProgramError):
                run(["umount", place], seconds=UNMOUNT_SECONDS)
        with contextlib.suppress(OSError):
            os.rmdir(root)


def _parts(disk: Disk, path: str, table: dict[str, object] | None, dev_root: str) -> list[Part]:
    folder = f"/sys/block/{disk.name}"

    def device(number: int) -> str:
        name = partition_name(folder, number)
        return f"{dev_root}/{name}" if name else ""

    found = []
    for place in places_of(table, disk.name, disk.sector, device) if table is not None else ():
        if not place.device:
            continue
        flush(place.device)
        facts = probe(path, place)
        own = next((one for one in disk.partitions if one.start == place.start), None)
        found.append(
            Part(
                place.device,
                place.size,
                facts.get("TYPE", ""),
                facts.get("UUID", ""),
                facts.get("LABEL", ""),
                own.partuuid if own is not None else "",
                facts.get("PARTLABEL", ""),
            )
        )
    return found


def _mount_root(parts: Sequence[Part], root: str, mounted: list[str]) -> Part:
    """The one partition with an etc/fstab, mounted at ``root``."""
    candidates = []
    for part in parts:
        if part.kind not in _ROOTS or _unclean(part):
            continue
        _mount(part, root, "", mounted)
        if os.path.isfile(f"{root}/etc/fstab"):
            candidates.append(part)
        run(["umount", mounted.pop()], seconds=UNMOUNT_SECONDS)
    if len(candidates) != 1:
        there = ", ".join(f"{one.device} ({one.kind or 'nothing known'})" for one in parts) or "none"
        names = ", ".join(one.device for one in candidates) or "none"
        raise RefusedError(
            f"the root of one system is wanted, with /etc/fstab; found: {names}; partitions: {there}"
        )
    _mount(candidates[0], root, "", mounted)
    return candidates[0]


def _mount(part: Part, place: str, options: str, mounted: list[str]) -> None:
    why = _unclean(part)
    if why:
        raise RefusedError(
            f"{part.device} ({part.kind}) is not clean: {why}. Start its system and shut it down properly"
        )
    if part.kind not in OPTIONS:
        raise RefusedError(f"{part.device}: files of {part.kind or 'an unknown file system'} cannot be read")
    if os.path.realpath(place) != os.path.normpath(place):
        raise RefusedError(f"{place} leads elsewhere by a link: its fstab names a place that is none")
    own = [word for word in options.split(",") if word.startswith("subvol") and part.kind == "btrfs"]
    words = ",".join([OPTIONS[part.kind], *own])
    run(["mount", "-t", part.kind, "-o", words, part.device, place], seconds=MOUNT_SECONDS)
    mounted.append(place)


def _unclean(part: Part) -> str:
    descriptor = os.open(part.device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return volumes.unclean(part.kind, lambda offset, length: os.pread(descriptor, length, offset))
    finally:
        os.close(descriptor)


def _described(part: Part, path: str, options: str) -> Mount:
    return Mount(path, part.kind, part.size, 0, 0, part.uuid, part.label, options, part.partuuid, part.device)


def _options(lines: Sequence[Entry], point: str) -> str:
    return next((one.options for one in lines if one.point == point), "")


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read(1 << 20)
