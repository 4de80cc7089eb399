"""The head's side of one session, sans-IO: the text goes down, hosts say that they are ready, data flows, the total
follows, and an answer comes back for each branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from bootd.dolly.config import Config
from bootd.dolly.errors import DollyError
from bootd.dolly.place import SERVER, branch, children
from bootd.dolly.wire import BLOCK, NOT_WHOLE, TOTAL_BYTES, Lines, decode_total, encode_total


class State(Enum):
    DIALLING = "connecting"
    GATHERING = "waiting for the ring to build"
    SENDING = "sending data"
    CONFIRMING = "waiting for the clients"
    ENDED = "ended"


@dataclass(frozen=True)
class Down:
    """Send ``data`` down the control connections of these branches."""

    branches: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Forward:
    """Send ``data`` down the data links of these branches."""

    branches: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True)
class Shut:
    """All was sent: end the data links of these branches."""

    branches: tuple[int, ...]


@dataclass(frozen=True)
class Left:
    """``name`` has said something; so many hosts are still awaited."""

    name: str
    is_ready: bool
    count: int


@dataclass(frozen=True)
class Start:
    """All are ready: send the data."""


@dataclass(frozen=True)
class Over:
    """Nothing more will come; ask `verdicts`."""


Action = Down | Forward | Shut | Left | Start | Over


@dataclass(frozen=True)
class Verdict:
    """Of one branch: its hosts, whether it has confirmed the total, and if not, why."""

    hosts: tuple[str, ...]
    is_confirmed: bool
    reason: str


class HeadSession:
    """One file (or dummy run). Branches are numbered from 0: the hosts that the head sends to itself."""

    def __init__(self, config: Config, text: bytes, *, is_quiet: bool = False) -> None:
        """``text``: what goes down (`config.render`). ``is_quiet``: a run that only ends the clients."""
        self.state = State.DIALLING
        self.sent = 0
        self.total: int | None = None
        self._config, self._text, self._is_quiet = config, text, is_quiet
        self.places = children(config, SERVER)
        self._hosts = tuple(tuple(config.clients[at] for at in branch(config, place)) for place in self.places)
        self._lines = [Lines() for _ in self.places]
        self._answers = [b""] * len(self.places)
        self._lost: dict[int, str] = {}
        self._ready: list[str] = []
        self._held = b""

    @property
    def open(self) -> tuple[int, ...]:
        """Branches that take part still."""
        return tuple(number for number in range(len(self.places)) if number not in self._lost)

    @property
    def ready(self) -> tuple[str, ...]:
        """Hosts that said so, by the names they gave."""
        return tuple(self._ready)

    def connected(self) -> list[Action]:
        """Every branch has its connections."""
        self._expect(State.DIALLING)
        self.state = State.GATHERING
        return [Down(self.open, self._text)]

    def backflow(self, number: int, data: bytes) -> list[Action]:
        """Bytes from the control connection of a branch."""
        if number in self._lost or self.state is State.ENDED:
            return []
        if self.total is not None:
            return self._take_answer(number, data)
        try:
            said = self._lines[number].feed(data)
        except DollyError as error:
            return self.lose(number, str(error))
        actions: list[Action] = []
        for item in said:
            if item.failure is not None:
                return [*actions, *self.lose(number, f"{item.name}: {item.failure}")]
            if item.is_ready:
                self._ready.append(item.name)
            actions.append(Left(item.name, item.is_ready, len(self._config.clients) - len(self._ready)))
        if self.state is State.GATHERING and len(self._ready) >= len(self._config.clients):
            self.state = State.ENDED if self._is_quiet else State.SENDING
            actions.append(Over() if self._is_quiet else Start())
        return actions

    def data(self, piece: memoryview) -> list[Action]:
        """The next bytes of the source. What does not fill a block waits for more, or for the end."""
        self._expect(State.SENDING)
        self.sent += len(piece)
        over = (len(self._held) + len(piece)) % BLOCK
        if over > len(piece):
            self._held += bytes(piece)
            return []
        held, self._held = self._held, bytes(piece[len(piece) - over :])
        pieces = (memoryview(held), piece[: len(piece) - over])
        return [Forward(self.open, part) for part in pieces if part]

    def finish(self) -> list[Action]:
        """The source has ended. The total goes ahead of the last, short block: see `ClientSession.control`."""
        self._expect(State.SENDING)
        self.state = State.CONFIRMING
        self.total = self.sent
        actions: list[Action] = [Down(self.open, encode_total(self.total))]
        if self._held:
            actions.append(Forward(self.open, memoryview(self._held)))
        return [*actions, Shut(self.open), *self._judge()]

    def lose(self, number: int, reason: str) -> list[Action]:
        """A branch is gone, or did not answer. Dolly has no way around a lost host: its branch is lost with it."""
        if self.state is State.ENDED or number in self._lost or self.is_answered(number):
            return []
        self._lost[number] = reason
        if self.state in (State.DIALLING, State.GATHERING):
            self.state = State.ENDED  # nobody begins while one is missing
            return [Over()]
        if not self.open:
            self.state = State.ENDED
            return [Over()]
        return self._judge()

    def reason(self, number: int) -> str:
        """Why a branch is lost."""
        return self._lost.get(number, "")

    def verdicts(self) -> tuple[Verdict, ...]:
        """For every branch, when it is over."""
        return tuple(self._verdict(number) for number in range(len(self.places)))

    # --- inside ------------------------------------------------------------------------------------------

    def _take_answer(self, number: int, data: bytes) -> list[Action]:
        self._answers[number] += data
        if len(self._answers[number]) > TOTAL_BYTES:
            self._answers[number] = b""
            return self.lose(number, "it answered with more than a total")
        return self._judge()

    def is_answered(self, number: int) -> bool:
        """Whether a branch has said its total, right or wrong."""
        return len(self._answers[number]) == TOTAL_BYTES

    def _judge(self) -> list[Action]:
        if self.state is not State.CONFIRMING or not all(self.is_answered(number) for number in self.open):
            return []
        self.state = State.ENDED
        return [Over()]

    def _verdict(self, number: int) -> Verdict:
        hosts = self._hosts[number]
        if number in self._lost:
            return Verdict(hosts, False, self._lost[number])
        if self._is_quiet and len(self._ready) >= len(self._config.clients):
            return Verdict(hosts, True, "")
        if not self.is_answered(number):
            return Verdict(hosts, False, f"no answer: it ended while {self.state.value}")
        answer = decode_total(self._answers[number])
        if answer == NOT_WHOLE:
            return Verdict(hosts, False, "a host of this branch says that its copy is not whole")
        if answer != self.total:
            return Verdict(hosts, False, f"{answer} bytes came back as the total of {self.total}")
        return Verdict(hosts, True, "")

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise DollyError(f"called while {self.state.value}, not while {state.value}")


def confirmed(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """Hosts of all branches that have confirmed."""
    return tuple(host for verdict in verdicts if verdict.is_confirmed for host in verdict.hosts)
