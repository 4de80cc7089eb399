"""Full DHCP mode: what becomes of a client's request for an address. One pure decision (RFC 2131 section 4.3).

Sans-IO: request, addressing, table and time in; a value of `lease_decision` out. Nothing is changed here.

Clients are keyed by MAC, never by client identifier (quirk mac-is-the-key): firmware and system of one machine use
different identifiers and get the same address.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bootd.netboot.addresses.decision import Ack, Arrival, Decision, Grant, Nak, Silent, Topic
from bootd.netboot.addresses.lease import HOST_NAME, INFINITE, LEASE_SECONDS, SERVER_IDENTIFIER, Lease
from bootd.netboot.addresses.pool import Addressing, Subnet, dotted, number
from bootd.netboot.addresses.relay import NOBODY, relay_of
from bootd.netboot.addresses.table import Binding, LeaseTable, State
from bootd.netboot.dhcp import Message, MessageType, Operation

_REQUESTED_ADDRESS = 50
_CLIENT_IDENTIFIER = 61
_SHORTEST = 120  # seconds of a lease: less would be renewal traffic only
_MAX_NAME = 63


def client_of(request: Message) -> str:
    """The key of a client: its MAC; what else identifies it where there is none; "" for nobody.

    InfiniBand sends no hardware address, but an identifier (RFC 4390 section 2.1).
    """
    if request.mac:
        # A group address or zeros are nobody's.
        usable = any(request.hardware) and not int(request.mac[:2], 16) & 1
        return request.mac if usable else ""
    if any(request.hardware):
        return f"{request.hardware_type}-{request.hardware.hex()}"
    identifier = request.options.get(_CLIENT_IDENTIFIER, b"")
    return f"id-{identifier.hex()}" if len(identifier) > 1 else ""


def decide(request: Message, addressing: Addressing, table: LeaseTable, arrival: Arrival, now: float) -> Decision:
    """What to do about ``request``, which came to port 67. ``now`` is in seconds since the epoch."""
    if request.operation is not Operation.REQUEST:
        return Silent("it is a reply")
    client = client_of(request)
    if not client:
        return Silent("no hardware address")
    subnet, server = _link(request, addressing, arrival)
    if subnet is None or not server:
        return Silent("it is on no subnet of ours")
    situation = _Situation(request, client, subnet, server, addressing, table, now)
    match request.message_type:
        case MessageType.DISCOVER:
            return _discover(situation)
        case MessageType.REQUEST:
            return _request(situation)
        case MessageType.DECLINE:
            return _decline(situation)
        case MessageType.RELEASE:
            return _release(situation)
        case MessageType.INFORM:
            return _inform(situation)
        case None if 53 not in request.options:
            return _bootp(situation)
    return Silent("not a request of a client")


def conflict(address: int, now: float, addressing: Addressing) -> Binding:
    """What to write down when somebody who is not the client answers for ``address``."""
    return Binding(address, "", State.QUARANTINED, now + addressing.quarantine_seconds)


@dataclass(frozen=True)
class _Situation:
    """A request with all that decides about it."""

    request: Message
    client: str
    subnet: Subnet  # of the link that the client is on
    server: str  # under which name we answer
    addressing: Addressing
    table: LeaseTable
    now: float

    @property
    def relayed(self) -> bool:
        return self.request.relay != NOBODY

    @property
    def requested(self) -> int:
        """Option 50, 0 for none."""
        value = self.request.options.get(_REQUESTED_ADDRESS, b"")
        return int.from_bytes(value, "big") if len(value) == 4 else 0

    @property
    def chosen(self) -> str:
        """Option 54: the server that the client speaks to, "" for none."""
        value = self.request.options.get(SERVER_IDENTIFIER, b"")
        return dotted(int.from_bytes(value, "big")) if len(value) == 4 else ""

    @property
    def reserved(self) -> int:
        """The address reserved for the client on this subnet, 0 for none."""
        address = self.addressing.reservations.get(self.client, 0)
        return address if address in self.subnet else 0

    def owned(self) -> list[Binding]:
        """The client's bindings on this subnet, those that still hold first."""
        own = [binding for binding in self.table.of(self.client) if binding.address in self.subnet]
        return sorted(own, key=lambda binding: (not binding.live(self.now), -binding.expires))

    def may_have(self, address: int) -> bool:
        """The address is ours to give, to this client, and nobody else has it."""
        return (
            (address == self.reserved or self.subnet.in_ranges(address))
            and self._allowed(address)
            and self.table.free_for(address, self.client, self.now)
        )

    def search(self) -> int | None:
        return self.table.choose(self.subnet, self.client, self.now, self._allowed)

    def _allowed(self, address: int) -> bool:
        return address not in self.addressing.kept_out and self.addressing.owner(address) in ("", self.client)

    def holds(self, address: int) -> bool:
        """The client has the address right now, offered or bound."""
        binding = self.table.at(address)
        return binding is not None and binding.client == self.client and binding.live(self.now)


