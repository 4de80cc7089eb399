"""Where the sectors are that describe the partitions of a disk: what must be read to know them all."""

from collections.abc import Callable, Iterator

SECTOR = 512
HEAD = 1 << 20  # bytes at the begin of a disk, and of each partition, in which tables and superblocks are
TAIL = 1 << 17  # bytes at the end: the other half of a GPT, superblocks of old RAIDs
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_MAX_LOGICAL = 128
_ENTRIES, _ENTRY = 446, 16

Read = Callable[[int, int], bytes]  # offset and length in bytes


def regions(read: Read, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what describes the partitions of a disk of ``size`` bytes."""
    yield 0, min(HEAD, size)
    for offset in extended_records(read, size):
        yield offset, SECTOR
    if size > HEAD:
        yield max(HEAD, size - TAIL), min(TAIL, size - HEAD)


def extended_records(read: Read, size: int) -> Iterator[int]:
    """Where the records of logical partitions are (bytes). A chain that runs in circles or off the disk ends."""
    starts = [start for kind, start in _entries(read(0, SECTOR)) if kind in _EXTENDED]
    for first in starts[:1]:
        seen: set[int] = set()
        sector = first
        while len(seen) < _MAX_LOGICAL and sector not in seen and (sector + 1) * SECTOR <= size:
            seen.add(sector)
            yield sector * SECTOR
            following = [start for kind, start in _entries(read(sector * SECTOR, SECTOR)) if kind in _EXTENDED]
            if not following:
                break
            sector = first + following[0]


def gpt_size(read: Read) -> int | None:
    """The least bytes of a disk whose protective record and first GPT header ``read`` gives; None without them.
    0: there is the record, and no header behind it."""
    if not any(kind == _PROTECTIVE for kind, _ in _entries(read(0, SECTOR))):
        return None
    header = read(SECTOR, SECTOR)
    if not header.startswith(b"EFI PART"):
        return 0
    return (int.from_bytes(header[32:40], "little") + 1) * SECTOR


def _entries(record: bytes) -> Iterator[tuple[int, int]]:
    """Type and start (sectors) of each entry in use."""
    if len(record) < SECTOR or record[510:512] != b"\x55\xaa":
        return
    for number in range(4):
        entry = record[_ENTRIES + number * _ENTRY :][:_ENTRY]
        start = int.from_bytes(entry[8:12], "little")
        if entry[4] and start:
            yield entry[4], start
