"""Who has what of a source that is read: the files of its ext2, ext3 and ext4, for the marks of its chunks.

A file counts only when nobody can have changed it without a change of its times: no swap file and no environment of
GRUB, which are written past the file system, and none that was changed just before the file system was left, since
the next change may come within the same tick of a clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bootd.wire import ext4
from bootd.wire.captured import Volume
from bootd.wire.digest import digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.ext4 import File, Group, Superblock
from bootd.wire.marks import Clock, Marker
from bootd.wire.volumes import Read

MARGIN = 2  # seconds
_SWAP = (b"SWAP-SPACE", b"SWAPSPACE2", b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001")
_PAGES = (4096, 8192, 16384, 65536)  # a swap file says what it is at the end of its first page
_SMALLEST_SWAP = 40 << 10  # bytes; below 1 MiB only those that are as private as swapon wants them
_LARGE = 1 << 20
_GRUB_SIZE = 1024
_GRUB = b"# GRUB Environment Block\n"


@dataclass
class Owned:
    """What was found. ``clocks``: by UUID; ``notes``: volumes that are read whole, and why."""

    marker: Marker = field(default_factory=Marker)
    clocks: dict[str, Clock] = field(default_factory=dict)
    files: int = 0
    notes: list[str] = field(default_factory=list)


def find_owners(volumes: Sequence[Volume], read: Read) -> Owned:
    """Of all ``volumes`` of the source that ``read`` reads. OSError is passed on."""
    owned = Owned()
    for volume in volumes:
        where = f"{volume.type} at {volume.start >> 20} MiB"
        if volume.type not in ext4.TYPES:
            owned.notes.append(f"{where}: read whole, --quick knows ext2, ext3 and ext4")
            continue
        try:
            _add_volume(owned, volume, read)
        except (PeerProtocolError, ValueError) as error:
            owned.notes.append(f"{where}: read whole: {error}")
    return owned


def _add_volume(owned: Owned, volume: Volume, read: Read) -> None:
    """Nothing of it is added when something about it is not as it should be."""

    def inside(offset: int, length: int) -> bytes:
        if not 0 <= offset < volume.size:
            return b""
        return read(volume.start + offset, min(length, volume.size - offset))

    about = ext4.read_superblock(inside, volume.size)
    if about.mounted > about.written:
        raise PeerProtocolError("ext: its clock has gone back while it was mounted")
    uuid = about.uuid.hex()
    if uuid in owned.clocks:
        raise PeerProtocolError("ext: two file systems have the same UUID")
    groups = ext4.read_groups(inside, about)
    salt = b"".join([about.uuid, *(number.to_bytes(8, "big") for number in (about.checked, about.made))])
    salt += volume.start.to_bytes(8, "big")
    marker, count = Marker(), 0
    for file in ext4.read_files(inside, about, groups):
        if not file.pieces or file.changed >= about.written - MARGIN or _is_written_past(file, about, inside):
            continue
        count += 1
        identity = digest(salt + file.identity)[:16]
        for piece in file.pieces:
            place = volume.start + piece.physical * about.block
            marker.add(place, piece.count * about.block, piece.logical * about.block, identity)
    _add_unused_tables(marker, volume, about, groups, digest(salt + b"never used")[:16])
    owned.marker.take(marker)
    owned.clocks[uuid] = Clock(about.mounted, about.written)
    owned.files += count


def _add_unused_tables(
    marker: Marker, volume: Volume, about: Superblock, groups: Sequence[Group], identity: bytes
) -> None:
    """The ends of inode tables that were made zeros and never used since: the descriptors of the groups say so."""
    length = -(-about.group_inodes * about.inode // about.block)
    for number, group in enumerate(groups):
        first = -(-group.used * about.inode // about.block)
        if group.zeroed and first < length:
            place = volume.start + (group.table + first) * about.block
            marker.add(place, (length - first) * about.block, number << 32 | first, identity)


def _is_written_past(file: File, about: Superblock, read: Read) -> bool:
    """Whether somebody writes to the blocks of the file without asking the file system: swap, GRUB's save_env."""
    first = file.pieces[0]
    if first.logical:
        return False  # neither has holes
    place = first.physical * about.block
    if file.size == _GRUB_SIZE:
        return read(place, len(_GRUB)) == _GRUB
    if file.size >= (_SMALLEST_SWAP if not file.mode & 0o077 else _LARGE):
        available = first.count * about.block
        for page in _PAGES:
            end = min(page, available)
            if end == page and read(place + page - 10, 10).startswith(_SWAP):
                return True
        return (
            available < _PAGES[-1] and len(file.pieces) > 1
        )  # its first page may be in two pieces: not looked for
    return False
