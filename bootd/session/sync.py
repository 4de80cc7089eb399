"""Syncs: sets of files, which nodes are made like them, how far each is, and who may be at it at once. Sans-IO.

``now`` is monotonic seconds. Runs live in memory: those of a daemon that ends are over, and their nodes, whose
reports nobody wants, stop.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bootd.errors import Exit, OperatorError
from bootd.session import selector
from bootd.wire.control import Lock, Sync, SyncReport, SyncState

# What makes a machine this machine: a sync leaves it as it is. Paths of a node; patterns of rsync.
UNIQUE = (
    "/etc/hostname",
    "/etc/hosts",
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/etc/ssh/ssh_host_*",
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/mdadm/mdadm.conf",
    "/etc/initramfs-tools/conf.d/resume",
    "/etc/udev/rules.d/70-persistent-*",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d",
    "/etc/NetworkManager/system-connections",
    "/var/lib/NetworkManager",
    "/var/lib/dhcp",
    "/var/lib/systemd/random-seed",
    "/boot/grub/grub.cfg",
    "/boot/grub/grubenv",
    "/boot/efi",
    "/etc/bootd-agent",
    "/usr/lib/bootd-agent",
    "/etc/systemd/system/bootd-agent.service",
    "/etc/systemd/system/multi-user.target.wants/bootd-agent.service",
)
# Of a running system, not of its disk; and what no two disks share.
EMPTIED = ("/proc", "/sys", "/dev", "/run", "/tmp")  # noqa: S108 - of nodes: the folders are there, and stay
PASSING = ("/swapfile", "/swap.img")
ANSWER = 15.0  # seconds in which a node must have begun
SILENCE = 20.0  # seconds without a word, then its sync counts as lost
KEPT = 50  # runs
MAX_CAP = 256
DEFAULT_CAP = 4
MAX_RULES = 2000
_ENDED = frozenset({"done", "partial", "refused", "failed", "stopped", "lost"})


@dataclass(frozen=True)
class SyncSet:
    """One [[sync.set]] of the settings, which explain the fields."""

    name: str
    source: str
    target: str = "/"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    default_unique: bool = True
    whole_system: bool = False
    update: bool = False
    checksum: bool = False
    compress: bool = False
    least_files: int = 10
    marker: str = ""
    max_delete: int = 50
    disk: str = "only"
    partition: int = 0


def problem(wanted: SyncSet) -> str:
    """What is wrong with a set; "" when nothing is."""
    for key in ("source", "target"):
        path = getattr(wanted, key)
        if not path.startswith("/") or "/../" in f"{path}/" or "\n" in path or "\0" in path:
            return f"{wanted.name}: {key} {path!r} is not an absolute path"
        if not path.isprintable() or "%" in path or path.rstrip("\\ ") != path:
            return f"{wanted.name}: {key} {path!r} has characters that rsync's settings cannot say"
    for path in wanted.unique:
        if not path.startswith("/"):
            return f"{wanted.name}: unique: {path!r} does not begin with /"
    for pattern in (*wanted.include, *wanted.exclude, *wanted.unique):
        if not pattern.strip() or "\n" in pattern or "\0" in pattern or len(pattern) > 4096:
            return f"{wanted.name}: {pattern[:80]!r} is no pattern"
    try:
        selector.parse(wanted.disk)
    except OperatorError as error:
        return f"{wanted.name}: {error.message}"
    if wanted.marker.startswith("/") or ".." in wanted.marker.split("/"):
        return f"{wanted.name}: marker {wanted.marker!r} is not a path below the source"
    return ""


def rules_of(wanted: SyncSet, own: Iterable[str] = (), *, collect: bool = False) -> tuple[str, ...]:
    """Filter rules of rsync, from the target on; the first that fits counts.

    ``own``: paths below the target of which the server keeps files for that node alone; no other file takes their
    place.
    """
    rules = [f"- /{escaped(path)}" for path in own] if not collect else []
    unique = (*(UNIQUE if wanted.default_unique else ()), *wanted.unique) if not collect else ()
    for path in unique:
        below = _below(path, wanted.target)
        if below:
            rules.append(f"- {below}")
    for path in EMPTIED:
        if below := _below(path, wanted.target):
            rules.append(f"- {below}/*")
    rules.append("- lost+found/")  # of each file system
    for path in PASSING:
        if below := _below(path, wanted.target):
            rules.append(f"- {below}")
    rules += [f"+ {pattern}" for pattern in wanted.include]
    rules += [f"- {pattern}" for pattern in wanted.exclude]
    if len(rules) > MAX_RULES:
        raise OperatorError(f"{len(rules)} rules, at most {MAX_RULES}", "fewer files of one node alone", Exit.USAGE)
    return tuple(rules)


def _below(path: str, target: str) -> str:
    """``path`` from ``target`` on; "" when it does not lie below."""
    prefix = f"{target.rstrip('/')}/"
    return f"/{path[len(prefix) :]}" if path.startswith(prefix) and path != prefix else ""


def escaped(path: str) -> str:
    """A path as a pattern of rsync that means nothing but it; a backslash quotes only where there are wildcards."""
    return re.sub(r"([*?\[\\])", r"\\\1", path) if re.search(r"[*?\[]", path) else path


@dataclass(frozen=True)
class Options:
    """What an operator says beside set and nodes."""

    collect: bool = False
    dry: bool = False
    freeze: bool = False
    full: bool = False
    staged: bool = False
    reboot: bool = False
    cap: int = DEFAULT_CAP
    max_delete: int | None = None  # None = as the set says
    few: bool = False  # also a source that has fewer files than the set says


@dataclass
class Task:
    """One node of a run. ``state``: "waiting" (for its turn), "sent", "running", or one of `_ENDED`."""

    mac: str
    name: str
    id: str
    order: Sync
    state: str = "waiting"
    reason: str = ""
    heard: float = 0.0
    report: SyncReport | None = None

    @property
    def is_over(self) -> bool:
        return self.state in _ENDED


@dataclass
class Run:
    id: str
    wanted: SyncSet
    options: Options
    who: str
    tasks: dict[str, Task] = field(default_factory=dict)
    is_stopped: bool = False

    @property
    def is_over(self) -> bool:
        return all(task.is_over for task in self.tasks.values())


class Syncs:
    """All runs of this daemon, the latest `KEPT` of them."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs.values()))

    def add(self, run: Run) -> None:
        """Nobody is told anything yet: `due` says who is."""
        if not run.tasks:
            raise OperatorError("no node", "name nodes: bootd node list", Exit.USAGE)
        if not 1 <= run.options.cap <= MAX_CAP:
            raise OperatorError(f"a cap of {run.options.cap}", f"say 1 to {MAX_CAP} nodes", Exit.USAGE)
        if run.options.collect and (run.options.freeze or run.options.staged or run.options.reboot):
            raise OperatorError("collect only reads from the nodes", "leave the other options out", Exit.USAGE)
        self._runs[run.id] = run
        for old in [one for one in self._runs.values() if one.is_over][: max(0, len(self._runs) - KEPT)]:
            del self._runs[old.id]

    def find(self, id_: str) -> Run:
        run = self._runs.get(id_)
        if run is None:
            raise OperatorError(
                f"no sync {id_[:40]!r}", "runs end with the daemon; its log and audit stay", Exit.USAGE
            )
        return run

    def task(self, id_: str, mac: str) -> Task | None:
        """A task that is not over, of this node."""
        for run in self._runs.values():
            for task in run.tasks.values():
                if task.id == id_ and task.mac == mac and not task.is_over:
                    return task
        return None

    def run_of(self, task: Task) -> Run | None:
        return next((run for run in self._runs.values() if run.tasks.get(task.mac) is task), None)

    def is_busy(self, mac: str) -> bool:
        """Whether a run is at work on this node, or about to be told to it."""
        return any(
            task.state in ("sent", "running")
            for run in self._runs.values()
            if (task := run.tasks.get(mac)) is not None
        )

    def is_waited_for(self, mac: str) -> bool:
        """Whether any run has something to do on this node, now or in its turn."""
        return any(not task.is_over for run in self._runs.values() if (task := run.tasks.get(mac)) is not None)

    def due(self) -> list[Task]:
        """Whose turn it is: as many of each run as its cap allows; a node is in one run at a time."""
        found: list[Task] = []
        busy = {
            task.mac
            for run in self._runs.values()
            for task in run.tasks.values()
            if task.state in ("sent", "running")
        }
        for run in self._runs.values():
            at_work = sum(task.state in ("sent", "running") for task in run.tasks.values())
            for task in run.tasks.values():
                if task.state == "waiting" and at_work < run.options.cap and task.mac not in busy:
                    found.append(task)
                    busy.add(task.mac)
                    at_work += 1
        return found

    def report(self, message: SyncReport, now: float) -> Task | None:
        """What a node says of a task; None when nobody wants to know it (any more)."""
        task = self.task(message.task, message.node)
        if task is None or task.state == "waiting":
            return None
        task.heard, task.report = now, message
        task.state = message.state.value
        task.reason = message.reason
        return task

    def tick(self, now: float) -> list[Task]:
        """Who has said nothing for too long is lost: those that are, since the last call."""
        lost = []
        for run in self._runs.values():
            for task in run.tasks.values():
                limit = {"sent": ANSWER, "running": SILENCE}.get(task.state)
                if limit is not None and now - task.heard > limit:
                    task.reason = "it did not answer" if task.state == "sent" else f"silent for {limit:g} s"
                    task.state = "lost"
                    lost.append(task)
        return lost

    def stop(self, run: Run) -> list[Task]:
        """Those that have to be told; who waits for its turn has none any more."""
        run.is_stopped = True
        told = []
        for task in run.tasks.values():
            if task.state == "waiting":
                task.state, task.reason = SyncState.STOPPED.value, "stopped before its turn"
            elif not task.is_over:
                told.append(task)
        return told


