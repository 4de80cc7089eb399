"""The image store: ``state_dir/images``. docs/images.md describes what is where.

What a reader can see is whole. A chunk is written to ``incoming/WRITER/DIGEST``, and gets its name in ``chunks``
when its bytes are on the disk; a manifest gets its name when all its chunks and their names are. So neither a
kill, a full disk nor a power cut leaves half a chunk or half an image behind. What a writer that died had finished
is taken over by the next one.

Several processes may read and write at the same time. ``lock`` is held alone while an image gets its
name or something is removed, shared by whoever must not see that. Methods block, and may run in any thread.
"""

import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bootd.errors import Exit, OperatorError
from bootd.images import manifest as manifests
from bootd.images.manifest import DIGEST, Header, ImageError, ImageManifest, NoImageError
from bootd.images.names import LATEST, Reference, parse_reference
from bootd.member.durable import sync_file, sync_folder, write_all, write_file
from bootd.wire.digest import Buffer, Compressor, Decompressor, digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.stored import open_stored, pack, unpack

FORMAT = b"bootd images 1\n"
BATCH = 64  # chunks that are brought to the disk together
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_HINT = "bootd image verify names what is damaged; bootd image heal --from mends it from another copy"


@dataclass(frozen=True)
class StoredImage:
    """An image in a list. ``tags``: NAME:TAG of every reference to it."""

    id: str
    header: Header
    tags: tuple[str, ...]
    stored: float  # when it came into this store, seconds since the epoch


