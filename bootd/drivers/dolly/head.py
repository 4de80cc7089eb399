"""`bootd dolly` as head: dials the clients, sends every file in a session of its own, and hears what comes back."""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from blake3 import blake3

from bootd.dolly.config import Announced, Config, Trailer, Transfer, render
from bootd.dolly.errors import DollyError
from bootd.dolly.head import Action, Down, Forward, HeadSession, Left, Over, Shut, Start, State, Verdict
from bootd.dolly.lines import Meter
from bootd.drivers.dolly.consumer import Consumer
from bootd.drivers.dolly.link import LinkError, Successor, Tuning, Waker, dial
from bootd.drivers.dolly.source import Dummy, Stream
from bootd.errors import OperatorError

CONFIRM_SECONDS = 3600.0  # clients write out what they have in memory; unpacking may take longer than sending
_TICK = 0.5
_READ = 65536


@dataclass(frozen=True)
class HeadSettings:
    """``gather``: seconds for all clients to be ready. ``silence``: seconds in which nothing moves, once it does.
    ``seconds``: how long a dummy run without a size lasts."""

    gather: float
    silence: float
    tuning: Tuning = field(default=Tuning())
    seconds: float = 0.0


@dataclass(frozen=True)
class FileReport:
    """One file (or dummy run). ``reason``: why it was not sent to its end."""

    infile: str
    outfile: str
    sent: int
    blake3: str
    seconds: float
    verdicts: tuple[Verdict, ...]
    reason: str


class Source(Protocol):
    """`Stream` or `Dummy`."""

    name: str
    warning: str
    size: int | None

    def pieces(self) -> Iterator[bytes]:
        """What is sent."""


Tell = Callable[[str], None]


def run_head(config: Config, settings: HeadSettings, tell: Tell, detail: Tell) -> list[FileReport]:
    """Every file to all clients; ends after the first that not everybody has confirmed.

    ``tell`` is called with what everybody wants to know, ``detail`` with what -v adds. `OperatorError` when a
    source cannot be read or the text would be too long, before anybody is dialled.
    """
    reports: list[FileReport] = []
    for number, job in enumerate(_jobs(config)):
        source = job.source
        if source.warning:
            tell(f"WARNING: {source.warning}")
        tell(f"fileno={number} '{source.name}' opened." if config.is_plus else f"infile = '{source.name}'")
        report = _Run(job, settings, tell, detail).run()
        reports.append(report)
        if config.is_plus:
            tell(f"fileno={number} closed")
        if report.reason or not all(verdict.is_confirmed for verdict in report.verdicts):
            break
    return reports


@dataclass(frozen=True)
class _Job:
    """One session: the text that goes down, and what is sent."""

    config: Config
    text: bytes
    transfer: Transfer | None
    source: Source


def _jobs(config: Config) -> list[_Job]:
    try:
        if not config.files:
            size = None if config.dummy in (None, -1) else (config.dummy or 0) << 20
            return [_Job(config, render(config, None), None, Dummy(size))]
        streams = [Stream(transfer) for transfer in config.files]
        announced = tuple(
            Announced(stream.size, transfer.cooking, transfer.outfile)
            for transfer, stream in zip(config.files, streams, strict=True)
        )
        return [
            _Job(config, render(config, transfer, Trailer(number, announced)), transfer, stream)
            for number, (transfer, stream) in enumerate(zip(config.files, streams, strict=True), start=1)
        ]
    except DollyError as error:
        raise OperatorError(error.complaint.text, error.complaint.hint) from None


