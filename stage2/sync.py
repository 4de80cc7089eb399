"""Syncs of this node: one at a time, in a thread of its own, from the order to the report of its end."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from bootd.wire.control import StopSync, Sync, SyncReport, SyncState
from bootd.wire.sync import (
    COLLECT,
    MAX_CHANGES,
    OVERLAY,
    PARTIAL,
    SOURCE,
    Tally,
    arguments,
    bound_of,
    deleted_beyond,
)
from stage2.gate import RefusedError
from stage2.inventory import InventoryError
from stage2.places import Place
from stage2.rsync import Rsync
from stage2.staging import STAGE, Stage, StagingError

REPORT_SECONDS = 2.0
REMEMBERED = 256  # tasks that were taken up
TRIES = 20  # of the last report
_TRY_SECONDS = 3.0

Send = Callable[[SyncReport], bool]  # False: nobody wants to know it any more. OSError when it did not arrive
OpenPlace = Callable[[Sync], AbstractContextManager[Place]]


@dataclass(frozen=True)
class Station:
    """What syncs need of the node. ``token``: boot token, or the key of an agent."""

    node: str
    server: str
    token: str
    send: Send
    open_place: OpenPlace
    say: Callable[[str], None]


class Syncs:
    """Takes `Sync` and `StopSync`; a job whose files are done makes room for the next while its end is told."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._seen: dict[str, None] = {}
        self._job: Job | None = None

    def take(self, message: Sync | StopSync, busy: str = "") -> None:
        """``busy``: why nothing can be begun now, "" = nothing stands against it."""
        if isinstance(message, StopSync):
            if self._job is not None and self._job.order.task == message.task:
                self._job.stop()
            return
        if message.task in self._seen:
            return
        self._seen[message.task] = None
        while len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        before = self._job
        if before is not None and before.ended is None:
            busy = f"busy with sync {before.order.name}"
        elif before is not None and before.is_to_reboot:
            busy = f"restarts after sync {before.order.name}"
        job = Job(message, self._station)
        if busy:
            job.refuse(busy)
        else:
            self._job = job
            job.start()

    def finished(self) -> "Job | None":
        """The last job, once its end is told; each is given once."""
        job = self._job
        if job is None or job.is_alive():
            return None
        self._job = None
        return job

    def close(self) -> None:
        """End it; what it has mounted is unmounted."""
        if self._job is not None:
            self._job.stop()
            self._job.join(30.0)


