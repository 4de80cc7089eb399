"""The header of a Linux swap area (``union swap_header`` of the kernel), for images that only name the area."""

import re
import struct

from bootd.images.foreign.errors import ForeignError

PAGE = 4096
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_INFO = struct.Struct(
    "<III16s16s"
)  # version, last page, bad pages, UUID, label; after 1024 bytes for a boot loader
_SIGNATURE = b"SWAPSPACE2"


def header(size: int, identifier: str, label: str) -> bytes:
    """The first page of a swap area of ``size`` bytes, as mkswap makes it on a machine with pages of 4 KiB."""
    if not _UUID.match(identifier):
        raise ForeignError(f"{identifier[:40]!r} is no UUID of a swap area")
    number = bytes.fromhex(identifier.replace("-", ""))
    name = label.encode()[:15]
    if size < 10 * PAGE:
        raise ForeignError(f"a swap area of {size} bytes is too small")
    page = bytes(1024) + _INFO.pack(1, min(size // PAGE, 1 << 32) - 1, 0, number, name)
    return page.ljust(PAGE - len(_SIGNATURE), b"\0") + _SIGNATURE
