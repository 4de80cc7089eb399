"""Where a sync writes: the installed system of a node in stage2, mounted for it, or a folder of a running one.

What may be mounted is what the gate would let be written: a disk that the order names, that is neither excluded nor
in use, partitions that no lock holds, file systems that their own checker finds whole.
"""

import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bootd.wire import locks as lock_rule
from bootd.wire.control import Disk, Partition, Sync
from bootd.wire.mounts import Entry, Mounted, parse_fstab
from bootd.wire.targets import exclusion, holding, partition_name
from stage2.gate import RefusedError, describe
from stage2.mounting import mounted_here

FOLDER = "/run/bootd-sync"
# Types that are mounted, and how each is looked over first.
CHECKS: dict[str, tuple[str, ...]] = {
    "ext2": ("e2fsck", "-p"),
    "ext3": ("e2fsck", "-p"),
    "ext4": ("e2fsck", "-p"),
    "xfs": (),  # its journal is replayed by the kernel, which refuses what it cannot
    "btrfs": (),
    "vfat": ("fsck.fat", "-a"),
}
ROOTS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
CHECK_SECONDS = 3600.0
_MENDED = 1  # the checker's status for: errors, corrected
# Not of this machine's disks: never written, nor emptied, by a sync.
_FOREIGN = re.compile(
    r"(proc|sysfs|tmpfs|ramfs|devtmpfs|devpts|cgroup2?|securityfs|debugfs|tracefs|configfs|pstore|bpf|mqueue|hugetlbfs"
    r"|autofs|efivarfs|binfmt_misc|fusectl|fuse.*|nfs\d?|cifs|smb3|9p|ceph|overlay|squashfs|iso9660|rpc_pipefs|nsfs)\Z"
)


@dataclass(frozen=True)
class Place:
    """``folder`` is where the target is reached from here. ``foreign``: folders below it, from it on, that are not
    to be touched."""

    folder: str
    foreign: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def mounted_at_boot(text: str) -> list[Entry]:
    """What this fstab would have mounted, those above others first."""
    found = [
        one for one in parse_fstab(text) if one.point.startswith("/") and "noauto" not in one.options.split(",")
    ]
    return sorted(found, key=lambda one: one.point.count("/") if one.point != "/" else 0)


def within(root: str, path: str) -> str:
    """``path`` of the system at ``root``; `RefusedError` when it is no folder, or a link leads elsewhere."""
    place = root.rstrip("/")
    for name in (part for part in path.split("/") if part):
        if name == "..":
            raise RefusedError(f"{path}: no .. in a target")
        place = f"{place}/{name}"
        try:
            mode = os.lstat(place).st_mode
        except OSError as error:
            raise RefusedError(f"{path}: {error.strerror}") from None
        if stat.S_ISLNK(mode):
            raise RefusedError(f"{path}: {name} is a link to {os.readlink(place)}: name the folder itself")
        if not stat.S_ISDIR(mode):
            raise RefusedError(f"{path}: {name} is no folder")
    return place or "/"


def leaves_out(rules: Sequence[str], target: str, point: str) -> bool:
    """Whether a rule says that the mount point ``point`` stays as it is."""
    below = point[len(target.rstrip("/")) :]
    return any(rule in (f"- {below}", f"- {below}/", f"- {below}/***") for rule in rules)


# --- stage2 ------------------------------------------------------------------------------------------------


