"""Captures: disks and partitions of nodes that are read into images. Sans-IO, as the coordinator is.

A task waits until its node is in stage2 (the boot policy brings it there), is told to it whenever it joins, and
ends with an image or a reason. Its node begins again after a death of its own; what it had sent is not sent again.
One task of a node is at work at a time; the others wait in the order in which they came.

A task of a running system is its agent's: it changes nothing of what the node boots, and stage2 is not told of it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bootd.errors import Exit, OperatorError
from bootd.session import selector
from bootd.session.effects import AuditRecord, CaptureRecord, Effect, Event, Persist, Send
from bootd.session.nodes import Node, Registry
from bootd.session.selector import Refusal
from bootd.wire.control import (
    FILES,
    QUICK,
    Cancel,
    Capture,
    CaptureReport,
    CaptureRunning,
    CaptureState,
    Disk,
    Message,
    Partition,
)

LABEL = "kamethod"  # what a node boots that a task waits for
MAX_OPEN = 256
MAX_ENDED = 100  # kept in memory; the journal keeps all
MAX_ATTEMPTS = 5  # beginnings of one task
MAX_RATE_SECONDS = 10.0
_PART = re.compile(r"[A-Za-z0-9]{1,32}\Z")


class TaskState(Enum):
    WAITING = "waiting"  # for its node, or for another task of it
    READING = "reading"
    DONE = "done"  # there is an image
    REFUSED = "refused"  # the node says no: the reason says why, and what to do
    FAILED = "failed"
    CANCELLED = "cancelled"


RUNNING_SYSTEM = "its running system"
AGENT_SILENCE = 60.0  # seconds; it says nothing while it looks how much there is
OPEN = frozenset({TaskState.WAITING, TaskState.READING})


@dataclass(frozen=True)
class CaptureRequest:
    """What ``bootd backup`` asks for. The image's name and comment have been checked by the daemon."""

    node: str  # name or MAC
    image: str  # name of the image
    comment: str
    user: str  # who the image is from
    disk: str = "only"  # selector
    part: str = ""  # "sda5", or a number; "" = the whole disk
    dirty: bool = False
    raw: bool = False
    after: str = "reboot"  # or "stay"
    tags: tuple[str, ...] = ()
    files: bool = False  # not the disk, but the files of the system on it
    exclude: tuple[str, ...] = ()  # folders of it that stay empty
    running: bool = False  # of the system that runs there, by its agent
    quick: bool = False  # what has not changed since the last backup, by the times of files, is not read


@dataclass
class Task:
    """One capture. Times are monotonic seconds."""

    id: str
    mac: str
    request: CaptureRequest
    created: float
    state: TaskState = TaskState.WAITING
    reason: str = ""
    image: str = ""  # id of the image that came of it
    attempts: int = 0
    source: str = ""  # what is read: "sda5 of disk S1"
    report: CaptureReport | None = None
    begun: float | None = None
    ended: float | None = None
    heard: float = 0.0
    rate: float = 0.0  # bytes in use that are done with, a second
    is_completing: bool = False  # the store makes the image of it: too late to cancel
    mark: tuple[float, int] = field(default=(0.0, 0), repr=False)

    @property
    def open(self) -> bool:
        return self.state in OPEN

    @property
    def running(self) -> bool:
        return self.request.running

    def record(self) -> CaptureRecord:
        asked = self.request
        return CaptureRecord(
            id=self.id,
            mac=self.mac,
            image_name=asked.image,
            comment=asked.comment,
            user=asked.user,
            disk=asked.disk,
            part=asked.part,
            dirty=asked.dirty,
            raw=asked.raw,
            after=asked.after,
            tags=asked.tags,
            state=self.state.value,
            reason=self.reason,
            image=self.image,
            source=self.source,
            attempts=self.attempts,
            files=asked.files,
            exclude=asked.exclude,
            running=asked.running,
            quick=asked.quick,
        )


