"""Seeded chaos on 1 to 20 virtual nodes: no wrong disk, no false "ok", and always an end with reasons."""

import contextlib
import functools
import json
import random
from dataclasses import dataclass, field, replace

import pytest

from bootd.errors import OperatorError
from bootd.session import orders
from bootd.session.effects import (
    DefaultLabel,
    Event,
    MemberRecord,
    NodeRecord,
    Persist,
    Send,
    SessionRecord,
    StartHead,
    StopHead,
)
from bootd.session.member import Image
from bootd.session.plan import Limits
from bootd.session.request import SessionRequest
from bootd.session.selector import choose, parse
from bootd.session.view import view
from bootd.wire.control import (
    Arrange,
    Cancel,
    Disk,
    Finish,
    Join,
    MemberState,
    Message,
    Prepare,
    Report,
    decode,
    encode,
)
from tests.unit.session_room import ROOT, SIZE, Room, disk, mac

STEP = SIZE // 8
SELECTORS = ("only", "serial=S1", "name=vda", "size>=50M", "wwn=0xA")


def inventory(chance: random.Random) -> tuple[Disk, ...]:
    """Mostly one good disk; sometimes none, two alike, a small one, or excluded ones."""
    pool = [
        disk("vda", wwn="0xA"),
        disk("vdb", serial="S2"),
        disk("vdc", serial="S1"),
        disk("sda", serial="U1", excluded="usb"),
        disk("sdb", serial="S1", excluded="usb", wwn="0xA"),
        disk("sdc", serial="M1", excluded="mounted", wwn="0xA"),
        disk("sdd", serial="T1", size=SIZE - 512),
    ]
    if chance.random() < 0.6:
        return (pool[0], *(chance.sample(pool[3:4], chance.randint(0, 1))))
    return tuple(chance.sample(pool, chance.randint(0, 3)))


