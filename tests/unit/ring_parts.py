"""Parts for the tests of the ring member: images that carry block numbers, spoilt stores, a proxy, a false peer."""

import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bootd.member.member import Member
from bootd.member.store import FileStore, PlainStore, SourceStore, Store
from bootd.wire import frames, link, manifest
from bootd.wire.control import Address, Arrange, MemberState, Report
from bootd.wire.digest import digest
from bootd.wire.frames import Decoder
from bootd.wire.manifest import Manifest
from bootd.wire.ring.member import Limits

CHUNK = 64 << 10
BLOCKS = CHUNK // 512
SESSION, KEY, HOST = "lab", "c0ffee", "127.0.0.1"
PATIENCE = 20.0  # seconds; a test that waits so long has failed
BRISK = Limits(silence=0.4, ping_interval=0.05, patience=5.0, report_interval=0.2)


def make_body(chunks: int, tail: int = 1000) -> bytes:
    """Numbered 512-byte blocks; every fifth chunk is zero, every third does not compress. Ends inside a chunk."""
    noise = random.Random(chunks)
    parts = []
    for number in range(chunks):
        if number % 5 == 4:
            parts.append(bytes(CHUNK))
            continue
        for block in range(number * BLOCKS, (number + 1) * BLOCKS):
            parts.append(struct.pack(">Q", block) + (noise.randbytes(504) if number % 3 == 0 else bytes(504)))
    parts.append(bytes([7]) * tail)
    return b"".join(parts)


def make_manifest(body: bytes) -> Manifest:
    return manifest.build(
        len(body), CHUNK, [digest(body[start : start + CHUNK]) for start in range(0, len(body), CHUNK)]
    )