@contextmanager
def installed(order: Sync, take: Callable[[], Sequence[Disk]], dev: str = "/dev") -> Iterator[Place]:
    """The installed system, mounted at `FOLDER`, until this is left. `RefusedError`, OSError."""
    disks = take()
    disk = find_disk(order, disks)
    root = f"{FOLDER}/{order.task}"
    os.makedirs(root, mode=0o700, exist_ok=True)
    notes: list[str] = []
    with ExitStack() as stack:
        stack.callback(os.rmdir, root)
        partition = _find_root(order, disk, disks, root, dev)
        is_read_only = order.dry or order.collect
        _mount(disk, partition, root, dev, None if is_read_only else notes)
        stack.callback(_unmount, root)
        try:
            with open(f"{root}/etc/fstab", errors="replace") as stream:
                mounts = mounted_at_boot(stream.read(1 << 20))
        except OSError:
            mounts = []
        foreign = []
        for mount in mounts:
            if mount.point == "/" or not _concerns(mount.point, order.target):
                continue
            if leaves_out(order.rules, order.target, mount.point):
                continue
            found = [part for part in disk.partitions if _is_named(mount.device, part, f"{dev}/{disk.name}", dev)]
            is_below = mount.point.startswith(f"{order.target.rstrip('/')}/") or order.target == "/"
            if len(found) == 1 and found[0].filesystem in CHECKS:
                point = within(root, mount.point)
                _judge(order, disk, found[0], disks)
                _mount(disk, found[0], point, dev, None if is_read_only else notes)
                stack.callback(_unmount, point)
            elif is_below:
                foreign.append(mount.point[len(order.target.rstrip("/")) :])
                if mount.kind not in ("swap", "proc", "sysfs", "tmpfs", "devpts"):
                    notes.append(f"{mount.point} ({mount.device}) is left as it is")
            else:
                raise RefusedError(f"{mount.point} is {mount.device}, which is not on {describe(disk)}")
        yield Place(within(root, order.target), tuple(foreign), tuple(notes))


def find_disk(order: Sync, disks: Sequence[Disk]) -> Disk:
    """The one disk that the order names; `RefusedError`."""
    found = [disk for disk in disks if order.disk in (disk.serial, disk.wwn)] if order.disk else []
    if order.disk and not found:
        found = [disk for disk in disks if disk.name == order.disk and not disk.serial and not disk.wwn]
    if len(found) != 1:
        there = ", ".join(describe(disk) for disk in disks) or "no disks"
        raise RefusedError(f"{len(found)} disks are {order.disk or 'named'}; there are: {there}")
    reason = exclusion(found[0])
    if reason:
        raise RefusedError(f"disk {describe(found[0])} is excluded: {reason}")
    return found[0]


def _find_root(order: Sync, disk: Disk, disks: Sequence[Disk], root: str, dev: str) -> Partition:
    """The partition of the installed system: the one that is named, or the only one with an /etc/fstab."""
    if order.partition:
        found = [part for part in disk.partitions if part.number == order.partition]
    else:
        found = []
        for part in disk.partitions:
            if part.filesystem in ROOTS and not part.used:
                _run(
                    "mount", "-t", part.filesystem, "-o", _READ_ONLY[part.filesystem], _path(disk, part, dev), root
                )
                try:
                    if os.path.isfile(f"{root}/etc/fstab"):
                        found.append(part)
                finally:
                    _unmount(root)
    if len(found) != 1:
        names = ", ".join(partition_name(disk.name, part.number) for part in found) or "none"
        raise RefusedError(
            f"{len(found)} partitions of {describe(disk)} hold an installed system ({names}): "
            "say which under [[sync.set]]: partition = N"
        )
    if found[0].filesystem not in ROOTS:
        raise RefusedError(f"partition {found[0].number} holds {found[0].filesystem or 'nothing'}, no root")
    _judge(order, disk, found[0], disks)
    return found[0]


def _judge(order: Sync, disk: Disk, partition: Partition, disks: Sequence[Disk]) -> None:
    name = partition_name(disk.name, partition.number)
    if partition.used:
        raise RefusedError(f"{name} is in use: {partition.used}")
    lock = None if order.collect or order.dry else holding(order.locks, disk, partition, disks)
    if lock is not None:
        raise RefusedError(lock_rule.reason(lock))


# Only looked at: not even a journal is replayed.
_READ_ONLY = {kind: "ro,noload" if kind in ("ext3", "ext4") else "ro" for kind in ROOTS} | {
    "xfs": "ro,norecovery,nouuid"
}


