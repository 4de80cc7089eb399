"""One seeded run: a coordinator, a head and up to 1,000 nodes; trouble; and a judgement of every disk."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bootd.session.coordinator import Coordinator
from bootd.session.effects import (
    DefaultLabel,
    Effect,
    Event,
    MemberRecord,
    NodeRecord,
    Outcome,
    Persist,
    Send,
    SessionRecord,
    StartHead,
    StopHead,
)
from bootd.session.member import Image
from bootd.session.plan import Limits
from bootd.session.request import SessionRequest
from bootd.wire import manifest as manifests
from bootd.wire.control import Cancel, Finish, Message, Report
from bootd.wire.digest import digest
from bootd.wire.frames import Chunk, ChunkHeader
from bootd.wire.manifest import Manifest, Part
from tests.sim import disk, trouble, world
from tests.sim.disk import CHUNK
from tests.sim.driver import Network, SimMember
from tests.sim.node import Act, SimNode
from tests.sim.world import Connection, Host, World

LONGEST = 1500.0  # seconds of virtual time: a run that has no end by then hangs
TICK = 0.5
HEAD_HOST = "10.0.0.1"
RATE = 1e5  # bytes per second of a healthy link: a transfer takes a second or so, as long as the nodes take to come


@dataclass(frozen=True)
class Scenario:
    """What a seed stands for."""

    seed: int
    nodes: int
    chunks: int
    fan_out: int
    order: str
    parts: int
    compare: bool
    head_ends_at: float  # -1: never
    daemon_ends_at: float
    daemon_away: float

    @property
    def text(self) -> str:
        extra = f", {self.parts} parts" if self.parts > 1 else ""
        extra += ", compared first" if self.compare else ""
        if self.head_ends_at >= 0:
            extra += f"; head ends at {self.head_ends_at:.2f}"
        if self.daemon_ends_at >= 0:
            extra += f"; daemon ends at {self.daemon_ends_at:.2f} for {self.daemon_away:.1f}"
        return f"{self.nodes} nodes, {self.chunks} chunks, fan-out {self.fan_out} by {self.order}{extra}"


def is_large(seed: int) -> bool:
    """Whether the seed stands for a hall of hundreds of nodes."""
    return seed % 500 == 499


def scenario(seed: int, most: int = 1000) -> Scenario:
    """Mostly small rooms, where every pair of troubles meets; now and then one of up to ``most`` nodes."""
    chance = random.Random(seed * 7919 + 1)
    if is_large(seed):
        nodes = chance.randint(min(200, most), most)
    elif seed % 25 == 24:
        nodes = chance.randint(20, 60)
    else:
        nodes = chance.randint(1, 9)
    chunks = chance.randint(1, 24) if nodes < 20 else chance.randint(1, 6)
    return Scenario(
        seed=seed,
        nodes=nodes,
        chunks=chunks,
        fan_out=chance.choice((1, 1, 2, 3, 4)),
        order=chance.choice(("ip", "given")),
        parts=chance.choice((1, 1, 1, 2, 3, 4)),
        compare=chance.random() < 0.2,
        head_ends_at=chance.uniform(0.3, 2.5) if chance.random() < 0.1 else -1,
        daemon_ends_at=chance.uniform(0.3, 2.5) if chance.random() < 0.1 else -1,
        daemon_away=chance.uniform(0.1, 6),
    )


class Run:
    """One seed."""

    def __init__(self, plan: Scenario, *, is_loud: bool = False) -> None:
        self.plan = plan
        self.world = World(plan.seed, is_loud=is_loud)
        chance = self.world.random
        self.pieces = [block(number, chance) for number in range(plan.chunks)]
        self.image = self._digest_source(chance)
        self.source = b"".join(piece.ljust(CHUNK, b"\0") for piece in self.pieces)
        self.network = Network(self.world)
        self.network.tamper = self._tamper
        self.head_host = Host(self.world, HEAD_HOST)
        self.network.hosts[HEAD_HOST] = self.head_host
        self.network.rates[HEAD_HOST] = RATE
        self.head: SimMember | None = None
        self.head_ends = 0
        self.limits = Limits(stall=20.0, rejoin=30.0, finish=20.0)
        self.records: dict[tuple[type, str], object] = {}
        self.coordinator = self._new_coordinator()
        self.is_daemon_up = True
        span = 1.0 + plan.chunks * CHUNK / RATE * 1.5
        self.nodes: dict[str, SimNode] = {}
        for number in range(1, plan.nodes + 1):
            own = trouble.draw(chance, plan.chunks, span, 0.5 if plan.nodes < 100 else 0.02)
            host = Host(self.world, f"10.0.{number >> 8}.{number & 255}" if number > 1 else "10.0.128.1")
            self.network.hosts[host.name] = host
            self.network.rates[host.name] = RATE / own.slow_link
            node = SimNode(self, number, host, own)
            if plan.compare:  # of an earlier session: some of it is there
                for index, piece in enumerate(self.pieces):
                    if chance.random() < 0.6:
                        node.disk.content[index * CHUNK : index * CHUNK + len(piece)] = piece
            self.nodes[node.mac] = node
        self.session = ""
        self.outcome: Outcome | None = None

    def go(self) -> list[str]:
        """Everything that is wrong with how it ended; [] for a good end."""
        self._begin()
        self.world.run(LONGEST, self._is_over)
        return self._judge()

    # --- daemon ------------------------------------------------------------------------------------------

    def up(self, act: Act, host: Host, answered: Callable[[bool], None] | None = None) -> None:
        """A request of a node to the daemon; ``answered`` is told whether it was heard."""
        self.world.at(self.world.now + world.LATENCY, self._request, act, host, answered)

    def connect_events(self, node: SimNode) -> None:
        """The node's event stream is (re)opened: everything in force is sent."""
        if self.is_daemon_up and node.is_up:
            for message in self.coordinator.commands_for(node.mac):
                self._deliver(node.mac, message)

    def _request(self, act: Act, host: Host, answered: Callable[[bool], None] | None) -> None:
        is_heard = self.is_daemon_up
        if is_heard:
            self._carry_out(act(self.coordinator, self.world.now))
        if answered is not None:
            host.after(world.LATENCY, answered, is_heard)

    def _new_coordinator(self) -> Coordinator:
        return Coordinator(
            labels=["kamethod", "local", "rescue"],
            default_label="kamethod",
            names={},
            node_labels={},
            head_host=HEAD_HOST,
            draw=lambda count: self.world.random.randbytes(count).hex(),
            limits=self.limits,
        )

    def _begin(self) -> None:
        plan, chance = self.plan, self.world.random
        request = SessionRequest(
            source="image",
            source_size=self.image.size,
            nodes="any",
            disk="only",
            expect=plan.nodes,
            fan_out=plan.fan_out,
            order=plan.order,
            compare=plan.compare,
        )
        self.session, effects = self.coordinator.create(request, "sim", 0.0)
        self._carry_out(effects)
        for node in self.nodes.values():
            node.host.after(chance.uniform(0, 1.0), node.boot)
            self._plan_trouble(node)
        self.world.at(TICK, self._tick)
        if plan.head_ends_at >= 0:
            self.world.at(plan.head_ends_at, self._end_head)
        if plan.daemon_ends_at >= 0:
            self.world.at(plan.daemon_ends_at, self._end_daemon)
        # Nodes that never come would be waited for: an operator starts with those that are there.
        self.world.at(30.0, self._start_now)
        self.world.at(120.0, self._give_up)

    def _start_now(self) -> None:
        known = self.coordinator.sessions.get(self.session) if self.is_daemon_up else None
        if known is not None and known.state.value in ("preparing", "waiting"):
            self._carry_out(self.coordinator.start_now(self.session, "sim", self.world.now))

    def _give_up(self) -> None:
        """Nobody came at all: the operator cancels."""
        known = self.coordinator.sessions.get(self.session) if self.is_daemon_up else None
        if known is not None and not known.members and known.open:
            self._carry_out(self.coordinator.cancel(self.session, "nobody came", "sim", self.world.now))

    def _plan_trouble(self, node: SimNode) -> None:
        own, host = node.trouble, node.host
        if own.dies_at >= 0:
            self.world.at(own.dies_at, self._power_off, node)
        if own.ends_at >= 0:
            self.world.at(own.ends_at, self._end_process, node)
        if own.freezes_at >= 0:
            self.world.at(own.freezes_at, host.freeze)
            self.world.at(own.freezes_at + own.frozen_for, host.thaw)
        for time in own.resets_at:
            self.world.at(time, self._reset, host)

    def _reset(self, host: Host) -> None:
        for connection in sorted(host.connections, key=lambda own: own.up.host.name):
            connection.reset()

    def _power_off(self, node: SimNode) -> None:
        self.world.say(f"{node.mac} loses power")
        node.host.lose_power()
        node.vanish()
        if node.trouble.back_after >= 0 and node.booted is None:
            self.world.at(self.world.now + node.trouble.back_after, self._power_on, node)

    def _power_on(self, node: SimNode) -> None:
        node.host.power_up()
        node.boot()

    def _end_process(self, node: SimNode) -> None:
        self.world.say(f"{node.mac}: agent ends")
        was_up = node.is_up
        node.host.restart()
        node.vanish()
        if node.trouble.back_after >= 0 and was_up and node.booted is None:
            node.host.after(node.trouble.back_after, node.boot)

    def _tick(self) -> None:
        if self.is_daemon_up:
            self._carry_out(self.coordinator.tick(self.world.now))
            self._look()
        self.world.at(self.world.now + TICK, self._tick)

    def _end_daemon(self) -> None:
        self.world.say("daemon ends")
        self.is_daemon_up = False
        self._stop_head()
        self.world.at(self.world.now + self.plan.daemon_away, self._restart_daemon)

    def _restart_daemon(self) -> None:
        self.world.say("daemon starts")
        self.coordinator = self._new_coordinator()
        self.is_daemon_up = True
        self._restore()
        for node in self.nodes.values():
            node.host.after(self.world.random.uniform(0.1, 2.0), self.connect_events, node)

    def _restore(self) -> None:
        nodes = [record for record in self.records.values() if isinstance(record, NodeRecord)]
        sessions = [record for record in self.records.values() if isinstance(record, SessionRecord)]
        label = next((r.label for r in self.records.values() if isinstance(r, DefaultLabel)), "")
        members = [record for record in self.records.values() if isinstance(record, MemberRecord)]
        self._carry_out(self.coordinator.restore(nodes, label, sessions, members, self.world.now))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Persist(record):
                    self._keep(record)
                case Send(node, message):
                    self._deliver(node, message)
                case StartHead():
                    self.world.at(self.world.now + 0.2, self._start_head, effect)
                case StopHead():
                    self._stop_head()
                case Event(kind, node, _, text):
                    self.world.say(f"{kind} {node} {text}")

    def _keep(self, record: object) -> None:
        match record:
            case NodeRecord(mac) | MemberRecord(_, mac):
                self.records[(type(record), mac)] = record
            case SessionRecord(id_):
                self.records[(SessionRecord, id_)] = record
            case DefaultLabel():
                self.records[(DefaultLabel, "")] = record

    def _deliver(self, node: str, message: Message) -> None:
        self.world.at(self.world.now + world.LATENCY, self._hear, node, message)

    def _hear(self, node: str, message: Message) -> None:
        if node in self.nodes:
            found = self.nodes[node]
            found.host.after(0.0, found.hear, message)
        elif self.head is not None and node == self.head.core.node:
            if isinstance(message, Finish | Cancel):
                self._stop_head()
            else:
                self.head.arrange(message)  # type: ignore[arg-type]

    # --- head --------------------------------------------------------------------------------------------

    def _start_head(self, effect: StartHead) -> None:
        if not self.is_daemon_up or self.head is not None:
            return
        if self.coordinator.sessions.get(effect.session) is None:
            return
        image = self.image
        self._carry_out(
            self.coordinator.manifest(
                effect.session, Image(image.root, image.size, image.chunk_size, image.phases), self.world.now
            )
        )
        source = disk.Disk(image.count, random.Random(0), disk.Fault())
        source.content[:] = self.source
        self.head = SimMember(
            self.network,
            self.head_host,
            node=effect.node,
            session=effect.session,
            token=effect.join_token,
            manifest=image,
            disk=source,
            report=self._head_reports,
            is_head=True,
        )
        for message in self.coordinator.commands_for(effect.node):
            self._deliver(effect.node, message)

    def _head_reports(self, report: Report) -> None:
        self.up(lambda c, now: c.report(report, now), self.head_host)

    def _stop_head(self) -> None:
        if self.head is not None:
            self.head.stop()
            self.head = None
            self.head_host.restart()

    def _end_head(self) -> None:
        if self.head is None or not self.is_daemon_up:
            return
        self.world.say("head ends")
        self._stop_head()
        self.head_ends += 1
        self._carry_out(self.coordinator.head_ended(self.session, "the head ended with status 9", self.world.now))

    # --- links -------------------------------------------------------------------------------------------

    def _tamper(self, address: str, connection: Connection) -> None:
        node = next((own for own in self.nodes.values() if own.host.name == address), None)
        if node is None or not (node.trouble.flips or node.trouble.forges):
            return
        chance = self.world.random

        def mangle(chunk: Chunk) -> Chunk:
            own = node.trouble
            if own.flips and chance.random() < 0.3:
                own.flips -= 1
                self.world.say(f"{node.mac}: a bit flips in chunk {chunk.header.index}")
                return world.flip_bit(chunk, chance)
            if own.forges and chance.random() < 0.3:
                own.forges -= 1
                self.world.say(f"{node.mac} forges chunk {chunk.header.index}")
                return forge(chunk, chance)
            return chunk

        connection.mangle = mangle

    # --- judgement ---------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return self.outcome is not None

    def _look(self) -> None:
        """Whether the session has ended."""
        known = self.coordinator.sessions.get(self.session)
        if known is None or known.ended:
            self.outcome = self.coordinator.outcome(self.session)

    def _judge(self) -> list[str]:
        if self.outcome is None:
            return [f"no end after {self.world.now:.0f} s"]
        wrong = []
        for verdict in self.outcome.verdicts:
            node = self.nodes[verdict.node]
            if not verdict.reason:
                wrong.append(f"{node.mac}: no reason given")
            if verdict.ok:
                if not self._is_whole(node):
                    wrong.append(f"{node.mac} is called cloned, and its disk differs from the source")
            elif not any(words in verdict.reason for words in node.trouble.excuses):
                wrong.append(
                    f"{node.mac} ({node.trouble.text}) is {verdict.standing} for a reason that is not true: "
                    f"{verdict.reason}"
                )
        absent = self.nodes.keys() - {verdict.node for verdict in self.outcome.verdicts}
        for mac in sorted(absent):
            if not self.nodes[mac].trouble.excuses:
                wrong.append(f"{mac} ({self.nodes[mac].trouble.text}) is missing in the verdicts")
        return wrong

    def _is_whole(self, node: SimNode) -> bool:
        """Whether the disk that the node left for holds every byte of the source."""
        booted = node.booted or b""
        return all(
            booted[index * CHUNK : index * CHUNK + len(piece)] == piece for index, piece in enumerate(self.pieces)
        )

    def _digest_source(self, chance: random.Random) -> Manifest:
        """The manifest; the last chunk of each part is cut short."""
        ends = sorted(chance.sample(range(1, self.plan.chunks + 1), min(self.plan.parts, self.plan.chunks)))
        ends[-1] = self.plan.chunks
        parts, first, phase = [], 0, 0
        for number, end in enumerate(ends):
            last = self.pieces[end - 1] = self.pieces[end - 1][: CHUNK - chance.randrange(CHUNK)]
            phase += number > 0 and chance.random() < 0.7
            parts.append(Part(f"part{number}", (end - first - 1) * CHUNK + len(last), phase))
            first = end
        return manifests.build_parts(parts, CHUNK, [digest(piece) for piece in self.pieces])


def block(number: int, chance: random.Random) -> bytes:
    """One chunk that carries its number; some are zeros."""
    if chance.random() < 0.15:
        return bytes(CHUNK)
    return number.to_bytes(8, "big") * (CHUNK // 8)


def forge(chunk: Chunk, chance: random.Random) -> Chunk:
    """Another chunk in its place, with the digest of its own bytes."""
    if not len(chunk.payload):
        return world.flip_bit(chunk, chance)
    payload = bytes(world.flip_bit(chunk, chance).payload)
    header = chunk.header
    return Chunk(
        ChunkHeader(header.index, header.encoding, header.raw_length, digest(payload), header.payload_length),
        memoryview(payload),
    )
