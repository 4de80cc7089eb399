"""A folder of this machine becomes an image of files: read by whoever runs this, kept by the store."""

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bootd.drivers.images.put import Keeper, in_order
from bootd.drivers.images.store import ImageStore
from bootd.drivers.images.times import timestamp
from bootd.drivers.jobs.tell import Result, Tell
from bootd.errors import Exit, OperatorError
from bootd.images import manifest as manifests
from bootd.images.manifest import ImageManifest
from bootd.images.names import parse_reference
from bootd.member import archive
from bootd.wire.errors import PeerProtocolError
from bootd.wire.tree import Mount, Tree, check_folder, decode_tree, encode_tree

CHUNK = archive.PIECE
MAX_TREE = 1 << 20  # bytes of the description before an archive
_SECONDS = 60.0


def look(folder: str, also: Sequence[str] = (), exclude: Sequence[str] = ()) -> Tree:
    """What there is to read at ``folder``: it is "/" of the tree. ``also``: other file systems that are mounted in
    it, as the tree calls them ("/home"). `OperatorError` when it cannot be read."""
    root = str(Path(folder).absolute())
    for path in (*also, *exclude):
        try:
            check_folder(path)
        except PeerProtocolError as error:
            raise OperatorError(str(error), "say folders as the tree will have them", Exit.USAGE) from None
    places = tuple(sorted({"/", *also}))
    for place in places:
        path = root if place == "/" else f"{root.rstrip('/')}{place}"
        if not Path(path).is_dir():
            raise OperatorError(f"{path}: no such folder", "name a folder with a system in it", Exit.INPUT)
        if place != "/" and not Path(path).is_mount():
            raise OperatorError(f"{path}: nothing is mounted there", "it is read without --also", Exit.USAGE)
    try:
        amounts = archive.measure(root, places, exclude)
    except OSError as error:
        raise OperatorError(
            f"{error.filename}: {error.strerror}", "read it as root, and leave it alone meanwhile", Exit.INPUT
        ) from None
    mounts = tuple(_mount(root, place, amounts[place]) for place in places)
    return Tree(mounts, exclude=tuple(exclude))


def _mount(root: str, place: str, amount: archive.Amount) -> Mount:
    path = root if place == "/" else f"{root.rstrip('/')}{place}"
    found: dict[str, str] = {}
    if Path(path).is_mount():
        columns = "FSTYPE,UUID,LABEL,PARTUUID,SIZE,SOURCE"
        command = ["findmnt", "--json", "--bytes", "--output", columns, "--mountpoint", path]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS)
            found = json.loads(done.stdout)["filesystems"][-1] if done.returncode == 0 else {}
        except (OSError, subprocess.TimeoutExpired, ValueError, LookupError):
            found = {}
    size, word = found.get("size") or 0, {key: str(value or "") for key, value in found.items()}
    return Mount(
        path=place,
        kind=word.get("fstype", ""),
        size=int(size),
        used=amount.used,
        files=amount.files,
        uuid=word.get("uuid", ""),
        label=word.get("label", ""),
        partuuid=word.get("partuuid", ""),
        device=word.get("source", ""),
    )


def stream(folder: str, tree: Tree) -> Iterator[bytes]:
    """The archive, in pieces of a chunk. `OperatorError` at its end when it was not read as one state."""
    places = [mount.path for mount in tree.mounts if mount.path]
    try:
        yield from archive.read(archive.create_words(str(Path(folder).absolute()), places, tree.exclude))
    except archive.ArchiveError as error:
        raise OperatorError(
            f"{folder}: {error}", "leave the files alone while they are read, or leave them out: -x DIR", Exit.INPUT
        ) from None
    except OSError as error:
        raise OperatorError(f"tar: {error.strerror}", "install tar", Exit.ERROR) from None


def head_of(tree: Tree) -> bytes:
    """What goes before the archive on its way to the daemon."""
    return json.dumps(encode_tree(tree), separators=(",", ":")).encode() + b"\n"


def parse_head(line: bytes) -> Tree:
    """The opposite; `OperatorError` (USAGE)."""
    try:
        return decode_tree(json.loads(line))
    except (ValueError, RecursionError, PeerProtocolError) as error:
        raise OperatorError(f"no description of a tree: {error}", "see docs/files.md", Exit.USAGE) from None


class TreeWriter:
    """Takes an archive, in order, and makes an image of it. For one thread; `OperatorError`."""

    def __init__(
        self, store: ImageStore, tree: Tree, *, name: str, user: str, comment: str, origin: str, tags: Iterable[str]
    ) -> None:
        parse_reference(name)
        self._store, self._keeper = store, Keeper(store)
        self._about: dict[str, Any] = {
            "name": name,
            "user": user,
            "comment": comment,
            "origin": origin[: manifests.MAX_WORD],
        }
        self._tree, self._tags = tree, tuple(tags)
        self._names: list[str] = []
        self._size = 0
        manifests.encode(self._manifest(("",), 1))  # what it is called is refused before anything is sent
        store.missing(())  # takes over what an interrupted one has left

    def add(self, piece: bytes) -> None:
        """The next `CHUNK` bytes; only the last piece may be shorter."""
        self.note(self._keeper.keep(piece), len(piece))

    def keep(self, piece: bytes) -> tuple[str, int]:
        """Keep a piece; for any thread. `note` what this gives, in order."""
        return self._keeper.keep(piece), len(piece)

    def note(self, name: str, length: int) -> None:
        """A piece that was kept is the next one."""
        if self._size % CHUNK:
            raise OperatorError("a piece of an archive was too short", "send it again", Exit.INPUT)
        self._names.append(name)
        self._size += length

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size

    def commit(self, clock: Callable[[], float] = time.time) -> Result:
        """That was all: make the image."""
        if not self._names:
            raise OperatorError("the archive is empty", "name a folder with a system in it", Exit.INPUT)
        id_ = self._store.commit(self._manifest(tuple(self._names), self._size, clock()), self._tags)
        return {
            "id": id_,
            "name": self._about["name"],
            "size": self._size,
            "files": sum(mount.files for mount in self._tree.mounts),
            "chunks": len(self._names),
            "new_chunks": self._keeper.new_chunks,
            "new_bytes": self._keeper.new_bytes,
        }

    def _manifest(self, names: tuple[str, ...], size: int, now: float = 0.0) -> ImageManifest:
        return ImageManifest(
            **self._about,
            created=timestamp(now),
            kind="files",
            size=size,
            chunk_size=CHUNK,
            tree=encode_tree(self._tree),
            chunks=names,
        )


def put_tree(
    tell: Tell,
    *,
    store: str,
    path: str,
    name: str,
    user: str,
    comment: str,
    tags: Iterable[str] = (),
    also: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Result:
    """Store the folder ``path`` in the store at ``store``, without a daemon."""
    tree = look(path, also, exclude)
    with ImageStore(Path(store)) as images:
        writer = TreeWriter(images, tree, name=name, user=user, comment=comment, origin=path, tags=tags)
        for found in in_order(writer.keep, stream(path, tree)):
            writer.note(*found)
            tell.progress(writer.size, 0, "read")
        return writer.commit()