class Room:
    """Members on loopback, with every report that they made; all are stopped at the end of the test."""

    def __init__(self, folder: Path, chunks: int = 40) -> None:
        self.folder = folder
        self.body = make_body(chunks)
        self.image = make_manifest(self.body)
        self.members: dict[str, Member] = {}
        self.ports: dict[str, int] = {}
        self.reports: dict[str, list[Report]] = {}
        self._reported = threading.Condition()
        self._stores: list[Store] = []
        (folder / "source").write_bytes(self.body)

    def add_head(self, **changes: Store) -> Member:
        return self._add("head", changes.get("store") or SourceStore(str(self.folder / "source")), is_head=True)

    def add_target(
        self, name: str, wrap: Callable[[FileStore], Store] | None = None, limits: Limits = BRISK
    ) -> Member:
        """A target whose file is full of old bytes: zeros that are not written show."""
        path = self.folder / name
        path.write_bytes(b"\xee" * len(self.body))
        store = FileStore(str(path), len(self.body))
        return self._add(name, wrap(store) if wrap else store, is_head=False, limits=limits)

    def arrange(self, name: str, predecessor: str, epoch: int = 1, port: int | None = None) -> bool:
        address = Address(HOST, port or self.ports[predecessor])
        return self.members[name].arrange(Arrange(SESSION, epoch, address, predecessor))

    def written(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def await_report(self, name: str, wanted: Callable[[Report], bool]) -> Report:
        """The first report of ``name``, past or to come, that is ``wanted``."""
        found: list[Report] = []

        def has_come() -> bool:
            found.extend(report for report in self.reports[name] if wanted(report))
            return bool(found)

        with self._reported:
            assert self._reported.wait_for(has_come, PATIENCE), self.reports[name][-3:]
        return found[0]

    def expect_verified(self, *names: str) -> None:
        for name in names:
            report = self.members[name].wait(PATIENCE)
            assert report.state is MemberState.VERIFIED, report
            assert report.written == report.durable == report.verified == report.total == len(self.body)
            assert self.written(name) == self.body

    def close(self) -> None:
        for member in self.members.values():
            member.stop()
        while self._stores:
            self._stores.pop().close()

    def _add(self, name: str, store: Store, *, is_head: bool, limits: Limits = BRISK) -> Member:
        self.reports[name] = []

        def report(message: Report) -> None:
            with self._reported:
                self.reports[name].append(message)
                self._reported.notify_all()

        self._stores.append(store)
        member = self.members[name] = Member(
            node=name,
            session=SESSION,
            join_token=KEY,
            manifest=self.image,
            store=store,
            listen_host=HOST,
            report=report,
            is_head=is_head,
            limits=limits,
        )
        self.ports[name] = member.start()
        return member


class GatedStore(PlainStore):
    """Writes the first ``count`` chunks, then waits until `gate` opens; `reached` tells that it waits."""

    def __init__(self, inner: Store, count: int) -> None:
        self.inner = inner
        self.size = inner.size
        self.gate = threading.Event()
        self.reached = threading.Event()
        self._left = count

    def read(self, offset: int, buffer: memoryview) -> None:
        self.inner.read(offset, buffer)

    def write(self, offset: int, buffer: memoryview) -> None:
        if self._left == 0:
            self.reached.set()
            self.gate.wait(PATIENCE)
        else:
            self._left -= 1
        self.inner.write(offset, buffer)

    def sync(self) -> None:
        self.inner.sync()

    def read_back(self, offset: int, buffer: memoryview) -> None:
        self.inner.read_back(offset, buffer)

    def close(self) -> None:
        self.gate.set()
        self.inner.close()


class FailingStore(GatedStore):
    """Raises ``error`` at the write after ``writes`` good ones, or at every sync when ``at_sync``."""

    def __init__(self, inner: Store, error: OSError, writes: int = 1 << 30, *, at_sync: bool = False) -> None:
        super().__init__(inner, 1 << 30)
        self._error = error
        self._writes = writes
        self._at_sync = at_sync

    def write(self, offset: int, buffer: memoryview) -> None:
        if self._writes == 0:
            raise self._error
        self._writes -= 1
        self.inner.write(offset, buffer)

    def sync(self) -> None:
        if self._at_sync:
            raise self._error
        self.inner.sync()


class LyingStore(GatedStore):
    """Gives back one flipped bit of the chunk at ``where``, the first ``times`` times that it is read back."""

    def __init__(self, inner: Store, where: int, times: int) -> None:
        super().__init__(inner, 1 << 30)
        self._where = where
        self._times = times

    def read_back(self, offset: int, buffer: memoryview) -> None:
        self.inner.read_back(offset, buffer)
        if offset == self._where and self._times:
            self._times -= 1
            buffer[0] ^= 0x10


@contextmanager
def flipping_proxy(port: int, where: int) -> Iterator[int]:
    """A relay to ``port``; in its first connection, bit 0 of byte ``where`` downstream is flipped."""
    listener = socket.create_server((HOST, 0))
    closing = threading.Event()
    sockets: list[socket.socket] = [listener]

    def pump(source: socket.socket, sink: socket.socket, flip: int) -> None:
        position = 0
        try:
            while data := bytearray(source.recv(65536)):
                if position <= flip < position + len(data):
                    data[flip - position] ^= 1
                position += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def accept() -> None:
        flip = where
        while not closing.is_set():
            try:
                down, _ = listener.accept()
            except OSError:
                return
            up = socket.create_connection((HOST, port))
            sockets.extend((down, up))
            threading.Thread(target=pump, args=(down, up, -1), daemon=True).start()
            threading.Thread(target=pump, args=(up, down, flip), daemon=True).start()
            flip = -1

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        closing.set()
        for item in sockets:
            with suppress(OSError):  # ended before
                item.shutdown(socket.SHUT_RDWR)
            item.close()
        thread.join(PATIENCE)


@contextmanager
def false_predecessor(
    image: Manifest, behave: Callable[[socket.socket, tuple[frames.ChunkRange, ...]], None]
) -> Iterator[int]:
    """Knows the join token, takes the first WANT of every link, and then does as ``behave`` does."""
    listener = socket.create_server((HOST, 0))
    done = threading.Event()
    connections: list[socket.socket] = []

    def attend() -> None:
        while not done.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            machine = link.AcceptLink(
                session=SESSION, epoch=0, token=KEY, nonce=os.urandom(32), chunk_count=image.count
            )
            decoder = Decoder(max_chunk=0)
            try:
                connection.sendall(machine.challenge())
                while data := connection.recv(4096):
                    for frame in decoder.feed(data):
                        event = machine.receive(frame)
                        if isinstance(event, link.Established):
                            connection.sendall(event.data)
                        elif isinstance(event, link.Serve):
                            behave(connection, event.ranges)
            except OSError:
                continue

    thread = threading.Thread(target=attend, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        done.set()
        for item in (listener, *connections):
            with suppress(OSError):  # ended before
                item.shutdown(socket.SHUT_RDWR)
            item.close()
        thread.join(PATIENCE)