@dataclass
class Agent:
    """A node as it behaves on the wire; it obeys, dies, wakes, lies and starts again."""

    number: int
    disks: tuple[Disk, ...]
    phases: int = 1  # of the image
    is_slow: bool = False
    alive: bool = False
    phase: int = 0  # the highest that may be received
    plan: Prepare | None = None
    state: MemberState = MemberState.WAITING
    is_saved: bool = False  # the server has said that it keeps the old table
    epoch: int = 0
    durable: int = 0
    verified: int = 0
    told_verified: set[str] = field(default_factory=set)  # sessions in which it reported every byte verified
    epochs: dict[str, int] = field(default_factory=dict)

    def hear(self, message: Message) -> None:
        match message:
            case Prepare():
                if self.plan != message:
                    self.plan, self.state = message, MemberState.READY
                    self.durable = self.verified = self.epoch = self.phase = 0
                    self.is_saved = False
            case Arrange():
                if self.plan and self.plan.plan.session == message.session and message.epoch > self.epoch:
                    self.epoch, self.phase = message.epoch, message.phase
                    if self.state is MemberState.READY:
                        self.state = MemberState.RECEIVING
            case Cancel():
                if self.plan and self.plan.plan.session == message.session:
                    self.plan, self.state = None, MemberState.WAITING
            case Finish():
                if self.plan and self.plan.plan.session == message.session:
                    self.state = MemberState.FINISHING

    def work(self, chance: random.Random) -> None:
        if self.state is MemberState.RECEIVING and chance.random() < (0.3 if self.is_slow else 0.9):
            self.durable = min(SIZE * (self.phase + 1) // self.phases, self.durable + STEP)
            if self.durable == SIZE:
                self.state = MemberState.VERIFYING
        elif self.state is MemberState.VERIFYING:
            self.verified = min(SIZE, self.verified + 2 * STEP)
            if self.verified == SIZE:
                self.state = MemberState.VERIFIED

    def report(self) -> Report:
        session = self.plan.plan.session if self.plan else ""
        return Report(
            node=mac(self.number),
            session=session,
            state=self.state,
            epoch=self.epoch,
            port=4000,
            total=SIZE,
            written=self.durable,
            durable=self.durable,
            verified=self.verified,
            blocked=900 if self.is_slow and self.state is MemberState.RECEIVING else 0,
            phases=self.durable * self.phases // SIZE,
            reason="trouble" if self.state in (MemberState.FAILED, MemberState.REFUSED) else "",
        )


class Chaos:
    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        count = chance.randint(1, 20)
        self.room = Room(count, Limits(attempts=chance.randint(1, 5), rejoin=30.0))
        self.selector = chance.choice(SELECTORS)
        self.phases = chance.choice((1, 1, 1, 2, 4))
        self.agents = {
            mac(number): Agent(number, inventory(chance), self.phases, is_slow=chance.random() < 0.15)
            for number in range(1, count + 1)
        }
        self.wanted = sorted(chance.sample(range(1, count + 1), chance.randint(1, count)))
        named = chance.random() < 0.7
        nodes = ",".join(f"lab{number}" for number in self.wanted) if named else "any"
        if not named:
            self.wanted = list(range(1, count + 1))
        expect = chance.randint(1, len(self.wanted))
        request = SessionRequest(
            source="/img",
            source_size=SIZE,
            nodes=nodes,
            disk=self.selector,
            expect=expect,
            start_now=chance.random() < 0.3,
            after=chance.choice(["reboot", "stay"]),
            fan_out=chance.choice((1, 1, 2, 3, 4)),
            order=chance.choice(("ip", "given", "switch")),
            compare=chance.random() < 0.2,
            keep_open=chance.choice((0.0, 0.0, 5.0)),
        )
        self.heads = 0  # processes of the head so far
        self.head_since: int | None = None  # second in which the present one was started
        self.now = 0
        self.restarts = 0
        self.is_dying = False  # the daemon, in the middle of what it does next
        self.session, effects = self.room.coordinator.create(request, "root", self.room.now)
        self.room.session = self.session
        self.last = self.room.coordinator.sessions[self.session]  # as the coordinator in charge has it
        self.ended_node: dict[str, bool] = {}
        self.head_epoch = 0
        self.do(effects)

    def do(self, effects: list) -> None:  # type: ignore[type-arg]
        """Delivers effects at once to who is alive, and checks each; a daemon that dies carries out some only."""
        if self.is_dying and effects:
            self.is_dying = False
            written = sum(isinstance(effect, Persist) for effect in effects)
            self.do(effects[: self.chance.choice((0, self.chance.randint(written, len(effects))))])
            self.restart()
            return
        self.room.effects += effects
        for effect in effects:
            if isinstance(effect, Send):
                assert decode(encode(effect.message)) == effect.message
                self.check(effect)
                agent = self.agents.get(effect.node)
                if agent and agent.alive and (self.chance.random() < 0.98 or isinstance(effect.message, Cancel)):
                    agent.hear(effect.message)
            elif isinstance(effect, StartHead):
                self.heads, self.head_since = self.heads + 1, self.now
                assert self.heads <= self.room.limits.head_starts * (1 + self.restarts)
            elif isinstance(effect, StopHead):
                self.head_since = None
            elif isinstance(effect, Event):
                assert effect.text
                if effect.kind in ("verified", "done") and effect.node:
                    assert effect.session in self.agents[effect.node].told_verified

    def check(self, effect: Send) -> None:
        message = effect.message
        if isinstance(message, Prepare):
            agent = self.agents[effect.node]
            assert agent.number in self.wanted
            assert message.plan.node == effect.node
            assert message.plan.disk in agent.disks
            assert message.plan.disk == choose(agent.disks, parse(self.selector), SIZE)
            assert "mounted" not in message.plan.disk.excluded
            assert not message.plan.disk.excluded or self.selector.startswith(("serial=", "wwn="))
            assert message.plan.disk.size >= SIZE
            assert (message.plan.image_root, message.plan.image_size) == (ROOT, SIZE)
        if isinstance(message, Arrange):
            if effect.node.startswith("head-"):
                assert message.epoch > self.head_epoch
                assert message.epoch == self.head_epoch + 1 or self.restarts
                assert message.predecessor is None
                self.head_epoch = message.epoch
            else:
                assert message.predecessor is not None
                assert message.predecessor_node != effect.node
                assert message.epoch == self.head_epoch >= self.agents[effect.node].epochs.get(message.session, 0)
                self.agents[effect.node].epochs[message.session] = message.epoch
        if isinstance(message, Finish) and not effect.node.startswith("head-"):
            assert message.session in self.agents[effect.node].told_verified

    def join(self, agent: Agent) -> None:
        agent.alive, agent.plan, agent.state = True, None, MemberState.WAITING
        agent.durable = agent.verified = agent.epoch = agent.phase = 0
        if self.chance.random() < 0.1:
            agent.disks = inventory(self.chance)
        message = Join(
            node=mac(agent.number),
            uuid="",
            arch="x86_64",
            firmware="bios",
            address=f"10.0.0.{agent.number}",
            session="",
            method="ka",
            memory=1,
            disks=agent.disks,
        )
        restarts = -1
        while restarts != self.restarts:  # a daemon that died over it has not answered: it is asked again
            restarts = self.restarts
            self.do(self.room.coordinator.join(message, self.room.now))

    def tell(self, agent: Agent, report: Report) -> None:
        if report.state is MemberState.VERIFIED and report.verified == report.total == SIZE:
            agent.told_verified.add(report.session)
        if agent.plan and not agent.is_saved:
            restarts, session = self.restarts, agent.plan.plan.session
            self.do(self.room.coordinator.table_saved(mac(agent.number), session, "vda"))
            agent.is_saved = restarts == self.restarts  # else the daemon died over it, and nothing was answered
            if not agent.is_saved:
                return
        self.do(self.room.coordinator.report(report, self.room.now))

    def second(self, wild: bool) -> None:
        """One second of the room's life; ``wild``: things go wrong."""
        chance, room = self.chance, self.room
        for agent in self.agents.values():
            if wild and chance.random() < 0.1 and agent.number in (*self.wanted, 1):
                self.join(agent)
            if wild and agent.alive and chance.random() < 0.02:
                agent.alive = False
            if wild and not agent.alive and agent.plan and chance.random() < 0.05:
                agent.alive = True  # frozen, not dead
            if not agent.alive:
                continue
            agent.work(chance)
            if wild and chance.random() < 0.01:
                lie = chance.choice(list(MemberState))
                self.tell(agent, replace(agent.report(), state=lie, port=chance.choice([0, 4000, 70000])))
            self.tell(agent, agent.report())
            if agent.state is MemberState.FINISHING and chance.random() < 0.7:
                self.tell(agent, replace(agent.report(), state=MemberState.REBOOTING))
                agent.alive, agent.plan, agent.state = False, None, MemberState.WAITING
        if wild and chance.random() < 0.01:
            with contextlib.suppress(OperatorError):
                number = chance.randint(1, 20)
                self.do(room.coordinator.set_expect(self.session, number, "root", room.now))
        if wild and chance.random() < 0.02:
            name = f"lab{chance.choice(self.wanted)}"
            order = chance.choice((orders.eject_nodes, orders.eject_nodes, orders.add_nodes))
            with contextlib.suppress(OperatorError):
                self.do(order(room.coordinator, self.session, name, "root", room.now))
        for _ in range(2):
            room.now += 0.5
            self.do(room.coordinator.tick(room.now))
        json.dumps(view(room.coordinator, room.now))
        self.last = room.coordinator.sessions.get(self.session, self.last)

    def restart(self) -> None:
        """The daemon is killed; another one takes over what was persisted."""
        records = [effect.record for effect in self.room.effects if isinstance(effect, Persist)]
        nodes = {record.mac: record for record in records if isinstance(record, NodeRecord)}
        members = {record.mac: record for record in records if isinstance(record, MemberRecord)}
        labels = [record.label for record in records if isinstance(record, DefaultLabel)]
        session = [record for record in records if isinstance(record, SessionRecord)][-1]
        self.restarts += 1
        self.last = self.room.coordinator.sessions.get(self.session, self.last)
        self.head_since = None
        self.room.coordinator = self.room.make("local")
        restore = self.room.coordinator.restore
        label = labels[-1] if labels else "kamethod"
        kept = restore(nodes.values(), label, [session], members.values(), self.room.now)
        self.do(kept)
        for agent in self.agents.values():  # their streams connect again
            if agent.alive:
                for message in self.room.coordinator.commands_for(mac(agent.number)):
                    agent.hear(message)

    def head(self, state: MemberState = MemberState.READY) -> None:
        report = Report(f"head-{self.session}", self.session, state, port=9000, total=SIZE, reason="broke")
        self.do(self.room.coordinator.report(report, self.room.now))

    def head_works(self, second: int, *, fails: bool) -> None:
        """The second of a head that digests for three, then listens."""
        if self.head_since is None:
            return
        age = second - self.head_since
        if fails:
            self.head(MemberState.FAILED)
        elif age < 3:
            self.head(MemberState.PREPARING)
        elif age == 3:
            image = Image(ROOT, SIZE, 1 << 20, self.phases)
            self.do(self.room.coordinator.manifest(self.session, image, self.room.now))
        else:
            self.head()

    def run(self) -> None:
        chance = self.chance
        head_dies = chance.randint(1, 60) if chance.random() < 0.3 else -1
        cancel = chance.randint(2, 60) if chance.random() < 0.15 else 10_000
        head_fails = chance.randint(5, 60) if chance.random() < 0.1 else 10_000
        daemon_dies = chance.randint(1, 60) if chance.random() < 0.4 else -1
        for second in range(600):
            self.now = second
            if second == daemon_dies:
                self.is_dying = True
            if second == head_dies:
                self.head_since = None
                gone = self.room.coordinator.head_ended(self.session, "the head was killed", self.room.now)
                self.do(gone if self.chance.random() < 0.5 else [])
            self.head_works(second, fails=second >= head_fails)
            if second == cancel:
                with contextlib.suppress(OperatorError):
                    self.do(self.room.coordinator.cancel(self.session, "", "root", self.room.now))
            self.second(wild=second < 60)
            if self.room.coordinator.outcome(self.session) is not None:
                return
            if second == 60:  # calm: whoever is missing does not come; a session that waits is started or given up
                for agent in self.agents.values():
                    if agent.number in self.wanted and not agent.alive:
                        self.join(agent)
            if second >= 200 and not second % 50 and self.room.state == "waiting":
                self.do(self.room.coordinator.cancel(self.session, "nobody comes", "root", self.room.now))
        pytest.fail("the session has no end")


@functools.cache
def finished(seed: int) -> Chaos:
    """The chaos of ``seed`` after its end; several tests look at it."""
    chaos = Chaos(seed)
    chaos.run()
    return chaos


@pytest.mark.parametrize("seed", range(60))
def test_chaos(seed: int) -> None:
    chaos = finished(seed)
    outcome = chaos.room.coordinator.outcome(chaos.session)
    assert outcome is not None
    verdicts = {verdict.node: verdict for verdict in outcome.verdicts}
    session = chaos.last
    counted = {node for node, member in session.members.items() if member.counts}
    assert set(verdicts) == counted | (session.plan.nodes or set())
    for verdict in outcome.verdicts:
        assert verdict.reason
        assert verdict.standing not in ("preparing", "ready", "receiving", "verifying", "verified", "finishing")
        if verdict.ok:
            assert chaos.session in chaos.agents[verdict.node].told_verified
            assert chaos.room.coordinator.choice(verdict.node).label in ("local", "rescue")
    cloned = sum(verdict.ok for verdict in outcome.verdicts)
    expected = {"done": cloned == len(verdicts) > 0, "partly": 0 < cloned < len(verdicts)}
    assert expected.get(outcome.state, outcome.state == "cancelled" or cloned == 0)
    assert not any(node.session for node in chaos.room.coordinator.nodes)
    attempts = chaos.room.limits.attempts
    for member in session.members.values():
        assert member.attempts <= attempts
    persisted = [e.record for e in chaos.room.effects if isinstance(e, Persist)]
    last = [record for record in persisted if isinstance(record, SessionRecord)][-1]
    assert (last.state, last.verdicts) == (outcome.state, outcome.verdicts)
    kept = {record.mac: record for record in persisted if isinstance(record, NodeRecord)}
    for node in chaos.room.coordinator.nodes:
        if node.mac in kept:
            assert kept[node.mac] == node.record()


def test_the_seeds_reach_every_end() -> None:
    """The chaos would prove little if it only ever led to one kind of end."""
    ends: set[str] = set()
    standings: set[str] = set()
    kinds: set[str] = set()
    phases: set[int] = set()
    for seed in (*range(60), 107):  # the last one: nodes that stay lost and failed
        chaos = finished(seed)
        outcome = chaos.room.coordinator.outcome(chaos.session)
        assert outcome is not None
        ends.add(outcome.state)
        standings |= {verdict.standing for verdict in outcome.verdicts}
        kinds |= {effect.kind for effect in chaos.room.effects if isinstance(effect, Event)}
        phases |= {
            e.message.phase for e in chaos.room.effects if isinstance(e, Send) and isinstance(e.message, Arrange)
        }
    assert ends == {"done", "partly", "failed", "cancelled"}
    assert {"done", "refused", "failed", "lost", "parked", "absent", "cancelled", "ejected"} <= standings
    assert {"resumed", "head", "slow", "back", "arranged"} <= kinds
    assert phases == {0, 1, 2, 3}
