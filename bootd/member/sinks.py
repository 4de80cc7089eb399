"""Targets that take a stream: a command, a directory that an archive is unpacked into, standard output.

What arrives is written to a spool, from which successors are served and everything is read back. A thread gives the
bytes on in their order as soon as they are durable, each chunk proven by its digest again. The target has an end of
its own: the member is verified only when the command has ended with status 0.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from bootd.member.child import Child
from bootd.member.spool import Spool
from bootd.member.store import Store
from bootd.wire.digest import digest
from bootd.wire.manifest import Manifest

_TICK = 0.1  # seconds; how soon `complete` notices that the member stops
_JOIN_SECONDS = 3.0
_SLICE = 64 << 10  # bytes given to a pipe at once
# What tar is told about its input, by the first bytes of it.
_COMPRESSIONS = (
    (b"\x28\xb5\x2f\xfd", "--zstd"),
    (b"\x1f\x8b", "--gzip"),
    (b"\x1f\x9d", "--uncompress"),
    (b"\xfd7zXZ\x00", "--xz"),
    (b"BZh", "--bzip2"),
)


class Outlet(Protocol):
    """Where a stream goes. ``stream``: the descriptor that takes the bytes."""

    @property
    def stream(self) -> int: ...

    def close_stream(self) -> None:
        """That was all."""

    def wait(self) -> str:
        """Until the end; "" when it ended well, else why not."""

    def kill(self) -> None:
        """End it now."""


class Output:
    """Standard output, or any other open ``stream``, as an `Outlet`. The descriptor stays the caller's."""

    def __init__(self, stream: int) -> None:
        self.stream = stream

    def close_stream(self) -> None:
        """It stays open."""

    def wait(self) -> str:
        return ""

    def kill(self) -> None:
        """There is nothing to end."""


def unpack_words(folder: str, first: bytes) -> list[str]:
    """The tar command that unpacks an archive that begins with ``first`` into ``folder``, with all it holds."""
    words = ["tar", "--extract", "--file=-", f"--directory={folder}", "--preserve-permissions"]
    words += ["--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*"]
    return words + [option for magic, option in _COMPRESSIONS if first.startswith(magic)]


