"""A tree of files as one tar stream: how it is read, what it takes, how it is unpacked. GNU tar does the work.

The same tree gives the same bytes (members sorted by name, no times but those of the files), so that versions of a
tree share their chunks.
"""

import os
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from bootd.member.child import Child

PIECE = 1 << 20  # bytes that are read at once
# What a kernel or a running system puts there; the folders themselves are kept.
# Also the key of a running system's agent: a clone is not to come with that of its source.
ALWAYS_EMPTY = ("/proc", "/sys", "/run", "/etc/bootd-agent")
# ACLs travel as the kernel's own attributes, with numbers: tar's text form has names of this machine's users in it,
# and the machine that unpacks knows others.
_ATTRIBUTES = ("--numeric-owner", "--no-acls", "--xattrs", "--xattrs-include=*")
_CREATE = (
    *("tar", "--create", "--file=-", "--format=posix", *_ATTRIBUTES),
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    # Later versions of sparse members have the number of tar's process in their names.
    *("--sparse", "--sparse-version=0.0", "--one-file-system", "--sort=name"),
    # That a socket or a mounted file system is left out is as it should be.
    *("--warning=no-file-ignored", "--warning=no-xdev"),
)
_GLOB = re.compile(r"([*?\[\]\\])")


class ArchiveError(Exception):
    """The tree could not be read as one state of it; the text says why."""


@dataclass(frozen=True)
class Amount:
    """What lies in one file system of a tree. ``used``: bytes of blocks; ``files``: inodes."""

    used: int
    files: int


def create_words(root: str, places: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """The command that writes the archive of the file systems mounted at ``places`` ("/", "/home") of ``root``.

    ``exclude``: folders whose content is left out, as `ALWAYS_EMPTY` is."""
    words = [*_CREATE, "--anchored", "--wildcards"]
    words += [f"--exclude={_pattern(folder)}" for folder in (*ALWAYS_EMPTY, *exclude)]
    return [*words, f"--directory={root}", *(f".{place}" if place != "/" else "." for place in places)]


def extract_words(root: str, exclude: Sequence[str] = (), without: Sequence[str] = ()) -> list[str]:
    """The command that unpacks such an archive from its standard input, with everything that it holds, but the
    content of the folders ``exclude``, and ``without`` these folders themselves."""
    words = ["tar", "--extract", "--file=-", "--preserve-permissions", "--same-owner", *_ATTRIBUTES]
    words += ["--anchored", "--wildcards", *(f"--exclude={_pattern(folder)}" for folder in exclude)]
    words += [f"--exclude={_pattern(folder).removesuffix('/*')}" for folder in without]
    return [*words, f"--directory={root}"]


def _pattern(folder: str) -> str:
    return "." + _GLOB.sub(r"\\\1", folder) + "/*"


def is_below(path: str, folders: Sequence[str]) -> bool:
    """Whether ``path`` is in one of ``folders`` (not: one of them)."""
    return any(path.startswith(f"{folder}/") for folder in folders)


def measure(root: str, places: Sequence[str], exclude: Sequence[str] = ()) -> dict[str, Amount]:
    """What there is in each of the file systems, by place. OSError."""
    empty = (*ALWAYS_EMPTY, *exclude)
    return {place: _measure(root.rstrip("/"), place, empty) for place in places}


def _measure(root: str, place: str, empty: Sequence[str]) -> Amount:
    top = "" if place == "/" else place
    status = os.lstat(f"{root}{top}" or "/")
    device, used, files = status.st_dev, status.st_blocks * 512, 1
    seen: set[int] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        if folder in empty or is_below(folder, empty):
            continue
        with os.scandir(f"{root}{folder}" or "/") as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if status.st_dev != device or status.st_ino in seen:
                    continue
                if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                    seen.add(status.st_ino)
                used, files = used + status.st_blocks * 512, files + 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{folder}/{entry.name}")
    return Amount(used, files)


def read(words: Sequence[str]) -> Generator[bytes, None, None]:
    """What the command prints, in pieces of `PIECE` bytes, the last one shorter. `ArchiveError` behind the last
    piece when the command did not end well: then what came is no archive of anything."""
    child = Child(words, feeds=False)
    try:
        while piece := _fill(child.stream):
            yield piece
        reason = child.wait()
    finally:
        child.kill()
        child.close_stream()
    if reason:
        raise ArchiveError(reason)


def _fill(descriptor: int) -> bytes:
    parts: list[bytes] = []
    length = 0
    while length < PIECE and (part := os.read(descriptor, PIECE - length)):
        parts.append(part)
        length += len(part)
    return b"".join(parts)
