"""What a sender by hand reads: opens the sources that the operator named, and takes the streams in."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bootd.errors import Exit, OperatorError
from bootd.member.digest_cache import DigestCache
from bootd.member.sources import (
    FileSource,
    Source,
    SourceError,
    StreamSource,
    open_standard_input,
    suitable_chunk_size,
)

STANDARD_INPUT = "-"
MAX_SOURCES = 64


def cache_folder() -> Path:
    """Where digests are remembered: ``bootd/digests`` in the user's cache (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "bootd" / "digests"


def open_sources(
    words: Sequence[str],
    commands: Sequence[str],
    spool: str,
    progress: Callable[[str, int], None],
    *,
    is_fresh: bool = False,
) -> list[Source]:
    """The files and devices that ``words`` name (``-``: standard input), then what each of ``commands`` writes.

    Streams are taken in to their end, into ``spool``; ``progress`` hears whose bytes and how many so far.
    ``is_fresh``: files are digested again, also when their digests are remembered.
    `OperatorError` (INPUT) when one of them cannot be sent.
    """
    count = len(words) + len(commands)
    if not 0 < count <= MAX_SOURCES or list(words).count(STANDARD_INPUT) > 1:
        hint = f"name 1 to {MAX_SOURCES} sources, standard input once at most"
        raise OperatorError(f"{count} sources", hint, Exit.USAGE)
    cache = None if is_fresh else DigestCache(str(cache_folder()))
    sources: list[Source] = []
    try:
        for word in words:
            sources.append(open_standard_input(spool) if word == STANDARD_INPUT else FileSource(word, cache))
        sources += [StreamSource(f"command {line!r}", spool, line) for line in commands]
        chunk_size = suitable_chunk_size(sources)
        for source in sources:
            source.take(chunk_size, lambda done, name=source.name: progress(name, done))  # type: ignore[misc]
    except SourceError as error:
        _close(sources)
        hint = "nothing was sent: mend the source; --spool DIR names a folder with more room"
        raise OperatorError(str(error), hint, Exit.INPUT) from None
    except BaseException:
        _close(sources)
        raise
    return sources


def _close(sources: Sequence[Source]) -> None:
    for source in sources:
        source.close()
