"""Commands on nodes: who was asked, what they have printed, how it ended. Sans-IO; ``now`` is monotonic seconds.

They live in memory: those of a daemon that ends are over, and their nodes, whose output nobody wants, stop them.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bootd.errors import Exit, OperatorError
from bootd.wire.commands import HEARTBEAT, MAX_COMMAND, MAX_SECONDS, MAX_WORDS, Execute, Output

ANSWER = 10.0  # seconds in which a node must have begun
SILENCE = 4.0 * HEARTBEAT  # seconds without a word, then its command counts as lost
KEPT = 50
KEPT_TEXT = 64 << 20  # characters of all output that is kept; the oldest goes first
MOST_RUNNING = 32  # commands


@dataclass
class Task:
    """One node. ``state``: "sent", "running", "ended", "lost", "refused" (nothing was sent)."""

    node: str
    name: str
    state: str = "sent"
    code: int | None = None  # exit status, once it has ended
    reason: str = ""
    dropped: int = 0  # bytes of output that were not sent
    number: int = 0  # of the last message
    heard: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.state not in ("sent", "running")


@dataclass(frozen=True)
class Printed:
    number: int
    node: str
    stream: str
    text: str


@dataclass
class Command:
    id: str
    who: str
    words: tuple[str, ...]
    seconds: int
    tasks: dict[str, Task]
    printed: deque[Printed] = field(default_factory=deque)
    count: int = 0  # pieces so far
    forgotten: int = 0  # pieces that are not kept any more

    @property
    def is_over(self) -> bool:
        return all(task.is_over for task in self.tasks.values())

    @property
    def order(self) -> Execute:
        return Execute(self.id, self.words, self.seconds)


class Commands:
    """All commands of this run of the daemon, the latest `KEPT` of them."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}
        self._text = 0  # characters kept

    def create(
        self,
        id_: str,
        who: str,
        words: Sequence[str],
        *,
        seconds: int,
        nodes: Iterable[tuple[str, str]],
        now: float,
    ) -> Command:
        """A command for ``nodes`` (MAC and name); every task is "sent" until somebody says otherwise."""
        tasks = {mac: Task(mac, name, heard=now) for mac, name in nodes}
        check_command(words, seconds)
        if not tasks:
            raise OperatorError("no node is up in stage2", "see bootd state", Exit.USAGE)
        running = [command for command in self._commands.values() if not command.is_over]
        if len(running) >= MOST_RUNNING:
            raise OperatorError(f"{MOST_RUNNING} commands run", "wait for one, or stop it", Exit.BUSY)
        command = self._commands[id_] = Command(id_, who, tuple(words), seconds, tasks)
        for old in [one for one in self._commands.values() if one.is_over][: max(0, len(self._commands) - KEPT)]:
            self._text -= sum(len(piece.text) for piece in old.printed)
            del self._commands[old.id]
        return command

    def find(self, id_: str) -> Command:
        command = self._commands.get(id_)
        if command is None:
            raise OperatorError(f"no command {id_[:40]!r}", "commands end with the daemon", Exit.USAGE)
        return command

    def output(self, message: Output, now: float) -> Task | None:
        """What a node's command has printed; None when nobody wants it (any more). The task, with its news."""
        command = self._commands.get(message.id)
        task = command.tasks.get(message.node) if command is not None else None
        if command is None or task is None or task.is_over:
            return None
        task.heard = now
        if message.number <= task.number:
            return task
        task.number, task.state, task.dropped = message.number, "running", message.dropped
        for piece in message.pieces:
            command.count += 1
            command.printed.append(
                Printed(command.count, task.node, "err" if piece.stream == "err" else "out", piece.text)
            )
            self._text += len(piece.text)
        if message.ended:
            task.state, task.code, task.reason = "ended", message.code, message.reason
        self._forget()
        return task

    def tick(self, now: float) -> list[tuple[Command, Task]]:
        """Nodes that say nothing any more are lost: those that are, since the last call."""
        lost = []
        for command in self._commands.values():
            for task in command.tasks.values():
                limit = ANSWER if task.state == "sent" else SILENCE
                if not task.is_over and now - task.heard > limit:
                    task.reason = "it did not answer" if task.state == "sent" else f"silent for {limit:g} s"
                    task.state = "lost"
                    lost.append((command, task))
        return lost

    def _forget(self) -> None:
        """The oldest output goes when there is too much of it."""
        for command in self._commands.values():
            while self._text > KEPT_TEXT and command.printed:
                self._text -= len(command.printed.popleft().text)
                command.forgotten += 1


def check_command(words: Sequence[str], seconds: int) -> None:
    """`OperatorError` (USAGE) when it is none."""
    if not words or not words[0]:
        raise OperatorError("no command", "bootd exec NODES -- COMMAND", Exit.USAGE)
    if len(words) > MAX_WORDS or sum(len(word) for word in words) > MAX_COMMAND:
        raise OperatorError("the command is too long", "put it into a file that the node fetches", Exit.USAGE)
    if any("\0" in word for word in words):
        raise OperatorError("a NUL in the command", "leave it out", Exit.USAGE)
    if not 1 <= seconds <= MAX_SECONDS:
        raise OperatorError(f"a limit of {seconds} s", f"say 1 to {MAX_SECONDS} s", Exit.USAGE)


def view_command(command: Command, after: int, limit: int) -> dict[str, Any]:
    """The command as the API tells it, with at most ``limit`` pieces of output behind number ``after``."""
    behind = [piece for piece in command.printed if piece.number > after][:limit]
    return {
        "id": command.id,
        "who": command.who,
        "command": list(command.words),
        "seconds": command.seconds,
        "ended": command.is_over,
        "code": int(outcome(command)) if command.is_over else None,
        "nodes": [
            {
                "node": task.node,
                "name": task.name,
                "state": task.state,
                "code": task.code,
                "reason": task.reason,
                "dropped": task.dropped,
            }
            for task in command.tasks.values()
        ],
        "output": [
            {"number": piece.number, "node": piece.node, "stream": piece.stream, "text": piece.text}
            for piece in behind
        ],
        "last": command.count,
        "forgotten": command.forgotten,
    }


def outcome(command: Command) -> Exit:
    """OK when it ended with 0 everywhere, PARTLY when so on some, REFUSED when nobody was asked, else ERROR."""
    good = [task for task in command.tasks.values() if task.state == "ended" and task.code == 0 and not task.reason]
    if len(good) == len(command.tasks):
        return Exit.OK
    if good:
        return Exit.PARTLY
    return Exit.REFUSED if all(task.state == "refused" for task in command.tasks.values()) else Exit.ERROR
