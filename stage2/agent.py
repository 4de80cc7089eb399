"""The agent of stage2: joins, takes up a plan, opens the target through the gate, runs the ring member, reboots.

Three threads beside those of the member: the main one decides (stage2.flow) and acts, one listens to the
coordinator's events, one reports at least once a second. It ends only when there is nothing left to do: rescue
(code 0), parked (code 1), rebooting (code 0).
"""

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from bootd.member.control import ControlClient, ControlError
from bootd.member.member import Member
from bootd.member.parts import PartStore
from bootd.member.store import BlockStore, Store, StoreError
from bootd.wire import layout as layouts
from bootd.wire import manifest as manifests
from bootd.wire.commands import Execute, Output, StopCommand
from bootd.wire.control import (
    Arrange,
    Capture,
    Disk,
    Join,
    MemberState,
    Message,
    Plan,
    Prepare,
    Report,
    StopSync,
    Sync,
    SyncReport,
)
from bootd.wire.errors import ProtocolError
from bootd.wire.layout import Layout
from bootd.wire.logs import Log
from bootd.wire.manifest import Manifest
from bootd.wire.retry import for_method
from bootd.wire.scheme.fitting import Fitted
from bootd.wire.tree import TreeOrder
from stage2 import flow, way_back
from stage2 import layout as partitioning
from stage2.bootable import make_bootable
from stage2.capture import CaptureJob, job_of
from stage2.commands import Commands
from stage2.console import Console
from stage2.files import FilesError, FilesWork, read_order
from stage2.gate import RefusedError, Target, open_targets
from stage2.grow import grow
from stage2.inventory import InventoryError, take
from stage2.node import HandoverError, Node, firmware, join_of, keep_lease, read_handover
from stage2.places import installed
from stage2.shipping import Shipping
from stage2.sync import Station, Syncs

INBOX = 64  # messages that wait for the main thread
TICK = 0.2  # seconds between two looks at the member
HEARTBEAT = 1.0  # seconds
RESTART_PAUSE = 10.0  # seconds in which the reason can be read
JOIN_PAUSE = 2.0  # seconds between two knocks within one try
MANIFEST_TRIES = 5
AFTER_CANCEL = 2.0  # seconds until a node that was cancelled shows its disks anew
AFTER_FAILURE = 5.0  # doubled every time
AFTER_REFUSAL = 60.0
MAX_RETURNS = 5  # after failures and refusals, in one boot; then only a person helps
REBOOT_SECONDS = 10.0
UNMADE_SECONDS = 10.0  # until nothing is left of a backup whose image is in the store


class Coordinator(Protocol):
    """What the agent needs of the daemon; `bootd.member.control.ControlClient`."""

    def join(self, message: Join) -> None: ...
    def report(self, message: Report) -> bool: ...
    def fetch_manifest(self, session: str) -> bytes: ...
    def fetch_layout(self, session: str) -> bytes: ...
    def save_table(self, encoded: bytes) -> None: ...
    def send_log(self, message: Log) -> None: ...
    def send_output(self, message: Output) -> None: ...
    def send_sync(self, message: SyncReport) -> bool: ...
    def events(self) -> Iterator[Message]: ...


# What a call to the daemon may end with when the daemon, the network or the answer is at fault.
CALL_ERRORS = (ControlError, OSError, ProtocolError)


def main() -> int:
    console = Console()
    console.mark("start")
    try:
        node = read_handover()
    except HandoverError as error:
        console.say(f"parked: {error}")
        return 1
    if not node.work:
        console.say("rescue: no cloning on this boot")
        keep_lease(node)
        return 0
    keep_lease(node)
    return Agent(node, ControlClient(node.server, node.mac, node.token), take, console).run()


