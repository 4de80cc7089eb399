"""The coordinator: routes what nodes, heads and operators say to sessions, and answers with effects. Sans-IO.

Every method that changes something takes ``now`` (monotonic seconds) and returns the effects to carry out, in
order. Operators' mistakes raise `OperatorError`; a peer's nonsense raises `PeerProtocolError` before anything
changes. Methods without ``now`` only read.

What a refused node does: it stays in stage2 and shows the reason; its boot policy is not touched, for nothing was
written. It is judged again when it joins with other disks. An open session keeps pulling it into stage2 (which
waits, it never reboots by itself), at most ``Limits.attempts`` times; a session that has ended does not.

Longer than 600 lines because all orders and messages change one state: nodes, sessions and locks decide together.
"""

import hmac
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from bootd.errors import Exit, OperatorError
from bootd.session import aftermath, captures, hosts, nodes, policy, restart
from bootd.session.admission import Admission, Unknown
from bootd.session.captures import Captures
from bootd.session.effects import (
    AuditRecord,
    DefaultLabel,
    Effect,
    Event,
    ForgottenNode,
    LockRecord,
    MemberRecord,
    NodeRecord,
    Outcome,
    Persist,
    PolicyChanged,
    RemovedLock,
    Send,
    SessionRecord,
)
from bootd.session.groups import ConfiguredGroup
from bootd.session.kiosk import Kiosks
from bootd.session.locks import MAX_SECONDS, Held, Locks, checked_lock
from bootd.session.member import Image
from bootd.session.nodes import Node, Registry
from bootd.session.plan import Limits
from bootd.session.request import SessionRequest, checked
from bootd.session.session import Session
from bootd.session.states import OPEN, RESUMABLE, SessionState, Standing
from bootd.wire.control import Cancel, Disk, Finish, Join, Lock, MemberState, Message, Report, Wait
from bootd.wire.locks import describe, holding

MAX_ENDED_SESSIONS = 50  # kept in memory for `state`; the journal keeps all
HEAD = "head-"