class ImageStore:
    """Images below ``directory``, which is made when it is missing. `OperatorError` for all that goes wrong."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self._clock = clock
        self._local = threading.local()
        self._lock = threading.Lock()  # of the fields below
        self._fresh: list[str] = []  # digests of chunks that are written and not yet on their way to the disk
        self._unnamed: set[str] = set()  # those, and what is on its way
        self._batches: list[Future[None]] = []
        self._touched: set[str] = set()  # folders of `chunks` with names that are not yet on the disk
        self._writer: tuple[Path, int] | None = None
        self._executor: ThreadPoolExecutor | None = None
        try:
            for name in ("chunks", "manifests", "refs", "incoming"):
                (directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_format(directory)
        except OSError as error:
            raise self.unusable(error) from None

    def __enter__(self) -> "ImageStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """As `close`; what already goes wrong is not hidden by what goes wrong here."""
        try:
            self.close()
        except OperatorError:
            if kind is None:
                raise

    # Chunks

    def missing(self, digests: Iterable[str]) -> set[str]:
        """Those of ``digests`` that the store has not. The others are safe from a removal for a while."""
        try:
            self._open_writer()  # who asks will write; and what a dead writer left is not missing
        except OSError as error:
            raise self.unusable(error) from None
        return {name for name in set(digests) if name and not self._touch(name)}

    def put_chunk(self, name: str, raw: Buffer) -> None:
        """Keep ``raw``, whose digest must be ``name``. It is on the disk after the next `flush` or `commit`."""
        if digest(raw).hex() != name:
            raise ImageError(f"chunk {name[:16]} is not what its digest says", "send it again")
        if self._touch(name):
            return
        self._keep(name, pack(raw, self._compressor))

    def add(self, raw: Buffer) -> tuple[str, bool]:
        """Keep ``raw``, as `put_chunk` does; its name, and whether it is new here."""
        name = digest(raw).hex()
        if self._touch(name):
            return name, False
        self._keep(name, pack(raw, self._compressor))
        return name, True

    def put_stored(self, name: str, data: Buffer) -> None:
        """As `put_chunk`, for a chunk as a store keeps it (`bootd.wire.stored`)."""
        try:
            open_stored(data, bytes.fromhex(name), self._decompressor)
        except (PeerProtocolError, ValueError) as error:
            raise ImageError(f"chunk {name[:16]}: {error}", "send it again") from None
        if not self._touch(name):
            self._keep(name, data)

    def flush(self) -> None:
        """What was put before is on the disk, under its name, when this returns."""
        with self._lock:
            self._settle()
            batches, self._batches = self._batches, []
        for batch in batches:
            batch.result()
        with self._lock:
            touched, self._touched = self._touched, set()
        try:
            for folder in touched:
                with suppress(FileNotFoundError):  # nothing got a name there after all
                    sync_folder(self.directory / "chunks" / folder)
            if touched:
                sync_folder(self.directory / "chunks")
        except OSError as error:
            raise self.unusable(error) from None

    def read_chunk(self, manifest: ImageManifest, index: int) -> Buffer:
        """The raw bytes of chunk ``index``, compared with their digest."""
        name, length = manifest.chunks[index], manifest.length(index)
        if not name:
            return bytes(length)
        try:
            raw = unpack(self.read_stored(name), length, self._decompressor)
        except PeerProtocolError as error:
            raise ImageError(f"chunk {name} of {manifest.name} is damaged: {error}", _READ_HINT) from None
        if digest(raw).hex() != name:
            raise ImageError(f"chunk {name} of {manifest.name} is damaged", _READ_HINT)
        return raw

    def read_stored(self, name: str) -> bytes:
        """The bytes that are kept for chunk ``name``, as they are."""
        try:
            return self.chunk_path(name).read_bytes()
        except FileNotFoundError:
            raise ImageError(f"chunk {name} is not in the store", _READ_HINT) from None
        except OSError as error:
            raise ImageError(f"chunk {name} cannot be read: {error.strerror}", _READ_HINT) from None

    def put_aside(self, name: str) -> None:
        """Chunk ``name`` is damaged: from now on it is missing, until somebody puts it again."""
        try:
            (self.directory / "damaged").mkdir(mode=0o700, exist_ok=True)
            self.chunk_path(name).rename(self.directory / "damaged" / name)
        except FileNotFoundError:
            pass  # somebody else has done it
        except OSError as error:
            raise self.unusable(error) from None

    def chunk_path(self, name: str) -> Path:
        """Where chunk ``name`` is, or would be."""
        return self.directory / "chunks" / name[:2] / name[2:]

    # Images

    def commit(self, manifest: ImageManifest, tags: Iterable[str] = (), *, latest: bool = True) -> str:
        """Make an image of chunks that are all here; its id. NAME:latest is it from now on, unless told not to, and
        NAME:TAG for each of ``tags``. It is on the disk, or nothing of it is to be seen."""
        encoded = manifests.encode(manifest)
        references = [parse_reference(f"{manifest.name}:{tag}") for tag in (*([LATEST] if latest else []), *tags)]
        id_ = manifests.image_id(encoded)
        wanted = manifest.lengths()
        self.flush()
        try:
            with self.locked(alone=True):
                missing = sum(not self.chunk_path(name).exists() for name in wanted)
                if missing:
                    raise ImageError(
                        f"{manifest.name}: {missing} of its chunks are not in the store",
                        "ask which are missing, send them, then again",
                    )
                write_file(self.manifest_path(id_), encoded)
                for reference in references:
                    self._point(reference, id_)
        except OSError as error:
            raise self.unusable(error) from None
        return id_

    def tag(self, reference: str, target: str) -> str:
        """Let NAME:TAG be the image that ``target`` names; its id."""
        wanted = parse_reference(target)
        try:
            with self.locked(alone=True):
                id_ = self.resolve(reference)
                self._point(wanted, id_)
        except OSError as error:
            raise self.unusable(error) from None
        return id_

    def resolve(self, reference: str) -> str:
        """The id of the image that ``reference`` (NAME, NAME:TAG, an id or its begin) names."""
        wanted = parse_reference(reference)
        if wanted.name:
            with suppress(FileNotFoundError, NotADirectoryError):
                return self._read_reference(wanted)
        prefix = wanted.prefix
        ids = [id_ for id_ in self.ids() if id_.startswith(prefix)] if prefix else []
        if len(ids) == 1:
            return ids[0]
        if ids:
            raise ImageError(f"{len(ids)} images begin with {prefix}", "say more of the id", Exit.USAGE)
        raise NoImageError(reference)

    def open(self, reference: str) -> ImageManifest:
        """The image that ``reference`` names."""
        return self.read_manifest(self.resolve(reference))

    def read_manifest(self, id_: str) -> ImageManifest:
        """The image with this id, its manifest compared with it."""
        encoded = self.read_encoded(id_)
        if manifests.image_id(encoded) != id_:
            raise ImageError(f"the manifest of image {id_[:16]} is damaged", _READ_HINT)
        return manifests.parse(encoded)

    def read_encoded(self, id_: str) -> bytes:
        """The manifest as it is on the disk."""
        if not DIGEST.match(id_):
            raise NoImageError(id_[:16])
        try:
            return self.manifest_path(id_).read_bytes()
        except FileNotFoundError:
            raise NoImageError(id_[:16]) from None
        except OSError as error:
            raise ImageError(f"image {id_[:16]} cannot be read: {error.strerror}", _READ_HINT) from None

    def manifest_path(self, id_: str) -> Path:
        return self.directory / "manifests" / id_

    def ids(self) -> list[str]:
        """Of all images, in no order."""
        return [path.name for path in (self.directory / "manifests").iterdir() if DIGEST.match(path.name)]

    def images(self) -> list[StoredImage]:
        """All images, oldest first. One whose manifest is damaged is left out: `verify` names it."""
        tags: dict[str, list[str]] = {}
        for reference, id_ in self.references():
            tags.setdefault(id_, []).append(str(reference))
        found = []
        for id_ in self.ids():
            with suppress(FileNotFoundError, ImageError):
                header, stored = self._read_header(id_)
                found.append(StoredImage(id_, header, tuple(sorted(tags.get(id_, ()))), stored))
        return sorted(found, key=lambda image: (image.header.created, image.stored, image.id))

    def references(self) -> Iterator[tuple[Reference, str]]:
        """Every NAME:TAG and the id that it stands for."""
        for folder in (self.directory / "refs").iterdir():
            with suppress(FileNotFoundError):  # its last name was removed meanwhile
                for path in list(folder.iterdir()):
                    with suppress(OperatorError, FileNotFoundError):
                        reference = parse_reference(f"{folder.name}:{path.name}")
                        yield reference, self._read_reference(reference)

    def close(self) -> None:
        """Bring to the disk what was put, and end. The store may be used again."""
        try:
            self.flush()
        finally:
            with self._lock:
                writer, self._writer = self._writer, None
                executor, self._executor = self._executor, None
            if executor is not None:
                executor.shutdown()
            if writer is not None:
                with suppress(OSError):
                    writer[0].rmdir()
                os.close(writer[1])

    @contextmanager
    def locked(self, *, alone: bool) -> Iterator[None]:
        """Hold the store's lock: with others who do not remove anything, or ``alone``, to write.

        Not within itself: whoever waits to be alone keeps newcomers out, or they could come and go for ever.
        """
        if alone:
            self._check_owner()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.directory / "lock", flags, 0o600)
        try:
            door = os.open(self.directory / "door", flags, 0o600)
            try:
                fcntl.flock(door, fcntl.LOCK_EX)
                fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            finally:
                os.close(door)
            yield
        finally:
            os.close(descriptor)

    @property
    def _compressor(self) -> Compressor:
        if not hasattr(self._local, "compressor"):
            self._local.compressor = Compressor()
        found: Compressor = self._local.compressor
        return found

    @property
    def _decompressor(self) -> Decompressor:
        if not hasattr(self._local, "decompressor"):
            self._local.decompressor = Decompressor()
        found: Decompressor = self._local.decompressor
        return found

    def _touch(self, name: str) -> bool:
        """Whether the chunk is here; then it counts as wanted just now, and no removal takes it."""
        if not DIGEST.match(name):
            raise ImageError(f"{name[:70]!r} is no digest of a chunk", "64 hexadecimal digits are")
        if name in self._unnamed:
            return True
        try:
            now = self._clock()
            os.utime(self.chunk_path(name), (now, now))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self.unusable(error) from None
        return True

    def _keep(self, name: str, data: Buffer) -> None:
        try:
            path = self._open_writer()[0] / name
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return  # another thread has it in hand
        except OSError as error:
            raise self.unusable(error) from None
        try:
            write_all(descriptor, data)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise self.unusable(error) from None
        finally:
            os.close(descriptor)
        with self._lock:
            self._fresh.append(name)
            self._unnamed.add(name)
            if len(self._fresh) >= BATCH:
                self._settle()
            waiting = self._batches.pop(0) if len(self._batches) > 1 else None
        if waiting is not None:
            waiting.result()  # one batch is on its way while the next one is written

    def _settle(self) -> None:
        """Begin to bring what is fresh to the disk. Under the lock."""
        if not self._fresh or self._writer is None:
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "bootd-images")
        batch, self._fresh = self._fresh, []
        self._batches.append(self._executor.submit(self._bring, batch, self._writer[0]))

    def _bring(self, batch: list[str], folder: Path) -> None:
        """Bytes first, names after."""
        try:
            for name in batch:
                sync_file(folder / name)
            for name in batch:
                place(folder / name, self.chunk_path(name))
        except OSError as error:
            for name in batch:
                (folder / name).unlink(missing_ok=True)
            raise self.unusable(error) from None
        finally:
            with self._lock:
                self._touched |= {name[:2] for name in batch}
                self._unnamed -= set(batch)

    def _open_writer(self) -> tuple[Path, int]:
        """The folder where this writer's chunks come in; it is locked as long as the writer lives. `OSError`."""
        with self._lock:
            if self._writer is None:
                with self.locked(alone=True):
                    self._adopt()
                    folder = self.directory / "incoming" / f"{int(self._clock())}-{secrets.token_hex(8)}"
                    folder.mkdir(mode=0o700)
                    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._writer = folder, descriptor
            return self._writer

    def _adopt(self) -> None:
        """Take over the whole chunks of writers that died; what is not whole goes. Under both locks."""
        for folder in (self.directory / "incoming").iterdir():
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in folder.iterdir():
                    self._adopt_chunk(path)
                folder.rmdir()
            except BlockingIOError:
                pass  # it lives
            finally:
                os.close(descriptor)

    def _adopt_chunk(self, path: Path) -> None:
        try:
            open_stored(path.read_bytes(), bytes.fromhex(path.name), self._decompressor)
        except (PeerProtocolError, ValueError):
            path.unlink(missing_ok=True)
            return
        sync_file(path)
        place(path, self.chunk_path(path.name))
        self._touched.add(path.name[:2])

    def _check_owner(self) -> None:
        """What root would write here, the store's own user could not read."""
        owner = self.directory.stat().st_uid
        if os.geteuid() == 0 and owner != 0:
            raise OperatorError(
                f"{self.directory} belongs to user {owner}, and files of root would not",
                f"let the daemon do it (without --store), or run this as that user: sudo -u '#{owner}' bootd …",
                Exit.REFUSED,
            )

    def _read_header(self, id_: str) -> tuple[Header, float]:
        with self.manifest_path(id_).open("rb") as file:
            line = file.readline(manifests.MAX_HEADER + 1)
            return manifests.parse_header(line.rstrip(b"\n")), os.fstat(file.fileno()).st_mtime

    def _read_reference(self, reference: Reference) -> str:
        path = self.directory / "refs" / reference.name / reference.tag
        id_ = path.read_bytes()[:65].decode("ascii", "replace").strip()
        if not DIGEST.match(id_):
            raise ImageError(f"the reference {reference} is damaged", f"bootd image tag ID {reference}")
        return id_

    def _point(self, reference: Reference, id_: str) -> None:
        folder = self.directory / "refs" / reference.name
        folder.mkdir(exist_ok=True, mode=0o700)
        write_file(folder / reference.tag, f"{id_}\n".encode())
        sync_folder(folder.parent)

    def unusable(self, error: OSError) -> OperatorError:
        """``error`` as an operator reads it."""
        if error.errno in _FULL:
            return OperatorError(
                f"no room for images in {self.directory}: {error.strerror}",
                "free some: bootd image rm NAME:TAG, then bootd image gc --now; what has arrived is kept",
            )
        return OperatorError(
            f"cannot keep images in {self.directory}: {error.strerror or error}", "check its owner and its disk"
        )


def place(path: Path, target: Path) -> None:
    """Give a whole chunk its name."""
    try:
        path.rename(target)
    except FileNotFoundError:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        path.rename(target)


def _check_format(directory: Path) -> None:
    path = directory / "format"
    if not path.exists():
        write_file(path, FORMAT)
    found = path.read_bytes()[:64]
    if found != FORMAT:
        raise OperatorError(
            f"{directory} is no store of images that this bootd knows: {found!r}",
            "start the newer bootd",
            Exit.CONFIG,
        )
