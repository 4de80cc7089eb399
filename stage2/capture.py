"""Reads a disk or a partition into an image on the server: only what is in use, only what the server lacks.

What a quick backup need not read is `stage2.quick`'s. One thread reads and digests, two compress and send; a batch
is read while the one before it is sent, so three batches are in memory at most. The digests of a run are kept, so
that a daemon that restarts is told them again without a second reading.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field

from bootd.member import archive
from bootd.wire.captured import ASKED, CHUNK, ZEROS, Description
from bootd.wire.control import Capture, CaptureReport, CaptureState, Disk
from bootd.wire.digest import Compressor, digest, zero_digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.marks import NONE
from bootd.wire.stored import pack
from bootd.wire.tree import Tree, encode_tree
from stage2.golden import golden_tree
from stage2.inventory import InventoryError
from stage2.node import Node
from stage2.quick import MarksLieError, Quick
from stage2.source import Source
from stage2.upload import BeginAgainError, CancelledError, Uploader, UploadError
from stage2.used_blocks import RefusedError

BATCH = 12  # chunks with data of one batch: so many MiB
SENDERS = 2
REPORT_SECONDS = 1.0
MAX_NOTES = 32
MAX_STRING = 1000  # characters
MAX_BEGINNINGS = 20  # of one run: a daemon that forgets again and again is broken


@dataclass
class Batch:
    """Chunks one after the other. ``data``: of those that are not zeros, by index."""

    first: int
    digests: list[bytes] = field(default_factory=list)
    data: dict[int, bytearray] = field(default_factory=dict)
    marks: list[bytes] = field(default_factory=list)


class CaptureJob:
    """One task, in a thread of its own: `start`, then look at `ended`. `stop` gives it up, from any thread."""

    def __init__(self, task: str, node: Node, say: Callable[[str], None]) -> None:
        self.task = task
        self.ended = ""  # what came of it, for people; "" while it runs
        self.image = ""  # id of the image, when there is one
        self._node, self._say = node.mac, say
        self._stopping = threading.Event()
        self._uploader = Uploader(node, task, self._stopping)
        self._thread = threading.Thread(target=self._run, name="bootd-capture", daemon=True)
        self._local = threading.local()
        self._counting = threading.Lock()
        self._zeros = zero_digest(CHUNK)
        self._digests: list[bytes] = []
        self._total = self._done = self._sent = self._wire = self._skipped = 0
        self._notes: tuple[str, ...] = ()
        self._reported = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """Give it up; False when that was said before."""
        was_running = not self._stopping.is_set()
        self._stopping.set()
        return was_running

    def is_alive(self) -> bool:
        """Also while what it has made to read is unmade."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for its end."""
        self._thread.join(seconds)

    # --- its thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._report(CaptureState.EXAMINING)
            self.ended = self._capture()
        except CancelledError:
            self.ended = "cancelled"
        except RefusedError as error:
            self._end(CaptureState.REFUSED, str(error))
        except (UploadError, InventoryError, PeerProtocolError, OSError) as error:
            if self._stopping.is_set():  # the server has known it before
                self.ended = "cancelled"
            else:
                self._end(CaptureState.FAILED, str(error) or type(error).__name__)
        finally:
            self._uploader.close()

    def _end(self, state: CaptureState, reason: str) -> None:
        for _ in range(3):
            self._report(state, reason)
        self.ended = f"{state.value}: {reason}"

    def _capture(self) -> str:
        """What came of it. Whatever it raises ends the task."""
        raise NotImplementedError

    def _send(self, chunks: dict[bytes, bytearray], pool: ThreadPoolExecutor) -> None:
        """All of ``chunks``, by their digests; what fails is raised when the others have come to their end."""
        sent = [pool.submit(self._put, name, chunk) for name, chunk in chunks.items()]
        problems = [error for future in sent if (error := future.exception()) is not None]
        if problems:
            raise problems[0]

    def _put(self, name: bytes, chunk: bytearray) -> None:
        if not hasattr(self._local, "compressor"):
            self._local.compressor = Compressor()
        data = pack(chunk, self._local.compressor)
        self._uploader.put(name, data)
        with self._counting:
            self._sent += len(chunk)
            self._wire += len(data)

    def _report_sometimes(self) -> None:
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self._report(CaptureState.READING)

    def _report(self, state: CaptureState, reason: str = "") -> None:
        self._reported = time.monotonic()
        self._uploader.report(
            CaptureReport(
                node=self._node,
                task=self.task,
                state=state,
                total=self._total,
                done=self._done,
                sent=self._sent,
                wire=self._wire,
                skipped=self._skipped,
                reason=reason[:1000],
                notes=self._notes,
            )
        )


