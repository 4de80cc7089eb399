"""CloneSys's repository: ``DEVICE_IMAGENAME.gz`` in a directory, and ``imagedesc.txt`` that says what they are."""

import calendar
import re
from dataclasses import dataclass

from bootd.images.foreign.errors import ForeignError

MAX_DESCRIPTIONS = 1 << 22  # bytes
_NAME = re.compile(r"(?P<disk>[hsv]d[a-z])(?P<part>\d{1,3})?[_-](?P<name>[^/]{1,100}?)\.gz\Z")
_LINE = re.compile(r"(Image|Origin|User|Date|Comment)\s*:\s*(.*)\Z")
_ZONES = {  # hours east of Greenwich
    **dict.fromkeys(("UTC", "GMT", "WET"), 0),
    **dict.fromkeys(("WEST", "BST", "CET", "MET"), 1),
    **dict.fromkeys(("CEST", "MEST", "EET"), 2),
    **{"EEST": 3, "EDT": -4, "EST": -5, "CDT": -5, "CST": -6, "MDT": -6, "MST": -7, "PDT": -7, "PST": -8},
}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (?:([A-Z]{1,5}) )?(\d{4})\Z")


@dataclass(frozen=True)
class FileName:
    """``device`` is sda or sda5; a disk when it has no number."""

    device: str
    name: str
    is_disk: bool


@dataclass(frozen=True)
class Description:
    """An entry of imagedesc.txt; "" where a line is missing. ``date`` as `date` printed it."""

    image: str
    origin: str = ""
    user: str = ""
    date: str = ""
    comment: str = ""

    @property
    def file(self) -> str:
        """The name of the file, without its directory."""
        return self.image.rpartition("/")[2]

    @property
    def created(self) -> int | None:
        """``date`` in seconds since the epoch; None when it cannot be read. An unknown zone counts as UTC."""
        match = _DATE.match(" ".join(self.date.split()))
        if match is None or match[1] not in _MONTHS:
            return None
        day, hour, minute, second, year = (int(match[index]) for index in (2, 3, 4, 5, 7))
        month = _MONTHS.index(match[1]) + 1
        if (
            year < 1970
            or not 1 <= day <= calendar.monthrange(year, month)[1]
            or hour > 23
            or minute > 59
            or second > 60
        ):
            return None
        return calendar.timegm((year, month, day, hour, minute, second)) - 3600 * _ZONES.get(match[6] or "UTC", 0)


def parse_name(name: str) -> FileName | None:
    """``sda5_WinNTEduD_SP4.gz``; None for another name."""
    match = _NAME.match(name)
    if match is None:
        return None
    return FileName(match["disk"] + (match["part"] or ""), match["name"], match["part"] is None)


def parse_descriptions(data: bytes) -> tuple[Description, ...]:
    """The entries of an imagedesc.txt; the last of a file counts. Lines that are none continue a comment."""
    if len(data) > MAX_DESCRIPTIONS:
        raise ForeignError(f"imagedesc.txt of {len(data)} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    found: dict[str, Description] = {}
    entry: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        words = line.strip()
        match = _LINE.match(words)
        if match is not None:
            if match[1] == "Image":
                _keep(entry, found)
                entry = {}
            last = match[1].lower()
            entry[last] = match[2].strip()
        elif words and last == "comment" and entry:
            entry["comment"] += " " + words
        elif words:
            raise ForeignError(f"{words[:60]!r} is no line of an imagedesc.txt")
    _keep(entry, found)
    return tuple(found.values())


def _keep(entry: dict[str, str], found: dict[str, Description]) -> None:
    if not entry:
        return
    if not entry.get("image"):
        raise ForeignError("an entry of imagedesc.txt names no image")
    description = Description(**entry)
    found[description.file] = description