class _Run:
    """One session."""

    def __init__(self, job: _Job, settings: HeadSettings, tell: Tell, detail: Tell) -> None:
        config, text, transfer, source = job.config, job.text, job.transfer, job.source
        self._config, self._settings, self._transfer, self._source = config, settings, transfer, source
        self._tell, self._detail = tell, detail
        self._session = HeadSession(config, text, is_quiet=config.dummy == 0)
        self._successors: dict[int, Successor] = {}
        self._consumers: dict[int, Consumer] = {}
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        self._selector.register(self._waker.receiver, selectors.EVENT_READ, -1)
        self._hasher = blake3()
        self._reason = ""
        self._is_timed = transfer is None and source.size is None
        self._began = self._ended = 0.0

    def run(self) -> FileReport:
        try:
            self._connect()
            if self._session.state is State.DIALLING:
                self._began = time.monotonic()
                self._carry_out(self._session.connected())
                self._gather()
            if self._session.state is State.SENDING:
                self._send()
                self._confirm()
        finally:
            self._close()
        return FileReport(
            self._source.name,
            self._transfer.outfile if self._transfer is not None else "",
            self._session.sent,
            self._hasher.hexdigest() if self._session.sent else "",
            (self._ended or time.monotonic()) - self._began if self._began else 0.0,
            self._session.verdicts(),
            self._reason,
        )

    # --- the four steps ----------------------------------------------------------------------------------

    def _connect(self) -> None:
        deadline = time.monotonic() + self._settings.gather
        for number, place in enumerate(self._session.places):
            name = self._config.clients[place]
            self._detail(f"Connecting to host {name}...")
            try:
                successor = dial(self._config, name, self._settings.tuning, deadline, lambda: None)
            except LinkError as error:
                self._tell(f"Can't connect: {error}")
                self._carry_out(self._session.lose(number, str(error)))
                return
            self._successors[number] = successor
            self._selector.register(successor.control, selectors.EVENT_READ, number)

    def _gather(self) -> None:
        self._tell("Waiting for ring to build...")
        deadline = time.monotonic() + self._settings.gather
        while self._session.state is State.GATHERING:
            self._poll(_TICK)
            if time.monotonic() > deadline and self._session.state is State.GATHERING:
                missing = sorted(set(self._config.clients) - set(self._session.ready))
                text = f"not ready within {self._settings.gather:g} s: {', '.join(missing[:8])}"
                self._tell(text)
                self._carry_out(self._session.lose(self._session.open[0], text))

    def _send(self) -> None:
        self._began = time.monotonic()
        self._tell("Server: Sending data...")
        for number, successor in self._successors.items():
            send = partial(successor.send, block=self._settings.tuning.block)
            self._consumers[number] = Consumer(f"link-{number}", send, self._waker.wake)
        meter = Meter(self._began, is_plus=self._config.is_plus, is_head=True)
        try:
            for piece in self._source.pieces():
                self._hasher.update(piece)
                self._carry_out(self._session.data(memoryview(piece)))
                self._poll(0)
                now = time.monotonic()
                if line := meter.line(self._session.sent, now):
                    self._tell(line)
                if self._session.state is not State.SENDING:
                    return
                if self._is_timed and now - self._began >= self._settings.seconds:
                    break
        except OperatorError as error:
            self._reason = str(error)
            self._tell(f"*** ERROR *** {error.message}")
            return  # without a total nobody takes what has come for the whole
        self._detail(f"Read {self._session.sent} bytes from file(s).")
        self._detail(f"Writing maxbytes = {self._session.sent} to ctrlout")
        self._carry_out(self._session.finish())
        self._tell(f"Sent MB: {self._session.sent / 1e6:.0f}.")

    def _confirm(self) -> None:
        """Answers come when everything is written and synced. As long as data drains, that is progress."""
        moved: tuple[int, ...] = (-1,)
        since = time.monotonic()
        while self._session.state is State.CONFIRMING:
            self._poll(_TICK)
            now, taken = time.monotonic(), tuple(consumer.taken for consumer in self._consumers.values())
            if taken != moved:
                moved, since = taken, now
            for number in self._session.open:
                if self._session.is_answered(number):
                    continue
                patience = CONFIRM_SECONDS if self._consumers[number].is_done else self._settings.silence
                if now - since > patience:
                    self._lose(number, f"it did not confirm within {patience:g} s")
        self._ended = time.monotonic()

    # --- what is done ------------------------------------------------------------------------------------

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Down(branches, data):
                    for number in branches:
                        with contextlib.suppress(OSError):  # its end is read, and judged there
                            self._successors[number].control.sendall(data)
                case Forward(branches, view):
                    for number in branches:
                        self._give(number, view)
                case Shut(branches):
                    for number in branches:
                        self._consumers[number].end(self._settings.silence)
                case Left(name, is_ready, count):
                    self._detail(f"Host {'ready' if is_ready else 'got parameters'} '{name}'.")
                    if is_ready:
                        self._tell(f"Machines left to wait for: {count}")
                case Start() | Over():
                    pass

    def _give(self, number: int, view: memoryview) -> None:
        consumer = self._consumers[number]
        if not consumer.give(view, self._settings.silence):
            self._lose(number, consumer.failure or "it takes no more data")

    def _lose(self, number: int, reason: str) -> None:
        name = self._successors[number].name
        if number in self._session.open and self._session.state is not State.ENDED:
            self._tell(f"*** ERROR *** {name}: {reason}")
        self._carry_out(self._session.lose(number, reason))
        if number in self._consumers:
            self._consumers[number].abort()
        self._successors[number].break_off()

    def _poll(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.data < 0:
                self._waker.drain()
                continue
            link = key.fileobj
            if not isinstance(link, socket.socket):
                continue
            try:
                data = link.recv(_READ)
            except OSError as error:
                data, why = b"", error.strerror or str(error)
            else:
                why = "it has closed the connection"
            if data:
                was_open = self._session.open
                self._carry_out(self._session.backflow(key.data, data))
                for number in set(was_open) - set(self._session.open):
                    self._tell(f"*** ERROR *** {self._session.reason(number)}")
                    self._successors[number].break_off()
            else:
                self._selector.unregister(link)
                if key.data in self._session.open and not self._session.is_answered(key.data):
                    self._lose(key.data, f"{why} while {self._session.state.value}")
        for number in self._session.open:
            consumer = self._consumers.get(number)
            if consumer is not None and consumer.is_done and consumer.failure:
                self._lose(number, consumer.failure)

    def _close(self) -> None:
        for consumer in self._consumers.values():
            consumer.abort()
        for number, successor in self._successors.items():
            if number in self._consumers and not self._consumers[number].is_done:
                successor.break_off()
        for consumer in self._consumers.values():
            consumer.join(2.0)
        for successor in self._successors.values():
            successor.close()
        self._selector.close()
        self._waker.close()