class Agent:
    """One node at work. ``take_disks`` gives the inventory, ``console`` shows the markers."""

    def __init__(
        self,
        node: Node,
        client: Coordinator,
        take_disks: Callable[[], Sequence[Disk]],
        console: Console,
        *,
        dev_root: str = "/dev",
        reboot: Callable[[], None] | None = None,
    ) -> None:
        self.node = node
        self._client = client
        self._take = take_disks
        self._console = console
        self._dev_root = dev_root
        self._reboot = reboot or reboot_now
        self._situation = flow.Situation(node.mac)
        self._inbox: queue.Queue[Message] = queue.Queue(INBOX)
        self._member: Member | None = None
        self._store: Store | None = None  # of the member
        self._targets: tuple[Target, ...] = ()  # of the plan: one, or those of a layout of several disks
        self._files: FilesWork | None = None  # a tree of files, and the disks that are made for it
        self._layout: Layout | None = None  # to be written before the first byte of the image
        self._capture: CaptureJob | None = None
        self._reboots_after = False  # when what is read has become an image
        self._own = Report(node.mac, "", MemberState.WAITING)
        self._return_at: float | None = None
        self._returns = 0
        self._sending = threading.Lock()
        self._sent = 0.0
        self._failing = False
        self._stopping = threading.Event()
        self._shipping = Shipping(node.mac, client.send_log)
        console.ship = self._ship
        self._commands = Commands(node.mac, client.send_output, console.say)
        self._syncs = Syncs(
            Station(
                node.mac,
                node.server,
                node.token,
                client.send_sync,
                lambda order: installed(order, take_disks, dev_root),
                console.say,
            )
        )

    # --- the main thread -----------------------------------------------------------------------------------

    def run(self) -> int:
        """Until the node reboots (0) or is parked (1)."""
        threading.Thread(target=self._shipping.run, name="bootd-log", daemon=True).start()
        reason = self._join_with_retries()
        if reason and self.node.gives_up_by_reboot:
            self._console.say(f"restarting, as the label says: {reason}")
            self._shipping.close()
            time.sleep(RESTART_PAUSE)
            self._reboot()
            return 0
        if reason:
            self._console.say(f"parked: {reason}")
            self._own = Report(self.node.mac, "", MemberState.PARKED, reason=reason)
            self._send()
            self._shipping.close()
            return 1
        for name, body in (("events", self._listen), ("heartbeat", self._beat)):
            threading.Thread(target=body, name=f"bootd-{name}", daemon=True).start()
        try:
            while self._situation.step is not flow.Step.LEAVING:
                with contextlib.suppress(queue.Empty):
                    self._act(self._inbox.get(timeout=TICK))
                self._watch()
                self._come_back()
        finally:
            self._stopping.set()
            self._commands.close()
            self._syncs.close()
        self._leave()
        return 0

    def _join_with_retries(self) -> str:
        """Join as often as the method's tries allow; "" when joined, else the reason."""
        policy = for_method(self.node.work, self.node.dolly_timeout if self.node.work != "ka" else None)
        reason = ""
        for attempt in policy.attempts(int(self.node.mac[-2:], 16) / 256):
            time.sleep(attempt.delay)
            end = time.monotonic() + attempt.timeout
            while True:
                try:
                    self._join()
                except InventoryError as error:
                    return str(error)
                except CALL_ERRORS as error:
                    reason = str(error) or type(error).__name__
                    if isinstance(error, ControlError) and error.is_final:
                        return f"the server refuses this node: {reason}"
                else:
                    return ""
                if time.monotonic() + JOIN_PAUSE >= end:
                    break
                time.sleep(JOIN_PAUSE)
            self._console.say(f"{policy.message}: {reason} (try {attempt.number} of {attempt.of})")
        return f"{policy.message} in {policy.tries} tries: {reason}"

    def _join(self) -> None:
        disks = self._take()
        self._client.join(join_of(self.node, disks))
        self._console.mark("joined")
        for disk in disks:
            size = f"{disk.size / 1e9:.1f} GB"
            self._console.say(f"disk {disk.name} {size} {disk.serial or 'no serial'} {disk.excluded or 'eligible'}")

    def _act(self, message: Message) -> None:
        if isinstance(message, Execute | StopCommand):
            self._commands.take(message)
            return
        if isinstance(message, Sync) and self._capture is not None:
            self._capture.join(UNMADE_SECONDS)  # no sync is ordered while a backup is at it: it is over
        self._watch()  # the coordinator may know from the node's own reports what is not noted here yet
        if isinstance(message, Sync | StopSync):
            is_busy = self._situation.step not in (flow.Step.IDLE, flow.Step.ENDED)
            self._syncs.take(message, f"busy: {self._situation.step.value}" if is_busy else "")
            return
        match flow.decide(self._situation, message):
            case flow.ShowWait(reason=reason):
                self._console.once(f"waiting: {reason}")
            case flow.TakeUp(prepare=prepare):
                self._take_up(prepare)
            case flow.Refuse(plan=plan, reason=reason):
                self._own = Report(self.node.mac, plan.session, MemberState.PREPARING)
                self._refused(reason)
            case flow.ReadIn(order=order):
                self._read_in(order)
            case flow.Place(arrange=arrange):
                self._place(arrange)
            case flow.Leave(reboot=reboot):
                self._finished(reboot)
            case flow.Abandon(reason=reason):
                self._abandon(reason)

    def _take_up(self, prepare: Prepare) -> None:
        """Check the plan, open the target, start the member. Every doubt ends in REFUSED, before any write."""
        plan = prepare.plan
        self._situation = flow.Situation(self.node.mac, flow.Step.ENDED, prepare)
        self._return_at = None
        self._console.begin(plan.image_size)
        self._console.mark(f"plan {plan.disk.name} {plan.disk.serial or plan.disk.wwn or '-'}")
        for disk in plan.further:
            self._console.say(f"and {disk.name} {disk.serial or disk.wwn or '-'}")
        for part in plan.parts:
            self._console.say(f"partition {part.partition.number}: {part.size} bytes at {part.partition.start}")
        self._own = Report(self.node.mac, plan.session, MemberState.PREPARING, total=plan.image_size)
        self._send()
        try:
            manifest = manifests.parse(self._fetch_manifest(plan.session))
        except CALL_ERRORS as error:
            self._failed(f"the manifest cannot be had: {error}")
            return
        if manifest.root != plan.image_root:
            self._refused(f"the manifest is of image {manifest.root[:16]}…, the plan of {plan.image_root[:16]}…")
            return
        if (manifest.size, manifest.chunk_size) != (plan.image_size, plan.chunk_size):
            self._refused(f"the manifest says {manifest.size} bytes, the plan {plan.image_size}")
            return
        wrong = misfit(plan, manifest)
        if wrong:
            self._refused(wrong)
            return
        try:
            self._layout = self._fetch_layout(plan)
            order = read_order(self._client.fetch_layout(plan.session), plan, firmware()) if plan.files else None
        except RefusedError as error:
            self._refused(f"the layout does not fit: {error}")
            return
        except CALL_ERRORS as error:
            self._failed(f"the layout cannot be had: {error}")
            return
        try:
            self._targets = open_targets(plan, self._take, self._dev_root)
        except (RefusedError, InventoryError) as error:
            self._refused(str(error))
            return
        try:
            size = sum(
                way_back.save(plan.session, target, self._client.save_table, self._dev_root)
                for target in self._targets
            )
        except way_back.WayBackError as error:
            self._close_target()
            self._failed(str(error))
            return
        self._console.say(f"old partition table saved on the server: {size} bytes")
        try:
            store = self._make_store(prepare, manifest, order)
        except (FilesError, OSError, StoreError) as error:
            self._close_target()
            self._failed(str(error))
            return
        try:
            member = Member(
                node=self.node.mac,
                session=plan.session,
                join_token=prepare.token,
                manifest=manifest,
                store=store,
                listen_host=self.node.address,
                report=self._member_reports,
                is_head=False,
                compare=prepare.compare,
            )
            port = member.start()
        except (OSError, StoreError, ProtocolError) as error:
            store.close()
            self._close_target()
            self._failed(f"the ring member does not start: {error}")
            return
        self._member, self._store = member, store
        self._situation = flow.Situation(self.node.mac, flow.Step.MEMBER, prepare)
        self._console.mark(f"ready {port}")

    def _make_store(self, prepare: Prepare, manifest: Manifest, order: tuple[TreeOrder, Fitted] | None) -> Store:
        """Where the member writes. For a tree of files the disk is made anew before: from here on it is another."""
        if order is None:
            (target,) = self._targets
            return store_of(target, prepare, manifest)
        self._files = FilesWork(
            prepare.plan,
            *order,
            firmware=firmware(),
            server=self.node.server,
            say=self._console.say,
            dev_root=self._dev_root,
        )
        targets, self._targets = self._targets, ()  # closed by who makes them
        self._files.make(targets)
        return self._files.store(manifest)

    def _read_in(self, order: Capture) -> None:
        """Begin to read a disk into an image. Nothing is written here; any doubt ends in a refusal."""
        self._situation = flow.Situation(
            self.node.mac, flow.Step.CAPTURING, self._situation.prepare, task=order.task
        )
        self._return_at = None
        self._console.mark(f"backup {order.disk.name} {order.disk.serial or order.disk.wwn or '-'}")
        self._reboots_after = order.after == "reboot"
        self._capture = job_of(order, self.node, self._take, say=self._console.say, dev_root=self._dev_root)
        self._capture.start()

    def _captured(self, job: CaptureJob) -> None:
        """A capture has ended: an image, or a reason."""
        self._capture = None
        self._console.mark(f"backup ended: {job.ended}")
        leaves = bool(job.image) and self._reboots_after
        step = flow.Step.LEAVING if leaves else flow.Step.ENDED
        self._situation = flow.Situation(self.node.mac, step, self._situation.prepare, task=job.task)
        if leaves:
            self._own = Report(self.node.mac, "", MemberState.REBOOTING)
        else:
            self._return_at = time.monotonic() + AFTER_CANCEL

    def _fetch_manifest(self, session: str) -> bytes:
        for number in range(1, MANIFEST_TRIES + 1):
            try:
                return self._client.fetch_manifest(session)
            except CALL_ERRORS:
                if number == MANIFEST_TRIES:
                    raise
                time.sleep(number)
        raise AssertionError("unreachable")

    def _fetch_layout(self, plan: Plan) -> Layout | None:
        """The layout that the plan is bound to, if there is one."""
        if not plan.layout:
            return None
        data = self._client.fetch_layout(plan.session)
        if layouts.digest(data) != plan.layout:
            raise RefusedError("it is not that of the plan")
        layout = layouts.decode(data)
        wrong = partitioning.misfit(layout, plan)
        if wrong:
            raise RefusedError(wrong)
        return layout

    def _place(self, arrange: Arrange) -> None:
        if self._layout is not None and self._targets:
            try:
                partitioning.write(self._layout, self._targets[0])
            except partitioning.LayoutError as error:
                self._stop_member()
                self._failed(str(error))
                return
            self._console.say(f"partition table written: {len(self._layout.table.entries)} partitions")
            self._layout = None
        if self._member is not None and self._member.arrange(arrange):
            self._situation = replace(self._situation, epoch=arrange.epoch)
            self._console.say(f"epoch {arrange.epoch}: behind {arrange.predecessor_node}")

    def _watch(self) -> None:
        """Show how far the member is; end it when it has failed."""
        if self._capture is not None and self._capture.ended:
            self._captured(self._capture)
        synced = self._syncs.finished()
        is_idle = self._situation.step in (flow.Step.IDLE, flow.Step.ENDED)  # else a session has begun meanwhile
        if synced is not None and synced.is_to_reboot and is_idle:
            self._own = Report(self.node.mac, "", MemberState.REBOOTING)
            self._situation = flow.Situation(self.node.mac, flow.Step.LEAVING, self._situation.prepare)
        if self._member is None:
            return
        snapshot = self._member.snapshot()
        self._console.follow(snapshot)
        if snapshot.state is MemberState.FAILED:
            self._stop_member()
            self._failed(snapshot.reason)
        elif (snapshot.state is MemberState.VERIFIED) != self._situation.verified:
            self._situation = replace(self._situation, verified=snapshot.state is MemberState.VERIFIED)

    # --- ends ------------------------------------------------------------------------------------------------

    def _refused(self, reason: str) -> None:
        self._console.mark(f"refused {reason}")
        self._end(MemberState.REFUSED, reason, AFTER_REFUSAL)

    def _failed(self, reason: str) -> None:
        self._console.say(f"failed: {reason}")
        self._end(MemberState.FAILED, reason, AFTER_FAILURE * (1 << self._returns))

    def _end(self, state: MemberState, reason: str, pause: float) -> None:
        """Show the reason, then ask for work again with a fresh inventory: what is on the disk has changed.

        The daemon judges whether this node gets another attempt; here the number of times is bounded as well.
        """
        self._own = self._report_as(state, reason)
        self._situation = flow.Situation(self.node.mac, flow.Step.ENDED, self._situation.prepare)
        self._send()
        if self._returns < MAX_RETURNS:
            self._returns += 1
            self._return_at = time.monotonic() + pause
        else:
            self._console.say(f"no more attempts in this boot after {MAX_RETURNS}")

    def _abandon(self, reason: str) -> None:
        """Cancelled, or ended too early: nothing of this disk is promised."""
        if self._capture is not None:
            if self._capture.stop():  # it ends soon, and `_captured` goes on from there
                self._console.say(f"cancelled: {reason}")
            return
        self._stop_member()
        self._console.say(f"cancelled: {reason}")
        self._own = Report(self.node.mac, "", MemberState.WAITING, reason=reason)
        self._situation = flow.Situation(self.node.mac, flow.Step.ENDED, self._situation.prepare)
        self._return_at = time.monotonic() + AFTER_CANCEL

    def _come_back(self) -> None:
        if self._return_at is None or time.monotonic() < self._return_at:
            return
        try:
            self._join()
        except (*CALL_ERRORS, InventoryError) as error:
            self._console.once(f"cannot join again yet: {error}")
            self._return_at = time.monotonic() + AFTER_FAILURE
            return
        self._return_at = None
        self._own = Report(self.node.mac, "", MemberState.WAITING)
        # The plan is forgotten: the same one may be given again on purpose.
        self._situation = flow.Situation(self.node.mac)

    def _finished(self, reboot: bool) -> None:
        """Verified and released by the coordinator."""
        disk = self._targets[0].disk.name if self._targets else ""
        trouble = self._stop_member()
        if trouble:
            self._failed(f"verified, but not unmounted: {trouble}")
            return
        self._console.say("session finished")
        self._own = self._report_as(MemberState.FINISHING, "")
        self._send()
        note = make_bootable(disk) if disk else ""
        if disk and self._situation.prepare is not None and self._situation.prepare.grow:
            note = "; ".join(text for text in (grow(disk, self._dev_root), note) if text)
        if note:
            self._console.say(note)
            self._own = self._report_as(MemberState.FINISHING, note)
            self._send()
        if not reboot:
            self._console.say("staying in stage2, as the session asked")
            self._situation = flow.Situation(self.node.mac, flow.Step.ENDED, self._situation.prepare)
            self._own = Report(
                self.node.mac, "", MemberState.WAITING, reason="cloned and verified; stays in stage2"
            )
            self._return_at = time.monotonic() + AFTER_CANCEL
            return
        self._own = self._report_as(MemberState.REBOOTING, note)
        self._situation = flow.Situation(self.node.mac, flow.Step.LEAVING, self._situation.prepare)

    def _leave(self) -> None:
        """The last report gets a few chances: without it the daemon counts this node as lost."""
        end = time.monotonic() + REBOOT_SECONDS
        while not self._send() and time.monotonic() < end:
            time.sleep(0.5)
        self._console.mark("rebooting")
        self._shipping.close()
        self._reboot()

    def _stop_member(self) -> str:
        """End it, and let go of the disks; "" or what cannot be let go of."""
        if self._member is not None:
            self._member.stop()
            self._own = self._member.snapshot()
            self._member = None
        if self._store is not None:
            self._store.close()
            self._store = None
        return self._close_target()

    def _close_target(self) -> str:
        trouble = ""
        if self._files is not None:
            trouble = self._files.end()
            if trouble:
                self._console.say(f"not unmounted: {trouble}")
            self._files = None
        for target in self._targets:
            target.close()
        self._targets = ()
        return trouble

    def _report_as(self, state: MemberState, reason: str) -> Report:
        """The last numbers with a state of our own."""
        own = self._own
        return Report(
            node=self.node.mac,
            session=own.session,
            state=state,
            epoch=own.epoch,
            port=own.port,
            total=own.total,
            written=own.written,
            durable=own.durable,
            verified=own.verified,
            sent=own.sent,
            reason=reason[:1000],
        )

    # --- other threads ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Events into the inbox; a full inbox makes the coordinator wait, which sends everything again anyway."""
        while not self._stopping.is_set():
            try:
                for message in self._client.events():
                    self._inbox.put(message)
            except CALL_ERRORS as error:
                self._console.once(f"no events: {error}")
            self._stopping.wait(JOIN_PAUSE)

    def _beat(self) -> None:
        """A report every second, whoever else reports: the daemon calls a silent node lost."""
        while not self._stopping.wait(HEARTBEAT / 4):
            if time.monotonic() - self._sent >= HEARTBEAT * 0.9:
                self._send()

    def _ship(self, text: str) -> None:
        session = self._own.session or (self._situation.prepare.plan.session if self._situation.prepare else "")
        self._shipping.add(text, session)

    def _member_reports(self, report: Report) -> None:
        """Called by the member's own thread. Failure is reported by the main thread, with the target closed."""
        if self._member is not None and report.state is not MemberState.FAILED:
            self._send(report)

    def _send(self, report: Report | None = None) -> bool:
        """Send ``report``, or how things stand when it is this thread's turn; False when it did not arrive."""
        with self._sending:
            if report is None:
                member = self._member
                report = member.snapshot() if member is not None else self._own
            arrived = self._client.report(report)
            self._sent = time.monotonic()
            if arrived is self._failing:
                self._failing = not arrived
                self._console.say("reports get through again" if arrived else "reports do not get through")
            return arrived


