"""A client's side of one session, sans-IO: what comes in on its connections, what is to be done about it.

The states follow each other: the text comes, the data connections are taken, the successors are dialled, data
flows, everybody writes it out, the answer goes up. Whoever drives it does what it is told by `Action`s, in their
order.
"""

from dataclasses import dataclass
from enum import Enum

from bootd.dolly.config import announcement, is_whole
from bootd.dolly.errors import DollyError
from bootd.dolly.wire import (
    BLOCK,
    NOT_WHOLE,
    TOTAL_BYTES,
    decode_total,
    encode_total,
    say_failed,
    say_parameters,
    say_ready,
)

MAX_CONFIG = 1 << 16  # bytes; dolly's own heads send 4095 at most


class State(Enum):
    CONFIG = "waiting for the configuration"
    LINKING = "building the ring"
    RECEIVING = "receiving"
    SETTLING = "writing out"
    ENDED = "ended"


@dataclass(frozen=True)
class Parameters:
    """The text is whole: judge it, take the data connections, then call `linked`."""

    text: str


@dataclass(frozen=True)
class Up:
    """Send ``data`` up the control connection."""

    data: bytes


@dataclass(frozen=True)
class Down:
    """Send ``data`` down every control connection to a successor."""

    data: bytes


@dataclass(frozen=True)
class Write:
    """These bytes of the stream are ours to write."""

    data: memoryview


@dataclass(frozen=True)
class Forward:
    """These go to every successor."""

    data: memoryview


@dataclass(frozen=True)
class Whole:
    """All bytes are here: write them out, end the links to the successors, then call `settled`."""

    total: int


@dataclass(frozen=True)
class Failed:
    """The session is over for this host, and its copy is not whole."""

    reason: str


Action = Parameters | Up | Down | Write | Forward | Whole | Failed


