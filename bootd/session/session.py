"""One session: nodes gather, get a plan, form the chain, verify, finish. Sans-IO; every method returns effects.

A session starts when enough nodes are ready. Nodes that were refused, failed or were lost count towards
``expect``: an operator who clones a room unattended wants the rest of it cloned. A node that fails, falls silent
or stalls is named and left out, and the chain closes behind it under the next epoch. A node that comes back joins
at the tail, until its attempts are used up; then it is parked. Nothing counts as cloned before it reported every
byte verified and then confirmed the end.

Longer than other modules: what a report, a deadline and an operator each do to the states of one session is one
table of consequences, and is read together.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from bootd.session import bindings, gathering, messages, outcome, release, trees
from bootd.session.arrangement import Arrangement, in_order
from bootd.session.bindings import bound
from bootd.session.contents import content_records
from bootd.session.deadlines import Late, Remedy, find_late, find_slow, find_stall
from bootd.session.effects import (
    Effect,
    Event,
    Outcome,
    Persist,
    PolicyChanged,
    Send,
    StartHead,
    StopHead,
    SwitchOn,
)
from bootd.session.head import Head
from bootd.session.machine import another_machine
from bootd.session.member import Image, Member, Phases
from bootd.session.nodes import Node
from bootd.session.parts import choose_target
from bootd.session.plan import Limits, SessionPlan
from bootd.session.policy import LOCAL, RESCUE
from bootd.session.selector import Refusal
from bootd.session.states import (
    AT_WORK,
    ENDED,
    OPEN,
    OUTSIDE,
    REPORTED,
    SessionState,
    Standing,
    follow,
)
from bootd.wire.control import (
    Address,
    Arrange,
    Cancel,
    Finish,
    Lock,
    MemberState,
    Message,
    Report,
    Wait,
)

FORMATTING = 1800.0  # seconds from plan to READY where file systems are made before
MAX_TROUBLES = 50  # different ones of a member that are told
MAX_EPOCHS_AHEAD = 1000  # that a killed daemon may have arranged without a record; more is a node's nonsense


class Session:
    """Use through `Coordinator`, which routes messages and holds the nodes."""

    def __init__(
        self,
        plan: SessionPlan,
        *,
        expect: int,
        start_now: bool,
        head_host: str,
        limits: Limits,
        now: float,
        switch: Callable[[str], str] = lambda _: "",
        locks: Callable[[str, float], tuple[Lock, ...]] = lambda *_: (),
    ) -> None:
        """``switch`` gives the name of the switch that a MAC is plugged into, "" when that is not known; ``locks``
        those of a MAC that are in force at a time."""
        self.plan = plan
        self.expect = expect
        self.start_now = start_now
        self.state = SessionState.SCHEDULED if plan.start_at else SessionState.PREPARING
        self.reason = ""
        self.image: Image | None = None
        self.members: dict[str, Member] = {}
        self.arrangement = Arrangement(plan.fan_out)
        self.phase = 0  # the highest phase of the image that is open
        self.head = Head(f"head-{plan.id}", head_host)
        self.times: dict[SessionState, float] = {self.state: now}
        self._limits = limits if plan.files is None else replace(limits, ready=max(limits.ready, FORMATTING))
        self._switch = switch
        self._locks = locks
        self.is_closing = False  # nobody may join any more
        self._complete_since: float | None = None  # everybody is verified
        self._empty_since: float | None = None

    # --- what others ask ---------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.plan.id

    @property
    def title(self) -> str:
        return self.plan.name or self.plan.id

    @property
    def open(self) -> bool:
        """Whether a node may still come."""
        return self.state in OPEN and not self.is_closing

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def created(self) -> float:
        """When it began to want nodes."""
        return self.times.get(SessionState.PREPARING, next(iter(self.times.values())))

    def wants(self, node: Node) -> bool:
        """Whether ``node`` is to be cloned by this session.

        ``any`` leaves alone a node that some session cloned since this one began.
        """
        if not self.open:
            return False
        member = self.members.get(node.mac)
        if member is not None and member.standing in (Standing.DONE, Standing.PARKED, Standing.EJECTED):
            return False
        if self.plan.nodes is not None:
            return node.mac in self.plan.nodes
        if node.mac in self.plan.without:
            return False
        return node.cloned is None or node.cloned < self.created

    def wants_boot(self, node: Node) -> bool:
        """Whether ``node`` should boot this session's label: `wants`, but no more once it was refused too often."""
        member = self.members.get(node.mac)
        return self.wants(node) and (member is None or member.refusals < self._limits.attempts)

    def commands_for(self, mac: str) -> list[Message]:
        """Everything in force for one of the session's nodes, or for its head, in order."""
        if mac == self.head.node:
            if self.state is SessionState.RUNNING:
                return [Arrange(self.id, self.arrangement.epoch, None, "", self.phase)]
            return [] if self.state in OPEN else [Finish(self.id, "exit")]
        member = self.members.get(mac)
        return messages.in_force(self.plan, self.image, member, is_open=self.open) if member else []

    def outcome(self, name: Callable[[str], str]) -> Outcome:
        """The verdicts as they stand; final once `ended`. ``name`` gives the name of a MAC."""
        return outcome.judge(
            self.id,
            state=self.state,
            reason=self.reason,
            members=self.members,
            wanted=self.plan.nodes or (),
            name=name,
        )

    # --- head --------------------------------------------------------------------------------------------

    def open_up(self, now: float) -> list[Effect]:
        """The time of a session that was scheduled has come: it wants nodes from now on."""
        self._enter(SessionState.PREPARING, now)
        effects = [self._event("opened", "", "its time has come"), *self.start_head(now)]
        if self.plan.wake:
            effects.append(SwitchOn(self.id, tuple(sorted(self.plan.nodes or ()))))
        return effects

    def start_head(self, now: float) -> list[Effect]:
        plan = self.plan
        self.head.start(now)
        sources = plan.sources if plan.parts else ()
        return [StartHead(plan.id, self.head.node, plan.source, plan.join_token, plan.head_token, sources)]

    def manifest(self, image: Image, now: float) -> list[Effect]:
        """The head has digested its source. A second, different manifest ends the session."""
        if self.ended or self.state is SessionState.FINISHING:
            return []
        if self.image is not None:
            if image == self.image:
                return []
            return self.fail("the source is not what it was when the session began: its digest has changed", now)
        if image.size < 1 or image.size != self.plan.source_size:
            return self.fail(
                f"the source has {image.size} bytes now, it had {self.plan.source_size} when the session began", now
            )
        if self.plan.image_root not in ("", image.root):
            text = f"the source is not what it was in session {self.plan.parent}: image {image.root[:16]} now"
            return self.fail(f"{text}, {self.plan.image_root[:16]} then", now)
        self.image = image
        return [self._event("manifest", "", f"source digested: {image.size} bytes, image {image.root[:16]}")]

    def head_reported(self, report: Report, now: float) -> list[Effect]:
        if self.ended or self.state is SessionState.FINISHING:
            return []
        if report.state in (MemberState.FAILED, MemberState.REFUSED, MemberState.PARKED):
            return self.fail(f"head: {report.reason or report.state.value}", now)
        if not self.head.hear(report, now) or self.image is None:
            return []
        if self.state is SessionState.PREPARING:
            self._enter(SessionState.WAITING, now)
            return self._start_if_complete(now)
        return self._arrange("the head listens again", now) if self.state is SessionState.RUNNING else []

    def head_ended(self, reason: str, now: float) -> list[Effect]:
        """The head's process is gone. It may be, once everybody is verified; before, another one takes its place:
        members keep what they have, and go on among themselves meanwhile."""
        if self.ended or self.state is SessionState.FINISHING:
            return []
        if not self.head.may_start(self._limits):
            return self.fail(f"{reason}; it was started {self.head.starts} times", now)
        text = f"{reason}; it is started again ({self.head.starts + 1} of {self._limits.head_starts})"
        return [self._event("head", "", text), StopHead(self.id), *self.start_head(now)]

    # --- members -----------------------------------------------------------------------------------------

    def offer(self, node: Node, now: float) -> list[Effect]:
        """``node``, which has just joined or is idle in stage2 and is wanted here, gets a plan or a reason.

        A refused node is judged again only when its disks changed; one that failed is taken back in while it has
        attempts left.
        """
        join = node.join
        if join is None or self.image is None:
            return self._tell(node, f"session {self.title} digests its source")
        effects: list[Effect] = []
        member = self.members.get(node.mac)
        plan = self.plan
        locks = self._locks(node.mac, now)
        if plan.files is not None:
            locks += trees.protection(plan.files, join.disks)
        binding = plan.bindings.get(node.mac)
        written = member.disks if member is not None and (member.is_written or member.is_saved) else ()
        if member is None and binding is not None and binding.begun:
            written = bindings.find(join.disks, binding)
        choice = choose_target(
            join,
            plan.selector,
            self.image.size,
            locks,
            sector=plan.source_sector,
            orders=plan.parts,
            needs=plan.needs,
            layout=plan.order_of_layout,
            is_written=member is not None and member.is_written,
            files=plan.files,
            written=written,
            further=plan.further,
        )
        if node.changed:
            choice = Refusal(another_machine(node.name, node.changed))
        elif not isinstance(choice, Refusal):
            choice = bound(choice.disks, binding) or choice
        disks = () if isinstance(choice, Refusal) else choice.disks
        if member is not None and member.live:
            is_old = member.is_restored and member.begun  # it was at work, so this is another process
            if member.standing is Standing.PREPARING and disks == member.disks and not is_old:
                member.heard = now
                return [Send(node.mac, message) for message in self.commands_for(node.mac)]
            if member.standing is Standing.FINISHING:
                return self._done(member, "verified and finished, then back in stage2", now)
            effects += self._drop(member, Standing.FAILED, "it restarted and joined again", now, replaced=True)
        if member is not None and member.standing is Standing.PARKED:
            return [*effects, *self._tell(node, f"parked: {node.parked}"), *self._settle(now)]
        if not self.open:
            text = f"session {self.title} is {self.state.value}"
            return [*effects, *self._tell(node, text), *self._settle(now)]
        if isinstance(choice, Refusal):
            return [*effects, *self._refuse_by_selector(node, member, choice.reason, now)]
        if member is not None and member.standing is Standing.REFUSED and member.disks == disks:
            member.refusals += 1
            return [*effects, *self._tell(node, f"session {self.title}: {member.reason}")]
        if member is None:
            member = self.members[node.mac] = Member(node, Standing.PREPARING, now)
            member.begun = binding is not None and binding.begun
        member.disk, member.further, member.parts = choice.disk, choice.further, choice.parts
        if plan.order_of_layout is not None and member.phases.arranged is not None:
            member.begun = True  # its table was written, though no byte of the image may have been
        if plan.files is not None and member.is_saved:
            member.begun = True  # its table may be written: that is done before it is ready
        member.compares, member.locks = (plan.compare or member.begun) and plan.files is None, locks
        member.begin(now)
        node.session, node.told = self.id, ""
        self._empty_since = None
        effects.append(Send(node.mac, messages.prepare(self.plan, self.image, member)))
        text = f"plan: write {messages.describe(self.image.size, choice.disk, choice.parts, choice.further)}"
        effects += content_records(self.plan, self.image, member, "wanted")
        return [*effects, self._event("plan", node.mac, text), Persist(node.record())]

    def reported(self, report: Report, now: float) -> list[Effect]:
        """A report of a node about this session."""
        member = self.members.get(report.node)
        if member is None or self.ended:
            return self._answer_stranger(report, member)
        claimed = REPORTED.get(report.state)
        if (member.standing is Standing.LOST or member.is_restored) and claimed in AT_WORK:
            return self._wake(member, report, now)
        if not member.live:
            return self._answer_stranger(report, member)
        if member.is_echo(report, now):
            return []
        member.heard = now
        before = member.report
        if before is None or claimed not in (Standing.FINISHING, Standing.DONE):
            member.report = report  # the last ones before the reboot have nothing to count any more
        if before is None or _progress(report) > _progress(before):
            member.moved = now
        member.begun = member.begun or report.written > report.kept
        if member.phases.durable is None and self.image and report.durable >= self.image.size:
            member.phases.durable = now
        effects = self._trouble(member, report)
        if claimed is None:
            return effects
        return [*effects, *self._move(member, claimed, report, now), *self._open_next_phase(now)]

    def table_saved(self, mac: str, name: str, place: int = 0) -> list[Effect]:
        """The server holds the old partition table and both ends of a disk that the plan of ``mac`` names."""
        member = self.members.get(mac)
        if member is None or not member.live or place in member.saved or self.ended:
            return []
        member.saved |= {place}
        return [self._event("saved", mac, f"old partition table of {name} is kept")]

    def _trouble(self, member: Member, report: Report) -> list[Effect]:
        """What a member says about a neighbour is told once: who sent it a damaged chunk is for people to know."""
        if not report.trouble or report.trouble in member.troubles or len(member.troubles) >= MAX_TROUBLES:
            return []
        member.troubles.add(report.trouble)
        return [self._event("trouble", member.node.mac, report.trouble)]

    def _move(self, member: Member, claimed: Standing, report: Report, now: float) -> list[Effect]:
        finishing = member.phases.finish is not None
        started = self.state in (SessionState.RUNNING, SessionState.FINISHING)
        if not started and claimed in (Standing.RECEIVING, Standing.VERIFYING, Standing.VERIFIED):
            return self._drop(member, Standing.FAILED, f"it reported {claimed.value} before the start", now)
        match claimed:
            case Standing.FAILED | Standing.REFUSED | Standing.PARKED:
                return self._drop(member, claimed, report.reason or f"it reported {claimed.value}", now)
            case Standing.FINISHING | Standing.DONE if not finishing:
                return self._drop(member, Standing.FAILED, "it left before it was told to finish", now)
            case Standing.READY if member.address is None:
                return self._became_ready(member, report, now)
            case Standing.VERIFIED if not finishing:
                return self._verified(member, report, now)
            case Standing.DONE:
                return self._done(member, _noted("verified, then rebooted", report.reason), now)
        if finishing:
            member.standing = Standing.FINISHING if claimed is Standing.FINISHING else member.standing
            if self.plan.after == "stay":
                return self._done(member, _noted("verified, stays in stage2", report.reason), now)
            return []
        if member.address is None:
            return self._drop(member, Standing.FAILED, f"it reported {claimed.value} before it was ready", now)
        if claimed is Standing.READY and member.standing is not Standing.PREPARING:
            return []
        if member.standing is Standing.VERIFIED:
            member.phases.verified = member.phases.durable = None
            text = "its disk gave a neighbour something else than it had given the check"
            member.standing = claimed
            return [self._event("unverified", member.node.mac, text)]
        member.standing = claimed
        return []

    def _became_ready(self, member: Member, report: Report, now: float) -> list[Effect]:
        join = member.node.join
        if not 1 <= report.port <= 65535 or join is None:
            return self._drop(member, Standing.FAILED, f"it is ready but listens on no port ({report.port})", now)
        if self._limits.saves and not member.is_saved:
            return self._drop(member, Standing.FAILED, messages.unsaved(member), now)
        member.address = Address(join.address, report.port)
        member.standing = Standing.READY
        member.phases.ready = member.moved = now
        effects: list[Effect] = [self._event("ready", member.node.mac, f"ready on {join.address}:{report.port}")]
        if self.state is SessionState.RUNNING:
            self.arrangement.append([member])
            return [*effects, *self._arrange(f"{member.node.name} joined", now)]
        return [*effects, *self._start_if_complete(now)]

    def _verified(self, member: Member, report: Report, now: float) -> list[Effect]:
        size = self.image.size if self.image else -1
        if member.address is None or not report.verified == report.total == size:
            text = f"it calls itself verified with {report.verified} of {report.total} bytes, the image has {size}"
            return self._drop(member, Standing.FAILED, text, now)
        if member.standing is Standing.VERIFIED:
            return []
        member.standing = Standing.VERIFIED
        member.phases.verified = now
        member.phases.durable = member.phases.durable or now
        member.reason = f"verified {size} bytes"
        return [self._event("verified", member.node.mac, member.reason), *self._finish_if_complete(now)]

    def _done(self, member: Member, reason: str, now: float) -> list[Effect]:
        member.standing = Standing.DONE
        member.reason = reason
        member.phases.ended = now
        member.node.session, member.node.attempts, member.node.cloned = "", 0, now
        effects: list[Effect] = [self._event("done", member.node.mac, reason), Persist(member.node.record())]
        effects += content_records(self.plan, self.image, member, "installed")
        return [*effects, *self._end_if_complete(now)]

    # --- trouble -----------------------------------------------------------------------------------------

    def _drop(
        self,
        member: Member,
        standing: Standing,
        reason: str,
        now: float,
        *,
        replaced: bool = False,
        settles: bool = True,
    ) -> list[Effect]:
        """The session goes on without ``member``, which gets the reason; who follows it gets a new predecessor.

        ``replaced``: a new process on the same node has joined, so there is nobody to cancel, and the session
        must not be closed before the newcomer has been judged. A lost member is not cancelled: should it be
        heard again, it goes on with what it has. ``settles``: what follows for the session is judged at once.
        """
        node = member.node
        followed = member in self.arrangement
        self.arrangement.remove(member)
        member.standing, member.reason, member.phases.ended = standing, reason, now
        member.is_restored = False
        node.session = ""
        effects: list[Effect] = []
        if standing is Standing.REFUSED:
            member.refusals += 1
        elif standing is not Standing.EJECTED:
            member.attempts += 1
            node.attempts = member.attempts
        effects.append(self._event(standing.value, node.mac, reason))
        if standing is Standing.PARKED or member.attempts >= self._limits.attempts:
            if standing is not Standing.PARKED:
                reason = f"{member.attempts} attempts failed, the last one: {reason}"
            member.standing, member.reason, node.parked = Standing.PARKED, reason, reason
            effects += [
                PolicyChanged(node.mac, RESCUE, reason),
                self._event("parked", node.mac, reason),
            ]
        if member.phases.finish is not None and node.automatic == LOCAL:
            node.automatic = ""
            effects.append(PolicyChanged(node.mac, "", f"not finished: {reason}"))
        effects.append(Persist(node.record()))
        if not replaced and member.standing is not Standing.LOST:
            effects.append(Send(node.mac, Cancel(self.id, reason)))
        if followed and self.state is SessionState.RUNNING:
            effects += self._arrange(f"{node.name} is {standing.value}", now)
        return [*effects, *self._settle(now)] if settles and not replaced else effects

    def _wake(self, member: Member, report: Report, now: float) -> list[Effect]:
        """A member that was lost, or was known from the journal only, is heard: the same process, with what it has.
        Its old epoch is void, so it gets a new place."""
        if self.state not in (SessionState.WAITING, SessionState.RUNNING):
            if self.state is SessionState.FINISHING and member.live:
                member.heard, member.is_restored = now, False
                return []  # it has been told to finish, and is told again when its stream is up
            if self.state is SessionState.PREPARING and member.live:
                member.heard = now  # taken in when the head is back
                return []
            return self._answer_stranger(report, member)
        if member.node.session not in ("", self.id):
            return self._answer_stranger(report, member)
        if report.epoch - self.arrangement.epoch <= MAX_EPOCHS_AHEAD:
            self.arrangement.epoch = max(self.arrangement.epoch, report.epoch)
        member.standing, member.heard, member.report, member.reason = Standing.PREPARING, now, None, ""
        member.address, member.phases, member.moved = None, Phases(planned=now), now
        member.is_restored = False
        member.node.session = self.id
        self._empty_since = None
        effects: list[Effect] = [self._event("back", member.node.mac, "heard again, with what it has")]
        return [*effects, *self._became_ready(member, report, now), *self.reported(report, now)]

    def _refuse_by_selector(self, node: Node, member: Member | None, reason: str, now: float) -> list[Effect]:
        again = member is not None and member.standing is Standing.REFUSED and member.reason == reason
        if member is None:
            member = self.members[node.mac] = Member(node, Standing.REFUSED, now)
        member.standing, member.reason, member.heard, member.disk = Standing.REFUSED, reason, now, None
        member.further = ()
        member.refusals += 1
        member.phases.ended = now
        effects = self._tell(node, f"session {self.title}: {reason}")
        if again:
            return effects
        return [*effects, self._event("refused", node.mac, reason), *self._settle(now)]

    def _answer_stranger(self, report: Report, member: Member | None) -> list[Effect]:
        return messages.answer_stranger(self.plan, self.reason, report, member)

    def _remedy(self, late: Late | None, now: float) -> list[Effect]:
        if late is None:
            return []
        match late.remedy:
            case Remedy.CONFIRM:
                return self._done(late.member, late.reason, now)
            case Remedy.FEED_BY_HEAD:
                if late.accused is not None:
                    late.accused.accused_by.add(late.member.node.mac)
                self.arrangement.set_aside(late.member)
                return self._arrange(f"{late.member.node.name}: {late.reason}; the head feeds it", now)
            case Remedy.MOVE_LAST:
                late.member.is_slow, late.member.slow_since = True, None
                self.arrangement.move_last(late.member)
                return [
                    self._event("slow", late.member.node.mac, f"{late.reason}; it goes on at the end"),
                    *self._arrange(f"{late.member.node.name} holds nobody up any more", now),
                ]
        return self._drop(late.member, late.standing, late.reason, now)

    # --- the course of the session -----------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Applies every deadline. To be called about twice a second."""
        if self.ended or self.state is SessionState.SCHEDULED:
            return []
        effects: list[Effect] = self._release(now)
        if self.state is not SessionState.FINISHING and self.head.is_silent(self._limits, now):
            effects += self.head_ended(f"head: silent for {self._limits.silence:g} s", now)
        for member in list(self.members.values()):
            if self.ended:
                break
            late = find_late(member, self._limits, now) if member.live else None
            if late is None and self.state is SessionState.RUNNING and self.head.listens:
                late = find_stall(member, self.members, self._limits, now)
            effects += self._remedy(late, now)
        if self.state is SessionState.RUNNING:
            effects += self._remedy(find_slow(self.arrangement, self._limits, now), now)
        if not self.ended:
            effects += self._settle(now)
        return effects

    def set_expect(self, expect: int, now: float) -> list[Effect]:
        self.expect = expect
        return self._settle(now)

    def set_start_now(self, now: float) -> list[Effect]:
        self.start_now = True
        return self.open_up(now) if self.state is SessionState.SCHEDULED else self._settle(now)

    def add(self, macs: frozenset[str], now: float) -> list[Effect]:
        """These nodes are wanted too, also those that were taken out before."""
        if self.plan.nodes is not None:
            if self.expect == len(self.plan.nodes):
                self.expect = len(self.plan.nodes | macs)
            self.plan = replace(self.plan, nodes=self.plan.nodes | macs)
        for mac in macs & self.members.keys():
            member = self.members[mac]
            if member.standing is Standing.EJECTED:
                member.standing, member.reason = Standing.ABSENT, "taken in again, it has not joined yet"
        return [self._event("added", mac, "taken into the session") for mac in sorted(macs)] + self._settle(now)

    def eject(self, nodes: Iterable[Node], reason: str, now: float) -> list[Effect]:
        """The session goes on without ``nodes``, which do not come back by themselves."""
        effects: list[Effect] = []
        for node in nodes:
            if self.plan.nodes is not None:
                self.plan = replace(self.plan, nodes=self.plan.nodes - {node.mac})
                self.expect = min(self.expect, len(self.plan.nodes or ()))
            member = self.members.get(node.mac)
            if member is None:
                member = self.members[node.mac] = Member(node, Standing.EJECTED, now)
            if member.live:
                effects += self._drop(member, Standing.EJECTED, reason, now, settles=False)
            else:
                member.standing, member.reason = Standing.EJECTED, reason
                effects.append(self._event("ejected", node.mac, reason))
        return effects + self._settle(now)

    def close(self, now: float) -> list[Effect]:
        """Nobody may join any more: it starts with whoever is ready, and ends as soon as everybody is verified."""
        self.is_closing = self.start_now = True
        return self._settle(now)

    def fail(self, reason: str, now: float) -> list[Effect]:
        """The session is over and nobody in it is called cloned who had not confirmed the end before."""
        return self._end(SessionState.FAILED, reason, now)

    def cancel(self, reason: str, now: float) -> list[Effect]:
        return self._end(SessionState.CANCELLED, reason, now)

    def _settle(self, now: float) -> list[Effect]:
        effects = self._start_if_complete(now)
        effects += self._finish_if_complete(now)
        effects += self._end_if_complete(now)
        return effects + self._end_if_empty(now)

    def _start_if_complete(self, now: float) -> list[Effect]:
        if self.state is not SessionState.WAITING:
            return []
        ready = gathering.starters(self.members.values(), self.expect, start_now=self.start_now)
        if not ready:
            return []
        self._enter(SessionState.RUNNING, now)
        self.arrangement.append(in_order(ready, self.plan.order, self._switch))
        text = f"started with {len(ready)} of {self.expect} nodes" if self.expect else f"started with {len(ready)}"
        return [self._event("started", "", text), *self._arrange("start", now)]

    def _finish_if_complete(self, now: float) -> list[Effect]:
        if self.state is not SessionState.RUNNING:
            return []
        live = [member for member in self.members.values() if member.live]
        if not live or any(member.standing is not Standing.VERIFIED for member in live):
            self._complete_since = None
            return []
        if self._complete_since is None:
            self._complete_since = now
        if not self.is_closing and now - self._complete_since < self.plan.keep_open:
            return []
        self._enter(SessionState.FINISHING, now)
        release.schedule(in_order(live, self.plan.order, self._switch), self.plan.delay, now)
        effects: list[Effect] = [Send(self.head.node, Finish(self.id, "exit")), StopHead(self.id)]
        return [*effects, *self._release(now), self._event("finishing", "", f"{len(live)} nodes verified")]

    def _release(self, now: float) -> list[Effect]:
        """Tells those to finish whose turn it is."""
        if self.state is not SessionState.FINISHING:
            return []
        members = release.due(self.members.values(), now)
        return [effect for member in members for effect in release.let_go(member, self.plan, now)]

    def _end_if_complete(self, now: float) -> list[Effect]:
        if self.state is not SessionState.FINISHING or any(member.live for member in self.members.values()):
            return []
        done = sum(1 for member in self.members.values() if member.standing is Standing.DONE)
        wanted = len({mac for mac in self.members if self.members[mac].counts} | (self.plan.nodes or frozenset()))
        if done == 0:
            return self._end(SessionState.FAILED, "no node confirmed the end", now)
        state = SessionState.DONE if done == wanted else SessionState.PARTLY
        return self._end(state, f"{done} of {wanted} nodes cloned", now)

    def _end_if_empty(self, now: float) -> list[Effect]:
        """Ends a session that nobody is left in, after giving those that may come back the time to do so."""
        if self.state not in (SessionState.WAITING, SessionState.RUNNING):
            return []
        is_running = self.state is SessionState.RUNNING
        members = [member for member in self.members.values() if is_running or member.standing not in OUTSIDE]
        if not members and self.is_closing:
            return self.fail("closed before any node had joined", now)
        if not gathering.is_deserted(members, self.expect, is_begun=is_running or self.start_now):
            self._empty_since = None
            return []
        if self._empty_since is None:
            self._empty_since = now
        if not self.is_closing and gathering.is_hopeful(members) and now - self._empty_since < self._limits.rejoin:
            return []
        return self.fail("no node is left that could be cloned", now)

    def _end(self, state: SessionState, reason: str, now: float) -> list[Effect]:
        if self.ended:
            return []
        self._enter(state, now)
        self.reason = reason
        effects: list[Effect] = [self._event(state.value, "", reason)]
        for member in self.members.values():
            if member.live:
                member.standing, member.reason, member.phases.ended = Standing.CANCELLED, reason, now
                member.node.session = ""
                if member.phases.finish is not None:
                    member.node.automatic = ""
                effects += [Send(member.node.mac, Cancel(self.id, reason)), Persist(member.node.record())]
        return [*effects, StopHead(self.id)]

    # --- small parts -------------------------------------------------------------------------------------

    def _arrange(self, why: str, now: float) -> list[Effect]:
        if self.head.address is None or not len(self.arrangement):
            return []
        new = [member for member in self.arrangement if member.phases.arranged is None]
        places = self.arrangement.arrange(self.id, self.head.node, self.head.address, now, self.phase)
        effects: list[Effect] = []
        for member in new:
            effects += content_records(self.plan, self.image, member, "writing")
        effects += [Send(node, place) for node, place in places]
        return [self._event("arranged", "", f"epoch {self.arrangement.epoch}: {why}"), *effects]

    def _open_next_phase(self, now: float) -> list[Effect]:
        """A barrier: a phase opens when everybody has the one before."""
        if self.state is not SessionState.RUNNING or self.image is None or self.phase + 1 >= self.image.phases:
            return []
        live = [member for member in self.members.values() if member.live]
        if not live or any(member.counter("phases") <= self.phase for member in live):
            return []
        self.phase += 1
        return self._arrange(f"phase {self.phase + 1} of {self.image.phases} opens", now)

    def _tell(self, node: Node, reason: str) -> list[Effect]:
        node.told = reason
        return [Send(node.mac, Wait(reason))]

    def _enter(self, state: SessionState, now: float) -> None:
        self.state = follow(self.state, state)
        self.times[state] = now

    def _event(self, kind: str, node: str, text: str) -> Event:
        return Event(kind, node, self.id, text)


def _noted(text: str, note: str) -> str:
    """What a node remarks on its end, such as a boot entry that could not be set, is for the operator to see."""
    return f"{text} ({note})" if note else text


def _progress(report: Report) -> tuple[int, ...]:
    return report.written, report.durable, report.verified, report.digested
