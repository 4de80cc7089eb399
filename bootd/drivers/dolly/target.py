"""What a client writes. Nothing is opened that the operator of this very host has not agreed to.

A head of dolly says in its configuration what its clients shall write. Here that is a wish: it is granted when the
operator has named the same path, or another one in its place. What is there already needs its name a second time.
"""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bootd.dolly.config import Announced, Archive, Cooking, Packing
from bootd.drivers.dolly.consumer import Piece
from bootd.drivers.dolly.unpack import archive_words, check_program, decompress, feed
from bootd.drivers.ring.target import DeviceTarget, FileTarget, claim, claim_folder
from bootd.errors import Exit, OperatorError
from bootd.member.child import Child
from bootd.member.durable import sync_folder, write_all

_SYNC_BYTES = 256 << 20  # written between two syncs: the last one then takes no longer than that
_STANDARD_OUTPUT = ("-", "/dev/stdout")
_STDOUT = 1


class Target(Protocol):
    """Where one file goes. ``label``: what the operator calls it."""

    label: str

    def take(self, pieces: Iterator[Piece]) -> None:
        """All of it, to stable storage. `OSError`, or one of `unpack.FAILURES`."""

    def commit(self) -> None:
        """It is whole: it gets its name. `OSError`."""

    def close(self) -> None:
        """Gives up what is held; what was not committed is removed, where that can be."""


class PlainTarget:
    """A file that gets its name when it is whole; with ``piece``, ``path_0`` and so on of so many bytes."""

    def __init__(self, path: Path, piece: int, stale: Sequence[Path]) -> None:
        self.label = str(path)
        self._path, self._piece, self._stale = path, piece, stale
        self._parts: list[tuple[Path, Path]] = []  # under which name it is written, and its own

    def take(self, pieces: Iterator[Piece]) -> None:
        self.close()  # of a session that ended before there was data
        file = _Written(self._begin())
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    if self._piece and file.count == self._piece:
                        file.close()
                        file = _Written(self._begin())
                    view = view[file.write(view[: self._piece - file.count] if self._piece else view) :]
        finally:
            file.close()

    def commit(self) -> None:
        for written, own in self._parts:
            written.replace(own)
        names = {own for _, own in self._parts}
        for path in self._stale:
            if path not in names:
                path.unlink(missing_ok=True)  # of a longer stream: it would be taken for a part of this one
        self._parts.clear()
        sync_folder(self._path.parent)

    def close(self) -> None:
        for written, _ in self._parts:
            written.unlink(missing_ok=True)
        self._parts.clear()

    def _begin(self) -> int:
        own = self._path.with_name(f"{self._path.name}_{len(self._parts)}") if self._piece else self._path
        part = own.with_name(f"{own.name}.part")
        self._parts.append((part, own))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(part, flags, 0o644)


class HeldDevice:
    """A block device that is held alone (O_EXCL)."""

    def __init__(self, claimed: DeviceTarget) -> None:
        self.label = claimed.label
        self._claimed = claimed

    def take(self, pieces: Iterator[Piece]) -> None:
        os.lseek(self._claimed.descriptor, 0, os.SEEK_SET)
        file = _Written(os.dup(self._claimed.descriptor))
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
        finally:
            file.close()

    def commit(self) -> None:
        """It is what it is."""

    def close(self) -> None:
        self._claimed.close()


class ArchiveTarget:
    """A directory that an archive is unpacked into."""

    def __init__(self, folder: str, archive: Archive) -> None:
        self.label = folder
        self._words = archive_words(archive, folder)
        self._child: Child | None = None

    def take(self, pieces: Iterator[Piece]) -> None:
        feed(self._words, pieces, self._started)
        os.sync()  # every file of it, whoever wrote it

    def commit(self) -> None:
        """The files are there already."""

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()

    def _started(self, child: Child) -> None:
        self._child = child


