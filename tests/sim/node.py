"""A virtual machine in stage2: its decisions are those of `stage2.flow`, its member is a `SimMember`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from bootd.session.coordinator import Coordinator
from bootd.session.effects import Effect
from bootd.wire.control import Disk, Join, MemberState, Message, Prepare, Report
from bootd.wire.manifest import Manifest
from stage2 import agent, flow, way_back
from tests.sim import disk, trouble
from tests.sim.driver import Network, SimMember
from tests.sim.world import Host, World

Act = Callable[[Coordinator, float], list[Effect]]


class Room(Protocol):
    """What a node knows of the run it is in."""

    world: World
    network: Network
    image: Manifest

    def up(self, act: Act, host: Host, answered: Callable[[bool], None] | None = None) -> None:
        """A request of a node to the daemon; ``answered`` is told whether it was heard."""

    def connect_events(self, node: "SimNode") -> None:
        """The node's event stream is (re)opened: everything in force is sent."""


class SimNode:
    """``own`` is what goes wrong with it."""

    def __init__(self, run: Room, number: int, host: Host, own: trouble.Trouble) -> None:
        self.run, self.host, self.trouble = run, host, own
        self.mac = f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"
        self.disk = disk.Disk(run.image.count, run.world.random, own.fault)
        self.member: SimMember | None = None
        self.situation = flow.Situation(self.mac)
        self.own = Report(self.mac, "", MemberState.WAITING)
        self.booted: bytes | None = None  # the disk as it was when the node left for it
        self.returns = 0
        self.is_up = False
        self.is_listening = False  # to events, from the first join on

    def boot(self) -> None:
        """stage2 starts."""
        if self.is_up:
            return
        self.is_up, self.is_listening = True, False
        self.member = None
        self.situation = flow.Situation(self.mac)
        self.own = Report(self.mac, "", MemberState.WAITING)
        self.returns = 0
        self._join()
        self.host.after(1.0, self._beat)

    def hear(self, message: Message) -> None:
        if not self.is_up or not self.is_listening:
            return
        self._watch()
        match flow.decide(self.situation, message):
            case flow.TakeUp(prepare=prepare):
                self._take_up(prepare)
            case flow.Place(arrange=arrange):
                if self.member is not None and self.member.arrange(arrange):
                    self.situation = replace(self.situation, epoch=arrange.epoch)
            case flow.Leave():
                self._leave()
            case flow.Abandon(reason=reason):
                self._stop_member()
                self.own = Report(self.mac, "", MemberState.WAITING, reason=reason)
                self.situation = flow.Situation(self.mac, flow.Step.ENDED, self.situation.prepare)
                self.host.after(agent.AFTER_CANCEL, self._come_back)

    def vanish(self) -> None:
        """Power or process is gone."""
        self.is_up = False
        if self.member is not None:
            self.member.core.is_stopping = True
            self.member = None

    # --- inside ------------------------------------------------------------------------------------------

    def _join(self) -> None:
        size = self.run.image.size
        eligible = Disk("vda", size, 512, f"S{self.mac[-2:]}", "", "virtual", "virtio", False, "", "ab" * 8)
        message = Join(self.mac, "", "x86_64", "bios", self.host.name, "", "ka", 1 << 30, (eligible,))
        self.run.up(lambda c, now: c.join(message, now), self.host, self._joined)

    def _joined(self, is_heard: bool) -> None:
        if is_heard:
            self.is_listening = True
            self.run.connect_events(self)
        else:
            self.host.after(agent.JOIN_PAUSE, self._join)

    def _come_back(self) -> None:
        if self.is_up:
            self.own = Report(self.mac, "", MemberState.WAITING)
            self.situation = flow.Situation(self.mac)
            self._join()

    def _take_up(self, prepare: Prepare) -> None:
        """Have the old table saved, as `stage2.way_back` does, then become a member."""
        self.situation = flow.Situation(self.mac, flow.Step.ENDED, prepare)
        session = prepare.plan.session
        self.own = Report(self.mac, session, MemberState.PREPARING)

        def save(number: int) -> None:
            def saved(is_heard: bool) -> None:
                if not self.is_up or self.situation.prepare is not prepare or self.member is not None:
                    return
                if is_heard:
                    self._become_member(prepare)
                elif number + 1 < way_back.TRIES:
                    self.host.after(way_back.PAUSE * (1 << number), save, number + 1)
                else:
                    self._end_failed("the server does not keep the old partition table")

            self.run.up(lambda c, _: c.table_saved(self.mac, session, "vda"), self.host, saved)

        save(0)

    def _end_failed(self, reason: str) -> None:
        self.own = Report(self.mac, self.own.session, MemberState.FAILED, reason=reason)
        self._say()
        if self.returns < agent.MAX_RETURNS:
            self.host.after(agent.AFTER_FAILURE * (1 << self.returns), self._come_back)
            self.returns += 1

    def _become_member(self, prepare: Prepare) -> None:
        self.situation = flow.Situation(self.mac, flow.Step.MEMBER, prepare)
        self._save(prepare)

    def _save(self, prepare: Prepare) -> None:
        """The server must hold the old partition table before anything is written."""

        def saved(is_heard: bool) -> None:
            if (
                not self.is_up
                or self.situation.prepare is not prepare
                or self.situation.step is not flow.Step.MEMBER
            ):
                return
            if is_heard:
                self._enter(prepare)
            else:
                self.host.after(way_back.PAUSE, lambda: self._save(prepare))

        session = prepare.plan.session
        self.run.up(lambda c, _: c.table_saved(self.mac, session, prepare.plan.disk.name), self.host, saved)

    def _enter(self, prepare: Prepare) -> None:
        self.member = SimMember(
            self.run.network,
            self.host,
            node=self.mac,
            session=prepare.plan.session,
            token=prepare.token,
            manifest=self.run.image,
            disk=self.disk,
            report=self._report,
            compare=prepare.compare,
        )

    def _report(self, report: Report) -> None:
        if report.state is not MemberState.FAILED and self.is_up:
            self.run.up(lambda c, now: c.report(report, now), self.host)
        self.host.after(0.0, self._watch)

    def _beat(self) -> None:
        if not self.is_up:
            return
        self._watch()
        if self.member is None:
            self._say()
        self.host.after(1.0, self._beat)

    def _say(self) -> None:
        report = self.own
        self.run.up(lambda c, now: c.report(report, now), self.host)

    def _watch(self) -> None:
        if self.member is None:
            return
        state = self.member.core.standing.state
        if state is MemberState.FAILED:
            self._stop_member()
            self.situation = flow.Situation(self.mac, flow.Step.ENDED, self.situation.prepare)
            self._say()
            if self.returns < agent.MAX_RETURNS:
                self.host.after(agent.AFTER_FAILURE * (1 << self.returns), self._come_back)
                self.returns += 1
        elif (state is MemberState.VERIFIED) != self.situation.verified:
            self.situation = replace(self.situation, verified=state is MemberState.VERIFIED)

    def _stop_member(self) -> None:
        if self.member is not None:
            self.own = self.member.snapshot()
            self.member.stop()
            self.member = None

    def _leave(self) -> None:
        self._stop_member()
        self.situation = flow.Situation(self.mac, flow.Step.LEAVING, self.situation.prepare)
        self.booted = bytes(self.disk.content)
        self.own = _as(self.own, MemberState.FINISHING)
        self._say()
        self.host.after(0.3, self._reboot, 20)

    def _reboot(self, tries: int) -> None:
        report = self.own = _as(self.own, MemberState.REBOOTING)

        def answered(is_heard: bool) -> None:
            if is_heard or not tries:
                self.is_up = False
            else:
                self.host.after(0.5, self._reboot, tries - 1)

        self.run.up(lambda c, now: c.report(report, now), self.host, answered)


def _as(report: Report, state: MemberState) -> Report:
    return Report(
        report.node,
        report.session,
        state,
        epoch=report.epoch,
        port=report.port,
        total=report.total,
        written=report.written,
        durable=report.durable,
        verified=report.verified,
    )