class Captures:
    """All tasks. ``registry`` knows the nodes; ``silence``: seconds after which a node is not there any more."""

    def __init__(self, registry: Registry, silence: float) -> None:
        self._nodes, self._silence = registry, silence
        self.tasks: dict[str, Task] = {}

    def wanting(self, mac: str) -> Task | None:
        """The task that the node has to work at first, in stage2."""
        return next(
            (task for task in self.tasks.values() if task.mac == mac and task.open and not task.running), None
        )

    def wanting_agent(self, mac: str) -> Task | None:
        """The one that the agent of its running system has to work at."""
        return next((task for task in self.tasks.values() if task.mac == mac and task.open and task.running), None)

    def find(self, id_: str) -> Task:
        """`OperatorError` when there is none."""
        task = self.tasks.get(id_)
        if task is None:
            raise OperatorError(f"no backup {id_!r}", "see bootd backups list", Exit.USAGE)
        return task

    # --- operators -------------------------------------------------------------------------------------------

    def order(self, request: CaptureRequest, id_: str, who: str, now: float) -> list[Effect]:
        """A new task. `OperatorError` when it makes no sense, or the node is in a session."""
        if sum(task.open for task in self.tasks.values()) >= MAX_OPEN:
            raise OperatorError(f"{MAX_OPEN} backups are open", "wait for one, or cancel it", Exit.BUSY)
        selector.parse(request.disk)
        part = request.part.removeprefix("/dev/")
        if request.part and not _PART.match(part):
            raise OperatorError(f"partition {request.part[:80]!r}", "say sda5, or a number", Exit.USAGE)
        node = self._nodes.add(self._nodes.find(request.node))
        if node.session:
            text = f"{node.name} is in session {node.session}"
            raise OperatorError(text, "wait for its end, or cancel it", Exit.BUSY)
        if request.running and self.wanting_agent(node.mac) is not None:
            raise OperatorError(
                f"a backup of the running system of {node.name} is at work",
                "wait for its end, or cancel it",
                Exit.BUSY,
            )
        task = Task(id_, node.mac, request, now)
        self.tasks[id_] = task
        read = RUNNING_SYSTEM if request.running else part or request.disk
        what = f"{id_} {node.mac} {read} as {request.image}: {request.comment}"
        effects: list[Effect] = [
            Persist(node.record()),
            Persist(task.record()),
            Persist(AuditRecord(who, "backup", what)),
            Event("backup", node.mac, "", f"{request.image} of {read} is wanted ({id_})"),
        ]
        if request.running:
            task.source = RUNNING_SYSTEM
            effects += [Send(node.mac, message, agent=True) for message in self.agent_commands(node.mac)]
        elif node.present(now, self._silence) and self.wanting(node.mac) is task:
            effects += self._tell(task, node, now)
        return effects

    def cancel(self, id_: str, who: str, now: float) -> list[Effect]:
        """`OperatorError` when it has ended."""
        task = self.find(id_)
        if not task.open:
            raise OperatorError(f"backup {id_} is {task.state.value}", "only an open backup can be cancelled")
        if task.is_completing:
            raise OperatorError(f"backup {id_} is being completed", "remove the image afterwards", Exit.BUSY)
        audit = Persist(AuditRecord(who, "backup-cancel", id_))
        effects = [audit, *self._end(task, TaskState.CANCELLED, f"cancelled by {who}", now)]
        return [*effects, _cancel(task)]

    # --- nodes -----------------------------------------------------------------------------------------------

    def joined(self, node: Node, now: float) -> list[Effect]:
        """The node has come up in stage2, or is free again."""
        effects: list[Effect] = []
        while (task := self.wanting(node.mac)) is not None and not node.session:
            effects += self._begin(task, node, now)
            if task.open:
                break
        return effects

    def reported(self, message: CaptureReport, now: float) -> list[Effect]:
        """How far a node is. What is not of its own open task is answered with a `Cancel`."""
        task = self.tasks.get(message.task)
        if task is None or task.mac != message.node or not task.open:
            reason = task.reason if task is not None and task.reason else "no such backup is open here"
            is_agent = task is not None and task.running
            return [Send(message.node, Cancel(message.task, reason), agent=is_agent)]
        if message.state is CaptureState.REFUSED:
            return self._end(task, TaskState.REFUSED, message.reason or "refused", now)
        if message.state is CaptureState.FAILED:
            return self._end(task, TaskState.FAILED, message.reason or "failed", now)
        effects: list[Effect] = []
        if task.running and message.state is CaptureState.EXAMINING and task.report is not None:
            # The agent was killed, or its system has started anew: it reads everything again.
            task.attempts += 1
            if task.attempts >= MAX_ATTEMPTS:
                text = f"the agent has begun {MAX_ATTEMPTS} times and never came to the end"
                return [*self._end(task, TaskState.FAILED, text, now), _cancel(task)]
            effects.append(Persist(task.record()))
        notes = () if task.report is None else task.report.notes
        task.report, task.heard, task.reason = message, now, ""
        if task.state is TaskState.WAITING:
            task.state, task.begun = TaskState.READING, now
            task.mark = (now, message.done)
            effects += [Persist(task.record()), Event("backup", task.mac, "", f"{task.request.image}: reading")]
        effects += [Event("backup", task.mac, "", note) for note in message.notes if note not in notes]
        since, before = task.mark
        if now - since >= 1.0:
            task.rate = max(0, message.done - before) / (now - since)
            task.mark = (now, message.done)
        return effects

    def committed(self, id_: str, image: str, now: float) -> list[Effect]:
        """The image of the task is in the store."""
        task = self.tasks.get(id_)
        if task is None or not task.open:
            return []
        task.image = image
        return self._end(task, TaskState.DONE, f"image {image[:16]}", now)

    def failed(self, id_: str, reason: str, now: float) -> list[Effect]:
        """The server itself cannot go on with the task."""
        task = self.tasks.get(id_)
        if task is None or not task.open:
            return []
        return [*self._end(task, TaskState.FAILED, reason, now), _cancel(task)]

    def commands_for(self, node: Node) -> list[Message]:
        """What is in force for ``node``."""
        task = self.wanting(node.mac)
        if task is None or node.session:
            return []
        order = _order(task, node)
        return [order] if isinstance(order, Capture) else []

    def agent_commands(self, mac: str) -> list[Message]:
        """What is in force for the agent of a running system."""
        task = self.wanting_agent(mac)
        return [] if task is None else [CaptureRunning(task.id, task.request.exclude)]

    def tick(self, now: float) -> list[Effect]:
        """A node that is silent is waited for again."""
        effects: list[Effect] = []
        for task in self.tasks.values():
            node = self._nodes.get(task.mac)
            silence = AGENT_SILENCE if task.running else self._silence
            if task.state is not TaskState.READING or node is None or now - task.heard <= silence:
                continue
            if (task.running or not node.present(now, self._silence)) and not task.reason:
                who = "the agent" if task.running else "the node"
                task.reason, task.rate = f"{who} is silent: it goes on when it is back", 0.0
                effects += [Event("backup", task.mac, "", f"{task.request.image}: {who} is silent")]
        return effects

    def restore(self, records: Iterable[CaptureRecord], now: float) -> None:
        """What the journal kept. What was being read is waited for: its node goes on by itself, or joins anew."""
        for record in records:
            state = TaskState(record.state)
            request = CaptureRequest(
                node=record.mac,
                image=record.image_name,
                comment=record.comment,
                user=record.user,
                disk=record.disk,
                part=record.part,
                dirty=record.dirty,
                raw=record.raw,
                after=record.after,
                tags=tuple(record.tags),
                files=record.files,
                exclude=tuple(record.exclude),
                running=record.running,
                quick=record.quick,
            )
            task = Task(record.id, record.mac, request, now, state, record.reason, record.image, record.attempts)
            task.source = record.source
            if task.open:
                task.state, task.reason = TaskState.WAITING, ""
                self._nodes.add(task.mac)
            self.tasks[task.id] = task
        self._forget()

    # --- inside ----------------------------------------------------------------------------------------------

    def _begin(self, task: Task, node: Node, now: float) -> list[Effect]:
        if task.state is TaskState.READING:
            task.attempts += 1
            if task.attempts >= MAX_ATTEMPTS:
                text = f"the node has begun {MAX_ATTEMPTS} times and never came to the end"
                return self._end(task, TaskState.FAILED, text, now)
            task.state = TaskState.WAITING
        return self._tell(task, node, now)

    def _tell(self, task: Task, node: Node, now: float) -> list[Effect]:
        order = _order(task, node)
        if order is None:
            return []
        if isinstance(order, Refusal):
            return self._end(task, TaskState.REFUSED, order.reason, now)
        serial = order.disk.serial or order.disk.wwn or "no serial"
        part = partition_name(order.disk, order.partition) if order.partition else order.disk.name
        task.source, task.report = f"{part} of disk {serial}", None
        effects: list[Effect] = [Persist(task.record()), Send(node.mac, order)]
        if task.request.quick and node.join is not None and QUICK not in node.join.abilities:
            text = f"{task.request.image}: the node's stage2 is older than --quick: everything is read"
            effects.append(Event("backup", task.mac, "", text))
        return effects

    def _end(self, task: Task, state: TaskState, reason: str, now: float) -> list[Effect]:
        task.state, task.reason, task.ended, task.rate = state, reason, now, 0.0
        text = f"{task.request.image}: {state.value}: {reason}"
        effects: list[Effect] = [Persist(task.record()), Event("backup", task.mac, "", text)]
        self._forget()
        return effects

    def _forget(self) -> None:
        ended = [task.id for task in self.tasks.values() if not task.open]
        for id_ in ended[: max(0, len(ended) - MAX_ENDED)]:
            del self.tasks[id_]