class OutputTarget:
    """Standard output."""

    label = "standard output"

    def take(self, pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            write_all(_STDOUT, piece)

    def commit(self) -> None:
        """It has gone."""

    def close(self) -> None:
        """It stays open."""


class Nothing:
    """A dummy run: bytes are counted, none is kept."""

    label = "nothing (dummy)"

    def take(self, pieces: Iterator[Piece]) -> None:
        for _ in pieces:
            pass

    def commit(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Unpacked:
    """``inner`` gets what ``packing`` holds."""

    def __init__(self, inner: Target, packing: Packing) -> None:
        self.label = inner.label
        self._inner, self._packing = inner, packing

    def take(self, pieces: Iterator[Piece]) -> None:
        self._inner.take(decompress(pieces, self._packing))

    def commit(self) -> None:
        self._inner.commit()

    def close(self) -> None:
        self._inner.close()


@dataclass(frozen=True)
class Consent:
    """What the operator of this host has agreed to.

    ``outfiles``: one for each file of the head, in its order; they take the place of what the head says.
    ``allowed``: paths that the head may name. ``confirmed``: paths whose content may be lost; the head may name
    them, too. ``ask``: shows a path to somebody at a terminal; None when there is nobody.
    """

    outfiles: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()
    ask: Callable[[str], bool] | None = field(default=None)

    def paths(self, wanted: Sequence[str]) -> list[str]:
        """Where the files go that the head wants at ``wanted``. `OperatorError` (REFUSED) without an agreement."""
        if self.outfiles:
            if len(self.outfiles) != len(wanted):
                text = f"the head has {len(wanted)} files, here --outfile is said {len(self.outfiles)} times"
                raise OperatorError(text, f"it wants: {', '.join(wanted)}", Exit.REFUSED)
            return list(self.outfiles)
        named = {os.path.normpath(path) for path in (*self.allowed, *self.confirmed)}
        for path in wanted:
            if os.path.normpath(path) in named or (self.ask is not None and self.ask(path)):
                continue
            hint = f"if that is meant, say --allow {path} here, or --outfile PATH for another place"
            raise OperatorError(f"the head wants {path} written: nobody here has agreed", hint, Exit.REFUSED)
        # As the operator has said it: /a/../b is another file than /b where /a is a link.
        return [os.path.normpath(path) for path in wanted]


def claim_target(
    path: str, cooking: Cooking, piece: int, confirmed: Collection[str], size: int | None = None
) -> Target:
    """The target for one file, with the care of the ring by hand (`bootd.drivers.ring.target`).

    ``size``: bytes that will come, where the head has said it; what has no room for them is refused.
    `OperatorError` (REFUSED) for anything that is there and was not named, is in use, or is too small.
    """
    if cooking.archive is not Archive.NONE:
        check_program(cooking.archive)
        folder = claim_folder(path, path, confirmed)
        return _unpacked(ArchiveTarget(folder.label, cooking.archive), cooking)
    if path in _STANDARD_OUTPUT:
        if os.isatty(_STDOUT):
            raise OperatorError("standard output is a terminal", "send it to a file or a pipe", Exit.USAGE)
        return _unpacked(OutputTarget(), cooking)
    if not path.startswith("/") and Path(path).name != path:
        path = str(Path(path).absolute())
    stale = _numbered(Path(path).resolve()) if piece else []
    if stale and path not in confirmed:
        hint = f"if they may be replaced, add --yes-overwrite {path}"
        raise OperatorError(f"{stale[0]} is there already", hint, Exit.REFUSED)
    claimed = claim(path, confirmed)
    room = claimed.capacity()
    if size is not None and size > room and (cooking.is_raw or isinstance(claimed, DeviceTarget)):
        claimed.close()
        raise OperatorError(f"{path} has room for {room} bytes, {size} will come", "name another", Exit.REFUSED)
    if isinstance(claimed, DeviceTarget):
        if piece:
            claimed.close()
            raise OperatorError(f"{path} is a device: it cannot be split", "leave split away", Exit.REFUSED)
        return _unpacked(HeldDevice(claimed), cooking)
    if not isinstance(claimed, FileTarget):
        raise OperatorError(f"{path} cannot be written", "name a file or a device", Exit.REFUSED)
    return _unpacked(PlainTarget(claimed.path, piece, stale), cooking)


def claim_all(files: Sequence[Announced], pieces: Sequence[int], consent: Consent) -> list[Target]:
    """A target for each file; whatever was claimed is given up again when one cannot be."""
    paths = consent.paths([item.outfile for item in files])
    confirmed = set(consent.confirmed)
    if len({os.path.normpath(path) for path in paths}) < len(
        [path for path in paths if path not in _STANDARD_OUTPUT]
    ):
        raw = [path for item, path in zip(files, paths, strict=True) if item.cooking.archive is Archive.NONE]
        if len(set(raw)) < len(raw):
            raise OperatorError("two files for one path", "each needs a place of its own", Exit.REFUSED)
    claimed: list[Target] = []
    try:
        for item, path, piece in zip(files, paths, pieces, strict=True):
            claimed.append(claim_target(path, item.cooking, piece, confirmed, item.size))
    except OperatorError:
        for target in claimed:
            target.close()
        raise
    return claimed


def ask_on_terminal(path: str) -> bool:
    """Whether somebody types the path again."""
    sys.stderr.write(f"the head wants {path} written on this host: type the path to agree: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == path


class _Written:
    """An open file that is written from its start on and synced now and then. ``count``: bytes so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.count = 0
        self._synced = 0
        self._has_failed = False

    def write(self, view: memoryview) -> int:
        try:
            done = os.write(self._descriptor, view)
            self.count += done
            if self.count - self._synced >= _SYNC_BYTES:
                os.fdatasync(self._descriptor)
                self._synced = self.count
        except OSError:
            self._has_failed = True
            raise
        return done

    def close(self) -> None:
        """Syncs first, unless writing has failed. `OSError`."""
        try:
            if not self._has_failed:
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


def _unpacked(target: Target, cooking: Cooking) -> Target:
    return target if cooking.packing is Packing.NONE else Unpacked(target, cooking.packing)


def _numbered(path: Path) -> list[Path]:
    start = f"{path.name}_"
    try:
        entries = sorted(path.parent.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if entry.name.startswith(start) and entry.name[len(start) :].isdecimal()]
