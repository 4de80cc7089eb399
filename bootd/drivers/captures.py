"""What the nodes send of captures, on its way into the image store.

A run is what a node has told since it last described its source: digests in their order, and which of their chunks
are to come. It is forgotten when the daemon ends; the chunks are in the store by then, and the node tells the
digests again. Marks of the chunks are kept with the image, for the next backup of the same source. The store's work
is done by threads: digests, compression and files give up the interpreter's lock.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from bootd.drivers.images import marks as kept_marks
from bootd.drivers.images.marks import Kept
from bootd.drivers.images.store import ImageStore
from bootd.drivers.images.times import timestamp
from bootd.errors import Exit, OperatorError
from bootd.images import manifest as manifests
from bootd.images.manifest import Filesystem, ImageManifest
from bootd.images.names import parse_reference
from bootd.session.captures import CaptureRequest, Task
from bootd.wire.captured import ASKED, CHUNK, ZEROS, Description
from bootd.wire.digest import DIGEST_SIZE
from bootd.wire.errors import PeerProtocolError
from bootd.wire.marks import MARK_SIZE, Clock, Question
from bootd.wire.tree import check_folder

log = structlog.get_logger(__name__)

THREADS = 2
MAX_STORED = CHUNK  # bytes of one chunk as it is sent
_Result = TypeVar("_Result")


class UnknownRunError(Exception):
    """The node must describe its source first: nothing is known of this run."""


@dataclass
class _Run:
    """``digests``: all that were told. ``wanted``: of chunks that the store lacks and that have not come yet."""

    description: Description
    digests: bytearray = field(default_factory=bytearray)
    wanted: set[bytes] = field(default_factory=set)
    taken: int = 0  # chunks that came
    source: str = ""  # as the node names it for its marks
    clocks: dict[str, Clock] = field(default_factory=dict)
    marks: bytearray = field(default_factory=bytearray)  # from the first chunk on
    before: Kept | None = None  # what the latest backup of the same source has left

    @property
    def count(self) -> int:
        return len(self.digests) // DIGEST_SIZE


class CaptureStore:
    """One for the daemon. Coroutines; `OperatorError` when the store cannot, `PeerProtocolError` when the node did
    what it must not."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        """``directory``: of the image store, opened when it is first needed. ``clock``: since the epoch."""
        self._directory, self._clock = directory, clock
        self._images: ImageStore | None = None
        self._runs: dict[str, _Run] = {}
        self._pool = ThreadPoolExecutor(THREADS, "bootd-capture")

    async def begin(self, task: Task, description: Description) -> None:
        """A new run of ``task``; what an earlier one has told is forgotten, its chunks are kept."""
        wanted = "files" if task.request.files else "partition" if task.request.part else "disk"
        if description.kind != wanted:
            raise PeerProtocolError(f"a {description.kind} was not asked for")
        self._runs[task.id] = _Run(description)

    async def ask(self, task: Task, first: int, digests: bytes) -> list[int]:
        """The node tells the digests of the chunks from ``first`` on; which of them are to be sent."""
        run = self._run_of(task)
        count = len(digests) // DIGEST_SIZE
        if not count or len(digests) % DIGEST_SIZE or count > ASKED or first + count > run.description.chunks:
            raise PeerProtocolError(f"{len(digests)} bytes of digests from chunk {first} on")
        told = run.digests[first * DIGEST_SIZE : (first + count) * DIGEST_SIZE]
        if first != run.count and told != digests:  # the same again: an answer that did not arrive
            raise PeerProtocolError(f"digests from chunk {first} on, after {run.count}")
        names = [bytes(digests[at : at + DIGEST_SIZE]) for at in range(0, len(digests), DIGEST_SIZE)]
        missing = await self._work(self._store_missing, {name for name in names if name != ZEROS})
        if self._runs.get(task.id) is not run:
            raise UnknownRunError
        if first == run.count:
            run.digests += digests
        run.wanted |= missing
        seen: set[bytes] = set()
        answer = []
        for number, name in enumerate(names):
            if name in missing and name not in seen:
                seen.add(name)
                answer.append(number)
        return answer

    async def ask_marks(self, task: Task, question: Question) -> list[bytes | None]:
        """The node tells the marks of the chunks from ``question.first`` on; the digests of those that need not be
        read. None at all for a task that was not ordered to be quick."""
        run = self._run_of(task)
        first, told = question.first, b"".join(question.marks)
        if not run.source:
            run.source, run.clocks = question.source, question.clocks
            if task.request.quick:
                run.before = await self._work(self._load_marks, task.mac, run)
        if (question.source, question.clocks) != (run.source, run.clocks):
            raise PeerProtocolError("marks of another source than before")
        if first + len(question.marks) > run.description.chunks:
            raise PeerProtocolError(f"{len(question.marks)} marks from chunk {first} on")
        place = first * MARK_SIZE
        if place == len(run.marks):
            run.marks += told
        elif run.marks[place : place + len(told)] != told:
            raise PeerProtocolError(f"marks from chunk {first} on, after {len(run.marks) // MARK_SIZE}")
        if run.before is None:
            return [None] * len(question.marks)
        return await self._work(self._known, run.before, question)

    async def put(self, task: Task, name: bytes, data: bytes) -> None:
        """A chunk that was asked for, as a store keeps it."""
        run = self._run_of(task)
        if name not in run.wanted:
            if run.taken and name in await self._work(self._present, name):
                return  # the same again
            raise PeerProtocolError("a chunk that was not asked for")
        await self._work(self._store_put, name, data)
        run.wanted.discard(name)
        run.taken += 1

    async def commit(self, task: Task, origin: str, count: int, size: int = 0) -> str:
        """All is told and sent: make the image. Its id. ``size``: bytes of an archive, which is told at its end."""
        run = self._run_of(task)
        if run.description.tree is not None:
            run.description = replace(run.description, size=size)
        if count != -(-run.description.size // CHUNK) or not count or run.count != count or run.wanted:
            raise PeerProtocolError(
                f"{run.count} of {run.description.chunks} chunks were told, {len(run.wanted)} are missing"
            )
        image = await self._work(self._store_commit, task, run, origin)
        self.forget(task.id)
        if not image:  # chunks were removed meanwhile: the node tells all again, and sends what is missing
            raise UnknownRunError
        return image

    def forget(self, task: str) -> None:
        """It has ended."""
        self._runs.pop(task, None)

    def ongoing(self) -> list[str]:
        """Tasks with a run."""
        return list(self._runs)

    def flush(self) -> None:
        """What has come is on the disk when this returns. Blocks; `OperatorError`."""
        if self._images is not None:
            self._images.flush()

    def close(self) -> None:
        """Bring to the disk what has come, and end. Blocks."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._images is not None:
            try:
                self._images.close()
            except OperatorError as error:
                log.error("images not closed", error=error.message, hint=error.hint)  # noqa: TRY400

    # --- in threads ------------------------------------------------------------------------------------------

    def _store_missing(self, names: set[bytes]) -> set[bytes]:
        return {bytes.fromhex(name) for name in self._store().missing(name.hex() for name in names)}

    def _present(self, name: bytes) -> set[bytes]:
        return {name} - self._store_missing({name})

    def _store_put(self, name: bytes, data: bytes) -> None:
        self._store().put_stored(name.hex(), data)

    def _load_marks(self, node: str, run: _Run) -> Kept | None:
        found = kept_marks.load(self._store(), node, run.source, run.description.size, CHUNK)
        return found if found is not None and found.is_older(run.clocks) else None

    def _known(self, before: Kept, question: Question) -> list[bytes | None]:
        """By marks that are the same, and only of chunks that are in the store."""
        names = before.names(question.first, question.marks)
        gone = self._store().missing(name for name in names if name)
        return [None if name is None or name in gone else bytes.fromhex(name) if name else ZEROS for name in names]

    def _keep_marks(self, node: str, run: _Run, image: str) -> None:
        """Those of an earlier backup are of no use any more, also when this one has told none. The image is what
        counts: without marks everything is read the next time."""
        try:
            kept_marks.drop(self._store(), node, run.source)
            if run.source and len(run.marks) == run.description.chunks * MARK_SIZE:
                kept_marks.keep(
                    self._store(), node, run.source, image=image, told=bytes(run.marks), clocks=run.clocks
                )
        except (OperatorError, OSError) as error:
            log.warning("marks not kept", node=node, image=image, error=str(error))

    def _store_commit(self, task: Task, run: _Run, origin: str) -> str:
        """The id of the image; "" when chunks of it are not there any more."""
        names = {bytes(run.digests[at : at + DIGEST_SIZE]) for at in range(0, len(run.digests), DIGEST_SIZE)}
        if self._store_missing(names - {ZEROS}):
            return ""
        image = self._store().commit(self._manifest(task.request, run, origin), task.request.tags)
        if not task.request.files:
            self._keep_marks(task.mac, run, image)
        return image

    def _manifest(self, request: CaptureRequest, run: _Run, origin: str) -> ImageManifest:
        about, digests = run.description, run.digests
        names = (bytes(digests[at : at + DIGEST_SIZE]) for at in range(0, len(digests), DIGEST_SIZE))
        return ImageManifest(
            name=request.image,
            user=request.user,
            created=timestamp(self._clock()),
            comment=request.comment,
            origin=origin[: manifests.MAX_WORD],
            kind="disk" if about.kind == "disk" else "partition" if about.tree is None else "files",
            size=about.size,
            sector=about.sector,
            chunk_size=CHUNK,
            table=about.table,
            filesystems=tuple(Filesystem(**vars(volume)) for volume in about.volumes),
            extents=about.ranges if about.tree is None else None,
            tree=msgspec.UNSET if about.tree is None else about.tree,
            chunks=tuple("" if name == ZEROS else name.hex() for name in names),
        )

    # --- inside ----------------------------------------------------------------------------------------------

    def _store(self) -> ImageStore:
        if self._images is None:
            self._images = ImageStore(self._directory)
        return self._images

    def _run_of(self, task: Task) -> _Run:
        try:
            return self._runs[task.id]
        except KeyError:
            raise UnknownRunError from None

    async def _work(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def check_request(request: CaptureRequest) -> None:
    """`OperatorError` when no image could be made under these words."""
    parse_reference(request.image)
    if ":" in request.image:
        raise OperatorError(f"{request.image!r} has a tag in it", "say the name; tags with --tag", Exit.USAGE)
    for tag in request.tags:
        parse_reference(f"{request.image}:{tag}")
    if request.running and not request.files:
        raise OperatorError(
            "the disk of a running system is not read: it changes meanwhile, and part of it is in memory",
            "its files at one moment: --files --running; the disk: leave out --running, stage2 reads it",
            Exit.REFUSED,
        )
    if request.running and request.disk != "only":
        raise OperatorError(
            "a running system is read by its fstab, whatever its disks", "leave out --disk", Exit.USAGE
        )
    if request.files and (request.part or request.dirty or request.raw or request.quick):
        raise OperatorError(
            "files are read of a whole, clean system", "no --part, --dirty, --raw, --quick", Exit.USAGE
        )
    if request.exclude and not request.files:
        raise OperatorError("only of files something can be left out", "say --files", Exit.USAGE)
    for folder in request.exclude:
        try:
            check_folder(folder)
        except PeerProtocolError as error:
            raise OperatorError(str(error), "say folders as the system has them", Exit.USAGE) from None
    if not request.comment.strip():
        raise OperatorError("why is this backup made?", "give a comment: -m TEXT", Exit.USAGE)
    for word, limit in ((request.comment, manifests.MAX_TEXT), (request.user, manifests.MAX_WORD)):
        if len(word) > limit or not manifests.is_plain(word):
            raise OperatorError(f"{word[:40]!r} is no plain text of at most {limit} characters", "", Exit.USAGE)
