"""Conditional requests and ranges of HTTP, sans-IO (RFC 9110 sections 13 and 14)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

LARGEST_RANGES = 16  # in one request; more are answered with the whole file (RFC 9110 section 14.2)
LARGEST_HEADER = 1024
_RANGE = re.compile(r"[ \t]*(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))[ \t]*\Z", re.ASCII)
_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


@dataclass(frozen=True)
class Version:
    """Which state of a file is served. ``modified`` in whole seconds since 1970."""

    tag: str  # with its quotes; strong
    modified: int

    @property
    def date(self) -> str:
        return formatdate(self.modified, usegmt=True)


@dataclass(frozen=True)
class NotModified:
    """304."""


@dataclass(frozen=True)
class Failed:
    """412: the client wants another state of the file."""


@dataclass(frozen=True)
class Unsatisfiable:
    """416: the file ends before."""


@dataclass(frozen=True)
class Whole:
    """200."""


@dataclass(frozen=True)
class Parts:
    """206. Each (start, length), in the client's order, none empty."""

    ranges: tuple[tuple[int, int], ...]


Decision = NotModified | Failed | Unsatisfiable | Whole | Parts


def decide(headers: Mapping[str, str], version: Version, size: int, reads: bool = True) -> Decision:
    """What a GET (HEAD: ``reads`` false) with these headers gets of a file of ``size`` bytes, in the order of RFC
    9110 section 13.2.2. ``headers`` finds names in any case. What cannot be parsed is as if it were not there."""
    match = headers.get("If-Match")
    if match is not None:
        if not _matches(match, version, weak=False):
            return Failed()
    else:
        since = _seconds(headers.get("If-Unmodified-Since"))
        if since is not None and version.modified > since:
            return Failed()
    none = headers.get("If-None-Match")
    if none is not None:
        if _matches(none, version, weak=True):
            return NotModified()
    else:
        since = _seconds(headers.get("If-Modified-Since"))
        if since is not None and version.modified <= since:
            return NotModified()
    wanted = headers.get("Range")
    if not reads or wanted is None or not _same(headers.get("If-Range"), version):
        return Whole()
    return ranges(wanted, size)


def ranges(header: str, size: int) -> Decision:
    """`Parts`, `Unsatisfiable`, or `Whole` for what is no valid Range header, or asks too much at once."""
    unit, equals, rest = header.partition("=")
    if len(header) > LARGEST_HEADER or not equals or unit.strip().lower() != "bytes":
        return Whole()
    words = [word for word in rest.split(",") if word.strip()]
    if not words or len(words) > LARGEST_RANGES:
        return Whole()
    parts: list[tuple[int, int]] = []
    for word in words:
        found = _RANGE.match(word)
        if found is None:
            return Whole()
        first, last, suffix = found.groups()
        if suffix is not None:
            length = min(int(suffix), size)
            start = size - length
        else:
            if last and int(last) < int(first):
                return Whole()
            start = int(first)
            length = (min(int(last) + 1, size) if last else size) - start
        if length > 0:
            parts.append((start, length))
    if not parts:
        return Unsatisfiable()
    if sum(length for _, length in parts) > size:
        return Whole()  # they overlap: the whole file costs less
    return Parts(tuple(parts))


def _matches(header: str, version: Version, weak: bool) -> bool:
    if header.strip() == "*":
        return True
    for found in _TAG.finditer(header[:4096]):
        if found.group(1) == version.tag and (weak or not found.group(0).startswith("W/")):
            return True
    return False


def _same(header: str | None, version: Version) -> bool:
    """If-Range (RFC 9110 section 13.1.5): a strong tag or the exact date."""
    if header is None:
        return True
    if header.strip().startswith('"'):
        return header.strip() == version.tag
    return _seconds(header) == version.modified


def _seconds(header: str | None) -> int | None:
    """Of an HTTP date; None for anything else."""
    if header is None or len(header) > 64:
        return None
    try:
        return int(parsedate_to_datetime(header).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
