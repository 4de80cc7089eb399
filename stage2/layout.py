"""A new partition table on a disk that the gate has opened, and its partitions as places to write to.

Everything goes through the gate's own descriptor: what is checked and what is written is one device. Nothing is
asked of the kernel's partitions, which are there only when the table has been read again.
"""

import errno
import fcntl
import mmap
import os
import struct
import subprocess

from bootd.member.store import BlockStore, PlainStore
from bootd.wire.control import PartTarget, Plan
from bootd.wire.errors import PeerProtocolError
from bootd.wire.layout import BOOT_CODE, Layout
from bootd.wire.table import PartitionTable, parse
from stage2.gate import Target

WIPED = 1 << 20  # bytes at either end of the disk in which no mark of an older table or array may stay
SECONDS = 60.0
_PIECE = 1 << 16
_BLKSSZGET = 0x1268  # linux/fs.h


class LayoutError(Exception):
    """The table is not on the disk as it should be; the text says why."""


class Region(PlainStore):
    """Some bytes of a disk as a store: nothing outside of them can be reached. A `bootd.member.store.Store`."""

    def __init__(self, disk: BlockStore, start: int, room: int, size: int) -> None:
        """``room``: bytes from ``start`` on; ``size``: of the image that goes there."""
        self._disk, self._start, self._room, self.size = disk, start, room, size

    def read(self, offset: int, buffer: memoryview) -> None:
        self._disk.read(self._at(offset, len(buffer)), buffer)

    def write(self, offset: int, buffer: memoryview) -> None:
        self._disk.write(self._at(offset, len(buffer)), buffer)

    def zero(self, offset: int, length: int) -> None:
        self._disk.zero(self._at(offset, length), length)

    def sync(self) -> None:
        self._disk.sync()

    def read_back(self, offset: int, buffer: memoryview) -> None:
        self._disk.read_back(self._at(offset, len(buffer)), buffer)

    def close(self) -> None:
        """The disk is the caller's."""

    def _at(self, offset: int, length: int) -> int:
        if offset < 0 or length < 0 or offset + length > self._room:
            raise OSError(errno.ENOSPC, f"{length} bytes at {offset} of a partition of {self._room}")
        return self._start + offset


def regions(target: Target, plan: Plan, zeros: str) -> list[Region]:
    """A store for each partition of ``plan``, on the disk that ``target`` holds open."""
    disk = BlockStore(target.writable[0], target.disk.size, zeros)
    return [Region(disk, part.partition.start, part.partition.size, part.size) for part in plan.parts]


def misfit(layout: Layout, plan: Plan) -> str:
    """Why the places of ``plan`` are not those of ``layout``; "" when they are."""
    table = layout.table
    if table.sector != plan.disk.sector:
        return f"the layout is for sectors of {table.sector} bytes, the disk has {plan.disk.sector}"
    if table.least > plan.disk.size:
        return f"the layout needs a disk of {table.least} bytes"
    for part in plan.parts:
        if not _is_place(table, part):
            return f"the layout has no partition {part.partition.number} of {part.partition.size} bytes there"
    return ""


def _is_place(table: PartitionTable, part: PartTarget) -> bool:
    entry = next((one for one in table.contents if one.number == part.partition.number), None)
    place = (part.partition.start, part.partition.size)
    return (
        entry is not None
        and place == (entry.start * table.sector, entry.size * table.sector)
        and part.size <= place[1]
    )


def write(layout: Layout, target: Target) -> None:
    """Wipe both ends, write table and boot code, and read the table back. `LayoutError`."""
    table, size, path = layout.table, target.disk.size, f"/proc/self/fd/{target.writable[0]}"
    first = min((entry.start for entry in table.entries), default=0) * table.sector or WIPED
    last = max((entry.end for entry in table.entries), default=0) * table.sector
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            zero(descriptor, 0, min(first, WIPED))
            zero(descriptor, max(last, size - WIPED), size)
            os.fsync(descriptor)
            _sfdisk(["--no-reread", "--no-tell-kernel", "--wipe", "never"], descriptor, table.script())
            if layout.start:
                _put(descriptor, layout.start[:BOOT_CODE], 0)
                begin, end = layout.gap
                _put(descriptor, layout.start[begin:end], begin)
            os.fsync(descriptor)
            found = parse(_sfdisk(["--json"], descriptor))
            _check_boot_code(descriptor, layout)
        finally:
            os.close(descriptor)
    except (OSError, PeerProtocolError) as error:
        raise LayoutError(f"the partition table was not written: {error}") from None
    if not found.same_as(table):
        raise LayoutError("the partition table that sfdisk reads back is not that of the layout")


def _check_boot_code(descriptor: int, layout: Layout) -> None:
    """The boot code is read back as it was meant to be."""
    if layout.start and os.pread(descriptor, BOOT_CODE, 0) != layout.start[:BOOT_CODE].ljust(BOOT_CODE, b"\0"):
        raise OSError(errno.EIO, "the boot code reads back otherwise")


def _sfdisk(words: list[str], descriptor: int, text: str = "") -> str:
    """The disk by the open descriptor: the very device that the gate has checked."""
    command = ["sfdisk", "--quiet", *words, f"/proc/{os.getpid()}/fd/{descriptor}"]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, str(error)) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(errno.EIO, f"sfdisk: {said[-1] if said else done.returncode}")
    return done.stdout.decode(errors="replace")


def zero(descriptor: int, begin: int, end: int) -> None:
    """Zeros from byte ``begin`` to ``end``; the buffer is aligned, so it may be a direct descriptor. OSError."""
    with mmap.mmap(-1, _PIECE) as memory, memoryview(memory) as zeros:
        while begin < end:
            begin += os.pwrite(descriptor, zeros[: min(_PIECE, end - begin)], begin)


def sector_size(descriptor: int) -> int:
    """Logical sectors of a block device, in bytes. OSError."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))[0])


def _put(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