class ClientSession:
    """One file (or dummy run) as client. ``name``: what this host is called in the text, once it is known."""

    def __init__(self) -> None:
        self.state = State.CONFIG
        self.name = ""
        self.received = 0
        self.total: int | None = None
        self._text = b""
        self._held = b""  # not forwarded yet: less than a block
        self._size: int | None = None
        self._is_quiet = False  # a run that only ends the clients: nothing is sent
        self._answers: dict[int, bytes] = {}  # of successors
        self._lost: dict[int, str] = {}
        self._is_settled = False
        self._fault = ""  # why what was written here is not whole

    @property
    def lost(self) -> dict[int, str]:
        """Successors by their number that did not confirm, and why."""
        return dict(self._lost)

    @property
    def is_confirmed(self) -> bool:
        """Everything is whole here and behind us."""
        return self.state is State.ENDED and not self._lost and not self._fault

    # --- from the predecessor ----------------------------------------------------------------------------

    def control(self, data: bytes) -> list[Action]:
        """Bytes from the predecessor's control connection."""
        if self.state in (State.CONFIG, State.LINKING):
            return self._take_text(data)
        if self.state is not State.RECEIVING or self.total is not None:
            return self._fail(f"{len(data)} bytes of control where none belong")
        self._text += data
        if len(self._text) < TOTAL_BYTES:
            return []
        if len(self._text) > TOTAL_BYTES:
            return self._fail("more than a total came on the control connection")
        self.total = decode_total(self._text)
        if self.total < self.received:
            return self._fail(f"the head says {self.total} bytes in all, {self.received} have come")
        if self.total == 0:
            return self._fail("the head has sent nothing: its infile is empty, or could not be read")
        if self._size is not None and self.total != self._size:
            return self._fail(f"the head has announced {self._size} bytes and sent {self.total}")
        # The total goes ahead of the last bytes: a client of dolly waits for a whole block otherwise.
        actions: list[Action] = [Down(self._text)]
        if self._held:
            actions.append(Forward(memoryview(self._held)))
            self._held = b""
        return [*actions, *self._judge()]

    def control_end(self) -> list[Action]:
        """The predecessor has closed its control connection."""
        if self.state in (State.SETTLING, State.ENDED):
            return []  # what is here is whole all the same
        if self.state is State.RECEIVING and self._is_quiet:
            self.state = State.ENDED
            return []
        return self._fail(f"the head or a host before this one is gone, {self._progress()}")

    def data(self, piece: memoryview) -> list[Action]:
        """Bytes of the stream, in order. More than the total is an error."""
        if self.state is not State.RECEIVING:
            return self._fail(f"data came while {self.state.value}")
        if self.total is not None and self.received + len(piece) > self.total:
            return self._fail(f"more data than the {self.total} bytes that the head has named")
        self.received += len(piece)
        actions: list[Action] = [Write(piece), *self._forward(piece)]
        return [*actions, *self._judge()]

    def data_end(self) -> list[Action]:
        """The predecessor has closed its data connection. With a total, all must be here."""
        if self.state is State.RECEIVING and self.total is not None and self.received < self.total:
            return self._fail(f"the data ends early, {self._progress()}")
        return []

    @property
    def wanted(self) -> int | None:
        """Bytes of data that are still to come; None before the total is known."""
        return None if self.total is None else self.total - self.received

    # --- from whoever drives it --------------------------------------------------------------------------

    def linked(self, name: str, *, is_quiet: bool = False, size: int | None = None) -> list[Action]:
        """The text is accepted, the data connections are there: dial the successors, then call `ready`.

        ``size``: bytes that a bootd head has announced; the total must be the same."""
        self._expect(State.CONFIG)
        self.state, self._size = State.LINKING, size
        self.name, self._is_quiet = name, is_quiet
        return [Up(say_parameters(name))]

    def ready(self) -> list[Action]:
        """The successors are connected."""
        self._expect(State.LINKING)
        self.state = State.RECEIVING
        text, self._text = self._text, b""
        return [Down(text), Up(say_ready(self.name))]

    def settled(self, fault: str = "") -> list[Action]:
        """What was received is on stable storage; or ``fault`` says why not."""
        self._expect(State.SETTLING)
        self._is_settled, self._fault = True, fault
        return self._answer()

    def refuse(self, name: str, reason: str) -> list[Action]:
        """This host takes no part, and says so upward; nothing has begun."""
        return [Up(say_failed(name, reason)), *self._fail(reason)]

    def give_up(self, reason: str) -> list[Action]:
        """Our own copy can never be whole. Successors cannot tell: they go down with us."""
        return self._fail(reason)

    # --- from successors ---------------------------------------------------------------------------------

    def backflow(self, number: int, data: bytes) -> list[Action]:
        """Bytes from the control connection of successor ``number``: lines that are passed on, then its answer."""
        if self.total is None or self.state is State.CONFIG:
            return [Up(data)]
        answer = self._answers.get(number, b"") + data
        self._answers[number] = answer
        if len(answer) > TOTAL_BYTES:
            return self.lose(number, "it answered with more than a total")
        if len(answer) == TOTAL_BYTES:
            if decode_total(answer) == NOT_WHOLE:
                self._lost[number] = "its copy, or one behind it, is not whole"
            elif decode_total(answer) != self.total:
                self._lost[number] = f"it confirms {decode_total(answer)} bytes of {self.total}"
        return self._answer()

    def lose(self, number: int, reason: str) -> list[Action]:
        """A successor is gone. What is written here goes on; the answer will say that not all is well."""
        if len(self._answers.get(number, b"")) < TOTAL_BYTES or number in self._lost:
            self._lost.setdefault(number, reason)
        return self._answer()

    def expect(self, count: int) -> None:
        """So many successors have to answer."""
        self._count = count

    # --- inside ------------------------------------------------------------------------------------------

    _count = 0

    def _take_text(self, data: bytes) -> list[Action]:
        before, self._text = self._text.decode("utf-8", "replace"), self._text + data
        after = self._text.decode("utf-8", "replace")
        if len(self._text) > MAX_CONFIG:
            return self._fail(f"a configuration of more than {MAX_CONFIG} bytes")
        if is_whole(before):  # padding, which is passed on; it must not change what was understood
            has_changed = announcement(before) != announcement(after)
            return self._fail("the configuration came in pieces that change it") if has_changed else []
        if not is_whole(after):
            return []
        try:
            return [Parameters(self._text.decode())]
        except UnicodeDecodeError:
            return self._fail("the configuration is not text")

    def _forward(self, piece: memoryview) -> list[Action]:
        """Whole blocks only, until the total is known."""
        if self.total is not None:
            return [Forward(piece)]
        over = (len(self._held) + len(piece)) % BLOCK
        if over > len(piece):
            self._held += bytes(piece)
            return []
        actions: list[Action] = []
        if self._held:
            actions.append(Forward(memoryview(self._held)))
        if over < len(piece):
            actions.append(Forward(piece[: len(piece) - over]))
        self._held = bytes(piece[len(piece) - over :]) if over else b""
        return actions

    def _judge(self) -> list[Action]:
        if self.total is None or self.received < self.total:
            return []
        self.state = State.SETTLING
        return [Whole(self.total)]

    def _answer(self) -> list[Action]:
        if self.state is not State.SETTLING or not self._is_settled or self.total is None:
            return []
        answered = {number for number, answer in self._answers.items() if len(answer) >= TOTAL_BYTES}
        if len(answered | set(self._lost)) < self._count:
            return []
        self.state = State.ENDED
        good = not self._fault and not self._lost
        return [Up(encode_total(self.total if good else NOT_WHOLE))]

    def _fail(self, reason: str) -> list[Action]:
        if self.state is State.ENDED:
            return []
        self.state = State.ENDED
        self._fault = reason
        return [Failed(reason)]

    def _progress(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        return f"after {self.received}{of} bytes"

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise DollyError(f"called while {self.state.value}, not while {state.value}")
