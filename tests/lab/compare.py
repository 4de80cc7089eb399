"""Byte-for-byte comparison of disk images."""

from pathlib import Path

_BLOCK = 1 << 20


def first_difference(one: Path, other: Path, size: int) -> int | None:
    """Offset of the first byte of ``size`` that differs (or is missing), None when there is none."""
    with one.open("rb") as left, other.open("rb") as right:
        for offset in range(0, size, _BLOCK):
            wanted = min(_BLOCK, size - offset)
            first, second = left.read(wanted), right.read(wanted)
            if first != second or len(first) != wanted:
                pairs = zip(first, second, strict=False)
                return offset + next(
                    (place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second))
                )
    return None
