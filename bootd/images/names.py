"""How operators name images: NAME, NAME:TAG, or an id or the begin of one."""

import re
from dataclasses import dataclass

from bootd.errors import Exit
from bootd.images.manifest import NAME, ImageError

LATEST = "latest"  # the tag that NAME alone means; set by every commit
LAST = "@last"  # the image that was last put on a disk: whoever knows the disk says which
LEAST_PREFIX = 6  # digits of an id
_PREFIX = re.compile(rf"[0-9a-f]{{{LEAST_PREFIX},64}}\Z")


@dataclass(frozen=True)
class Reference:
    """What an operator wrote. ``prefix``: that it may also be the begin of an id; "" if it cannot."""

    name: str
    tag: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """``text`` taken apart; `ImageError` (USAGE) when it cannot name an image."""
    if text == LAST:
        raise ImageError(
            "@last depends on the disk that it is for", "use it where nodes are named, or say NAME:TAG", Exit.USAGE
        )
    name, colon, tag = text.partition(":")
    if not NAME.match(name) or (colon and not NAME.match(tag)):
        raise ImageError(
            f"{text[:200]!r} names no image",
            "say NAME, NAME:TAG or an id; 1 to 128 letters, digits, '.', '_' or '-'",
            Exit.USAGE,
        )
    return Reference(name, tag or LATEST, text if _PREFIX.match(text) else "")