class StreamStore:
    """Part ``number`` of ``manifest`` for one outlet. ``start`` is called with the first bytes of the stream, in a
    thread of the store; it may raise `OSError`."""

    completes = True

    def __init__(self, manifest: Manifest, number: int, spool: Spool, start: Callable[[bytes], Outlet]) -> None:
        self.size = manifest.parts[number].size
        self._manifest = manifest
        self._first = manifest.part_start(number)
        self._count = -(-self.size // manifest.chunk_size)
        self._spool = spool
        self._start = start
        self._outlet: Outlet | None = None
        self._changed = threading.Condition()
        self._pending: set[int] = set()  # chunks written since the last sync
        self._durable = bytearray(self._count)
        self._is_whole = False  # everything was read back and matched
        self._is_closed = False
        self._reason: str | None = None  # how the outlet ended; None while it has not
        self._thread = threading.Thread(target=self._run, name="bootd-feed", daemon=True)
        self._thread.start()

    def read(self, offset: int, buffer: memoryview) -> None:
        self._spool.read(offset, buffer)

    def packed(self, offset: int, length: int) -> None:
        """Nothing is kept in the way of chunks."""

    def write(self, offset: int, buffer: memoryview) -> None:
        """`OSError` (EPIPE) also when the command has failed: nothing more is of use."""
        self._check()
        with _spooling():
            self._spool.write(offset, buffer)
        self._written(offset)

    def zero(self, offset: int, length: int) -> None:
        self._check()
        with _spooling():
            self._spool.zero(offset, length)
        self._written(offset)

    def sync(self) -> None:
        self._check()
        with self._changed:
            batch, self._pending = self._pending, set()
        try:
            self._spool.sync()
        except OSError:
            with self._changed:
                self._pending |= batch
            raise
        with self._changed:
            for index in batch - self._pending:
                self._durable[index] = 1
            self._changed.notify_all()

    def read_back(self, offset: int, buffer: memoryview) -> None:
        self._spool.read_back(offset, buffer)

    def complete(self, stop: threading.Event) -> str:
        with self._changed:
            self._is_whole = True
            self._changed.notify_all()
            while self._reason is None and not stop.is_set():
                self._changed.wait(_TICK)
            return "stopped before the command had ended" if self._reason is None else self._reason

    def close(self) -> None:
        """Ends the outlet if it still runs, and gives the spool up."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            outlet = self._outlet
        if outlet is not None:
            outlet.kill()
        self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():  # else it hangs in a pipe, with the spool's descriptor in its hands
            self._spool.close()

    def _check(self) -> None:
        if self._reason:
            raise OSError(errno.EPIPE, self._reason)

    def _written(self, offset: int) -> None:
        index = offset // self._manifest.chunk_size
        with self._changed:
            self._durable[index] = 0
            self._pending.add(index)

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            reason = self._feed()
        except OSError as error:
            reason = error.strerror or str(error)
        except Exception as error:  # a defect here must not leave the member waiting for ever
            reason = f"internal error: {error}"
        if self._outlet is not None:
            self._outlet.close_stream()
        with self._changed:
            self._reason = reason
            self._changed.notify_all()

    def _feed(self) -> str:
        """All chunks in order, then the outlet's end; the reason against, "" when it went well."""
        view = memoryview(bytearray(self._manifest.chunk_size))
        for index in range(self._count):
            chunk = view[: self._manifest.length(self._first + index)]
            if not self._fetch(index, chunk):
                return "stopped" if self._is_closed else f"chunk {index} was not kept by the spool"
            if self._outlet is None and not self._open(bytes(chunk[:16])):
                return "stopped"
            if not self._give(chunk):
                break  # it takes no more: its status says whether that is right
        if self._outlet is None:
            return ""
        self._outlet.close_stream()
        return self._outlet.wait()

    def _open(self, first: bytes) -> bool:
        outlet = self._start(first)
        with self._changed:
            self._outlet = outlet
            if not self._is_closed:
                return True
        outlet.kill()  # `close` came before there was anything to end
        return False

    def _fetch(self, index: int, chunk: memoryview) -> bool:
        """Chunk ``index`` when it is durable and proven; False when there will be none."""
        while True:
            with self._changed:
                while not self._durable[index] and not self._is_whole and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return False
                was_whole = self._is_whole
            self._spool.read(index * self._manifest.chunk_size, chunk)
            if digest(chunk) == self._manifest.digest(self._first + index):
                return True
            if was_whole:
                return False
            with self._changed:  # the member reads it back too, and fetches it again
                self._durable[index] = 0

    def _give(self, chunk: memoryview) -> bool:
        """False when the outlet has closed its end."""
        outlet, rest = self._outlet, chunk
        while outlet is not None and rest:
            try:
                rest = rest[os.write(outlet.stream, rest[:_SLICE]) :]
            except BrokenPipeError:
                return False
        return True


@contextlib.contextmanager
def _spooling() -> Iterator[None]:
    """Errors of the spool say that they are its, not the command's."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"spool: {error.strerror}") from None


def command_store(manifest: Manifest, number: int, folder: str, words: Sequence[str]) -> Store:
    """A target that feeds the command ``words``; the spool is in ``folder``. `StoreError` without room."""
    return StreamStore(manifest, number, _spool(manifest, number, folder), lambda _: Child(words, feeds=True))


def unpack_store(manifest: Manifest, number: int, folder: str, target: str) -> Store:
    """A target that unpacks a tar archive, compressed or not, into the directory ``target``."""

    def start(first: bytes) -> Outlet:
        return Child(unpack_words(target, first), feeds=True)

    return StreamStore(manifest, number, _spool(manifest, number, folder), start)


def output_store(manifest: Manifest, number: int, folder: str, stream: int) -> Store:
    """A target that is an open descriptor."""
    return StreamStore(manifest, number, _spool(manifest, number, folder), lambda _: Output(stream))


def _spool(manifest: Manifest, number: int, folder: str) -> Spool:
    return Spool(folder, manifest.parts[number].size)
