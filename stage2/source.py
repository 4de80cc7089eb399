"""The disk or partition that is read into an image: found again, opened for reading and for nobody else, described.

While it is open, nothing can mount it or take it into a pool. Whoever writes to it regardless is noticed at the
end: the kernel counts the writes.
"""

import fcntl
import os
import struct
from collections.abc import Callable, Sequence

from bootd.member.direct import DirectReader
from bootd.wire.captured import CHUNK, Description
from bootd.wire.control import Capture, Disk
from bootd.wire.used import MAX_FINE, Cutter, Range, shortened, total
from stage2.gate import describe
from stage2.used_blocks import Order, Place, RefusedError, examine, places_of, read_table

IN_USE = ("mounted", "used as swap", "LVM in use", "in use by")  # as the inventory says it
_BLKGETSIZE64 = 0x80081272  # linux/fs.h
_BLKFLSBUF = 0x1261
_IDLE = "unmount it, or stop what uses it (swapoff, vgchange -an, mdadm --stop)"


def find(order: Capture, disks: Sequence[Disk]) -> Disk:
    """The disk that ``order`` means; `RefusedError` for none or two."""
    wanted = order.disk
    if wanted.serial or wanted.wwn:
        found = [disk for disk in disks if (disk.serial, disk.wwn) == (wanted.serial, wanted.wwn)]
    else:
        found = [disk for disk in disks if disk.name == wanted.name and not disk.serial and not disk.wwn]
    if len(found) != 1:
        there = ", ".join(describe(disk) for disk in disks) or "no disks"
        raise RefusedError(f"{len(found)} disks are {describe(wanted)}; there are: {there}")
    disk = found[0]
    if (disk.size, disk.sector) != (wanted.size, wanted.sector):
        raise RefusedError(
            f"disk {describe(disk)} has {disk.size} bytes, {wanted.size} when the backup was ordered"
        )
    if not order.partition and disk.excluded.startswith(IN_USE):
        raise RefusedError(f"disk {describe(disk)} is {disk.excluded}: {_IDLE}")
    return disk