def _cancel(task: Task) -> Send:
    return Send(task.mac, Cancel(task.id, task.reason), agent=task.running)


def _order(task: Task, node: Node) -> Capture | Refusal | None:
    """What the node has to do; None while its disks are not known."""
    if node.join is None:
        return None
    found = choose(node.join.disks, task.request.disk, task.request.part.removeprefix("/dev/"))
    if isinstance(found, Refusal):
        return found
    disk, number = found
    asked = task.request
    if asked.files and FILES not in node.join.abilities:
        return Refusal("its stage2 is older than this bootd and knows no files: bootd stage build")
    return Capture(
        task.id,
        disk,
        number,
        asked.dirty,
        asked.raw,
        asked.after,
        asked.files,
        asked.exclude,
        marks=not asked.files,
        quick=asked.quick,
    )


def choose(disks: Sequence[Disk], disk: str, part: str) -> tuple[Disk, int] | Refusal:
    """The one disk that the selector means, and the number of its partition ``part`` (0 = "": all of it)."""
    chosen = selector.parse(disk)
    candidates = disks
    if part and not part.isdigit() and chosen.text == "only":
        candidates = [
            one for one in disks if any(partition_name(one, item.number) == part for item in one.partitions)
        ]
        if not candidates:
            return Refusal(f"no disk has a partition {part}; there are: {_partitions(disks)}")
    found = selector.choose(candidates, chosen, 0)
    if isinstance(found, Refusal) or not part:
        return found if isinstance(found, Refusal) else (found, 0)
    for item in found.partitions:
        if part in (str(item.number), partition_name(found, item.number)):
            return found, item.number
    return Refusal(f"disk {found.name} has no partition {part}; there are: {_partitions([found])}")


