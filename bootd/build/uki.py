"""A unified kernel image: kernel, initrd and command line in one file that UEFI starts, as HTTP Boot wants it.

The file is systemd's stub with further PE sections behind its own (UAPI.5, the UKI specification); the stub finds
them by name in memory. Written here because objcopy needs guessed addresses that break when a part grows.
PE layout: Microsoft's PE/COFF specification, sections 3 and 4.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from bootd.errors import Exit, OperatorError

MAX_SECTIONS = 96  # what Windows' loader takes; firmware is not stricter
PAGE = 4096  # bytes: where the stub's own alignment is finer, kernel and initrd still begin on a page
_READ_INITIALISED = 0x40000040  # IMAGE_SCN_MEM_READ | IMAGE_SCN_CNT_INITIALIZED_DATA
_SECTION = struct.Struct("<8sIIIIIIHHI")
_PE32_PLUS = 0x20B


@dataclass(frozen=True)
class _Layout:
    """Where things are in a PE file: offsets and sizes in bytes."""

    file_header: int
    optional: int
    table: int  # section table
    sections: int  # how many
    section_alignment: int
    file_alignment: int
    headers: int  # SizeOfHeaders
    end: int  # first virtual address behind the last section


def assemble(stub: bytes, sections: Sequence[tuple[str, bytes]]) -> bytes:
    """``stub`` with ``sections`` (name of at most eight bytes, content) behind its own.

    `OperatorError` when the stub is no PE32+ file, or its header has no room for that many more.
    """
    layout = _layout(stub)
    table_end = layout.table + _SECTION.size * (layout.sections + len(sections))
    if table_end > layout.headers or layout.sections + len(sections) > MAX_SECTIONS:
        raise _unusable(f"no room for {len(sections)} more sections in its header")
    if any(stub[layout.table + _SECTION.size * layout.sections : table_end]):
        raise _unusable("something stands behind its section table")
    out = bytearray(stub)
    address, initialised = layout.end, 0
    for number, (name, content) in enumerate(sections, start=layout.sections):
        out += bytes(-len(out) % layout.file_alignment)
        place, stored = len(out), _aligned(len(content), layout.file_alignment)
        out += content + bytes(stored - len(content))
        entry = _SECTION.pack(name.encode(), len(content), address, stored, place, 0, 0, 0, 0, _READ_INITIALISED)
        where = layout.table + _SECTION.size * number
        out[where : where + _SECTION.size] = entry
        address = _aligned(address + len(content), layout.section_alignment)
        initialised += stored
    (before,) = struct.unpack_from("<I", stub, layout.optional + 8)
    struct.pack_into("<H", out, layout.file_header + 2, layout.sections + len(sections))
    struct.pack_into("<I", out, layout.optional + 8, before + initialised)  # SizeOfInitializedData
    struct.pack_into("<I", out, layout.optional + 56, address)  # SizeOfImage
    struct.pack_into("<I", out, layout.optional + 64, 0)  # CheckSum: firmware does not look
    return bytes(out)


def _layout(stub: bytes) -> _Layout:
    try:
        (start,) = struct.unpack_from("<I", stub, 0x3C)
        if stub[:2] != b"MZ" or stub[start : start + 4] != b"PE\0\0":
            raise _unusable("it is not a PE file")
        header = start + 4
        (count,) = struct.unpack_from("<H", stub, header + 2)
        (optional_size,) = struct.unpack_from("<H", stub, header + 16)
        optional = header + 20
        (magic,) = struct.unpack_from("<H", stub, optional)
        if magic != _PE32_PLUS:
            raise _unusable(f"its optional header has the magic {magic:#x}, not that of PE32+")
        section_alignment, file_alignment = struct.unpack_from("<II", stub, optional + 32)
        (headers,) = struct.unpack_from("<I", stub, optional + 60)
        table = optional + optional_size
        end = 0
        for number in range(count):
            fields = _SECTION.unpack_from(stub, table + _SECTION.size * number)
            end = max(end, fields[2] + max(fields[1], fields[3]))
    except struct.error:
        raise _unusable("it is cut off") from None
    if not section_alignment or not file_alignment:
        raise _unusable("its alignment is zero")
    return _Layout(
        header,
        optional,
        table,
        count,
        max(section_alignment, PAGE),
        file_alignment,
        headers,
        _aligned(end, max(section_alignment, PAGE)),
    )


def _aligned(number: int, alignment: int) -> int:
    return number + -number % alignment


def _unusable(reason: str) -> OperatorError:
    return OperatorError(
        f"the UEFI stub cannot be used: {reason}", "rebuild with Debian 12's systemd-boot-efi", Exit.INPUT
    )
