"""What a stream holds once it is unpacked: an image of partclone, or the bytes of a disk or partition."""

from collections.abc import Iterable, Iterator

from bootd.images.foreign import partclone
from bootd.images.foreign.compression import START, Compression, recognise
from bootd.images.foreign.errors import ForeignError

SECTOR = 512
MAX_EXTENTS = 1 << 18
_LEAST_GAP = 1 << 16  # bytes: smaller gaps between extents go first where there are too many
CONTAINERS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"conectix", "vpc"),
)
_ARCHIVES = (
    (0, b"PK\x03\x04", "zip archive"),
    (257, b"ustar", "tar archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
)
LOOK = 512  # bytes that `container` wants to see


def container(start: bytes) -> str:
    """The format, in qemu-img's words, of the virtual disk that begins with ``start``; "" for none."""
    return next((name for offset, sign, name in CONTAINERS if start[offset:].startswith(sign)), "")


class Content:
    """Iterate once over offsets and data, rising; then `size` and `extents` are known, and all was whole."""

    def __init__(self, pieces: Iterable[bytes], *, known: bool = False) -> None:
        """``known``: it certainly is a disk or partition, and may begin as an archive does."""
        self._pieces, self._known = iter(pieces), known
        self.size = 0  # bytes of the disk or partition
        self.extents: list[tuple[int, int]] | None = None  # None: all of it is in use
        self.filesystem = ""  # as partclone calls it

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        start = b""
        for piece in self._pieces:
            start += piece
            if len(start) >= LOOK:
                break
        if not self._known:
            _check_start(start)
        if partclone.is_partclone(start):
            yield from self._partclone(start)
        else:
            yield from self._raw(start)

    def _partclone(self, start: bytes) -> Iterator[tuple[int, bytes]]:
        reader = partclone.Reader()
        yield from reader.feed(start)
        for piece in self._pieces:
            yield from reader.feed(piece)
        header = reader.finish()
        self.extents, self.filesystem = fewer(reader.extents()), header.filesystem
        last = sum(self.extents[-1]) if self.extents else 0
        # Version 0001 has often a wrong size of the device; partclone, too, takes its blocks instead.
        self.size = header.size if header.version == 1 else max(header.device_size, last)

    def _raw(self, start: bytes) -> Iterator[tuple[int, bytes]]:
        yield 0, start
        offset = len(start)
        for piece in self._pieces:
            yield offset, piece
            offset += len(piece)
        if not offset or offset % SECTOR:
            raise ForeignError(f"{offset} bytes are no whole number of sectors: it is truncated, or no disk image")
        self.size = offset


def fewer(extents: Iterable[tuple[int, int]], limit: int = MAX_EXTENTS) -> list[tuple[int, int]]:
    """The extents (rising, none over another), touching ones joined; small gaps closed until ``limit`` hold."""
    gap = 0
    found = _joined(extents, gap)
    while len(found) > limit:
        gap = max(_LEAST_GAP, gap * 2)
        found = _joined(found, gap)
    return found


def _joined(extents: Iterable[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for offset, length in extents:
        if found and offset - sum(found[-1]) <= gap:
            found[-1] = found[-1][0], offset + length - found[-1][0]
        else:
            found.append((offset, length))
    return found


def _check_start(start: bytes) -> None:
    if name := container(start):
        raise ForeignError(f"a compressed {name} image: unpack it first")
    if recognise(start[:START]) is not Compression.NONE:
        raise ForeignError("it is compressed twice: unpack it once first")
    for offset, sign, name in _ARCHIVES:
        if start[offset:].startswith(sign):
            raise ForeignError(f"a {name} is no disk image: take the image out of it first")
