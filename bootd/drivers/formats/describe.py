"""What is on a disk or partition: sfdisk and blkid look at a sparse copy of the few sectors that they read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootd.drivers.formats.scratch import Scratch, read_table
from bootd.images.foreign import tables
from bootd.images.foreign.errors import ForeignError
from bootd.images.foreign.superblocks import LEAST, stated_size
from bootd.images.manifest import Filesystem

_SECTOR = 512


@dataclass(frozen=True)
class Found:
    """``table`` as in a manifest. ``is_disk``: None where nothing on it says."""

    table: dict[str, Any] | None
    filesystems: tuple[Filesystem, ...]
    is_disk: bool | None


def describe(read: tables.Read, size: int, folder: Path) -> Found:
    """Look at ``size`` bytes that ``read`` gives; `ForeignError` when its table needs a larger disk."""
    with Scratch(folder, size) as scratch:
        for offset, length in tables.regions(read, size):
            scratch.write(offset, read(offset, length))
        whole = _probe(scratch, 0, size)
        table = read_table(scratch)
        if "TYPE" in whole and (table is None or "PTTYPE" not in whole or not table.get("partitions")):
            check_whole(read, whole["TYPE"], 0, size)  # boot sectors of some filesystems look like a table
            return Found(None, tuple(_filesystem(whole, 0, size)), is_disk=False)
        if table is None:
            return Found(None, (), is_disk=None)
        found: list[Filesystem] = []
        check_fits(table, read, size)
        for start, length in places(table):
            for offset, count in ((start, tables.HEAD), (start + length - tables.TAIL, tables.TAIL)):
                begin, end = max(start, offset), min(start + length, offset + count)
                scratch.write(begin, read(begin, end - begin))
            found += _filesystem(_probe(scratch, start, length), start, length)
        return Found(table, tuple(found), is_disk=True)


def places(table: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Start and size in bytes of each partition that holds data, by start."""
    for part in sorted(table.get("partitions", ()), key=lambda part: int(part["start"])):
        if table.get("label") != "dos" or str(part["type"]).lower() not in ("5", "f", "85"):
            yield part["start"] * _SECTOR, part["size"] * _SECTOR


def check_fits(table: dict[str, Any], read: tables.Read, size: int) -> None:
    """`ForeignError` when what its tables describe ends behind ``size`` bytes: the image is cut off."""
    if int(table.get("sectorsize", _SECTOR)) != _SECTOR:
        raise ForeignError(f"a disk with sectors of {table['sectorsize']} bytes: only 512 can be taken over")
    needed = max((part["start"] + part["size"] for part in table.get("partitions", ())), default=0) * _SECTOR
    stated = tables.gpt_size(read)
    needed = max(needed, stated or 0)
    if needed > size:
        raise ForeignError(f"its partition table needs a disk of {needed} bytes, here are {size}: it is truncated")
    if stated is not None and table.get("label") != "gpt":
        raise ForeignError("its GPT is damaged, or of a disk whose sectors have not 512 bytes")


def check_whole(read: tables.Read, kind: str, start: int, size: int) -> None:
    """`ForeignError` when a filesystem says that it is larger than the ``size`` bytes that are there."""
    stated = stated_size(kind, read(start, min(size, LEAST)))
    if stated is not None and stated > size:
        raise ForeignError(f"its {kind} filesystem has {stated} bytes, here are {size}: it is truncated")


def _probe(scratch: Scratch, start: int, size: int) -> dict[str, str]:
    done = scratch.run(
        "blkid", "--probe", "--output", "export", "--offset", str(start), "--size", str(size), scratch.path
    )
    words = (line.partition("=") for line in done.stdout.decode("utf-8", "replace").splitlines())
    return {key: value for key, _, value in words}


def _filesystem(values: dict[str, str], start: int, size: int) -> Iterator[Filesystem]:
    if kind := values.get("TYPE", ""):
        yield Filesystem(start, size, kind[:255], _plain(values.get("LABEL", "")), _plain(values.get("UUID", "")))


def _plain(text: str) -> str:
    """Without what `blkid` put before characters that a shell would take, and without unprintable ones."""
    text = text.replace("\\", "")
    return "".join(character for character in text if character.isprintable())[:255]