class Job:
    """One task."""

    def __init__(self, order: Sync, station: Station) -> None:
        self.order = order
        self.ended: SyncReport | None = None  # set before it is told: who hears of it may send the next order
        self._send, self._open_place, self._say = station.send, station.open_place, station.say
        self._rsync = Rsync(station.server, station.token, station.node, order.task)
        self._report = SyncReport(station.node, order.task, SyncState.RUNNING)
        self._most: int | None = None  # files that may be deleted
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="bootd-sync", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    @property
    def is_to_reboot(self) -> bool:
        """Whether it has ended well, and the order wants a restart then."""
        report = self.ended
        return report is not None and report.state is SyncState.DONE and self.order.reboot and not self.order.dry

    def stop(self) -> None:
        """From any thread; the end is told as always."""
        self._rsync.stop()

    def refuse(self, reason: str) -> None:
        """Nothing is begun."""
        threading.Thread(target=self._end, args=(SyncState.REFUSED, reason), daemon=True).start()

    # --- its thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._say(f"sync {self.order.name} {'from' if self.order.collect else 'to'} {self.order.target}")
        beating = threading.Event()
        beat = threading.Thread(target=self._beat, args=(beating,), name="bootd-sync-beat", daemon=True)
        beat.start()
        state, reason = SyncState.FAILED, "a defect: see the log of the node"
        try:
            with self._open_place(self.order) as place:
                for note in place.notes:
                    self._say(note)
                state, reason = self._sync(place)
        except (RefusedError, InventoryError) as error:
            state, reason = SyncState.REFUSED, str(error)
        except (OSError, StagingError) as error:
            state, reason = SyncState.FAILED, str(error)
        finally:
            beating.set()
            beat.join()
            if self._rsync.is_stopped and state is not SyncState.DONE:
                state = SyncState.STOPPED
            self._end(state, reason)

    def _sync(self, place: Place) -> tuple[SyncState, str]:
        order = self.order
        if order.staged and place.foreign and not order.dry:
            raise RefusedError(
                f"{order.target}{place.foreign[0]} is mounted there: a tree with mounts cannot be swapped"
            )
        with tempfile.NamedTemporaryFile("w", prefix="bootd-rules-", errors="surrogateescape") as rules:
            own = [f"- {STAGE}*"]
            rules.write(
                "".join(
                    f"{rule}\n" for rule in (*own, *(f"- {_quoted(path)}/" for path in place.foreign), *order.rules)
                )
            )
            rules.flush()
            if order.collect:
                return self._copy(order, rules.name, COLLECT, place.folder)
            stage = Stage(place.folder)
            if not order.dry and stage.finish():
                self._say("an interrupted swap has been carried on")
            if order.dry or order.freeze or order.staged:
                looked, tally = replace(order, dry=True), Tally()
                state, reason = self._copy(looked, rules.name, SOURCE, place.folder, tally=tally)
                beyond = deleted_beyond(tally, order.most_deleted) if order.freeze else ""
                if order.dry:
                    state, reason = self._lay_over(place.folder, state, reason)
                if order.dry or state not in (SyncState.DONE, SyncState.PARTIAL):
                    return state, beyond or reason
                if beyond:
                    raise RefusedError(beyond)
                if order.freeze:
                    self._most = bound_of(tally, order.most_deleted)
                if order.freeze and state is SyncState.PARTIAL:
                    raise RefusedError(f"the source cannot be read as a whole, so nothing is deleted: {reason}")
            if order.staged:
                state, reason = self._stage(stage, rules.name)
                if state is not SyncState.DONE:  # what the look beforehand has found has not come about
                    self._report = replace(self._report, created=0, changed=0, attributes=0, deleted=0, changes=())
            else:
                state, reason = self._copy(order, rules.name, SOURCE, place.folder, tally=Tally())
                state, reason = self._lay_over(place.folder, state, reason)
            os.sync()
            return state, reason

    def _stage(self, stage: Stage, rules: str) -> tuple[SyncState, str]:
        """The new tree: the source's files, then what stays of the present ones, then what has to go."""
        order = self.order
        if stage.is_root:
            below = [name for name in os.listdir(stage.target) if os.path.ismount(f"{stage.target}/{name}")]
            if below:
                raise RefusedError(
                    f"{order.target.rstrip('/')}/{below[0]} is a file system of its own: exclude it (/{below[0]}), "
                    "and make it a set of its own"
                )
        links = stage.begin()
        state, reason = self._copy(replace(order, freeze=False), rules, SOURCE, stage.new, links=links)
        if state is SyncState.DONE:
            keeping = Tally()
            words = ["rsync", "--archive", "--hard-links", "--acls", "--xattrs", "--sparse", "--numeric-ids"]
            words += [
                "--one-file-system",
                "--ignore-existing",
                f"--link-dest={stage.target}",
                f"--exclude={STAGE}*",
            ]
            code = self._rsync.run([*words, "--", f"{stage.target}/", f"{stage.new}/"], keeping, self._tell)
            if code:
                return SyncState.FAILED, self._rsync.why(code)
            # What was there already is not looked at again: its files may be links into the present tree.
            words = arguments(order, rules, SOURCE, stage.new, links, most_deleted=self._most)
            words.insert(1, "--ignore-existing")
            tally = Tally()
            code = self._rsync.run(words, tally, self._tell)
            self._report = replace(self._report, wire=self._report.wire + tally.wire)
            if code:
                return SyncState.FAILED, f"{self._rsync.why(code)}; the present tree is as it was"
            state, reason = self._lay_over(stage.new, state, reason)
        if state is not SyncState.DONE:
            if state is SyncState.PARTIAL:
                state = SyncState.FAILED
            return state, f"{reason}; the present tree is as it was"
        stage.swap()
        return state, reason

    def _lay_over(self, folder: str, state: SyncState, reason: str) -> tuple[SyncState, str]:
        """What the server has for this node alone."""
        if not self.order.own or state not in (SyncState.DONE, SyncState.PARTIAL):
            return state, reason
        own = replace(self.order, freeze=False, update=False)
        tally = Tally()
        with tempfile.NamedTemporaryFile("w", prefix="bootd-own-", errors="surrogateescape") as names:
            names.write("".join(f"{path}\0" for path in own.own))
            names.flush()
            code = self._rsync.run(arguments(own, names.name, OVERLAY, folder), tally, self._tell)
        changed = self._report
        self._report = replace(
            changed,
            created=changed.created + tally.created,
            changed=changed.changed + tally.changed,
            wire=changed.wire + tally.wire,
            changes=(*changed.changes, *tally.changes)[:MAX_CHANGES],
        )
        if code:
            return SyncState.PARTIAL, f"the files of this node alone: {self._rsync.why(code)}"
        return state, reason

    def _copy(
        self,
        order: Sync,
        rules: str,
        module: str,
        place: str,
        *,
        tally: Tally | None = None,
        links: Sequence[str] = (),
    ) -> tuple[SyncState, str]:
        """One run. Without a ``tally`` its changes are not told: a run before it has found them."""
        before, tally, is_told = self._report, tally or Tally(), tally is not None or order.collect

        def tell() -> None:
            if is_told:
                self._report = replace(
                    before,
                    files=tally.files,
                    created=tally.created,
                    changed=tally.changed,
                    attributes=tally.attributes,
                    deleted=tally.deleted,
                    wire=before.wire + tally.wire,
                    changes=tuple(tally.changes),
                )
            else:
                self._report = replace(before, wire=before.wire + tally.wire)

        words = arguments(order, rules, module, place, links, most_deleted=self._most)
        code = self._rsync.run(words, tally, tell)
        self._report = replace(self._report, code=code)
        if code in PARTIAL:
            return SyncState.PARTIAL, self._rsync.why(code)
        return (SyncState.FAILED if code else SyncState.DONE), self._rsync.why(code)

    def _tell(self) -> None:
        """Nothing of this run is counted."""

    def _beat(self, ended: threading.Event) -> None:
        """Thread: how far it is, until the end."""
        while True:
            with contextlib.suppress(OSError):
                if not self._send(replace(self._timed(), changes=())):
                    self.stop()
                    return
            if ended.wait(REPORT_SECONDS):
                return

    def _end(self, state: SyncState, reason: str) -> None:
        self._report = replace(self._timed(), state=state, reason=reason[:1000])
        self.ended = report = self._report
        self._say(
            f"sync {self.order.name} {state.value}: {report.created} new, {report.changed} changed, "
            f"{report.attributes} attributes, {report.deleted} deleted{f': {reason}' if reason else ''}"
        )
        for _ in range(TRIES):
            try:
                self._send(report)
                break
            except OSError:
                time.sleep(_TRY_SECONDS)

    def _timed(self) -> SyncReport:
        return replace(self._report, milliseconds=int((time.monotonic() - self._began) * 1000))


def _quoted(path: str) -> str:
    """A path as a pattern of rsync that means nothing but it."""
    return "".join(f"\\{character}" if character in "*?[\\" else character for character in path)