class DiskJob(CaptureJob):
    """A disk, or a partition of it."""

    def __init__(
        self,
        order: Capture,
        node: Node,
        take: Callable[[], Sequence[Disk]],
        *,
        say: Callable[[str], None],
        dev_root: str = "/dev",
    ) -> None:
        super().__init__(order.task, node, say)
        self._order, self._take, self._dev_root = order, take, dev_root

    def _capture(self) -> str:
        source = Source(self._order, self._take, self._dev_root)
        try:
            description = source.description
            self._total = source.total
            for note in source.notes:
                self._note(note)
            self._say(f"{source.name}: {self._total / 1e9:.1f} of {description.size / 1e9:.1f} GB in use")
            quick = Quick(self._order, source, self._uploader, self._note)
            for _ in range(MAX_BEGINNINGS):
                try:
                    self._uploader.describe(description)
                    self._done = self._sent = self._wire = self._skipped = 0
                    quick.begin(self._check_stopped, is_begun=bool(self._digests))
                    with ThreadPoolExecutor(SENDERS + 1, "bootd-capture") as pool:
                        self._tell_again(source, quick, pool)
                        self._read_and_send(source, quick, pool)
                    quick.end()
                    problem = source.changed()
                    if problem:
                        raise UploadError(problem)
                    self._report(CaptureState.READING)
                    self.image = self._uploader.commit(len(self._digests))
                except BeginAgainError:
                    self._say("the server has restarted: telling it again what it has")
                except MarksLieError as error:
                    self._digests = []
                    quick.distrust(str(error))
                else:
                    return f"image {self.image[:16]}: {self._sent} of {self._total} bytes were new"
            raise UploadError("the server forgets what it is told")
        finally:
            source.close()

    def _check_stopped(self) -> None:
        if self._stopping.is_set():
            raise CancelledError
        self._report_sometimes()

    def _note(self, text: str) -> None:
        if len(self._notes) < MAX_NOTES:
            self._notes += (text[:MAX_STRING],)
        self._say(text)

    def _tell_again(self, source: Source, quick: Quick, pool: ThreadPoolExecutor) -> None:
        """What an earlier beginning of this run has read. Chunks that the server has lost are read once more."""
        for first in range(0, len(self._digests), ASKED):
            known = self._digests[first : first + ASKED]
            missing = self._uploader.ask(first, known)
            for begin in range(0, len(missing), BATCH):
                part = missing[begin : begin + BATCH]
                data = {}
                for index in part:
                    chunk = source.read_chunk(first + index)
                    name = digest(chunk)
                    quick.check(first + index, name)
                    data[name] = chunk
                if any(known[index] not in data for index in part):
                    raise UploadError(f"{source.name} changed while it was read: leave it alone, and begin again")
                self._send(data, pool)
            self._count(source, quick, range(first, first + len(known)))
            self._report(CaptureState.READING)

    def _read_and_send(self, source: Source, quick: Quick, pool: ThreadPoolExecutor) -> None:
        batches = self._batches(source, quick, len(self._digests))
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            missing = self._uploader.ask(batch.first, batch.digests)
            self._digests += batch.digests
            quick.keep(batch.marks)
            for index in (batch.first + number for number in missing):
                if index not in batch.data:  # not read, and gone from the server meanwhile
                    batch.data[index] = source.read_chunk(index)
                    quick.check(index, digest(batch.data[index]))
            self._send({batch.digests[number]: batch.data[batch.first + number] for number in missing}, pool)
            self._count(source, quick, range(batch.first, batch.first + len(batch.digests)))
            self._report_sometimes()

    def _count(self, source: Source, quick: Quick, chunks: range) -> None:
        """They are done with."""
        for index in chunks:
            used = source.in_use(index)
            self._done += used
            self._skipped += used if index in quick.known else 0

    def _batches(self, source: Source, quick: Quick, first: int) -> Iterator[Batch]:
        batch = Batch(first)
        for index in range(first, source.description.chunks):
            if self._stopping.is_set():
                raise CancelledError
            found, mark = quick.known.get(index, ZEROS), NONE
            if index not in quick.known and source.in_use(index):
                chunk = source.read_chunk(index)
                mark = quick.mark(index, chunk)
                found = digest(chunk)
                if found == self._zeros or (len(chunk) < CHUNK and not any(chunk)):
                    found = ZEROS
                else:
                    batch.data[index] = chunk
                quick.check(index, found)
            batch.digests.append(found)
            batch.marks.append(mark)
            if len(batch.data) >= BATCH or len(batch.digests) >= ASKED:
                yield batch
                batch = Batch(index + 1)
        if batch.digests:
            yield batch


