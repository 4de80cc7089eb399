"""Trees of files as a judge sees them, by the system's own calls: everything that a clone has to keep."""

import hashlib
import os
import stat
from collections import defaultdict
from pathlib import Path
from typing import Any

Entry = tuple[Any, ...]


def look(root: Path, *left_out: str) -> dict[str, Entry]:
    """By path below ``root``: kind and mode, owner, group, time, device, link, digest, attributes, who is the same
    file. ``left_out``: paths that are passed over, with all below them. Times of folders do not count."""
    found: dict[str, Entry] = {}
    same: dict[tuple[int, int], list[str]] = defaultdict(list)
    for folder, folders, files in os.walk(root):
        below = os.path.relpath(folder, root)
        folders[:] = [name for name in folders if os.path.normpath(f"{below}/{name}") not in left_out]
        for name in [*folders, *files]:
            path = os.path.normpath(f"{below}/{name}")
            if path in left_out:
                continue
            full = f"{folder}/{name}"
            seen = os.lstat(full)
            is_file = stat.S_ISREG(seen.st_mode)
            if is_file and seen.st_nlink > 1:
                same[seen.st_dev, seen.st_ino].append(path)
            attributes = () if stat.S_ISLNK(seen.st_mode) else _attributes(full)
            found[path] = (
                oct(seen.st_mode),
                seen.st_uid,
                seen.st_gid,
                0 if stat.S_ISDIR(seen.st_mode) else seen.st_mtime_ns,
                seen.st_rdev if stat.S_ISCHR(seen.st_mode) or stat.S_ISBLK(seen.st_mode) else 0,
                str(Path(full).readlink()) if stat.S_ISLNK(seen.st_mode) else "",
                hashlib.sha256(Path(full).read_bytes()).hexdigest() if is_file else "",
                attributes,
            )
    for paths in same.values():
        for path in paths if len(paths) > 1 else ():
            found[path] = (*found[path], tuple(sorted(paths)))
    return found


def _attributes(path: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(os.listxattr(path)))


def differences(one: dict[str, Entry], other: dict[str, Entry]) -> list[str]:
    """Paths that are not the same in both."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
