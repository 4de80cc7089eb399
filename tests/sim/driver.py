"""Drives one `RingMember` in virtual time, as the threads of bootd/member do in real time."""

from collections.abc import Callable

from bootd.wire import frames, link
from bootd.wire.control import Arrange, Report
from bootd.wire.digest import digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, Encoding
from bootd.wire.manifest import Manifest
from bootd.wire.ring.downstream import Await, Downstream, Listen, SendChunk, SendFrame
from bootd.wire.ring.member import Admitted, Claim, Limits, RingMember, Wake
from bootd.wire.ring.upstream import Dial, Done, Place, Rest, Send, Take
from bootd.wire.ring.window import Entry
from tests.sim.disk import Disk
from tests.sim.world import CONNECT_SECONDS, LATENCY, Connection, Host, World

WRITE_SECONDS = 0.001
READ_SECONDS = 0.0004
SYNC_SECONDS = 0.004
CHECKERS = 2
WINDOW = 4  # chunks


class Network:
    """Who listens where, and how fast it goes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hosts: dict[str, Host] = {}
        self.rates: dict[str, float] = {}
        self.tamper: Callable[[str, Connection], None] = lambda _address, _connection: None
        self._ports = 4000

    def listen(self, host: Host, accept: Callable[[Connection], None]) -> int:
        self._ports += 1
        host.listeners[self._ports] = accept
        return self._ports

    def dial(self, caller: Host, address: str, port: int) -> Connection | str:
        """A connection, or what is wrong."""
        host = self.hosts.get(address)
        if host is None or not host.is_alive:
            return ""  # no answer
        accept = host.listeners.get(port)
        if accept is None:
            return "Connection refused"
        connection = Connection(self.world, caller, host, min(self.rates[address], self.rates[caller.name]))
        self.tamper(address, connection)
        host.after(LATENCY, accept, connection)
        return connection


class Serving:
    """A successor that has dialled."""

    def __init__(self, connection: Connection, machine: link.AcceptLink) -> None:
        self.connection = connection
        self.machine = machine
        self.downstream: Downstream | None = None
        self.is_reading = False
        self.timer = 0.0


class SimMember:
    """One run of a member on ``host``. ``report`` is told what the member would report."""

    def __init__(
        self,
        network: Network,
        host: Host,
        *,
        node: str,
        session: str,
        token: str,
        manifest: Manifest,
        disk: Disk,
        report: Callable[[Report], None],
        is_head: bool = False,
        compare: bool = False,
    ) -> None:
        self.world, self.network, self.host, self.disk = network.world, network, host, disk
        self.core = RingMember(
            node=node,
            session=session,
            token=token,
            manifest=manifest,
            capacity=WINDOW,
            limits=Limits(),
            is_head=is_head,
            compare=compare,
        )
        self.manifest = manifest
        self.port = network.listen(host, self._accept)
        self._report = report
        self._upstream: Connection | None = None
        self._place: Place | None = None
        self._is_dialling = False
        self._is_writing = self._is_syncing = False
        self._checks = 0
        self._serving: list[Serving] = []
        self._is_running = False
        self._reported = -1.0
        self._report_due = False
        self._raw: dict[int, bytes] = {}
        self._steps = {
            Wake.RECEIVE: self._receive,
            Wake.WRITE: self._write,
            Wake.SYNC: self._sync,
            Wake.CHECK: self._check,
            Wake.SERVE: self._serve,
            Wake.REPORT: self._tell,
        }
        self.core.wakes.update(Wake)
        self._run()
        self._heartbeat()

    def arrange(self, message: Arrange) -> bool:
        taken = self.core.arrange(message)
        if self._place is not None and not self.core.upstream.is_wanted(self._place):
            self._hang_up("")
        self._run()
        return taken

    def snapshot(self) -> Report:
        return self.core.snapshot(self.port, self.world.now)

    def stop(self) -> None:
        """The member ends: its links are closed."""
        self.core.stop()
        self.host.listeners.pop(self.port, None)
        if self._upstream is not None:
            self._upstream.close(self._upstream.up)
        for serving in self._serving:
            serving.connection.close(serving.connection.down)

    # --- the loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Do whatever the core has said there is to do, until nothing is left."""
        if self._is_running or self.core.is_stopping:
            return
        self._is_running = True
        wakes = self.core.wakes
        while wakes:
            for wake in Wake:  # in the order of the enum, so that a seed gives the same run each time
                if wake in wakes:
                    wakes.discard(wake)
                    self._steps[wake]()
        self._is_running = False
        self.core.window.freed.clear()

    def _again(self, activity: Wake) -> None:
        self.core.wakes.add(activity)
        self._run()

    # --- upstream ----------------------------------------------------------------------------------------

    def _receive(self) -> None:
        core = self.core
        if not core.is_going:
            if self._upstream is not None:
                self._hang_up("")
            return
        if self._upstream is not None:
            self._read()
            return
        if self._is_dialling:
            return
        step = core.next_dial(self.world.now)
        if isinstance(step, Rest):
            if step.until is not None:
                self.host.after(step.until - self.world.now, self._again, Wake.RECEIVE)
            return
        self._dial(step)

    def _dial(self, step: Dial) -> None:
        self._is_dialling = True
        found = self.network.dial(self.host, step.address.host, step.address.port)
        if isinstance(found, str):
            wait = LATENCY if found else CONNECT_SECONDS
            self.host.after(wait, self._dialled, step.place, found or "no answer within 3 s")
            return
        self.host.after(2 * LATENCY, self._connected, step.place, found)

    def _dialled(self, place: Place, words: str) -> None:
        self._is_dialling = False
        if self.core.is_going:
            self.core.break_off(place, words, self.world.now)
            self._again(Wake.RECEIVE)

    def _connected(self, place: Place, connection: Connection) -> None:
        self._is_dialling = False
        core = self.core
        if not core.is_going or not core.upstream.is_wanted(place):
            connection.close(connection.up)
            self._again(Wake.RECEIVE)
            return
        core.upstream.connect(place, self.world.random.randbytes(frames.NONCE_SIZE))
        self._upstream, self._place = connection, place
        connection.up.heard = self.world.now
        connection.up.on_news = lambda: self._again(Wake.RECEIVE)
        self._watch_silence(connection)
        self._again(Wake.RECEIVE)

    def _watch_silence(self, connection: Connection) -> None:
        if self._upstream is not connection:
            return
        silence = self.core.limits.silence
        quiet = self.world.now - connection.up.heard
        if quiet >= silence - 1e-9 and not connection.up.inbox:
            self._hang_up(f"silent for {silence:g} s")
            self._again(Wake.RECEIVE)
            return
        self.host.after(max(silence - quiet, 0.1), self._watch_silence, connection)

    def _hang_up(self, words: str) -> None:
        """The link is over; ``words`` say what was wrong with the predecessor, if anything."""
        connection, place = self._upstream, self._place
        if connection is None or place is None:
            return
        self._upstream = None
        connection.close(connection.up)
        if words:
            self.core.break_off(place, words, self.world.now)
        else:
            self.core.upstream.hang_up()

    def _read(self) -> None:
        """Take in what has arrived, as far as the window has room."""
        connection = self._upstream
        if connection is None:
            return
        end, core = connection.up, self.core
        try:
            while end.inbox and self._upstream is connection:
                frame = end.inbox[0]
                if isinstance(frame, Chunk):
                    core.upstream.check_chunk(frame.header)
                    if not core.reserve(self.world.now):
                        return  # the writer wakes us
                connection.take(end)
                step = core.receive(frame)
                if isinstance(step, Send):
                    self._send_up(connection, step.data)
                elif isinstance(step, Take):
                    self._take(step.chunk)
                elif isinstance(step, Done):
                    self._hang_up("")
                    core.wakes.add(Wake.RECEIVE)
                    return
            if end.is_closed and not end.inbox and self._upstream is connection:
                self._hang_up(end.words or "closed the connection")
                core.wakes.add(Wake.RECEIVE)
        except PeerProtocolError as error:
            self._hang_up(str(error))
            core.wakes.add(Wake.RECEIVE)

    def _send_up(self, connection: Connection, data: bytes) -> None:
        for frame in decode_all(data):
            connection.send(connection.up, frame)

    def _take(self, chunk: Chunk) -> None:
        header = chunk.header
        if header.encoding is Encoding.ZERO:
            raw = bytes(header.raw_length)
            found = self.manifest.zero_digest(header.raw_length)
        else:
            raw = bytes(chunk.payload)
            found = digest(raw)
        self.core.accept(chunk, raw, found, None)

    # --- disk --------------------------------------------------------------------------------------------

    def _write(self) -> None:
        if self._is_writing or not self.core.is_going:
            return
        entry = self.core.window.take_unwritten()
        if entry is not None:
            self._is_writing = True
            self.host.after(WRITE_SECONDS * self.disk.fault.slowness, self._written, entry)

    def _written(self, entry: Entry) -> None:
        self._is_writing = False
        if self.core.is_stopping:
            return
        index = entry.header.index
        error = self.disk.write(index, bytes(entry.raw))
        if error:
            self.core.fail(f"writing the target at byte {self.manifest.offset(index)}: {error}")
        else:
            self.core.wrote(entry, self.world.now)
        self._again(Wake.WRITE)

    def _sync(self) -> None:
        core = self.core
        if self._is_syncing or not core.is_going:
            return
        batch = core.ledger.take_unsynced(self.world.now)
        if batch is not None:
            self._is_syncing = True
            self.host.after(SYNC_SECONDS * self.disk.fault.slowness, self._synced, batch)
        elif core.ledger.sync_due is not None:
            self.host.after(max(core.ledger.sync_due - self.world.now, 1e-6), self._again, Wake.SYNC)

    def _synced(self, batch: list[int]) -> None:
        self._is_syncing = False
        if self.core.is_going:
            self.core.synced(batch)
        self._again(Wake.SYNC)

    def _check(self) -> None:
        while self._checks < CHECKERS and (index := self.core.next_check()) is not None:
            self._checks += 1
            self.host.after(READ_SECONDS * self.disk.fault.slowness, self._checked, index)

    def _checked(self, index: int) -> None:
        self._checks -= 1
        if self.core.is_going:
            self.core.checked(index, digest(self.disk.read(index, self.manifest.length(index))))
        self._again(Wake.CHECK)

    # --- downstream --------------------------------------------------------------------------------------

    def _accept(self, connection: Connection) -> None:
        if self.core.is_stopping:
            connection.close(connection.down)
            return
        serving = Serving(connection, self.core.challenge(self.world.random.randbytes(frames.NONCE_SIZE)))
        self._serving.append(serving)
        connection.down.on_news = lambda: self._attend(serving)
        for frame in decode_all(serving.machine.challenge()):
            connection.send(connection.down, frame)

    def _serve(self) -> None:
        for serving in list(self._serving):
            self._go_on(serving)

    def _attend(self, serving: Serving) -> None:
        self._go_on(serving)
        self._run()

    def _go_on(self, serving: Serving) -> None:
        connection, end = serving.connection, serving.connection.down
        try:
            while not serving.is_reading and not self.core.is_stopping:
                if end.is_closed:
                    self._leave(serving)
                    return
                if serving.downstream is None:
                    if not end.inbox:
                        return
                    if not self._shake_hands(serving):
                        return
                    continue
                if not connection.has_room(end) or not self._step(serving, serving.downstream):
                    return
        except PeerProtocolError:
            connection.close(end)
            self._leave(serving)

    def _shake_hands(self, serving: Serving) -> bool:
        connection = serving.connection
        answer = self.core.admit(serving.machine, connection.take(connection.down))
        for frame in decode_all(answer.data):
            connection.send(connection.down, frame)
        if not isinstance(answer, Admitted):
            connection.close(connection.down)
            self._leave(serving)
            return False
        serving.downstream = answer.downstream
        for other in list(self._serving):
            if answer.former is not None and other.downstream is answer.former:
                other.connection.close(other.connection.down)
                self._leave(other)
        return True

    def _step(self, serving: Serving, downstream: Downstream) -> bool:
        """One step of a proven link; False when it has to wait."""
        connection, end = serving.connection, serving.connection.down
        step = downstream.next(self.world.now)
        if isinstance(step, Listen):
            if not end.inbox:
                return False
            downstream.receive(connection.take(end), self.world.now)
            return True
        if isinstance(step, Await):
            if serving.timer <= self.world.now:
                serving.timer = step.until
                self.host.after(step.until - self.world.now, self._attend, serving)
            return False
        if isinstance(step, SendFrame):
            for frame in decode_all(step.data):
                connection.send(end, frame)
            if step.is_last:
                connection.close(end)
                self._leave(serving)
                return False
            return True
        return self._send_chunk(serving, downstream, step)

    def _send_chunk(self, serving: Serving, downstream: Downstream, step: SendChunk) -> bool:
        claim = self.core.claim(step.index)
        if claim is Claim.WAIT:
            return False
        if claim is Claim.READ:
            serving.is_reading = True
            self.host.after(READ_SECONDS * self.disk.fault.slowness, self._reread, serving, downstream, step.index)
            return False
        if isinstance(claim, Entry):
            self._send_entry(serving, downstream, claim)
            self.core.window.give_back(claim)
        return True

    def _reread(self, serving: Serving, downstream: Downstream, index: int) -> None:
        serving.is_reading = False
        core = self.core
        raw = self.disk.read(index, self.manifest.length(index))
        found = digest(raw)
        if not core.reread(index, found):
            core.release(index)
        else:
            encoding = Encoding.ZERO if self.manifest.is_zero(index) else Encoding.RAW
            payload = b"" if encoding is Encoding.ZERO else raw
            entry = Entry(ChunkHeader(index, encoding, len(raw), found, len(payload)), payload, raw)
            is_shared = core.offer(entry)
            if not serving.connection.down.is_closed:
                self._send_entry(serving, downstream, entry)
            if is_shared:
                core.window.give_back(entry)
        self._attend(serving)

    def _send_entry(self, serving: Serving, downstream: Downstream, entry: Entry) -> None:
        payload = memoryview(entry.payload)
        serving.connection.send(serving.connection.down, Chunk(entry.header, payload))
        self.core.count_sent(downstream, entry.header.index)

    def _leave(self, serving: Serving) -> None:
        if serving in self._serving:
            self._serving.remove(serving)
        if serving.downstream is not None:
            self.core.leave(serving.downstream)

    # --- reports -----------------------------------------------------------------------------------------

    def _tell(self) -> None:
        if self.core.standing.has_news and not self._report_due:
            self._report_due = True
            self.host.after(max(0.0, self._reported + 0.05 - self.world.now), self._send_report)

    def _heartbeat(self) -> None:
        if self.core.is_stopping:
            return
        if self.world.now - self._reported >= 0.5:
            self._send_report()
        self.host.after(1.0, self._heartbeat)

    def _send_report(self) -> None:
        self._report_due = False
        if self.core.is_stopping:
            return
        self._reported = self.world.now
        self.core.standing.has_news = False
        received = self.core.ledger.received
        snapshot = self.snapshot()
        self._report(snapshot)
        self.core.reported(snapshot, received)
        self._run()


def decode_all(data: bytes) -> list[frames.Frame]:
    """Frames of ``data``, through the real decoder."""
    return frames.Decoder(max_chunk=0).feed(data)