@dataclass(frozen=True)
class FilesSource:
    """Where a system can be read, and what is known of it. ``changed``: why what was read is not one state of it,
    asked when all has been read; "" = it is."""

    root: str
    tree: Tree
    notes: tuple[str, ...]
    changed: Callable[[], str] = lambda: ""


class FilesJob(CaptureJob):
    """The files of a system: one archive, read from its beginning at every beginning."""

    def _open(self) -> AbstractContextManager[FilesSource]:
        """The system, for as long as it is read; in the thread that reads."""
        raise NotImplementedError

    def _capture(self) -> str:
        with self._open() as source:
            tree = source.tree
            places = [mount.path for mount in tree.mounts if mount.path]
            self._total = sum(mount.used for mount in tree.mounts)
            self._notes = source.notes[:32]
            self._say(f"{len(places)} file systems, {self._total / 1e9:.1f} GB of files")
            description = Description("files", 0, 512, None, (), (), encode_tree(tree))
            words = archive.create_words(source.root, places, tree.exclude)
            for _ in range(MAX_BEGINNINGS):
                try:
                    self._uploader.describe(description)
                    self._digests, self._done, self._sent, self._wire = [], 0, 0, 0
                    with ThreadPoolExecutor(SENDERS, "bootd-capture") as pool:
                        size = self._send_archive(words, pool)
                    problem = source.changed()
                    if problem:
                        raise UploadError(problem)
                    self._report(CaptureState.READING)
                    self.image = self._uploader.commit(len(self._digests), size)
                except BeginAgainError:
                    self._say("the server has restarted: reading the files again, sending what it lacks")
                except archive.ArchiveError as error:
                    raise UploadError(source.changed() or f"the files cannot be read: {error}") from None
                else:
                    return f"image {self.image[:16]}: {self._sent} of {size} bytes were new"
            raise UploadError("the server forgets what it is told")

    def _send_archive(self, words: Sequence[str], pool: ThreadPoolExecutor) -> int:
        """Bytes of the archive, all of which are on the server then."""
        size, batch = 0, Batch(0)
        with closing(archive.read(words)) as pieces:  # whatever happens, tar has ended before anything is unmounted
            for piece in pieces:
                if self._stopping.is_set():
                    raise CancelledError
                size += len(piece)
                found = digest(piece) if any(piece) else ZEROS
                if found != ZEROS:
                    batch.data[batch.first + len(batch.digests)] = bytearray(piece)
                batch.digests.append(found)
                if len(batch.data) >= BATCH or len(batch.digests) >= ASKED:
                    batch = self._send_batch(batch, size, pool)
        if batch.digests:
            self._send_batch(batch, size, pool)
        return size

    def _send_batch(self, batch: Batch, size: int, pool: ThreadPoolExecutor) -> Batch:
        missing = self._uploader.ask(batch.first, batch.digests)
        self._digests += batch.digests
        self._send({batch.digests[number]: batch.data[batch.first + number] for number in missing}, pool)
        self._done = min(size, self._total)
        self._report_sometimes()
        return Batch(len(self._digests))


class GoldenJob(FilesJob):
    """Of the system on a disk that nobody uses: in stage2."""

    def __init__(
        self,
        order: Capture,
        node: Node,
        take: Callable[[], Sequence[Disk]],
        *,
        say: Callable[[str], None],
        dev_root: str = "/dev",
    ) -> None:
        super().__init__(order.task, node, say)
        self._order, self._take, self._dev_root = order, take, dev_root

    @contextmanager
    def _open(self) -> Iterator[FilesSource]:
        with golden_tree(self._order, self._take, self._say, self._dev_root) as (root, tree):
            notes = tuple(f"{one.path or 'swap'}: {one.kind} on {one.device}" for one in tree.mounts)
            yield FilesSource(root, tree, notes)


def job_of(
    order: Capture,
    node: Node,
    take: Callable[[], Sequence[Disk]],
    *,
    say: Callable[[str], None],
    dev_root: str = "/dev",
) -> CaptureJob:
    """What carries ``order`` out."""
    kind = GoldenJob if order.files else DiskJob
    return kind(order, node, take, say=say, dev_root=dev_root)
