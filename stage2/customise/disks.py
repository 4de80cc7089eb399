"""Steps that tell the tree which disks it lies on now."""

import os
import stat
from collections.abc import Sequence

from bootd.wire.mounts import Mounted
from stage2.customise import boot_text, fstab
from stage2.customise.facts import CustomiseError
from stage2.customise.work import Work

_MDADM = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
_LVM = ("/etc/lvm/archive", "/etc/lvm/backup", "/etc/lvm/cache", "/etc/lvm/devices")
_CACHES = ("/etc/blkid.tab", "/etc/blkid.tab.old", "/etc/multipath/wwids", "/etc/multipath/bindings")


def check_mounted(work: Work, mounts: Sequence[Mounted]) -> None:
    """`CustomiseError` unless each file system is mounted below the tree's top from the device that was made.

    What follows writes boot sectors, so a mix-up must end here.
    """
    mounted = {one.point: one.device for one in mounts}
    for one in work.made.mounted:
        place = os.path.normpath(f"{work.tree.root}/{one.mount}")
        source = mounted.get(place)
        if source is None:
            raise CustomiseError(f"nothing is mounted at {place}, where {one.device} belongs")
        if not _is_same(source, one.device):
            raise CustomiseError(f"{source} is mounted at {place}, where {one.device} belongs")


def check_disks(work: Work) -> None:
    """`CustomiseError` for a disk that is to get a boot loader and holds nothing that was made.

    What lies on volumes is left out: they tell nothing of their disks here.
    """
    if work.made.groups:
        return
    parts = [one.device for one in work.made.filesystems]
    parts += [member for array in work.made.arrays for member in array.members]
    owners = {_disk_of(part) for part in parts}
    for disk in work.made.disks:
        if _place(disk) not in owners:
            raise CustomiseError(f"{disk} holds nothing that was made here: no boot loader is written to it")


def _disk_of(partition: str) -> str:
    """Place in sysfs of the disk that a partition is part of; its own when it is none."""
    place = _place(partition)
    return os.path.dirname(place) if os.path.exists(f"{place}/partition") else place


def _place(device: str) -> str:
    number = os.stat(device).st_rdev
    return os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


def _is_same(source: str, device: str) -> bool:
    """One device has many names (/dev/mapper/a-b, /dev/a/b), and one number."""
    if os.path.realpath(source) == os.path.realpath(device):
        return True
    try:
        states = os.stat(source), os.stat(device)
    except OSError:
        return False
    return all(stat.S_ISBLK(state.st_mode) for state in states) and states[0].st_rdev == states[1].st_rdev


def rewrite_fstab(work: Work) -> str:
    text = work.tree.read("/etc/fstab") or ""
    fresh = fstab.rewrite_fstab(text, work.made.filesystems)
    work.replaced.update(fresh.replaced)
    for one in work.facts.source:
        target = work.filesystem(one.mount) if one.mount else None
        if target is not None:
            names = (f"UUID={one.uuid}", f"LABEL={one.label}", f"PARTUUID={one.partuuid}", one.device)
            fitting = (name for name in names if not name.endswith("="))
            work.replaced.update(dict.fromkeys(fitting, f"UUID={target.uuid}"))
    work.write("/etc/fstab", fresh.text)
    for note in fresh.notes:
        work.warn(f"fstab: {note}")
    return f"{len(work.made.filesystems)} file systems by UUID"


def rewrite_crypttab(work: Work) -> str:
    text = work.tree.read("/etc/crypttab")
    if text is None:
        return "there is none"
    fresh = fstab.rewrite_crypttab(text)
    work.write("/etc/crypttab", fresh.text)
    for note in fresh.notes:
        work.warn(f"crypttab: {note}; what was in it is not encrypted on this node")
    return f"{len(fresh.notes)} devices of the source commented out"


def rewrite_arrays(work: Work) -> str:
    found = [path for path in _MDADM if work.tree.exists(path)]
    if not found and work.made.arrays:
        found = [_MDADM[0] if work.tree.is_folder("/etc/mdadm") else _MDADM[1]]
    for path in found:
        text = work.tree.read(path) or ""
        work.write(path, boot_text.rewrite_mdadm(text, work.made.arrays))
    return f"{len(work.made.arrays)} arrays"


def forget_volumes(work: Work) -> str:
    """LVM's list of allowed devices names the source's disks by their serials; the rest are caches."""
    for folder in _LVM:
        work.remove(*(path for path in work.tree.names(folder, "*") if work.tree.is_file(path)))
    work.remove(*_CACHES)
    return f"{len(work.changed)} files about the source's disks removed"
