"""Full DHCP mode around the pure decision: the table, the disk, the probe, and what an operator is told.

The order is always: decide, write into the table, probe, write on disk, answer. So two requests that are under way
at the same time cannot be given one address, and no client hears of an address that a crash would forget.

An offer binds nobody, so it waits only for those who answer a probe at once; the ACK waits for the whole of it. Who
is found in between keeps the address, and the client's REQUEST is refused.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from bootd.config import Settings
from bootd.drivers.dhcp.probe import Prober
from bootd.drivers.dhcp.store import LeaseStore, LeaseWriter
from bootd.netboot.addresses import machine as lease_machine
from bootd.netboot.addresses.decision import Ack, Arrival, Grant, Nak, Silent, Topic
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.addresses.pool import Addressing, Subnet, dotted, number
from bootd.netboot.addresses.table import Binding, LeaseTable, State
from bootd.netboot.dhcp import Message

FILE_NAME = "leases.db"
_OFFER_AFTER = 0.01  # seconds of a probe; on a wire, who is awake answers within a few milliseconds
_CONFLICTS = 4  # addresses in use, found for one request; then the client is told nothing and asks again

Answer = Callable[[Lease | Nak], None]
Tell = Callable[[str, str, str], None]
"""(kind, mac, detail): one line and one event; repeats are the listener's to drop."""

log = structlog.get_logger("bootd.leases")


@dataclass(frozen=True)
class _Waiting:
    """The latest request of a client whose address is being probed."""

    request: Message
    arrival: Arrival
    interface: str
    answer: Answer
    offered: bool = False  # it has its offer; the probe goes on for the ACK