def _link(request: Message, addressing: Addressing, arrival: Arrival) -> tuple[Subnet | None, str]:
    """The subnet of the link that the client is on, and the name that we answer under; None when it is not ours."""
    first = arrival.addresses[0] if arrival.addresses else ""
    relay = relay_of(request)
    if relay is not None:
        return addressing.subnet_of(number(relay.link)), relay.server or first
    if request.client != NOBODY and not arrival.broadcast:
        # Who renews from behind a relay asks us without it (RFC 2131 section 4.3.2).
        beyond = addressing.subnet_of(number(request.client))
        if beyond is not None and not any(number(address) in beyond for address in arrival.addresses):
            return beyond, first
    for address in arrival.addresses:
        subnet = addressing.subnet_of(number(address))
        if subnet is not None:
            return subnet, address
    return None, ""


def _discover(at: _Situation) -> Grant | Silent:
    expires = at.now + at.addressing.offer_seconds
    for address in _candidates(at):
        if not at.may_have(address):
            continue
        if at.holds(address):  # probed before, or in use by itself; an offer takes nothing from a lease that holds
            held = (replace(binding, expires=expires) for binding in at.owned() if binding.state is State.OFFERED)
            kept = tuple(binding for binding in held if binding.address == address)
            return Grant(_lease(at, address), kept, False, at.relayed, at.subnet)
        offered = Binding(address, at.client, State.OFFERED, expires, _name(at.request))
        return Grant(_lease(at, address), (offered,), True, at.relayed, at.subnet)
    if not at.subnet.size:
        return Silent(f"no address on {at.subnet} is reserved for it", subnet=at.subnet)
    return Silent(f"no free address in {at.subnet}", Topic.EXHAUSTED, subnet=at.subnet)


def _candidates(at: _Situation) -> Iterator[int]:
    """Addresses to try, the best first: reserved, had before, asked for (RFC 2131 section 4.3.1), any free."""
    if at.reserved:
        yield at.reserved
    for binding in at.owned():
        yield binding.address
    if at.requested:
        yield at.requested
    found = at.search()
    if found is not None:
        yield found


def _request(at: _Situation) -> Ack | Nak | Silent:
    """RFC 2131 section 4.3.2: what kind of REQUEST it is shows in ciaddr and the options 50 and 54."""
    if at.chosen and at.chosen != at.server:
        return _chose_another(at)
    using = number(at.request.client)
    address = using or at.requested
    if not address:
        return Silent("REQUEST without an address")
    if address not in at.subnet:
        return _elsewhere(at, address)
    if at.holds(address) and (using or not at.reserved or address == at.reserved or at.chosen):
        # RENEWING, REBINDING, SELECTING, or INIT-REBOOT: it has what it asks for. A reservation made meanwhile
        # waits for the next DISCOVER when the client is using the address: a node at work keeps its network.
        if at.addressing.owner(address) in ("", at.client):
            return _ack(at, address, probe=False)
        return Nak(f"{dotted(address)} is reserved for another", at.server)
    if not using and at.reserved and address != at.reserved:
        return Nak(f"{dotted(at.reserved)} is reserved for it", at.server)
    if at.may_have(address):
        # Ours and free: a lease that has ended, or an offer from before a restart. A client that uses the address
        # would answer for it itself, so only one that does not is probed.
        return _ack(at, address, probe=not using)
    if at.subnet.in_ranges(address) or at.addressing.owner(address) or at.chosen:
        return Nak(f"{dotted(address)} is not for it", at.server)
    if at.addressing.authoritative:
        return Nak(f"{dotted(address)} is not given by this server", at.server)
    return Silent(f"{dotted(address)} may be another server's")  # quirk no-nak


def _elsewhere(at: _Situation, address: int) -> Nak | Silent:
    """It asks for an address of another subnet than the one it is on."""
    if at.addressing.subnet_of(address) is not None or at.addressing.authoritative or at.chosen:
        return Nak(f"{dotted(address)} is not on {at.subnet}", at.server)
    return Silent(f"{dotted(address)} is in no subnet of ours")