def order_of(
    wanted: SyncSet,
    options: Options,
    task: str,
    *,
    own: Iterable[str] = (),
    disk: str = "",
    locks: Sequence[Lock] = (),
) -> Sync:
    """What one node is told."""
    own = tuple(own)
    return Sync(
        task=task,
        name=wanted.name,
        target=wanted.target,
        collect=options.collect,
        dry=options.dry,
        freeze=options.freeze or options.collect,  # a collected tree is the node's, no more and no less
        update=wanted.update and not options.collect,
        full=options.full,
        checksum=wanted.checksum,
        compress=wanted.compress,
        staged=options.staged,
        own=own,
        whole=wanted.whole_system,
        reboot=options.reboot,
        most_deleted=wanted.max_delete if options.max_delete is None else options.max_delete,
        rules=rules_of(wanted, own, collect=options.collect),
        disk=disk,
        partition=wanted.partition,
        locks=tuple(locks),
    )


def view_run(run: Run, *, changes: bool = False) -> dict[str, Any]:
    """The run as the API tells it; with ``changes`` the lines of what changed."""
    return {
        "id": run.id,
        "set": run.wanted.name,
        "who": run.who,
        "collect": run.options.collect,
        "dry_run": run.options.dry,
        "freeze": run.options.freeze,
        "staged": run.options.staged,
        "cap": run.options.cap,
        "ended": run.is_over,
        "code": int(outcome(run)) if run.is_over else None,
        "nodes": [view_task(task, changes=changes) for task in run.tasks.values()],
    }


def view_task(task: Task, *, changes: bool) -> dict[str, Any]:
    report = task.report or SyncReport(task.mac, task.id, SyncState.RUNNING)
    return {
        "node": task.mac,
        "name": task.name,
        "state": task.state,
        "reason": task.reason,
        "status": report.code,
        "files": report.files,
        "created": report.created,
        "changed": report.changed,
        "attributes": report.attributes,
        "deleted": report.deleted,
        "wire": report.wire,
        "seconds": report.milliseconds / 1000,
        "changes": [
            {"kind": kind, "path": path}
            for kind, _, path in (line.partition(" ") for line in (report.changes if changes else ()))
        ],
    }


def outcome(run: Run) -> Exit:
    """OK: all are done; PARTLY: some are, or in part; REFUSED: a rule said no to all; else ERROR."""
    states = [task.state for task in run.tasks.values()]
    if all(state == "done" for state in states):
        return Exit.OK
    if any(state in ("done", "partial") for state in states):
        return Exit.PARTLY
    return Exit.REFUSED if all(state == "refused" for state in states) else Exit.ERROR
