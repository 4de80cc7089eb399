"""What the `files` method has made on the disks of this node: file systems, arrays, and where they belong.

Written by who partitions and formats, read by who unpacks files and makes the system bootable. Devices are paths.
"""

from dataclasses import dataclass

SWAP = "swap"


@dataclass(frozen=True)
class Filesystem:
    """One that was made, or one that was there and stays (``is_kept``)."""

    device: str  # "/dev/sda2", "/dev/md/root", "/dev/system/home"
    kind: str  # as blkid calls it: "ext4", "xfs", "vfat", "swap", ...
    uuid: str
    label: str  # "" = none
    mount: str  # "/", "/home"; "" = not mounted: swap, or none
    options: str = ""  # of fstab; "" = defaults
    partuuid: str = ""  # of the partition that it lies on directly; "" = on an array or a logical volume
    is_kept: bool = False  # it was not made anew, and what is in it is not ours


@dataclass(frozen=True)
class Array:
    """A software RAID (Linux md)."""

    device: str  # "/dev/md/root"
    name: str
    uuid: str  # as mdadm prints it
    level: str  # "raid1"
    members: tuple[str, ...]  # partitions


@dataclass(frozen=True)
class Made:
    """``esp``: the EFI system partition, "" for none. ``groups``: LVM volume groups by name."""

    disks: tuple[str, ...]  # "/dev/sda": those that get a boot loader, the first of them first
    table: str  # "dos" or "gpt"
    filesystems: tuple[Filesystem, ...]
    arrays: tuple[Array, ...] = ()
    groups: tuple[str, ...] = ()
    esp: str = ""

    @property
    def mounted(self) -> tuple[Filesystem, ...]:
        """Those with a place in the tree, in the order in which they are mounted."""
        return tuple(sorted((one for one in self.filesystems if one.mount), key=lambda one: one.mount))
