"""How operators name machines: names, MACs, ranges, groups, ``any``, and what is left out. Text in, names out.

Grammar: items joined by commas or blanks. An item is a name, a MAC, a range ``PREFIX[3-5,7,!4]SUFFIX`` (several
brackets in one name give every combination: ``r[1-2]n[01-16]``; leading zeros set the width), ``@GROUP``, or
``any``. ``!`` before an item leaves it out, wherever it stands: ``@room2,!lab7``, ``any,!@servers``. What is left
out is left out for good: no other item brings it back.
"""

import re
from dataclasses import dataclass
from itertools import product

from bootd.errors import Exit, OperatorError

ANY = "any"
MAX_HOSTS = 4096  # in one host set
MAX_TEXT = 1 << 18  # characters of one host set

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_HEX = re.compile(r"[0-9a-f]{12}\Z")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_SPAN = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?\Z")
_OUTSIDE = re.compile(r"[,\s]+(?![^\[]*\])")


@dataclass(frozen=True)
class Written:
    """A host set as it is written: names, MACs and ``@GROUP``, none twice, in the order written.

    ``names`` None = any; ``without`` goes before ``names``.
    """

    names: tuple[str, ...] | None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostSet:
    """MACs; ``macs`` None = any but ``without``, else ``without`` is gone from it already."""

    macs: frozenset[str] | None
    without: frozenset[str] = frozenset()


def normal_mac(text: str) -> str:
    """``text`` as a MAC in lower case with colons; "" when it is none. Dashes and bare hex are accepted."""
    mac = text.strip().lower().replace("-", ":")
    if _HEX.match(mac):
        mac = ":".join(mac[index : index + 2] for index in range(0, 12, 2))
    return mac if _MAC.match(mac) else ""


def plain_name(text: str) -> bool:
    """Whether ``text`` may name a node, a group or a session: letters, digits and inner dashes, at most 63."""
    return _NAME.match(text) is not None


def parse(text: str) -> Written:
    """What ``text`` names; `OperatorError` (USAGE) says which part is wrong."""
    if len(text) > MAX_TEXT:
        raise OperatorError(f"a host set of {len(text)} characters", "make a group of them", Exit.USAGE)
    items = [item for item in _OUTSIDE.split(text.strip()) if item]
    wanted: dict[str, None] = {}
    without: dict[str, None] = {}
    is_any = False
    for item in items:
        place, bare = (without, item[1:]) if item.startswith("!") else (wanted, item)
        if bare.lower() == ANY:
            if place is without:
                raise OperatorError("'!any' leaves nobody", "say which nodes", Exit.USAGE)
            is_any = True
            continue
        place.update(dict.fromkeys(expand(bare)))
        if len(place) > MAX_HOSTS:
            raise OperatorError(f"more than {MAX_HOSTS} nodes in one set", "use a smaller range", Exit.USAGE)
    if is_any and wanted:
        raise OperatorError("'any' does not go with other nodes", "say any alone, or any,!lab7", Exit.USAGE)
    if not is_any and not wanted:
        raise OperatorError("no nodes are named", "say any, @GROUP, or names such as lab[3-5],lab9", Exit.USAGE)
    return Written(None if is_any else tuple(wanted), tuple(without))


def expand(item: str) -> list[str]:
    """The names that one item stands for, a group's with its ``@``; `OperatorError` (USAGE)."""
    sign, bare = ("@", item[1:]) if item.startswith("@") else ("", item)
    if (not sign and normal_mac(bare)) or plain_name(bare):
        return [item]
    parts = _BRACKETS.split(bare)  # text, inside of brackets, text, ...
    if len(parts) == 1 or any("[" in part or "]" in part for part in parts):
        raise OperatorError(
            f"{item!r} is neither a node name nor a MAC nor a range", "say lab3, lab[3-5], @room2", Exit.USAGE
        )
    choices = [[part] if index % 2 == 0 else _numbers(item, part) for index, part in enumerate(parts)]
    total = 1
    for choice in choices:
        total *= len(choice)
    if total > MAX_HOSTS:
        raise OperatorError(f"{item!r} is {total} nodes, at most {MAX_HOSTS}", "use a smaller range", Exit.USAGE)
    names = ["".join(words) for words in product(*choices)]
    for name in names:
        if not plain_name(name):
            raise OperatorError(f"{name!r} is not a node name", "use letters, digits and '-'", Exit.USAGE)
    return [sign + name for name in names]


def _numbers(item: str, inside: str) -> list[str]:
    """The numbers that stand for ``inside`` of brackets, in the order written, those after ``!`` left out."""
    wanted: dict[str, None] = {}
    without: set[int] = set()
    for span in inside.split(","):
        bare = span.strip()
        bounds = _SPAN.match(bare.removeprefix("!"))
        first = int(bounds.group(1)) if bounds else 0
        last = int(bounds.group(2) or bounds.group(1)) if bounds else -1
        if bounds is None or last < first or last - first >= MAX_HOSTS:
            raise OperatorError(
                f"{item!r}: {bare!r} is not a range", "say lab[3-5], lab[3,7-9], lab[1-30,!13]", Exit.USAGE
            )
        if bare.startswith("!"):
            without.update(range(first, last + 1))
            continue
        width = len(bounds.group(1)) if bounds.group(1).startswith("0") else 0
        wanted.update(dict.fromkeys(f"{number:0{width}d}" for number in range(first, last + 1)))
    names = [name for name in wanted if int(name) not in without]
    if not names:
        raise OperatorError(f"{item!r} names nobody", "leave less out", Exit.USAGE)
    return names
