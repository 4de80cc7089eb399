"""Disks that Clonezilla and FOG took apart, put together again: table, boot code, a stream for each partition."""

from collections.abc import Iterator, Sequence
from typing import Any

from bootd.drivers.formats.folder import Directory
from bootd.drivers.formats.order import Order, Source
from bootd.drivers.formats.scratch import Scratch, read_table, write_table
from bootd.drivers.formats.streams import read_stream
from bootd.images.foreign.content import Content, fewer
from bootd.images.foreign.errors import ForeignError
from bootd.images.foreign.layout import SECTOR, Disk, Stream


def choose(disks: Sequence[Disk], device: str, *, whole: bool) -> tuple[Disk, Stream | None]:
    """The disk that ``device`` names, or the partition of one. ``whole``: that disks can be chosen."""
    streams = [(disk, stream) for disk in disks for stream in disk.streams]
    if device:
        for disk in disks:
            if disk.name == device and whole:
                return disk, None
        for disk, stream in streams:
            if stream.name == device:
                return disk, stream
    elif whole and len(disks) == 1:
        return disks[0], None
    elif not whole and len(streams) == 1:
        return streams[0]
    known = ", ".join([*(disk.name for disk in disks if whole), *(stream.name for _, stream in streams)])
    raise ForeignError(f"there is no {device} in it: {known}" if device else f"choose with --device one of {known}")


def import_disk(order: Order, folder: Directory, disk: Disk, program: str) -> None:
    """Keep the whole of ``disk``."""
    order.total = sum(folder.size(stream.files) for stream in disk.streams)
    with Scratch(order.store.directory, disk.size) as scratch:
        write_table(scratch, disk.table.script())
        for offset, data in disk.beside:
            scratch.write(offset, data)
        _compare(disk, read_table(scratch))
        assembled = _Assembled(order, folder, disk, scratch)
        origin = f"{program} {folder.path.name}, {disk.name}"
        order.keep(
            Source(assembled.places(), lambda: disk.size, assembled.extents, program, origin, disk.size, "disk")
        )


def import_partition(order: Order, folder: Directory, stream: Stream, program: str) -> None:
    """Keep one partition."""
    order.total, size = folder.size(stream.files), stream.size or 0
    content = Content(_pieces(order, folder, stream), known=True)
    data = ((offset - stream.start, piece) for offset, piece in _placed(content, stream))
    origin = f"{program} {folder.path.name}, {stream.name}"
    order.keep(Source(data, lambda: size, lambda: _used(content, stream), program, origin, size, "partition"))


class _Assembled:
    """The bytes of a disk: those of ``scratch`` between the partitions, and the streams in them."""

    def __init__(self, order: Order, folder: Directory, disk: Disk, scratch: Scratch) -> None:
        self._disk, self._scratch = disk, scratch
        self._streams = {stream.start: stream for stream in disk.streams}
        self._contents = {
            stream.start: Content(_pieces(order, folder, stream), known=True) for stream in disk.streams
        }

    def places(self) -> Iterator[tuple[int, bytes]]:
        """Offsets and data, rising."""
        position = 0
        for start, end in [*self._partitions(), (self._disk.size, self._disk.size)]:
            yield from self._scratch.data(position, start)
            if start in self._streams:
                yield from _placed(self._contents[start], self._streams[start])
            position = end

    def extents(self) -> list[tuple[int, int]]:
        """What is in use: all between the partitions, and in them what their images say."""
        found: list[tuple[int, int]] = []
        position = 0
        for start, end in [*self._partitions(), (self._disk.size, self._disk.size)]:
            if position < start:
                found.append((position, start - position))
            if start in self._streams:
                used = _used(self._contents[start], self._streams[start])
                found += [(start + offset, length) for offset, length in used]
            position = end
        return fewer(found)

    def _partitions(self) -> list[tuple[int, int]]:
        """Start and end in bytes of those that hold data."""
        table = self._disk.table
        return sorted(
            (part.start * SECTOR, (part.start + part.size) * SECTOR)
            for part in table.partitions
            if table.label != "dos" or not part.is_extended
        )


def _placed(content: Content, stream: Stream) -> Iterator[tuple[int, bytes]]:
    """The data of a partition at its place; `ForeignError` if it is larger than its place, or cut off."""
    size = stream.size or 0
    for offset, data in content:
        if offset + len(data) > size:
            raise ForeignError(f"the image of {stream.name} is larger than its partition of {size} bytes")
        yield stream.start + offset, data
    is_short = content.extents is None and content.size < size and not stream.content
    if content.size > size or is_short:
        raise ForeignError(f"the image of {stream.name} is of {content.size} bytes, its partition of {size}")


def _used(content: Content, stream: Stream) -> list[tuple[int, int]]:
    if stream.content:
        return [(0, len(stream.content))]
    return [(0, content.size)] if content.extents is None else content.extents


def _pieces(order: Order, folder: Directory, stream: Stream) -> Iterator[bytes]:
    if not stream.files:
        yield stream.content
        return
    try:
        yield from read_stream([folder.path / file for file in stream.files], order.came)
    except ForeignError as error:
        raise ForeignError(f"{stream.files[0]}: {error}") from None


def _compare(disk: Disk, table: dict[str, Any] | None) -> None:
    """That the table which was put together is the one that the image names."""
    found = {(part["start"], part["size"], _type(part["type"])) for part in (table or {}).get("partitions", ())}
    wanted = {(part.start, part.size, _type(part.type)) for part in disk.table.partitions}
    if found != wanted:
        differing = ", ".join(str(start) for start, _, _ in sorted(found ^ wanted)[:4])
        raise ForeignError(f"the boot record and the partition table disagree (partition at sector {differing})")


def _type(text: str) -> str:
    return text.lower().lstrip("0")
