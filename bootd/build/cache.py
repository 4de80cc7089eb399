"""A cache of build results, keyed by the digest of everything that goes into them."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DEFAULT = Path("build/cache")
KEEP = 3  # entries of one kind that stay: the newest ones


def digest_of(*parts: str | bytes | Path) -> str:
    """SHA-256, hex, over all parts in order; a `Path` stands for the content of that file.

    Every part is preceded by its length, so that moving a byte from one part to the next changes the digest.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of one file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Cache:
    """Results below one folder: ``KIND/KEY`` is a file or a folder, complete as soon as it has that name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, kind: str, key: str, make: Callable[[Path], None], keep: int = KEEP) -> Path:
        """The entry for ``key``; when it is missing, ``make`` writes it to the path that it is given.

        Another process that wants an entry of the same kind waits. An entry that fails half-way leaves nothing.
        Older entries of the kind, beyond ``keep``, are removed after a new one was made.
        """
        folder = self.root / kind
        entry = folder / key
        if not entry.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked(folder):
                if not entry.exists():
                    self._make(folder, entry, make)
                    self._prune(folder, entry, keep)
        os.utime(entry)
        return entry

    @staticmethod
    @contextmanager
    def _locked(folder: Path) -> Iterator[None]:
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _make(folder: Path, entry: Path, make: Callable[[Path], None]) -> None:
        for left in folder.glob(".making-*"):  # of a process that was killed: the lock is ours
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
        try:
            make(work / "entry")
            (work / "entry").rename(entry)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @staticmethod
    def _prune(folder: Path, newest: Path, keep: int) -> None:
        others = [path for path in folder.iterdir() if not path.name.startswith(".") and path != newest]
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in others[max(keep - 1, 0) :]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def install(source: Path, target: Path) -> None:
    """Copy one file to its place at once: whoever reads ``target`` sees the old file or the new one, whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        os.close(handle)
        shutil.copyfile(source, name)
        Path(name).chmod(0o644)
        Path(name).rename(target)
    finally:
        Path(name).unlink(missing_ok=True)


def write(target: Path, data: bytes) -> None:
    """Like `install`, with the content given."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f".{target.name}-", dir=target.parent) as work:
        work.write(data)
        work.flush()
        install(Path(work.name), target)
