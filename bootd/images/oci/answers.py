"""What a registry's answers mean: who may ask (RFC 9110, section 11), when to ask again, what went wrong."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

TRIES = 8
FIRST_DELAY = 0.5  # seconds, doubled for each try
LONGEST_DELAY = 20.0
LONGEST_RETRY_AFTER = 300.0  # whoever is told to wait longer gives up, and says so
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')
_MAX_DETAIL = 300
_MAX_HEADER = 8192


@dataclass(frozen=True)
class Challenge:
    """``scheme`` in lower case; ``parameters`` by name in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """All challenges of a WWW-Authenticate header; it is read up to what cannot be understood."""
    found: list[tuple[str, dict[str, str]]] = []
    position, header = 0, header[:_MAX_HEADER]
    while position < len(header):
        if header[position] in " \t,":
            position += 1
        elif found and (parameter := _PARAMETER.match(header, position)):
            value = parameter[3] if parameter[2] is None else re.sub(r"\\(.)", r"\1", parameter[2])
            found[-1][1][parameter[1].lower()] = value
            position = parameter.end()
        elif scheme := _TOKEN.match(header, position):
            found.append((scheme[0].lower(), {}))
            position = scheme.end()
        else:
            break
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def retry_after(value: str, now: float) -> float | None:
    """Seconds from ``now`` (seconds since the epoch) that a Retry-After header asks for; None when it says nothing.

    RFC 9110, section 10.2.3: a number of seconds, or a date.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def pause(tries: int, wanted: float | None, spread: float) -> float | None:
    """Seconds before the next try, after ``tries`` of them; None = give up.

    ``wanted`` is what the registry asked for; ``spread`` in [0, 1) lengthens the rest by up to half: clients must
    not come back all at once.
    """
    if tries >= TRIES or (wanted is not None and wanted > LONGEST_RETRY_AFTER):
        return None
    if wanted is not None:
        return wanted
    return float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** (tries - 1)) * (1 + spread / 2))


def explain(body: bytes) -> str:
    """What the registry says is wrong , in one printable line."""
    try:
        value = json.loads(body)
        errors = value["errors"]
        text = "; ".join(
            ": ".join(str(error[key]) for key in ("code", "message") if key in error) for error in errors
        )
    except (ValueError, KeyError, TypeError):
        text = ""
    return "".join(character if character.isprintable() else " " for character in text).strip()[:_MAX_DETAIL]