def partition_name(disk: Disk, number: int) -> str:
    """As the kernel names it: sda5, nvme0n1p5."""
    return f"{disk.name}{'p' if disk.name[-1:].isdigit() else ''}{number}"


def _partitions(disks: Iterable[Disk]) -> str:
    names = [_named(disk, item) for disk in disks for item in disk.partitions]
    return ", ".join(names) or "none"


def _named(disk: Disk, item: Partition) -> str:
    return f"{partition_name(disk, item.number)}{f' ({item.filesystem})' if item.filesystem else ''}"


def view(task: Task, name: Callable[[str], str], now: float) -> dict[str, Any]:
    """A task for operators: bytes, bytes per second, seconds; null where something has not happened yet."""
    report, asked = task.report, task.request
    until = task.ended if task.ended is not None else now
    left = report.total - report.done if report is not None and task.state is TaskState.READING else 0
    return {
        "id": task.id,
        "node": task.mac,
        "name": name(task.mac),
        "image": asked.image,
        "comment": asked.comment,
        "user": asked.user,
        "source": task.source or asked.part or asked.disk,
        "state": task.state.value,
        "ended": not task.open,
        "reason": task.reason,
        "image_id": task.image or None,
        "total": report.total if report else 0,
        "done": report.done if report else 0,
        "sent": report.sent if report else 0,
        "wire": report.wire if report else 0,
        "quick": asked.quick,
        "skipped": report.skipped if report else 0,
        "rate": int(task.rate),
        "remaining_seconds": round(left / task.rate, 1) if task.rate and left else None,
        "seconds": round(until - task.begun, 1) if task.begun is not None else None,
        "notes": list(report.notes) if report else [],
        "attempts": task.attempts,
    }