def _chose_another(at: _Situation) -> Silent:
    """The client takes another server's offer: ours is void (RFC 2131 section 4.3.2)."""
    void = tuple(
        replace(binding, state=State.RELEASED, expires=at.now)
        for binding in at.owned()
        if binding.state is State.OFFERED
    )
    # Where we have reservations only, the other server is meant to be there.
    topic = Topic.RIVAL if at.subnet.size else Topic.ROUTINE
    return Silent(f"it chose the server {at.chosen}", topic, void)


def _ack(at: _Situation, address: int, probe: bool) -> Ack:
    lease = _lease(at, address)
    # When this answer is lost the client still goes by the one before it: a promise is never made shorter.
    before = at.table.at(address)
    promised = before.expires if before and before.state is State.BOUND and at.holds(address) else at.now
    expires = max(promised, at.now + lease.seconds)
    binding = Binding(address, at.client, State.BOUND, expires, _name(at.request))
    return Ack(lease, (binding, *_others_offered(at, address)), probe, at.relayed, at.subnet)


def _others_offered(at: _Situation, address: int) -> tuple[Binding, ...]:
    """Other addresses that the client was only offered on this subnet are free again."""
    return tuple(
        replace(binding, state=State.RELEASED, expires=at.now)
        for binding in at.owned()
        if binding.address != address and binding.state is State.OFFERED
    )


def _decline(at: _Situation) -> Silent:
    """The client found somebody else on the address (RFC 2131 section 4.3.3)."""
    address = at.requested
    if at.chosen and at.chosen != at.server:
        return Silent("DECLINE for another server")
    if not at.holds(address):
        return Silent(f"DECLINE of {dotted(address)}, which it does not have")
    return Silent(
        f"it declined {dotted(address)}: another machine uses it",
        Topic.CONFLICT,
        (conflict(address, at.now, at.addressing),),
        at.subnet,
    )


def _release(at: _Situation) -> Silent:
    """The client gives its address back; it is remembered for it (RFC 2131 section 4.3.4)."""
    address = number(at.request.client)
    if at.chosen and at.chosen != at.server:
        return Silent("RELEASE for another server")
    before = at.table.at(address)
    if before is None or not at.holds(address):
        return Silent(f"RELEASE of {dotted(address)}, which it does not have")
    released = replace(before, state=State.RELEASED, expires=at.now)
    return Silent(f"it released {dotted(address)}", Topic.ROUTINE, (released,), at.subnet)


def _inform(at: _Situation) -> Ack | Silent:
    """It has an address and wants the rest: no address, no time (RFC 2131 section 4.3.5)."""
    address = number(at.request.client)
    if not address or address not in at.subnet:
        return Silent("INFORM from no subnet of ours")
    lease = replace(_lease(at, address), address=NOBODY, seconds=0, renewal=0, rebinding=0)
    return Ack(lease, (), False, at.relayed, at.subnet)


def _bootp(at: _Situation) -> Ack | Silent:
    """BOOTP leases have no end (RFC 1534 section 2), so only a reserved address is given."""
    address = at.reserved
    if not address:
        return Silent("BOOTP: only a machine with a reserved address is served")
    if not at.may_have(address):
        return Silent(f"BOOTP: its address {dotted(address)} is used by another", Topic.CONFLICT)
    lease = replace(_lease(at, address), seconds=0, renewal=0, rebinding=0)
    binding = Binding(address, at.client, State.BOUND, math.inf, _name(at.request))
    return Ack(lease, (binding,), not at.holds(address), at.relayed, at.subnet)


def _lease(at: _Situation, address: int) -> Lease:
    """T1 and T2 in the proportions of RFC 2131 section 4.4.5; a client may ask for less time, not for more."""
    subnet = at.subnet
    wanted = at.request.options.get(LEASE_SECONDS, b"")
    seconds = subnet.seconds
    if len(wanted) == 4:
        (asked,) = struct.unpack("!I", wanted)
        if asked not in (0, INFINITE):
            seconds = min(seconds, max(asked, min(_SHORTEST, seconds)))
    return Lease(
        address=dotted(address),
        netmask=subnet.netmask,
        server=at.server,
        seconds=seconds,
        renewal=seconds // 2,
        rebinding=seconds * 7 // 8,
        broadcast=dotted(subnet.broadcast),
        routers=subnet.routers,
        name_servers=subnet.name_servers,
        domain=subnet.domain,
        host_name=at.addressing.names.get(at.client, ""),
    )


def _name(request: Message) -> str:
    """Option 12 as text that a terminal may show."""
    text = request.options.get(HOST_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
    return "".join(letter if letter.isalnum() or letter in "-._" else "?" for letter in text)[:_MAX_NAME]
