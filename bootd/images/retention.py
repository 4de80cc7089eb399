"""Which images may go, and which chunks: decisions only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

DAY = 86400.0  # seconds
GRACE = DAY  # a chunk of no image that somebody asked for within so long is kept: an upload may go on with it


@dataclass(frozen=True)
class Rule:
    """What is kept of a name. An image that any of the two keeps stays; both 0: all stay."""

    keep_last: int = 0  # so many, the newest
    keep_days: float = 0.0  # those that are no older


@dataclass(frozen=True)
class Candidate:
    """An image that may go. ``created`` in seconds since the epoch."""

    id: str
    name: str
    created: float
    tags: tuple[str, ...]  # other than its name's `latest`
    in_use: bool = False


def outdated(
    images: Iterable[Candidate], rules: Mapping[str, Rule], default: Rule, now: float
) -> list[tuple[Candidate, str]]:
    """What may go, oldest first, and why. ``rules`` by name.

    The newest of a name, one with a tag of its own and one that is in use always stay."""
    by_name: dict[str, list[Candidate]] = {}
    for image in images:
        by_name.setdefault(image.name, []).append(image)
    found = []
    for name, versions in by_name.items():
        rule = rules.get(name, default)
        if not rule.keep_last and not rule.keep_days:
            continue
        versions.sort(key=lambda image: (image.created, image.id), reverse=True)
        for number, image in enumerate(versions):
            if number == 0 or image.tags or image.in_use:
                continue
            if number < rule.keep_last or (rule.keep_days and now - image.created <= rule.keep_days * DAY):
                continue
            found.append((image, _reason(rule, number, (now - image.created) / DAY)))
    return sorted(found, key=lambda item: (item[0].created, item[0].id))


def _reason(rule: Rule, newer: int, days: float) -> str:
    words = []
    if rule.keep_last:
        words.append(f"{newer} newer ones, {rule.keep_last} are kept")
    if rule.keep_days:
        words.append(f"{days:.0f} days old, kept for {rule.keep_days:g}")
    return "; ".join(words)
