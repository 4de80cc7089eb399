"""partclone's image format, versions 0001 and 0002 (its ``IMAGE_FORMATS.md`` and ``partclone.h``).

Header, bitmap of the blocks in use, then those blocks with checksums between them. The checksum is CRC-32 (the
polynomial of zlib) that starts with all ones and is not inverted at the end. Version 0001 has one after each block,
goes on counting from block to block, and by an old mistake counts the first byte of a block over and over; version
0002 has one after every so many blocks. What is written here is version 0002.
"""

import struct
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from bootd.images.foreign import bitmap
from bootd.images.foreign.errors import ForeignError

MAGIC = b"partclone-image"
MAX_BLOCKS = 1 << 32  # 16 TiB in blocks of 4 KiB: 512 MiB of bitmap
MAX_BLOCK_SIZE = 16 << 20
MAX_SIZE = 1 << 50
_V1 = struct.Struct("<15s15s4s2xIQQQ4096x")
_V2 = struct.Struct("<16s14s4sH16sQQQQIIHHHHIBB")
_CRC = struct.Struct("<I")
_BITMAP_END = b"BiTmAgIc"
_LITTLE, _BIG = 0xC0DE, 0xDEC0
_NONE, _CRC32 = 0x00, 0x20  # checksum modes
_ALL, _BITS, _BYTES = 0x00, 0x01, 0x08  # bitmap modes
_PREFIX = 34  # bytes that both versions need until the version is known
_OPTIONS_SIZE = 18
_ONES = 0xFFFFFFFF
_Parsing = Generator[tuple[int, int], bytes, None]  # asks for (least, most) bytes
STRIP = 1 << 20  # bytes between two checksums of what is written


@dataclass(frozen=True)
class Header:
    """What an image says of itself. Sizes in bytes; ``strip`` is in blocks, 0 without checksums."""

    version: int
    filesystem: str
    device_size: int
    blocks: int
    block_size: int
    strip: int
    reseed: bool
    bitmap_mode: int

    @property
    def size(self) -> int:
        """Bytes of the partition that it restores to."""
        return (
            max(self.device_size, self.blocks * self.block_size)
            if self.version == 2
            else self.blocks * self.block_size
        )


def is_partclone(start: bytes) -> bool:
    """Whether a file that begins with ``start`` (16 bytes or more) is a partclone image."""
    return start.startswith(MAGIC)


