"""The folders of syncs on the server: whether a source is what it should be, and what one node has for itself."""

import os
from contextlib import suppress
from pathlib import Path

from bootd.errors import Exit, OperatorError
from bootd.session.sync import SyncSet

MAX_OWN = 1500  # files of one node alone
_HINT = "is its disk mounted? Fewer on purpose: least_files in [[sync.set]], or --few"


def check_source(wanted: SyncSet, *, few: bool = False) -> int:
    """`OperatorError` (REFUSED) unless the folder is there and has enough files. How many were counted, no more
    than are needed."""
    path = Path(wanted.source)
    if not path.is_dir():
        raise OperatorError(f"{wanted.source} is no folder", "make it, or mend its set", Exit.REFUSED)
    if wanted.marker and not (path / wanted.marker).is_file():
        raise OperatorError(
            f"{wanted.source} has no {wanted.marker}", f"the set wants it there; {_HINT}", Exit.REFUSED
        )
    if wanted.target == "/":
        _check_root(path)
    least = 1 if few else wanted.least_files
    count = 0
    for folder, _, files in os.walk(path, onerror=_refuse):
        count += len(files) + (folder != str(path))
        if count >= least:
            return count
    raise OperatorError(
        f"{wanted.source} has {count} files and folders, {least} at least are expected", _HINT, Exit.REFUSED
    )


def _check_root(path: Path) -> None:
    """Owner and mode of the folder become those of / on the nodes. `OperatorError`."""
    seen = path.stat()
    owner, mode = str(seen.st_uid), seen.st_mode
    with suppress(OSError, ValueError, IndexError):  # kept without root: "40755 0,0 0:0"
        words = os.getxattr(path, "user.rsync.%stat").decode().split()
        owner, mode = words[2].partition(":")[0], int(words[0], 8)
    if owner != "0" or mode & 0o555 != 0o555:
        raise OperatorError(
            f"{path} is of user {owner}, mode {mode & 0o7777:o}: so would / of the nodes be",
            f"chown root {path}; chmod 755 {path}",
            Exit.REFUSED,
        )


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed would look as if it were empty."""
    raise OperatorError(
        f"{error.filename} cannot be read: {error.strerror}", "let the user of bootd read all of it", Exit.REFUSED
    )


def overlay_folder(root: Path, node: str, target: str) -> Path:
    """Where the files of ``node`` alone lie that belong at or below ``target``."""
    return root / node / target.strip("/")


def own_files(folder: Path) -> tuple[str, ...]:
    """Paths below ``folder`` of all that is no folder; () when there is none."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in sorted([*files, *links]):
            path = os.path.relpath(Path(place, name), folder)
            if not path.isprintable():
                raise OperatorError(f"{folder}: the name of {path!r} is not printable", "rename it", Exit.INPUT)
            found.append(path)
        if len(found) > MAX_OWN:
            raise OperatorError(f"{folder} has more than {MAX_OWN} files", "make them a sync set", Exit.INPUT)
    return tuple(found)