class Source:
    """What is read. `close` when done."""

    def __init__(
        self,
        order: Capture,
        take: Callable[[], Sequence[Disk]],
        dev_root: str = "/dev",
        sys_root: str = "/sys",
    ) -> None:
        """Finds, opens and examines it. `RefusedError`; OSError when it cannot be read."""
        disk = find(order, take())
        path = f"{dev_root}/{disk.name}"
        table = read_table(path)
        folder = f"{sys_root}/block/{disk.name}"

        def device(number: int) -> str:
            name = partition_name(folder, number)
            return f"{dev_root}/{name}" if name else ""

        places = places_of(table, disk.name, disk.sector, device) if table is not None else []
        self.name, size, counter = disk.name, disk.size, f"{folder}/stat"
        if order.partition:
            place = _chosen(order, places, disk)
            path, self.name, size, table = place.device, place.name, place.size, None
            places, counter = [Place(place.name, 0, size, path)], f"{folder}/{os.path.basename(path)}/stat"
        elif not places:  # no table, or one that a boot sector only looks like
            places = [Place(disk.name, 0, size, path)]
        self._descriptor = open_alone(path, self.name)
        try:
            for place in places:
                flush(place.device)
            self._check(size)
            self._counter = counter
            self._writes = self._count_writes()
            found, ranges, self.notes = examine(places, size, path, self.read, Order(order.dirty, order.raw))
        except BaseException:
            os.close(self._descriptor)
            raise
        self._reader = DirectReader(self._descriptor)
        kind = "partition" if order.partition else "disk"
        fine = shortened(ranges, MAX_FINE, 0)
        self.description = Description(kind, size, disk.sector, table, found, shortened(fine))
        self.total = total(fine)  # bytes in use
        self.identity = f"{disk.serial} {disk.wwn} {disk.size} {order.partition}" if disk.serial or disk.wwn else ""
        self._cutter = Cutter(fine)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``, fewer at the end. OSError."""
        parts = []
        while length > 0:
            data = os.pread(self._descriptor, length, offset)
            if not data:
                break
            parts.append(data)
            offset, length = offset + len(data), length - len(data)
        return b"".join(parts)

    def read_directly(self, offset: int, length: int) -> memoryview:
        """``length`` bytes past the page cache, good until the same thread reads again. OSError."""
        return self._reader.read(offset, length)

    def ranges_of(self, index: int) -> list[Range]:
        """What of chunk ``index`` is in use."""
        return list(self._cutter.within(index * CHUNK, (index + 1) * CHUNK))

    def in_use(self, index: int) -> int:
        """Bytes in use of chunk ``index``."""
        return total(self.ranges_of(index))

    def read_chunk(self, index: int) -> bytearray:
        """Chunk ``index``, zeros where it is not in use. OSError, also when the device ends early."""
        begin = index * CHUNK
        chunk = bytearray(min(CHUNK, self.description.size - begin))
        view = memoryview(chunk)
        used = self.ranges_of(index)
        if not used:
            return chunk
        # In one piece: many small requests cost more than what lies between them.
        first, end = used[0][0], sum(used[-1])
        found = self._reader.read(first, end - first)
        for start, length in used:
            view[start - begin : start - begin + length] = found[start - first : start - first + length]
        return chunk

    def changed(self) -> str:
        """Why what was read is not one state of the source; "" when nobody has written to it meanwhile."""
        fcntl.ioctl(self._descriptor, _BLKFLSBUF)
        writes = self._count_writes()
        if writes == self._writes:
            return ""
        return f"{self.name} was written to while it was read: leave it alone, and begin again"

    def close(self) -> None:
        os.close(self._descriptor)

    def _check(self, size: int) -> None:
        (found,) = struct.unpack("Q", fcntl.ioctl(self._descriptor, _BLKGETSIZE64, bytes(8)))
        if found != size:
            raise RefusedError(f"{self.name} has {found} bytes, {size} by its partition table")
        fcntl.ioctl(self._descriptor, _BLKFLSBUF)

    def _count_writes(self) -> tuple[str, ...]:
        """Sectors written, sectors discarded: Documentation/block/stat.rst. () where the kernel has no counters.
        Not the number of requests: a flush is one."""
        try:
            with open(self._counter) as stream:
                words = stream.read().split()
        except OSError:
            return ()
        return (words[6], *words[13:14])


def _chosen(order: Capture, places: Sequence[Place], disk: Disk) -> Place:
    planned = next((part for part in order.disk.partitions if part.number == order.partition), None)
    separator = "p" if disk.name[-1].isdigit() else ""
    name = f"{disk.name}{separator}{order.partition}"
    found = [place for place in places if place.name == name]
    if not found or not found[0].device or planned is None:
        there = ", ".join(place.name for place in places) or "none"
        raise RefusedError(f"there is no partition {name} that holds data; there are: {there}")
    if found[0].size != planned.size:
        text = f"{name} has {found[0].size} bytes, {planned.size} when the backup was ordered: order it again"
        raise RefusedError(text)
    return found[0]


def open_alone(path: str, name: str) -> int:
    """A descriptor for reading. While it is open, nobody can mount or claim the device. `RefusedError`."""
    try:
        return os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise RefusedError(f"{name} cannot be opened alone ({error.strerror}): {_IDLE}") from None


def flush(path: str) -> None:
    """Bring to the disk what was written through the device, and forget what is cached of it: the device that is
    read next (the disk, a partition) has a cache of its own, which may be older or newer. OSError."""
    if not path:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        fcntl.ioctl(descriptor, _BLKFLSBUF)
    finally:
        os.close(descriptor)


def partition_name(folder: str, number: int) -> str:
    """The kernel's name of a disk's partition, "" when it has none. ``folder``: that of the disk in sysfs."""
    try:
        for name in sorted(os.listdir(folder)):
            try:
                with open(f"{folder}/{name}/partition") as stream:
                    if int(stream.read()) == number:
                        return name
            except (OSError, ValueError):
                continue
    except OSError:
        pass
    return ""