class Reader:
    """Takes an image piece by piece, gives the data with its place. `ForeignError` at the first wrong thing.

    Nothing that it gave counts before `finish` has returned: checksums stand behind the data.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self._map = bytearray()
        self._steps = self._parse()
        self._buffer = bytearray()
        self._wanted = next(self._steps)
        self._given: list[tuple[int, bytes]] = []
        self._done = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Offsets (bytes from the start of the partition) and data, rising. At most as much as was fed so far."""
        view = memoryview(data)
        while view and not self._done:
            least, most = self._wanted
            if not self._buffer and len(view) >= least:  # most data never see the buffer
                taken, view = view[:most], view[most:]
                self._step(bytes(taken))
            else:
                missing = least - len(self._buffer)
                self._buffer += view[:missing]
                view = view[missing:]
                if len(self._buffer) == least:
                    piece = bytes(self._buffer)
                    self._buffer.clear()
                    self._step(piece)
        if view:
            raise ForeignError(f"{len(view)} bytes or more stand behind the end of the partclone image")
        given, self._given = self._given, []
        return given

    def finish(self) -> Header:
        """The whole image was there and its checksums are right; else `ForeignError`."""
        if not self._done or self.header is None:
            raise ForeignError("the partclone image ends too early: it is truncated")
        return self.header

    def extents(self) -> Iterator[tuple[int, int]]:
        """Offset and length in bytes of what is in use, rising; complete as soon as data comes."""
        if self.header is not None:
            for first, number in bitmap.runs(self._map, self.header.blocks):
                yield first * self.header.block_size, number * self.header.block_size

    def _step(self, piece: bytes) -> None:
        try:
            self._wanted = self._steps.send(piece)
        except StopIteration:
            self._done = True

    def _parse(self) -> _Parsing:
        """Asks for (least, most) bytes at a time."""
        prefix = yield _PREFIX, _PREFIX
        version = _version(prefix)
        layout = _V1 if version == 1 else _V2
        rest = yield layout.size - _PREFIX, layout.size - _PREFIX
        if version == 1:
            self.header = _header_1(prefix + rest)
        else:
            (crc,) = _CRC.unpack((yield _CRC.size, _CRC.size))
            if zlib.crc32(prefix + rest) ^ _ONES != crc:
                raise ForeignError("the header of the partclone image is damaged: its checksum is wrong")
            self.header = _header_2(prefix + rest)
        yield from self._parse_bitmap(self.header)
        used = bitmap.population(self._map, self.header.blocks)
        if used:
            yield from self._parse_blocks(self.header, used)

    def _parse_bitmap(self, header: Header) -> _Parsing:
        length = header.blocks if header.bitmap_mode == _BYTES else -(-header.blocks // 8)
        if header.bitmap_mode == _ALL:
            self._map = bytearray(b"\xff" * length)
            return
        left = length
        while left:
            most = min(left, 1 << 20)  # a multiple of 8, but for the last
            piece = yield most, most
            left -= most
            self._map += _packed(piece) if header.bitmap_mode == _BYTES else piece
        if header.version == 1:
            if (yield len(_BITMAP_END), len(_BITMAP_END)) != _BITMAP_END:
                raise ForeignError("the bitmap of the partclone image is damaged: its end mark is not there")
        elif _CRC.unpack((yield _CRC.size, _CRC.size))[0] != zlib.crc32(self._map) ^ _ONES:
            raise ForeignError("the bitmap of the partclone image is damaged: its checksum is wrong")

    def _parse_blocks(self, header: Header, used: int) -> _Parsing:
        size, left, crc = header.block_size, used * header.block_size, 0
        in_strip = strip = header.strip * size
        for start, length in self.extents():
            offset, end = start, start + length
            while offset < end:
                most = min(end - offset, in_strip) if strip else end - offset
                piece = yield (most, most) if header.version == 1 else (1, most)
                if strip:
                    crc = zlib.crc32(piece[:1] * size if header.version == 1 else piece, crc)
                    in_strip -= len(piece)
                self._given.append((offset, piece))
                offset += len(piece)
                left -= len(piece)
                if strip and (in_strip == 0 or left == 0):
                    (stated,) = _CRC.unpack((yield _CRC.size, _CRC.size))
                    if stated != crc ^ _ONES:
                        raise ForeignError(f"a checksum of the partclone image is wrong before byte {offset}")
                    in_strip, crc = strip, 0 if header.reseed else crc


class Writer:
    """An image in version 0002 of a partition of ``size`` bytes whose ``extents`` are in use.

    ``extents`` are (offset, length) in bytes, rising, not touching; they are widened to whole blocks.
    """

    def __init__(self, filesystem: str, size: int, extents: Iterable[tuple[int, int]]) -> None:
        self.block_size = next(block for block in (4096, 2048, 1024, 512, 1) if size % block == 0)
        if self.block_size == 1:
            raise ForeignError(f"a partition of {size} bytes is no whole number of sectors")
        self._blocks = size // self.block_size
        if not 0 < self._blocks <= MAX_BLOCKS:
            raise ForeignError(f"a partition of {size} bytes does not fit into a partclone image")
        self._map = bitmap.from_runs(self._whole(extents), self._blocks)
        self._size, self._filesystem = size, filesystem
        self._strip, self._crc = STRIP, 0

    def start(self) -> bytes:
        """Header and bitmap."""
        used = bitmap.population(self._map, self._blocks)
        header = _V2.pack(
            MAGIC, b"bootd", b"0002", _LITTLE, self._filesystem.encode("ascii")[:15], self._size, self._blocks,
            used, used, self.block_size, _OPTIONS_SIZE, 2, 64, _CRC32, 4, STRIP // self.block_size, 1, _BITS,
        )  # fmt: skip
        return b"".join([header, _crc(header), self._map, _crc(self._map)])

    def extents(self) -> Iterator[tuple[int, int]]:
        """What `add` is to be given, in this order: offset and length in bytes."""
        for first, number in bitmap.runs(self._map, self._blocks):
            yield first * self.block_size, number * self.block_size

    def add(self, data: bytes) -> bytes:
        """The next bytes in use, with the checksums that fall between them."""
        out: list[bytes | memoryview] = []
        view = memoryview(data)
        while view:
            piece, view = view[: self._strip], view[self._strip :]
            self._crc = zlib.crc32(piece, self._crc)
            self._strip -= len(piece)
            out.append(piece)
            if not self._strip:
                out.append(self._seal())
        return b"".join(out)

    def end(self) -> bytes:
        """What stands behind the last block."""
        return self._seal() if self._strip != STRIP else b""

    def _seal(self) -> bytes:
        sealed = _CRC.pack(self._crc ^ _ONES)
        self._strip, self._crc = STRIP, 0
        return sealed

    def _whole(self, extents: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for offset, length in extents:
            first, last = offset // self.block_size, -(-(offset + length) // self.block_size)
            yield first, min(last, self._blocks) - first


def _crc(data: bytes | bytearray) -> bytes:
    return _CRC.pack(zlib.crc32(data) ^ _ONES)


def _packed(states: bytes) -> bytes:
    """Bits for bytes that are 1 where a block is in use (anything else is not, as partclone reads it)."""
    digits = states.translate(_IS_ONE)[::-1]
    return int(digits, 2).to_bytes(-(-len(states) // 8), "little")


_IS_ONE = bytes(ord("1") if value == 1 else ord("0") for value in range(256))


def _version(prefix: bytes) -> int:
    if not is_partclone(prefix):
        raise ForeignError("this is no partclone image")
    text = prefix[30:34]
    if text not in (b"0001", b"0002"):
        raise ForeignError(f"partclone image of version {text!r}: only 0001 and 0002 are known")
    return int(text)


def _header_1(data: bytes) -> Header:
    _, name, _, block_size, device_size, blocks, _ = _V1.unpack(data)
    return _checked(Header(1, _text(name), device_size, blocks, block_size, 1, False, _BYTES))


def _header_2(data: bytes) -> Header:
    (
        _, _, _, order, name, device_size, blocks, _, _, block_size, options, version, _, mode, length, strip,
        reseed, bitmap_mode,
    ) = _V2.unpack(data)  # fmt: skip
    if order == _BIG:
        raise ForeignError(
            "partclone image of a big-endian machine: restore it there with partclone and back it up anew"
        )
    if order != _LITTLE or options != _OPTIONS_SIZE or version != 2:
        raise ForeignError("the header of the partclone image has fields that are not known")
    if mode not in (_NONE, _CRC32):
        raise ForeignError(f"partclone image with checksums of kind {mode:#x}: only CRC32 and none are known")
    if bitmap_mode not in (_ALL, _BITS, _BYTES):
        raise ForeignError(f"partclone image with a bitmap of kind {bitmap_mode:#x}")
    if mode == _CRC32 and (length != _CRC.size or not strip):
        raise ForeignError(f"partclone image with checksums of {length} bytes every {strip} blocks")
    return _checked(
        Header(
            2,
            _text(name),
            device_size,
            blocks,
            block_size,
            strip if mode == _CRC32 else 0,
            bool(reseed),
            bitmap_mode,
        )
    )


def _checked(header: Header) -> Header:
    if not 0 < header.block_size <= MAX_BLOCK_SIZE or header.block_size % 512:
        raise ForeignError(f"partclone image with blocks of {header.block_size} bytes")
    if not 0 < header.blocks <= MAX_BLOCKS or header.size > MAX_SIZE:
        raise ForeignError(f"partclone image of {header.blocks} blocks of {header.block_size} bytes")
    return header


def _text(name: bytes) -> str:
    text = name.split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)