def misfit(plan: Plan, manifest: Manifest) -> str:
    """Why the parts of the manifest are not those of the plan; "" when they are."""
    if len(manifest.parts) != max(1, len(plan.parts)):
        what = f"{len(plan.parts)} partitions" if plan.parts else "one disk"
        return f"the manifest has {len(manifest.parts)} parts, the plan names {what}"
    for part, target in zip(manifest.parts, plan.parts, strict=False):
        if part.size != target.size:
            return f"the manifest has {part.size} bytes for partition {target.partition.number}, not {target.size}"
    return ""


def store_of(target: Target, prepare: Prepare, manifest: Manifest) -> Store:
    """Where the member writes: each part of the manifest through the descriptor that the gate opened for it, or, on
    a disk that gets a layout, at its place there."""
    stores: list[Store]
    if prepare.plan.layout:
        stores = [*partitioning.regions(target, prepare.plan, prepare.zeros)]
    else:
        stores = [
            BlockStore(descriptor, part.size, prepare.zeros)
            for descriptor, part in zip(target.writable, manifest.parts, strict=True)
        ]
    return stores[0] if len(stores) == 1 else PartStore(manifest, stores)


def reboot_now() -> None:
    """Sync and restart without asking init: nothing of stage2 is worth keeping. Does not return."""
    os.sync()
    subprocess.run(["/bin/busybox", "reboot", "-f"], check=False)
    time.sleep(60)


if __name__ == "__main__":
    sys.exit(main())