class Coordinator:
    """Nodes, sessions, boot policy. ``draw(n)`` gives n random bytes in hex, as `secrets.token_hex` does.

    ``names`` and ``node_labels`` are by MAC, from the configuration; ``head_host`` is the address that nodes dial.
    """

    def __init__(
        self,
        *,
        labels: Collection[str],
        default_label: str,
        names: Mapping[str, str],
        node_labels: Mapping[str, str],
        head_host: str,
        draw: Callable[[int], str],
        limits: Limits | None = None,
        switches: Mapping[str, str] | None = None,
        groups: Sequence[ConfiguredGroup] = (),
        numbers: Mapping[str, int] | None = None,
        addresses: Mapping[str, str] | None = None,
        prefix: str = "",
        unknown: Unknown = Unknown.ACCEPT,
    ) -> None:
        self.limits = limits or Limits()
        self.default_label = default_label
        self.nodes = Registry(names, draw, groups=groups, numbers=numbers, addresses=addresses, prefix=prefix)
        self.locks = Locks()
        self.kiosks = Kiosks()
        self.captures = Captures(self.nodes, self.limits.silence)
        self.admission = Admission(self.nodes, self.locks, unknown)
        self.sessions: dict[str, Session] = {}
        self.past: dict[str, SessionRecord] = {}  # sessions of an earlier run of the daemon
        self._settled: set[str] = set()  # sessions whose end has changed the boot policy already
        self._label_table = labels  # it may grow: `bootd stage import`
        self._node_labels = {mac.lower(): label for mac, label in node_labels.items()}
        self._switches = {mac.lower(): switch for mac, switch in (switches or {}).items()}
        self._head_host = head_host
        self._draw = draw
        for mac in [*self._node_labels, *(mac.lower() for mac in names)]:
            self.nodes.add(mac)

    @property
    def labels(self) -> frozenset[str]:
        """All that may be booted."""
        return frozenset(self._label_table) | {policy.LOCAL}

    # --- boot --------------------------------------------------------------------------------------------

    def boot_choice(self, mac: str, now: float) -> tuple[policy.BootChoice, list[Effect]]:
        """What the node with ``mac`` boots now; to be asked whenever a boot configuration is rendered for it.

        A new MAC becomes a node with a token of its own. Using a one-shot label starts the time in which the
        same boot may ask for it again.
        """
        if not self.admission.may_boot(mac, now):
            return policy.BootChoice(mac, policy.LOCAL, "not known here: bootd node approve", ""), []
        known, effects = self._admit(mac)
        if known is None:
            return policy.BootChoice(mac, policy.LOCAL, "not a MAC, or too many nodes", ""), []
        known.seen = now
        if known.once and known.once_until and now > known.once_until:
            effects += self._use_up(known, "one-shot label used")
        choice = self.choice(known.mac)
        if known.once and choice.label == known.once and not known.once_until:
            known.once_until = now + self.limits.once
        return policy.BootChoice(known.mac, choice.label, choice.why, known.token), effects

    def choice(self, mac: str) -> policy.Choice:
        """The label that ``mac`` would boot next, and why."""
        node = self.nodes.get(mac)
        if node is None:
            return policy.choose_label(
                label=self._node_labels.get(mac, ""),
                default=self.default_label,
                known=self.labels,
                group=self.admission.group_label(mac),
            )
        session = next(iter(self._wanting(node, boot=True)), None)
        wanted = (session.plan.label, session.title) if session else None
        if wanted is None and (task := self.captures.wanting(mac)) is not None:
            wanted = (captures.LABEL, f"for the backup {task.request.image}")
        configured = self._node_labels.get(mac, "")
        if node.automatic and configured != policy.LOCAL:
            configured = ""  # the configuration brought it here to be cloned; ``local`` in it protects for good
        return policy.choose_label(
            parked=node.parked,
            once=node.once,
            label=node.label or configured,
            session=wanted,
            kiosk=self.kiosks.label(mac),
            automatic=node.automatic,
            default=self.default_label,
            known=self.labels,
            group=self.admission.group_label(mac),
        )

    def check_token(self, node: str, token: str) -> bool:
        """Whether ``token`` is that of ``node`` (a MAC, or ``head-SESSION`` while its session is open)."""
        expected = ""
        if node.startswith(HEAD):
            session = self.sessions.get(node.removeprefix(HEAD))
            expected = session.plan.head_token if session else ""
        elif (known := self.nodes.get(node)) is not None:
            expected = known.token
        return bool(expected) and hmac.compare_digest(expected.encode(), token.encode())

    # --- nodes and heads ---------------------------------------------------------------------------------

    def join(self, message: Join, now: float) -> list[Effect]:
        """A node in stage2 asks for work. `PeerProtocolError` for a MAC or an address that is none."""
        nodes.checked_join(message)
        node, effects = self._admit(message.node)
        if node is None:
            return [Event("ignored", message.node, "", "too many nodes")]
        node.join, node.seen, node.heard, node.told = message, now, now, ""
        if node.once:
            effects += self._use_up(node, "one-shot label used")
        effects += self.admission.recognise(node, message)
        effects += [
            Persist(node.record()),
            Event("joined", node.mac, "", f"{message.address}, {message.firmware}, {len(message.disks)} disks"),
        ]
        if self.admission.is_known(node):
            effects += self.captures.joined(node, now)
        return self._close(effects + self._place(node, now, joined=True))

    def report(self, message: Report, now: float) -> list[Effect]:
        """A node's or a head's state: progress and heartbeat."""
        if message.node.startswith(HEAD):
            session = self.sessions.get(message.node.removeprefix(HEAD))
            if session is None:
                return [Send(message.node, Finish(message.session, "exit"))]
            before = session.state
            effects = session.head_reported(message, now)
            return self._close(effects, session if session.state is not before else None)
        node = self.nodes.get(message.node)
        if node is None:
            return [Event("ignored", message.node, message.session, "report of a node that is not known")]
        node.seen = node.heard = now
        if message.session:
            return self._close(self._session_report(node, message, now))
        if message.state in (MemberState.PARKED, MemberState.FAILED):
            return self._gave_up(node, message)
        return self._close(self._place(node, now, joined=False))

    def planned_disks(self, mac: str, session: str) -> tuple[Disk, ...]:
        """The disks that the open session's plan for this node names; () when it has no such plan."""
        known = self.sessions.get(session)
        member = known.members.get(mac) if known is not None and not known.ended else None
        return member.disks if member is not None and member.live else ()

    def table_saved(self, mac: str, session: str, name: str, place: int = 0) -> list[Effect]:
        """The old table of the disk ``name``, which ``mac`` was told to write, is on the server's disk. ``place``:
        of that disk in `planned_disks`."""
        known = self.sessions.get(session)
        return self._close(known.table_saved(mac, name, place)) if known is not None else []

    def manifest(self, session: str, image: Image, now: float) -> list[Effect]:
        """The head of ``session`` has put its manifest: every node that waits for it gets its plan."""
        known = self.sessions.get(session)
        if known is None:
            return []
        effects = known.manifest(image, now)
        return self._close(effects + self._gather(known, now))

    def head_ended(self, session: str, reason: str, now: float) -> list[Effect]:
        """The process of a head has ended; ``reason`` is one sentence. Harmless after the session's end."""
        known = self.sessions.get(session)
        return self._close(known.head_ended(reason, now)) if known else []

    def commands_for(self, node: str) -> list[Message]:
        """Everything in force for ``node`` (a MAC or ``head-SESSION``): to be sent when it connects."""
        if node.startswith(HEAD):
            session = self.sessions.get(node.removeprefix(HEAD))
            return session.commands_for(node) if session else [Finish(node.removeprefix(HEAD), "exit")]
        known = self.nodes.get(node)
        if known is None:
            return [Wait("this node is not known here")]
        if known.session in self.sessions:
            return self.sessions[known.session].commands_for(node)
        if orders := self.captures.commands_for(known):
            return orders
        for session in reversed(self.sessions.values()):
            member = session.members.get(node)
            if member is not None and member.standing in RESUMABLE | {Standing.CANCELLED, Standing.DONE}:
                messages = session.commands_for(node)
                if messages:
                    return messages
        return [Wait(known.told)] if known.told else []

    def tick(self, now: float) -> list[Effect]:
        """Applies every deadline; to be called about twice a second."""
        effects: list[Effect] = []
        for session in list(self.sessions.values()):
            effects += session.tick(now)
        effects += self.captures.tick(now)
        for mac, held in self.locks.expired(now):
            effects += self._unlock(mac, held, AuditRecord("bootd", "lock-expired", held.told(mac)), now)
        return self._close(effects)

    # --- operators: sessions -----------------------------------------------------------------------------

    def create(self, request: SessionRequest, who: str, now: float) -> tuple[str, list[Effect]]:
        """A new session; its id, and the effects that start its head. `OperatorError` when it makes no sense."""
        self.check_label(request.label)
        plan, expect = checked(request, self.nodes, self.sessions.values(), self._new_id(), self._draw, who=who)
        session = Session(
            plan,
            expect=expect,
            start_now=request.start_now,
            head_host=self._head_host,
            limits=self.limits,
            now=now,
            switch=self.switch_of,
            locks=self.admission.locks_for,
        )
        self.sessions[session.id] = session
        places = "".join(f" partition {part.number}" for part in plan.parts)
        where = f"{plan.disks}{places}"
        detail = f"{session.id} {request.source} to {request.nodes} on {where}, then {plan.after}"
        effects: list[Effect] = [
            *self.admission.approve(sorted(plan.nodes or ())),
            Persist(restart.record(session, self.nodes.name)),
            Persist(AuditRecord(who, "deploy", detail)),
            Event("created", "", session.id, detail),
            *([] if plan.start_at else session.start_head(now)),
        ]
        return session.id, effects + self._gather(session, now)

    def set_expect(self, session: str, expect: int, who: str, now: float) -> list[Effect]:
        known = self._waiting(session)
        if expect < 1:
            raise OperatorError(f"cannot expect {expect} nodes", "say a number from 1", Exit.USAGE)
        if known.plan.nodes is not None and expect > len(known.plan.nodes):
            text = f"cannot expect {expect} of {len(known.plan.nodes)} nodes"
            raise OperatorError(text, f"say at most {len(known.plan.nodes)}", Exit.USAGE)
        audit: list[Effect] = [Persist(AuditRecord(who, "expect", f"{known.id} {expect}"))]
        return self._close(audit + known.set_expect(expect, now), known)

    def start_now(self, session: str, who: str, now: float) -> list[Effect]:
        """Starts as soon as at least one node is ready and none is being prepared."""
        known = self._waiting(session)
        audit: list[Effect] = [Persist(AuditRecord(who, "start-now", known.id))]
        return self.conclude(audit + known.set_start_now(now), known, now)

    def cancel(self, session: str, reason: str, who: str, now: float) -> list[Effect]:
        known = self.find_session(session)
        if known.state not in OPEN | {SessionState.SCHEDULED}:
            raise OperatorError(
                f"session {known.title} is {known.state.value}", "only an open session can be cancelled"
            )
        audit: list[Effect] = [Persist(AuditRecord(who, "cancel", f"{known.id} {reason}"))]
        return self._close(audit + known.cancel(reason or f"cancelled by {who}", now))

    def close(self, session: str, who: str, now: float) -> list[Effect]:
        """Nobody may join any more: the session ends as soon as everybody in it is verified."""
        known = self.find_session(session)
        if not known.open:
            raise OperatorError(
                f"session {known.title} is {known.state.value}", "only an open session can be closed"
            )
        audit: list[Effect] = [Persist(AuditRecord(who, "close", known.id))]
        return self._close(audit + known.close(now), known)

    def conclude(self, effects: list[Effect], session: Session, now: float) -> list[Effect]:
        """``effects`` of an order to ``session``, with what follows from it: nodes that it wants now are asked."""
        return self._close(effects + self._gather(session, now), session)

    def find_session(self, text: str) -> Session:
        """The session with this id or name (the latest of that name); `OperatorError` when there is none."""
        for session in reversed(self.sessions.values()):
            if text and text in (session.id, session.plan.name):
                return session
        raise OperatorError(f"no session {text!r}", "see bootd state", Exit.USAGE)

    def outcome(self, session: str) -> Outcome | None:
        """How the session ended; None while it goes on. `OperatorError` when there is none."""
        record = self.past.get(session) or next(
            (past for past in reversed(self.past.values()) if past.name == session and session), None
        )
        try:
            known = self.find_session(session)
        except OperatorError:
            if record is None:
                raise
            return restart.outcome(record)
        return known.outcome(self.nodes.name) if known.ended else None

    def order_capture(self, request: captures.CaptureRequest, who: str, now: float) -> tuple[str, list[Effect]]:
        """A new task for a node's disk; its id, and what is to be done. `OperatorError`."""
        if not request.running:
            self.check_label(captures.LABEL)
        id_ = self._new_id()
        return id_, self._close(self.captures.order(request, id_, who, now))

    # --- operators: nodes and labels ---------------------------------------------------------------------

    def set_default_label(self, label: str, who: str) -> list[Effect]:
        self.check_label(label)
        self.default_label = label
        return [
            Persist(DefaultLabel(label)),
            Persist(AuditRecord(who, "set-default", label)),
            PolicyChanged("", label, f"set by {who}"),
        ]

    def set_label(self, node: str, label: str, once: bool, who: str) -> list[Effect]:
        """Sets the label of the next boot (``once``) or of every boot of a node, given by name or MAC."""
        self.check_label(label)
        known = self.nodes.add(self.nodes.find(node))
        if once:
            known.once, known.once_until = label, 0.0
        else:
            known.label = label
        detail = f"{known.mac} {label}{' once' if once else ''}"
        return self._policy_set(known, label, AuditRecord(who, "set-label", detail))

    def clear_label(self, node: str, who: str) -> list[Effect]:
        """Back to what the configuration, a session or the default says."""
        known = self.nodes.add(self.nodes.find(node))
        known.label = known.once = known.automatic = ""
        known.once_until = 0.0
        return self._policy_set(known, "", AuditRecord(who, "clear-label", known.mac))

    def name_node(self, mac: str, name: str, who: str) -> list[Effect]:
        known = self.nodes.rename(self.nodes.find(mac), name)
        return [Persist(known.record()), Persist(AuditRecord(who, "name", f"{known.mac} {name}"))]

    def unpark(self, node: str, who: str, now: float) -> list[Effect]:
        """The node may be tried again, with all its attempts."""
        known = self.nodes.add(self.nodes.find(node))
        if not known.parked:
            raise OperatorError(f"{known.name} is not parked", "see bootd node list")
        known.parked, known.attempts = "", 0
        for session in self.sessions.values():
            member = session.members.get(known.mac)
            if member is not None and member.standing is Standing.PARKED and session.open:
                member.standing, member.attempts = Standing.FAILED, 0
        effects = self._policy_set(known, "", AuditRecord(who, "unpark", known.mac))
        if known.present(now, self.limits.silence):
            effects += self._place(known, now, joined=True)
        return self._close(effects)

    # --- operators: locks --------------------------------------------------------------------------------

    def add_lock(
        self, node: str, lock: Lock, who: str, now: float, *, seconds: float = 0.0, expires: float = 0.0
    ) -> list[Effect]:
        """From now on no session plans the disk that ``lock`` holds. It ends after ``seconds``, 0 = never.

        ``expires`` is the same in seconds since the epoch, for people. `OperatorError` when the lock says nothing
        that could be held, and (BUSY) when a session is at that disk already: a lock stops no writing.
        """
        if not 0 <= seconds <= MAX_SECONDS:
            raise OperatorError(
                f"a lock of {seconds:g} s", "say at most ten years, or nothing: for good", Exit.USAGE
            )
        known = self.nodes.add(self.nodes.find(node))
        disks = known.join.disks if known.join is not None else ()
        lock = checked_lock(lock, disks)
        for session in self.sessions.values():
            member = session.members.get(known.mac)
            if session.ended or member is None or not (member.live or member.standing is Standing.LOST):
                continue
            for disk in member.disks:
                if holding([lock], disk, disks or member.disks) is not None:
                    text = f"session {session.title} is at {disk.name} of {known.name} now"
                    raise OperatorError(text, f"bootd session cancel {session.title}, then lock it", Exit.BUSY)
        held = Held(lock, now + seconds if seconds else None, expires if seconds else 0.0)
        self.locks.add(known.mac, held)
        detail = f"{held.told(known.mac)}{f', for {seconds:g} s' if seconds else ''}"
        return [
            Persist(held.record(known.mac)),
            Persist(AuditRecord(who, "lock", detail)),
            Event("locked", known.mac, "", f"{describe(lock)} by {lock.owner}: {lock.reason}"),
        ]

    def remove_lock(self, node: str, place: str, who: str, now: float) -> list[Effect]:
        """``place`` as `locks.place` tells it; `OperatorError` when nothing is locked there."""
        mac = self.nodes.find(node)
        held = next((held for held in self.locks.of(mac) if held.place == place), None)
        if held is None:
            raise OperatorError(
                f"{self.nodes.name(mac)} has no lock {place}", f"see bootd lock list {node}", Exit.USAGE
            )
        return self._close(self._unlock(mac, held, AuditRecord(who, "unlock", held.told(mac)), now))

    def restore_locks(self, records: Iterable[LockRecord], now: float, wall: float) -> None:
        """What the journal kept. ``wall``: seconds since the epoch at ``now``; a lock that has run out meanwhile
        goes at the next tick."""
        for record in records:
            until = now + record.expires - wall if record.expires else None
            self.nodes.add(record.mac)  # nobody must overlook a lock because its machine was never seen
            self.locks.add(record.mac, Held(record.lock, until, record.expires))

    def judge_again(self, node: Node, now: float) -> list[Effect]:
        """An operator has changed what a node may do: if it is up and free, it hears so now."""
        effects: list[Effect] = []
        if not node.session and node.present(now, self.limits.silence):
            node.told = ""
            effects = self._place(node, now, joined=True)
        return self._close(effects)

    def _unlock(self, mac: str, held: Held, audit: AuditRecord, now: float) -> list[Effect]:
        """A node that waits because of the lock is judged again."""
        self.locks.remove(mac, held.place)
        text = f"{describe(held.lock)}: {audit.what} by {audit.who}"
        effects: list[Effect] = [
            Persist(RemovedLock(mac, held.place)),
            Persist(audit),
            Event("unlocked", mac, "", text),
        ]
        node = self.nodes.get(mac)
        if node is not None and not node.session and node.present(now, self.limits.silence):
            effects += self._place(node, now, joined=True)
        return effects

    def park(self, mac: str, reason: str) -> list[Effect]:
        """The daemon itself sees that trying again leads nowhere. Nothing for a node that is parked already."""
        known = self.nodes.get(mac)
        return [] if known is None or known.parked else self._park(known, reason)

    # --- restart -----------------------------------------------------------------------------------------

    def restore(
        self,
        records: Iterable[NodeRecord],
        default_label: str,
        sessions: Iterable[SessionRecord],
        members: Iterable[MemberRecord] = (),
        now: float = 0.0,
    ) -> list[Effect]:
        """Takes over what the journal kept. ``default_label`` "" = none kept. Open sessions go on (`restart`)."""
        for node_record in records:
            self.nodes.restore(node_record)
        if default_label:
            self.default_label = default_label
        going, past, effects = restart.take_over(
            sessions,
            list(members),
            self.nodes,
            head_host=self._head_host,
            limits=self.limits,
            now=now,
            switch=self.switch_of,
            locks=self.admission.locks_for,
        )
        self.sessions.update(going)
        self.past.update(past)
        while len(self.past) > MAX_ENDED_SESSIONS:
            del self.past[next(iter(self.past))]
        return effects

    # --- inside ------------------------------------------------------------------------------------------

    def _admit(self, mac: str) -> tuple[Node | None, list[Effect]]:
        """The node with ``mac``, made if need be; None when it is no MAC or there is no room for it."""
        normal = hosts.normal_mac(mac)
        room, idle = self.nodes.room_for(normal)
        if not normal or not room:
            return None, []
        effects: list[Effect] = []
        if idle is not None:
            self.nodes.forget(idle.mac)
            effects.append(Persist(ForgottenNode(idle.mac)))
        new = self.nodes.get(normal) is None
        node = self.nodes.add(normal)
        if new or node.seen is None:
            effects.append(Persist(node.record()))
        return node, effects

    def _place(self, node: Node, now: float, joined: bool) -> list[Effect]:
        """Gives a node in stage2 to the one session that wants it, or tells it why it waits.

        ``joined``: it asks for work; else it is only alive, and a session that knows it already is not asked
        again, so that a failure is followed by a new attempt only when the node itself begins one.
        """
        if node.join is None:
            return []
        if node.session and not joined:
            return []
        if not self.admission.is_known(node):
            return self._wait(node, f"not approved here; to let it take part: bootd node approve {node.name}")
        if node.parked:
            return self._wait(node, f"parked: {node.parked}; to try again: bootd node unpark {node.name}")
        task = self.captures.wanting(node.mac)
        if task is not None and not node.session:
            return self._wait(node, f"backup {task.request.image} of this node is at work")
        wanting = self._wanting(node, boot=False)
        if node.session in self.sessions:
            wanting = [self.sessions[node.session]]
        if not wanting:
            named = f"named {node.join.session} is open" if node.join.session else "wants this node"
            if not joined and any(node.mac in session.members for session in self.sessions.values()):
                return []
            for_any = any(session.open and session.plan.nodes is None for session in self.sessions.values())
            why = self.admission.veto(node.mac, is_any=True) if for_any else ""
            return self._wait(node, f"no session {named}{': ' if why else ''}{why}")
        if len(wanting) > 1:
            titles = ", ".join(session.title for session in wanting)
            return self._wait(node, f"{len(wanting)} sessions want this node: {titles}; choose with kaopt=")
        session = wanting[0]
        if not joined and node.mac in session.members:
            return []
        if session.image is None and node.told and not joined:
            return []
        return session.offer(node, now)

    def _wanting(self, node: Node, boot: bool) -> list[Session]:
        """The sessions that want the node: those it names by kaopt=, else those that name it, else ``any``.

        ``any`` means nobody who is not approved, and nobody in a group that boots ``local``.
        """
        if not self.admission.is_known(node):
            return []
        wants = [s for s in self.sessions.values() if (s.wants_boot(node) if boot else s.wants(node))]
        chosen = node.join.session if node.join is not None and not boot else ""
        if chosen:
            return [session for session in wants if chosen in (session.id, session.plan.name)]
        named = [session for session in wants if session.plan.nodes is not None]
        return named or ([] if self.admission.group_protects(node.mac) else wants)

    def _gather(self, session: Session, now: float) -> list[Effect]:
        """Offers the session to every node that is up and free."""
        effects: list[Effect] = []
        for node in self.nodes:
            if not session.open:
                break
            if (
                node.present(now, self.limits.silence)
                and not node.session
                and session in self._wanting(node, False)
            ):
                node.told = ""
                effects += self._place(node, now, joined=False)
        return effects

    def _session_report(self, node: Node, message: Report, now: float) -> list[Effect]:
        session = self.sessions.get(message.session)
        if session is not None and not session.ended:
            return session.reported(message, now)
        if message.state in (
            MemberState.REFUSED,
            MemberState.FAILED,
        ):  # idle in stage2: another session may want it
            return self._place(node, now, joined=False)
        if session is not None:
            return session.reported(message, now)
        if message.state in (MemberState.FINISHING, MemberState.REBOOTING, MemberState.PARKED):
            return []
        past = self.past.get(message.session)
        reason = past.reason if past else "no such session here"
        return [Send(node.mac, Cancel(message.session, reason))]

    def _gave_up(self, node: Node, message: Report) -> list[Effect]:
        """A node without a session says that it has failed or will try no more."""
        reason = message.reason or message.state.value
        if message.state is not MemberState.PARKED or node.parked == reason:
            return []
        return self._park(node, reason)

    def _park(self, node: Node, reason: str) -> list[Effect]:
        node.parked = reason
        return [
            PolicyChanged(node.mac, policy.RESCUE, reason),
            Persist(node.record()),
            Event("parked", node.mac, "", reason),
        ]

    def _wait(self, node: Node, reason: str) -> list[Effect]:
        if node.told == reason:
            return []
        node.told = reason
        return [Send(node.mac, Wait(reason))]

    def _use_up(self, node: Node, why: str) -> list[Effect]:
        node.once, node.once_until = "", 0.0
        return [Persist(node.record()), PolicyChanged(node.mac, node.label, why)]

    def _close(self, effects: list[Effect], changed: Session | None = None) -> list[Effect]:
        """Adds what follows from sessions that changed state or ended, and forgets the oldest ended ones.

        All records come first, so that they are written in one piece: whatever a daemon that is killed has told
        anybody, the next one knows.
        """
        moved = {effect.session for effect in effects if isinstance(effect, Event) and effect.session}
        if changed is not None:
            moved.add(changed.id)
        for session in [self.sessions[id_] for id_ in sorted(moved) if id_ in self.sessions]:
            if session.ended and session.id not in self._settled:
                self._settled.add(session.id)
                self.default_label, after = aftermath.policy_after(session, self.default_label)
                effects += after
            effects.append(Persist(restart.record(session, self.nodes.name)))
        effects += aftermath.members_noted(effects, self.sessions) + self._kiosks_noted(effects)
        ended = [session.id for session in self.sessions.values() if session.ended]
        for id_ in ended[: max(0, len(ended) - MAX_ENDED_SESSIONS)]:
            del self.sessions[id_]
            self._settled.discard(id_)
        return sorted(effects, key=lambda effect: not isinstance(effect, Persist))

    def _kiosks_noted(self, effects: list[Effect]) -> list[Effect]:
        """A machine with a kiosk policy boots its own disk once after it was cloned, then it is reset again."""
        noted: list[Effect] = []
        for mac in {effect.node for effect in effects if isinstance(effect, Event) and effect.kind == "done"}:
            node = self.nodes.get(mac)
            if node is None or self.kiosks.get(mac) is None:
                continue
            node.once, node.once_until = policy.LOCAL, 0.0
            record = self.kiosks.succeeded(mac)
            noted += [Persist(node.record()), *([Persist(record)] if record is not None else [])]
        return noted

    def switch_of(self, mac: str) -> str:
        """Where a node is plugged in: by the configuration, else by an operator; "" = not known."""
        node = self.nodes.get(mac)
        return self._switches.get(mac, "") or (node.switch if node is not None else "")

    def is_switch_configured(self, mac: str) -> bool:
        return mac in self._switches

    def _new_id(self) -> str:
        for _ in range(16):
            id_ = self._draw(4)
            if id_ not in self.sessions and id_ not in self.past and id_ not in self.captures.tasks:
                return id_
        raise OperatorError("no free session id was drawn in 16 tries", "try again")

    def _waiting(self, text: str) -> Session:
        session = self.find_session(text)
        if session.state not in (SessionState.SCHEDULED, SessionState.PREPARING, SessionState.WAITING):
            raise OperatorError(
                f"session {session.title} is {session.state.value}", "this can be changed only while it waits"
            )
        return session

    def _policy_set(self, node: Node, label: str, audit: AuditRecord) -> list[Effect]:
        return [
            Persist(node.record()),
            Persist(audit),
            PolicyChanged(node.mac, label, f"{audit.what} by {audit.who}"),
        ]

    def check_label(self, label: str) -> None:
        """`OperatorError` when there is no such label."""
        if label not in self.labels:
            known = ", ".join(sorted(self.labels))
            raise OperatorError(f"label {label!r} is not defined", f"known labels: {known}", Exit.USAGE)
