"""KA's partition descriptions, as fdisk_to_desc writes them and ``ka-d.sh -p`` reads them.

One line a partition: ``[logical] linux|swap|extended|typeXX SIZE|fill``. SIZE is in MiB: the desc of the disk in
KA's manual has 7993 for a partition of 8185086 KiB. Primary partitions are numbered from 1, logical ones from 5.
A desc names no file systems and no mount points; KA took them from the fstab: `completed` puts them in.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from bootd.wire.scheme.encoding import parse_size
from bootd.wire.scheme.model import (
    ESP,
    EXTENDED,
    FILL,
    LINUX,
    MIB,
    SWAP,
    TYPE,
    Content,
    Partition,
    Scheme,
    SchemeError,
    numbers,
)

MAX_LINES = 1000
_LINE = re.compile(r"(?:(logical)\s+)?([a-zA-Z]+)([0-9a-fA-F]{0,2})\s+(\S+)\Z")
_SIZE = re.compile(r"(\d{1,12}|fill)\Z")
_KINDS = {"83": LINUX, "82": SWAP, "5": EXTENDED, "f": EXTENDED, "85": EXTENDED, "ef": ESP}
_CONTENTS = {SWAP: Content("swap"), ESP: Content("vfat", mount="/boot/efi", options="umask=0077")}
_WORDS = {LINUX: "linux", SWAP: "swap", EXTENDED: "extended", ESP: "typeef", TYPE: "type"}


def parse(text: str, *, mend: bool = False) -> Scheme:
    """The scheme of a desc file. `SchemeError` names the line.

    ``mend``: cure what fdisk_to_desc is known to do to large disks, an extended partition smaller than the logical
    ones in it: it and the last one fill then, as KA's manual says to change it by hand.
    """
    found: list[tuple[int, Partition]] = []
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise SchemeError(f"{len(lines)} lines, at most {MAX_LINES}")
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].strip()
        if words:
            found.append((number, _partition(words, number)))
    partitions = [one for _, one in found]
    if mend:
        partitions = _mended(partitions)
    try:
        return Scheme(tuple(partitions))
    except SchemeError as error:
        if error.index < 0:
            raise
        raise SchemeError(f"line {found[error.index][0]}: {error.text}") from None


def _partition(words: str, number: int) -> Partition:
    match = _LINE.match(words)
    if match is None:
        raise SchemeError(f"line {number}: {words[:60]!r}: say `[logical] linux|swap|extended|typeXX SIZE|fill`")
    logical, word, digits, size = match.groups()
    if word == "type" and digits:
        kind = _KINDS.get(digits.lower().lstrip("0"), TYPE)
    elif word in (LINUX, SWAP, EXTENDED) and not digits:
        kind = word
    else:
        raise SchemeError(
            f"line {number}: {word}{digits}: say linux, swap, extended, or type and its number, type83"
        )
    if not _SIZE.match(size):
        raise SchemeError(f"line {number}: size {size[:20]!r}: megabytes (MiB), or `fill`")
    try:
        room = parse_size(size)
    except SchemeError as error:
        raise SchemeError(f"line {number}: {error.text}") from None
    code = digits.lower().lstrip("0") if kind == TYPE else ""
    if kind == TYPE and not code:
        raise SchemeError(f"line {number}: type 0 is an empty entry, not a partition")
    content = _CONTENTS.get(kind, Content())
    return Partition(kind, room, content, type=code, is_logical=bool(logical))


def _mended(partitions: list[Partition]) -> list[Partition]:
    inside = [index for index, one in enumerate(partitions) if one.is_logical]
    around = next((index for index, one in enumerate(partitions) if one.kind == EXTENDED), None)
    if around is None or not inside:
        return partitions
    needed = sum(partitions[index].size or MIB for index in inside)
    if not partitions[around].size or needed <= partitions[around].size:
        return partitions
    filling = {around, inside[-1]}
    return [replace(one, size=FILL) if index in filling else one for index, one in enumerate(partitions)]


def format_desc(scheme: Scheme) -> str:
    """``scheme`` as a desc file; `SchemeError` when it says what a desc cannot."""
    if scheme.arrays or scheme.groups or scheme.disks > 1:
        raise SchemeError("a desc describes one disk without RAID and LVM: keep this layout as TOML")
    lines = []
    for index, one in enumerate(scheme.partitions):
        if one.kind not in _WORDS or len(one.type) > 2:
            raise SchemeError(f"a desc has no word for kind {one.kind} {one.type}".rstrip(), "partition", index)
        size = "fill" if one.size == FILL else str(one.size // MIB)
        lines.append(f"{'logical ' if one.is_logical else ''}{_WORDS[one.kind]}{one.type} {size}\n")
    return "".join(lines)


def completed(scheme: Scheme, contents: Mapping[int, Content]) -> Scheme:
    """``scheme`` with file systems and mount points of the source, which a desc cannot say, by partition number of
    its first disk. What the scheme itself says of a partition stays. `SchemeError` when they do not go together."""
    own = numbers(scheme.partitions, 0)
    partitions = tuple(
        replace(one, content=contents[own[index]])
        if index in own and own[index] in contents and one.kind in (LINUX, TYPE) and not one.content.filesystem
        else one
        for index, one in enumerate(scheme.partitions)
    )
    return replace(scheme, partitions=partitions)