def _mount(disk: Disk, partition: Partition, point: str, dev: str, notes: list[str] | None) -> None:
    """``notes`` None: to be read only."""
    path, kind = _path(disk, partition, dev), partition.filesystem
    if notes is None:
        _run("mount", "-t", kind, "-o", f"{_READ_ONLY.get(kind, 'ro')},nodev,nosuid,noexec", path, point)
        return
    if CHECKS[kind]:
        try:
            done = subprocess.run(
                [*CHECKS[kind], path],
                capture_output=True,
                check=False,
                timeout=CHECK_SECONDS,
                text=True,
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RefusedError(f"{path} cannot be checked: {error}") from None
        if done.returncode > _MENDED:
            last = (done.stdout + done.stderr).strip().splitlines()[-1:]
            raise RefusedError(
                f"{path} ({kind}) is damaged: {' '.join(last)[:200]}: check it by hand, or clone it anew"
            )
        if done.returncode == _MENDED:
            notes.append(f"{path}: {CHECKS[kind][0]} has mended it")
    _run("mount", "-t", kind, "-o", "nodev,nosuid,noexec", path, point)


def _unmount(point: str) -> None:
    done = subprocess.run(["umount", point], capture_output=True, check=False, text=True)
    if done.returncode != 0:
        raise OSError(f"{point} cannot be unmounted: {done.stderr.strip()[:200]}")


def _run(*words: str) -> None:
    done = subprocess.run(list(words), capture_output=True, check=False, text=True, errors="replace")
    if done.returncode != 0:
        raise RefusedError(f"{' '.join(words[-2:])}: {done.stderr.strip()[:300]}")


def _path(disk: Disk, partition: Partition, dev: str) -> str:
    return f"{dev}/{partition_name(disk.name, partition.number)}"


def _is_named(device: str, partition: Partition, disk: str, dev: str) -> bool:
    """Whether an fstab's first word means this partition."""
    key, _, value = device.partition("=")
    value = value.strip('"')
    path = f"{dev}/{partition_name(os.path.basename(disk), partition.number)}"
    if key == "PARTUUID":
        return value.lower() == partition.partuuid
    if key == "LABEL":
        return bool(value) and value == partition.label
    uuid = value if key == "UUID" else device.removeprefix("/dev/disk/by-uuid/")
    if key == "UUID" or uuid != device:
        done = subprocess.run(
            ["blkid", "-p", "-o", "value", "-s", "UUID", path], capture_output=True, check=False, text=True
        )
        return bool(uuid) and done.stdout.strip().lower() == uuid.lower()
    return device == path


def _concerns(point: str, target: str) -> bool:
    """Whether a mount lies at, above or below the target."""
    point, target = f"{point.rstrip('/')}/", f"{target.rstrip('/')}/"
    return point.startswith(target) or target.startswith(point)


# --- a running system --------------------------------------------------------------------------------------


@contextmanager
def running(order: Sync, take: Callable[[], Sequence[Disk]]) -> Iterator[Place]:
    """A folder of this system, as it is. `RefusedError`, OSError."""
    if order.target == "/" and not order.whole and not order.collect:
        raise RefusedError(
            "the target is / of a running system: say whole_system = true in the set if that is meant"
        )
    if order.target == "/" and order.staged:
        raise RefusedError("/ of a running system cannot be swapped: stage its folders, or sync it in stage2")
    folder = within("/", order.target)
    mounts = mounted_here()
    below = [mount for mount in mounts if mount.point != folder and _concerns(mount.point, folder)]
    own = [mount for mount in below if mount.point.startswith(f"{folder.rstrip('/')}/")]
    over = max((m for m in mounts if f"{folder.rstrip('/')}/".startswith(f"{m.point.rstrip('/')}/")),
               key=lambda mount: len(mount.point), default=None)  # fmt: skip
    if over is not None and _FOREIGN.match(over.kind) and over.kind not in ("overlay", "tmpfs"):
        raise RefusedError(f"{order.target} is on {over.kind} ({over.device}), which is not this machine's")
    foreign = tuple(m.point[len(folder.rstrip("/")) :] for m in own if _FOREIGN.match(m.kind))
    if order.locks and not order.collect and not order.dry:
        local = [m for m in own if not _FOREIGN.match(m.kind)] + ([over] if over is not None else [])
        _judge_devices(order, local, take())
    yield Place(folder, foreign)


def _judge_devices(order: Sync, mounts: Sequence[Mounted], disks: Sequence[Disk]) -> None:
    """No file system that is written may be locked; what cannot be traced to a partition might be."""
    for mount in mounts:
        folder = os.path.realpath(f"/sys/dev/block/{mount.number}")
        found = [
            (disk, part)
            for disk in disks
            for part in disk.partitions
            if os.path.basename(folder) == partition_name(disk.name, part.number)
        ]
        if len(found) != 1:
            raise RefusedError(f"{mount.point} ({mount.device}) cannot be told from what is locked on this node")
        lock = holding(order.locks, *found[0], disks)
        if lock is not None:
            raise RefusedError(lock_rule.reason(lock))