class Leases:
    """Give addresses. `open`, `run` as a task, `close`; `follow` the interfaces through ``prober``."""

    def __init__(
        self, settings: Settings, prober: Prober, tell: Tell, clock: Callable[[], float] | None = None
    ) -> None:
        self._addressing = addressing(settings)
        self._kept_out = self._addressing.kept_out
        self._path = Path(settings.server.state_dir) / FILE_NAME
        self._prober, self._tell = prober, tell
        self._clock = clock or steady_clock()
        self._probes = settings.dhcp.probe_seconds > 0
        self._table = LeaseTable()
        self._store: LeaseStore | None = None
        self._writer: LeaseWriter | None = None
        self._under_way: dict[str, _Waiting] = {}  # by the address that is being probed
        self._tasks: set[asyncio.Task[None]] = set()
        self._full: set[Subnet] = set()

    def open(self) -> None:
        """Take over what is on disk; `OperatorError` when it cannot be used."""
        self._store = LeaseStore(self._path)
        self._table = LeaseTable(self._store.load())
        self._writer = LeaseWriter(self._store)
        held = sum(binding.live(self._clock()) for binding in self._table)
        log.info("leases taken over", live=held, remembered=len(self._table))

    async def run(self) -> None:
        """Write what is decided, until cancelled."""
        if self._writer is not None:
            await self._writer.run()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._writer is not None and self._store is not None:
            self._writer.close()
            self._store.close()
            self._writer = self._store = None

    def own_addresses(self, addresses: Iterable[str]) -> None:
        """This server's addresses, on every interface: no client ever gets one of them."""
        own = frozenset(number(address) for address in addresses)
        self._addressing = replace(self._addressing, kept_out=self._kept_out | own)

    def serves(self, addresses: Iterable[str]) -> bool:
        """One of these addresses is in a subnet of ours."""
        return any(self._addressing.subnet_of(number(address)) for address in addresses)

    def gives_on(self, addresses: Iterable[str]) -> bool:
        """See `Addressing.gives_on`."""
        return self._addressing.gives_on(addresses)

    def handle(self, request: Message, arrival: Arrival, interface: str, answer: Answer) -> Silent | None:
        """Decide about ``request``; ``answer`` is called now, after a probe, after a commit, or never.

        `Silent` when it is clear at once that there is no answer.
        """
        now = self._clock()
        decision = lease_machine.decide(request, self._addressing, self._table, arrival, now)
        match decision:
            case Silent():
                self._record(decision.bindings)
                self._explain(request, decision)
                return decision
            case Nak():
                self._tell("refused", request.mac, decision.reason)
                answer(decision)
                return None
        waiting = _Waiting(request, arrival, interface, answer)
        if decision.probe and decision.subnet in self._full:
            self._full.discard(decision.subnet)
            log.info("addresses are free again", subnet=str(decision.subnet))
        address = decision.lease.address
        if address in self._under_way:  # asked again while we ask: the latest request is the one to answer
            if isinstance(decision, Grant) and self._under_way[address].offered:
                return self._conclude(waiting, decision)
            self._under_way[address] = waiting
            return None
        if not (decision.probe and self._probes):
            return self._conclude(waiting, decision)
        if self._prober.busy:
            return Silent("too many addresses are being probed")
        self._claim(decision, waiting)
        task = asyncio.create_task(self._probe(decision))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    def _claim(self, decision: Grant | Ack, waiting: _Waiting) -> None:
        """Keep others from the address while it is probed: it is only offered until then."""
        expires = self._clock() + self._addressing.offer_seconds
        for binding in decision.bindings:
            if binding.address == number(decision.lease.address):
                self._table.put(replace(binding, state=State.OFFERED, expires=expires))
        self._under_way[decision.lease.address] = waiting

    async def _probe(self, decision: Grant | Ack) -> None:
        """Answer when nobody uses the address; else decide again, as often as is sensible."""
        for _ in range(_CONFLICTS):
            address = decision.lease.address
            asked = self._under_way[address]
            client = lease_machine.client_of(asked.request)
            early = asyncio.get_running_loop().call_later(_OFFER_AFTER, self._offer, address)
            try:
                user = await self._prober.in_use(address, asked.interface, client, decision.relayed)
            finally:
                early.cancel()
                waiting = self._under_way.pop(address)
            now = self._clock()
            if user:
                self._record((lease_machine.conflict(number(address), now, self._addressing),))
                self._tell("conflict", waiting.request.mac, f"{address} is used by {user}: it is left alone")
            if waiting.offered:
                return
            again = lease_machine.decide(waiting.request, self._addressing, self._table, waiting.arrival, now)
            match again:
                case Silent():
                    self._record(again.bindings)
                    self._explain(waiting.request, again)
                    return
                case Nak():
                    waiting.answer(again)
                    return
            if not again.probe:  # the address that was probed, or one that the client has
                self._conclude(waiting, again)
                return
            if again.lease.address in self._under_way:
                return
            decision = again
            self._claim(decision, waiting)
        self._under_way.pop(decision.lease.address, None)

    def _offer(self, address: str) -> None:
        """Nobody has answered at once: the client may ask for the address while we go on listening."""
        waiting = self._under_way[address]
        now = self._clock()
        decision = lease_machine.decide(waiting.request, self._addressing, self._table, waiting.arrival, now)
        if isinstance(decision, Grant) and decision.lease.address == address:
            self._under_way[address] = replace(waiting, offered=True)
            self._conclude(waiting, decision)

    def _conclude(self, waiting: _Waiting, decision: Grant | Ack) -> Silent | None:
        answer = waiting.answer
        if isinstance(decision, Grant):
            self._record(decision.bindings)
            answer(decision.lease)
            return None

        def done() -> None:
            if decision.lease.seconds or decision.bindings:
                text = f"{decision.lease.address} for {decision.lease.seconds} s"
                self._tell("lease", waiting.request.mac, text if decision.lease.seconds else decision.lease.address)
            answer(decision.lease)

        if not decision.bindings:
            done()
            return None
        return None if self._record(decision.bindings, done) else Silent("too many leases wait for the disk")

    def _record(self, bindings: Iterable[Binding], done: Callable[[], None] = lambda: None) -> bool:
        """Into the table, and on disk what is more than an offer. False when the disk is too far behind."""
        lasting = []
        for binding in bindings:
            before = self._table.at(binding.address)
            self._table.put(binding)
            offered = before is None or before.state is State.OFFERED
            if binding.state is not State.OFFERED and not (binding.state is State.RELEASED and offered):
                lasting.append(binding)
        if not lasting or self._writer is None:
            return True
        return self._writer.submit(lasting, done)

    def _explain(self, request: Message, silence: Silent) -> None:
        match silence.topic:
            case Topic.EXHAUSTED if silence.subnet is not None and silence.subnet not in self._full:
                self._full.add(silence.subnet)
                used = self._table.live_in(silence.subnet, self._clock())
                text = f"{silence.reason}: {used} of {silence.subnet.size} are taken; widen the range of its pool"
                log.warning("no address left", subnet=str(silence.subnet), used=used, size=silence.subnet.size)
                self._tell("exhausted", request.mac, text)
            case Topic.RIVAL:
                self._tell("rival", request.mac, f"{silence.reason}: another server gives addresses here")
            case Topic.CONFLICT:
                self._tell("conflict", request.mac, silence.reason)

    def listing(self) -> list[dict[str, Any]]:
        """Every lease, by address: also those that have ended, since their clients get the same address again.

        ``ends`` in seconds since the epoch, None for never; ``holds``: nobody else can have the address now.
        """
        now = self._clock()
        return [
            {
                "address": dotted(binding.address),
                "client": binding.client,
                "node": self._addressing.names.get(binding.client, ""),
                "name": binding.name,
                "state": binding.state.value,
                "holds": binding.live(now),
                "reserved": self._addressing.owner(binding.address) == binding.client != "",
                "ends": binding.expires if math.isfinite(binding.expires) else None,
            }
            for binding in sorted(self._table, key=lambda binding: binding.address)
        ]


def addressing(settings: Settings) -> Addressing:
    """Pools and reservations of the settings. Routers and name servers are kept out of the ranges."""
    subnets = tuple(pool.parsed() for pool in settings.dhcp.pool)
    fixed = (address for subnet in subnets for address in (*subnet.routers, *subnet.name_servers))
    return Addressing(
        subnets,
        {node.mac.lower(): number(node.address) for node in settings.node if node.address},
        {node.mac.lower(): node.name for node in settings.node},
        frozenset(number(address) for address in fixed),
        settings.dhcp.authoritative,
        quarantine_seconds=settings.dhcp.quarantine_seconds,
    )


def steady_clock() -> Callable[[], float]:
    """Seconds since the epoch that do not jump when the machine's clock is set: a lease ends when it was promised.

    The clock is read once; a restart reads it again, since leases outlive the process. If it was set back meanwhile
    leases end later than promised, and nothing is given twice; if it was set forward the probe is what protects.
    """
    offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return lambda: offset + time.clock_gettime(time.CLOCK_BOOTTIME)
