"""Which disk of a node a session may write: the grammar of ``--disk`` and the one choice made from it.

Grammar: ``only``, or conditions joined by commas, all of which must hold::

    serial=S  wwn=W  model=M  name=vda  size=40G  size>=40G  size<=2T

For a layout of several disks there is one selector for each, or ``all-of`` and conditions (``all-of size>=1T``):
then exactly as many disks match as the layout has.

Sizes are bytes, or a number with K, M, G, T (1024) or KB, MB, GB, TB (1000); ``size=`` is exact. Each key may
stand once (``size>=`` and ``size<=`` are keys of their own). The choice is a disk or a refusal that names every
disk seen and why it is not the one. There is no fallback and no "first": zero or two matches are a refusal.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bootd.errors import Exit, OperatorError
from bootd.wire.control import Disk

_KEYS = ("serial", "wwn", "model", "name", "size", "size>=", "size<=")
_CONDITION = re.compile(r"\s*([a-z]+)\s*(>=|<=|=)\s*(.*?)\s*\Z", re.DOTALL)
_SIZE = re.compile(r"(\d{1,19})([KMGT]?)(i?B)?\Z")
ALL_OF = "all-of"
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_HINT = "say only, or serial=…, wwn=…, model=…, name=…, size=40G, size>=40G, size<=2T, joined by commas"


@dataclass(frozen=True)
class Condition:
    key: str  # one of `_KEYS`
    text: str
    size: int  # bytes, for the size keys; else 0


@dataclass(frozen=True)
class Selector:
    """A parsed ``--disk``. No condition means ``only``: exactly one eligible disk."""

    text: str
    conditions: tuple[Condition, ...]
    all_of: bool = False  # as many disks as a layout has, where else exactly one

    @property
    def names_one(self) -> bool:
        """Whether the operator named a disk by what is printed on it: then exclusions may be overruled."""
        return any(condition.key in ("serial", "wwn") for condition in self.conditions)


@dataclass(frozen=True)
class Refusal:
    """No disk will be written on this node. ``reason`` names every disk and why not."""

    reason: str


def parse(text: str, *, several: bool = False) -> Selector:
    """The selector in ``text``; `OperatorError` (USAGE) says what is wrong. ``several``: `ALL_OF` may stand."""
    if text.strip() == "only":
        return Selector("only", ())
    word, _, rest = text.strip().partition(" ")
    if word == ALL_OF:
        if not several:
            text = "disk selector: all-of is for images of files, and a layout of several disks"
            raise OperatorError(text, "name one disk", Exit.USAGE)
        return Selector(text.strip(), parse(rest).conditions, all_of=True)
    conditions: list[Condition] = []
    for part in text.split(","):
        match = _CONDITION.match(part)
        if match is None:
            raise OperatorError(f"disk selector: {part.strip()!r} is not KEY=VALUE", _HINT, Exit.USAGE)
        word, operator, value = match.groups()
        key = word if operator == "=" else word + operator
        if key not in _KEYS:
            raise OperatorError(f"disk selector: unknown key {key!r}", _HINT, Exit.USAGE)
        if any(condition.key == key for condition in conditions):
            raise OperatorError(f"disk selector: {key!r} stands twice", _HINT, Exit.USAGE)
        if not value:
            raise OperatorError(f"disk selector: {key!r} has no value", _HINT, Exit.USAGE)
        size = _parse_size(value) if word == "size" else 0
        conditions.append(Condition(key, value.removeprefix("/dev/") if key == "name" else value, size))
    return Selector(text.strip(), tuple(conditions))


def choose(disks: Sequence[Disk], selector: Selector, image_size: int) -> Disk | Refusal:
    """The one disk that ``selector`` means, at least ``image_size`` bytes large, or why there is none.

    Excluded disks match only when named by ``serial=`` or ``wwn=``; mounted ones never do. The image size is
    compared after the match: being too small never makes a disk step aside for another one.
    """
    matches = _match(disks, selector, 1)
    if isinstance(matches, Refusal):
        return matches
    disk = matches[0]
    if disk.size < image_size:
        return Refusal(f"{_describe(disk)} is smaller than the image of {image_size} bytes")
    return disk


def choose_all(disks: Sequence[Disk], selector: Selector, count: int) -> list[Disk] | Refusal:
    """The disks that an ``all-of`` means: exactly ``count``, in the order of their serials and WWNs, which stays
    the same when the kernel finds them in another order."""
    matches = _match(disks, selector, count)
    return matches if isinstance(matches, Refusal) else sorted(matches, key=lambda one: (one.serial, one.wwn))


def _match(disks: Sequence[Disk], selector: Selector, count: int) -> list[Disk] | Refusal:
    """The disks that ``selector`` means: exactly so many."""
    if not disks:
        return Refusal("the node has no disk")
    verdicts = [(disk, _why_not(disk, selector)) for disk in disks]
    matches = [disk for disk, why_not in verdicts if not why_not]
    seen = "; ".join(f"{_describe(disk)}: {why_not or 'matches'}" for disk, why_not in verdicts)
    if not matches:
        return Refusal(f"no disk matches {selector.text!r}: {seen}")
    if len(matches) != count:
        wanted = "one" if count == 1 else count
        match = "disk matches" if len(matches) == 1 else "disks match"
        return Refusal(f"{len(matches)} {match} {selector.text!r}, exactly {wanted} must: {seen}")
    return matches


def _why_not(disk: Disk, selector: Selector) -> str:
    """Why ``disk`` is not meant; "" when it is."""
    if "mounted" in disk.excluded.lower():
        return f"excluded ({disk.excluded})"
    if disk.excluded and not selector.names_one:
        return f"excluded ({disk.excluded})"
    for condition in selector.conditions:
        why_not = _mismatch(disk, condition)
        if why_not:
            return why_not
    return ""


def _mismatch(disk: Disk, condition: Condition) -> str:
    match condition.key:
        case "size":
            return "" if disk.size == condition.size else f"size is not {condition.text}"
        case "size>=":
            return "" if disk.size >= condition.size else f"smaller than {condition.text}"
        case "size<=":
            return "" if disk.size <= condition.size else f"larger than {condition.text}"
    present: str = getattr(disk, condition.key).strip()
    if present == condition.text:
        return ""
    return f"{condition.key} is {present or 'not known'}, not {condition.text}"


def _describe(disk: Disk) -> str:
    parts = [disk.name, f"{disk.size} bytes"]
    parts += [f"{key} {value}" for key in ("serial", "wwn", "model") if (value := getattr(disk, key).strip())]
    return " ".join(parts)


def _parse_size(text: str) -> int:
    match = _SIZE.match(text)
    if match is None:
        raise OperatorError(
            f"disk selector: {text!r} is not a size", "say bytes, or 40G (1024), or 40GB (1000)", Exit.USAGE
        )
    number, unit, suffix = match.groups()
    if suffix == "iB" and not unit:
        raise OperatorError(f"disk selector: {text!r} is not a size", "say 40GiB or 40G", Exit.USAGE)
    base = 1000 if suffix == "B" else 1024
    return int(number) * int(base ** _POWER[unit])
