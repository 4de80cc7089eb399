"""A room of virtual nodes around a coordinator: time is a number, randomness a counter, effects a list."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bootd.session.coordinator import Coordinator
from bootd.session.effects import Effect, Event, Persist, PolicyChanged, Record, Send, SessionRecord
from bootd.session.member import Image
from bootd.session.plan import Limits
from bootd.session.request import SessionRequest
from bootd.wire.control import ABILITIES, Arrange, Disk, Hardware, Join, MemberState, Message, Plan, Prepare, Report

SIZE = 40 << 20
ROOT = "ab" * 32
LABELS = ("local", "kamethod", "dolly", "rescue")


def disk(name: str = "vda", size: int = 64 << 20, serial: str = "S1", excluded: str = "", wwn: str = "") -> Disk:
    return Disk(name, size, 512, serial, wwn, "QEMU", "virtio", False, excluded, "cd" * 32)


def mac(number: int) -> str:
    return f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"


def idle(number: int) -> Report:
    """The heartbeat of a node that waits in stage2."""
    return Report(mac(number), "", MemberState.WAITING)


def counter() -> Callable[[int], str]:
    state = {"value": 0}

    def draw(size: int) -> str:
        state["value"] += 1
        return state["value"].to_bytes(size, "big").hex()

    return draw


class Room:
    """Nodes 1, 2, ... are called lab1, lab2, ... and have the address 10.0.0.N."""

    def __init__(
        self,
        nodes: int = 3,
        limits: Limits | None = None,
        default: str = "kamethod",
        switches: dict[str, str] | None = None,
    ) -> None:
        self.switches = switches or {}
        self.names = {mac(number): f"lab{number}" for number in range(1, nodes + 1)}
        self.limits = limits or Limits()
        self.coordinator = self.make(default)
        self.now = 1000.0
        self.effects: list[Effect] = []
        self.inbox: dict[str, list[Message]] = {}
        self.session = ""

    def make(
        self,
        default: str = "kamethod",
        node_labels: dict[str, str] | None = None,
        **more: Any,
    ) -> Coordinator:
        return Coordinator(
            labels=LABELS,
            default_label=default,
            names=self.names,
            node_labels=node_labels or {},
            head_host="10.0.0.254",
            draw=counter(),
            limits=self.limits,
            switches=self.switches,
            **more,
        )

    def run(self, effects: list[Effect]) -> list[Effect]:
        """Delivers what is sent and keeps all."""
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Send):
                self.inbox.setdefault(effect.node, []).append(effect.message)
        return effects

    def create(self, nodes: str = "lab[1-3]", who: str = "root", **request: Any) -> str:
        asked = SessionRequest(source="/img", source_size=SIZE, nodes=nodes, disk="only")
        self.session, effects = self.coordinator.create(replace(asked, **request), who, self.now)
        self.run(effects)
        return self.session

    def head(self, state: MemberState = MemberState.READY, **values: Any) -> list[Effect]:
        report = Report(f"head-{self.session}", self.session, state, port=9000, total=SIZE)
        return self.run(self.coordinator.report(replace(report, **values), self.now))

    def head_ready(self) -> None:
        self.head(MemberState.PREPARING, port=0)
        self.run(self.coordinator.manifest(self.session, Image(ROOT, SIZE, 1 << 20), self.now))
        self.head()

    def join(
        self,
        number: int,
        disks: tuple[Disk, ...] | None = None,
        session: str = "",
        *,
        uuid: str | None = None,
        hardware: Hardware | None = None,
    ) -> list[Effect]:
        """Every node has a board with a UUID of its own, unless ``hardware`` or ``uuid`` tells something else."""
        message = Join(
            node=mac(number),
            uuid=("" if hardware else f"00000000-0000-4000-8000-{number:012x}") if uuid is None else uuid,
            arch="x86_64",
            firmware="bios",
            address=f"10.0.{number >> 8}.{number & 255}",
            session=session,
            method="ka",
            memory=1 << 29,
            disks=(disk(),) if disks is None else disks,
            hardware=hardware or Hardware(),
            abilities=ABILITIES,
        )
        return self.run(self.coordinator.join(message, self.now))

    def report(self, number: int, state: MemberState, *, saves: bool = True, **values: Any) -> list[Effect]:
        """``saves``: a node that is ready has had its old partition table kept before, as stage2 does."""
        if saves and state is MemberState.READY:
            self.run(self.coordinator.table_saved(mac(number), self.session, "vda"))
        report = Report(mac(number), self.session, state, port=4000 + number, total=SIZE)
        return self.run(self.coordinator.report(replace(report, **values), self.now))

    def ready(self, *numbers: int) -> None:
        for number in numbers:
            self.join(number)
            self.report(number, MemberState.READY)

    def receiving(self, number: int, durable: int) -> list[Effect]:
        return self.report(number, MemberState.RECEIVING, written=durable, durable=durable)

    def verified(self, *numbers: int) -> None:
        for number in numbers:
            self.report(number, MemberState.VERIFIED, written=SIZE, durable=SIZE, verified=SIZE)

    def rebooting(self, *numbers: int) -> None:
        for number in numbers:
            self.report(number, MemberState.REBOOTING)

    def wait(self, seconds: float, *alive: int, head: bool = True) -> list[Effect]:
        """Time passes in half seconds; ``alive`` nodes go on reporting what they last did."""
        effects: list[Effect] = []
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            if head and not self.now % 1:
                self.head()
            for number in alive:
                member = self.coordinator.sessions[self.session].members.get(mac(number))
                last = member.report if member else None
                if last is not None:
                    effects += self.run(self.coordinator.report(last, self.now))
            effects += self.run(self.coordinator.tick(self.now))
        return effects

    def start(self, nodes: int, **request: Any) -> "Room":
        """A session with the nodes 1 to ``nodes``, all of them ready."""
        self.create(f"lab[1-{nodes}]", **request)
        self.head_ready()
        self.ready(*range(1, nodes + 1))
        if self.state != "running":
            raise LookupError(f"the session is {self.state}")
        return self

    # --- what came of it ---------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        return self.coordinator.sessions[self.session].state.value

    def standing(self, number: int) -> str:
        return self.coordinator.sessions[self.session].members[mac(number)].standing.value

    def reason(self, number: int) -> str:
        return self.coordinator.sessions[self.session].members[mac(number)].reason

    def last(self, number: int) -> Message:
        return self.inbox[mac(number)][-1]

    def place(self, number: int) -> Arrange:
        """The last place that the node was given."""
        return [message for message in self.inbox[mac(number)] if isinstance(message, Arrange)][-1]

    def plan(self, number: int) -> Plan:
        return [message for message in self.inbox[mac(number)] if isinstance(message, Prepare)][-1].plan

    def verdicts(self) -> dict[str, tuple[bool, str]]:
        outcome = self.coordinator.outcome(self.session)
        if outcome is None:
            raise LookupError("the session goes on")
        return {verdict.name: (verdict.ok, verdict.standing) for verdict in outcome.verdicts}

    def records(self) -> list[Record]:
        return [effect.record for effect in self.effects if isinstance(effect, Persist)]

    def session_record(self) -> SessionRecord:
        return [record for record in self.records() if isinstance(record, SessionRecord)][-1]

    def events(self, kind: str) -> list[Event]:
        return [effect for effect in self.effects if isinstance(effect, Event) and effect.kind == kind]

    def policies(self) -> dict[str, str]:
        return {effect.node: effect.label for effect in self.effects if isinstance(effect, PolicyChanged)}
