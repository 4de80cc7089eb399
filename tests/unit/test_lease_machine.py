"""Who gets which address, and who gets no answer: one row per rule of RFC 2131 section 4.3 and of the quirks."""

import math
from dataclasses import replace

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from bootd.netboot import dhcp
from bootd.netboot.addresses import machine as lease_machine
from bootd.netboot.addresses.decision import Ack, Arrival, Decision, Grant, Nak, Silent, Topic
from bootd.netboot.addresses.pool import Addressing, Subnet, dotted, number, parse_subnet
from bootd.netboot.addresses.table import Binding, LeaseTable, State
from bootd.netboot.dhcp import Message, MessageType, Operation

SERVER = "10.9.0.2"
ARRIVAL = Arrival((SERVER,))
ROOM = parse_subnet("10.9.0.0/24", ["10.9.0.100-10.9.0.103"], routers=["10.9.0.1"], seconds=1000)
FAR = parse_subnet("10.8.0.0/24", ["10.8.0.100-10.8.0.103"])
RESERVED_MAC = "52:54:00:00:00:99"
ADDRESSING = Addressing(
    (ROOM, FAR),
    {RESERVED_MAC: number("10.9.0.50")},
    {RESERVED_MAC: "node9"},
    frozenset({number("10.9.0.1"), number(SERVER), number("10.9.0.103")}),
)
NOW = 1000.0


def mac(last: int) -> str:
    return f"52:54:00:00:00:{last:02x}"


def packed(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))


class Server:
    """The machine with a table, as its caller drives it."""

    def __init__(self, addressing: Addressing = ADDRESSING) -> None:
        self.addressing, self.table, self.now = addressing, LeaseTable(), NOW

    def ask(
        self,
        kind: MessageType | None,
        client: str = mac(1),
        *,
        using: str = "0.0.0.0",
        requested: str = "",
        server: str = "",
        relay: str = "0.0.0.0",
        arrival: Arrival = ARRIVAL,
        more: dict[int, bytes] | None = None,
    ) -> Decision:
        options = dict(more or {})
        if kind is not None:
            options[53] = bytes((kind,))
        if requested:
            options[50] = packed(requested)
        if server:
            options[54] = packed(server)
        hardware = bytes.fromhex(client.replace(":", ""))
        request = Message(
            Operation.REQUEST, 7, 1, hardware, client=using, relay=relay, options=options, broadcast=True
        )
        decision = lease_machine.decide(request, self.addressing, self.table, arrival, self.now)
        for binding in getattr(decision, "bindings", ()):
            self.table.put(binding)
        return decision

    def offered(self, client: str = mac(1), **more: object) -> str:
        decision = self.ask(MessageType.DISCOVER, client, **more)  # type: ignore[arg-type]
        assert isinstance(decision, Grant), decision
        return decision.lease.address

    def bound(self, client: str = mac(1), **more: object) -> str:
        address = self.offered(client, **more)
        decision = self.ask(MessageType.REQUEST, client, requested=address, server=SERVER)
        assert isinstance(decision, Ack), decision
        return decision.lease.address


@pytest.fixture
def server() -> Server:
    return Server()


def test_offer_then_acknowledgement(server: Server) -> None:
    offer = server.ask(MessageType.DISCOVER)
    assert isinstance(offer, Grant)
    assert offer.probe
    assert not offer.relayed
    lease = offer.lease
    assert ROOM.in_ranges(number(lease.address))
    assert (lease.netmask, lease.server, lease.broadcast) == ("255.255.255.0", SERVER, "10.9.0.255")
    assert (lease.seconds, lease.renewal, lease.rebinding) == (1000, 500, 875)  # RFC 2131 section 4.4.5
    options = lease.options()
    assert options[58] == (500).to_bytes(4, "big")  # quirk early-times: already in the OFFER
    assert options[59] == (875).to_bytes(4, "big")
    assert options[3] == packed("10.9.0.1")
    ack = server.ask(MessageType.REQUEST, requested=lease.address, server=SERVER)
    assert isinstance(ack, Ack)
    assert (ack.lease, ack.probe) == (lease, False)
    (binding,) = ack.bindings
    assert (binding.state, binding.expires) == (State.BOUND, NOW + 1000)


def test_the_address_stays_with_the_mac(server: Server) -> None:
    """Quirk mac-is-the-key: firmware and system have different client ids; after the end of the lease, too."""
    address = server.bound()
    assert server.offered(more={61: b"\xff1234"}) == address
    decision = server.ask(MessageType.DISCOVER)
    assert isinstance(decision, Grant)
    assert not decision.probe  # it uses it
    server.now += 5000
    server.bound(mac(2))
    again = server.ask(MessageType.DISCOVER)
    assert isinstance(again, Grant)
    assert again.lease.address == address
    assert again.probe


def test_same_address_after_the_table_was_lost(server: Server) -> None:
    address = server.offered()
    assert Server().offered() == address


def test_reservation_goes_before_all(server: Server) -> None:
    assert server.offered(RESERVED_MAC, requested="10.9.0.101") == "10.9.0.50"
    decision = server.ask(MessageType.DISCOVER, RESERVED_MAC)
    assert isinstance(decision, Grant)
    assert decision.lease.options()[12] == b"node9"
    assert server.offered(mac(1), requested="10.9.0.50") != "10.9.0.50"


def test_reserved_address_inside_the_range_is_nobody_elses() -> None:
    server = Server(replace(ADDRESSING, reservations={RESERVED_MAC: number("10.9.0.101")}))
    assert {server.bound(mac(last)) for last in (1, 2)} == {"10.9.0.100", "10.9.0.102"}
    assert isinstance(server.ask(MessageType.DISCOVER, mac(3)), Silent)
    assert server.bound(RESERVED_MAC) == "10.9.0.101"


def test_reserved_address_that_is_in_use_elsewhere_still_lets_the_node_boot(server: Server) -> None:
    assert server.bound(RESERVED_MAC) == "10.9.0.50"
    declined = server.ask(MessageType.DECLINE, RESERVED_MAC, requested="10.9.0.50", server=SERVER)
    assert isinstance(declined, Silent)
    assert declined.topic is Topic.CONFLICT
    assert ROOM.in_ranges(number(server.offered(RESERVED_MAC)))
    server.now += ADDRESSING.quarantine_seconds + 1
    assert server.offered(RESERVED_MAC) == "10.9.0.50"


def test_requested_address_is_given_when_it_is_free(server: Server) -> None:
    assert server.bound(mac(1), requested="10.9.0.102") == "10.9.0.102"
    assert server.offered(mac(2), requested="10.9.0.102") in ("10.9.0.100", "10.9.0.101")
    for never in ("10.9.0.1", SERVER, "10.9.0.103", "10.9.0.200", "10.8.0.100", "10.9.0.255"):
        assert server.offered(mac(3), requested=never) in ("10.9.0.100", "10.9.0.101"), never


def test_exhausted_until_something_is_given_back(server: Server) -> None:
    given = {server.bound(mac(last)) for last in (1, 2, 3)}
    assert given == {"10.9.0.100", "10.9.0.101", "10.9.0.102"}  # .103 is kept out
    full = server.ask(MessageType.DISCOVER, mac(4))
    assert isinstance(full, Silent)
    assert full.topic is Topic.EXHAUSTED
    assert full.subnet == ROOM
    released = next(iter(server.table.of(mac(2))))
    server.ask(MessageType.RELEASE, mac(2), using=dotted(released.address), server=SERVER)
    assert server.offered(mac(4)) == dotted(released.address)


def test_the_address_that_ended_first_is_taken_first(server: Server) -> None:
    first = server.bound(mac(1))
    for last in (2, 3):
        server.now += 10
        server.bound(mac(last))
    server.now += 2000
    assert server.offered(mac(4)) == first


def test_offer_ends_and_another_client_has_the_address() -> None:
    server = Server(replace(ADDRESSING, subnets=(replace(ROOM, ranges=ROOM.ranges[:0]),)))
    assert isinstance(server.ask(MessageType.DISCOVER), Silent)
    one = parse_subnet("10.9.0.0/24", ["10.9.0.100"])
    server = Server(replace(ADDRESSING, subnets=(one,)))
    server.offered(mac(1))
    assert isinstance(server.ask(MessageType.DISCOVER, mac(2)), Silent)
    server.now += ADDRESSING.offer_seconds
    assert server.offered(mac(2)) == "10.9.0.100"
    late = server.ask(MessageType.REQUEST, mac(1), requested="10.9.0.100", server=SERVER)
    assert isinstance(late, Nak)


def test_client_that_chose_another_server_frees_our_offer(server: Server) -> None:
    address = server.offered()
    decision = server.ask(MessageType.REQUEST, requested="10.9.0.77", server="10.9.0.3")
    assert isinstance(decision, Silent)
    assert decision.topic is Topic.RIVAL
    assert server.table.free_for(number(address), mac(2), server.now)
    kept = server.bound(mac(1))
    server.ask(MessageType.REQUEST, requested="10.9.0.77", server="10.9.0.3")
    assert not server.table.free_for(number(kept), mac(2), server.now)  # its lease with us still holds


def test_selecting_after_a_restart_is_acknowledged_once_probed(server: Server) -> None:
    """Offers are in memory only."""
    address = server.offered()
    server.table = LeaseTable()
    decision = server.ask(MessageType.REQUEST, requested=address, server=SERVER)
    assert isinstance(decision, Ack)
    assert decision.probe


@pytest.mark.parametrize("broadcast", [False, True])
def test_renewing_and_rebinding(server: Server, broadcast: bool) -> None:
    address = server.bound()
    server.now += 500
    decision = server.ask(MessageType.REQUEST, using=address, arrival=Arrival((SERVER,), broadcast))
    assert isinstance(decision, Ack)
    assert decision.lease.address == address
    assert decision.bindings[0].expires == server.now + 1000
    assert not decision.probe


def test_renewal_of_what_we_forgot_is_granted_when_free_and_refused_when_not(server: Server) -> None:
    decision = server.ask(MessageType.REQUEST, using="10.9.0.101")
    assert isinstance(decision, Ack)
    assert not decision.probe  # it would answer for it itself
    assert isinstance(server.ask(MessageType.REQUEST, mac(2), using="10.9.0.101"), Nak)


def test_reservation_made_meanwhile_waits_for_the_next_boot(server: Server) -> None:
    address = server.bound(mac(1))
    server.addressing = replace(ADDRESSING, reservations={mac(1): number("10.9.0.60")})
    assert isinstance(server.ask(MessageType.REQUEST, using=address), Ack)
    assert isinstance(server.ask(MessageType.REQUEST, requested=address), Nak)  # INIT-REBOOT: not using it yet
    assert server.offered(mac(1)) == "10.9.0.60"


def test_address_reserved_for_another_meanwhile_is_refused(server: Server) -> None:
    address = server.bound(mac(1))
    server.addressing = replace(ADDRESSING, reservations={RESERVED_MAC: number(address)})
    assert isinstance(server.ask(MessageType.REQUEST, using=address), Nak)


@pytest.mark.parametrize(
    ("requested", "authoritative", "expected"),
    [
        ("10.9.0.200", False, Silent),  # own subnet, not our range: may be another server's
        ("192.168.1.5", False, Silent),  # no subnet of ours
        ("10.8.0.100", False, Nak),  # ours, but another link
        ("10.9.0.103", False, Nak),  # in our range, kept out
        ("10.9.0.50", False, Nak),  # reserved for another
        ("10.9.0.101", False, Ack),  # ours and free
        ("10.9.0.200", True, Nak),
        ("192.168.1.5", True, Nak),
    ],
)
def test_nak_only_for_own_subnets(requested: str, authoritative: bool, expected: type) -> None:
    """INIT-REBOOT of an unknown client. Quirk no-nak."""
    server = Server(replace(ADDRESSING, authoritative=authoritative))
    decision = server.ask(MessageType.REQUEST, requested=requested)
    assert isinstance(decision, expected), decision


def test_init_reboot_on_another_of_our_links_is_refused(server: Server) -> None:
    address = server.bound()
    far = Arrival(("10.8.0.2",))
    assert isinstance(server.ask(MessageType.REQUEST, requested=address, arrival=far), Nak)
    assert isinstance(server.ask(MessageType.REQUEST, using=address, arrival=far), Nak)


def test_decline_of_what_it_does_not_have_changes_nothing(server: Server) -> None:
    address = server.bound(mac(1))
    server.ask(MessageType.DECLINE, mac(2), requested=address, server=SERVER)
    server.ask(MessageType.DECLINE, mac(1), requested=address, server="10.9.0.3")
    server.ask(MessageType.RELEASE, mac(2), using=address, server=SERVER)
    server.ask(MessageType.RELEASE, mac(1), using=address, server="10.9.0.3")
    binding = server.table.at(number(address))
    assert binding is not None
    assert (binding.client, binding.state) == (mac(1), State.BOUND)


def test_inform_gets_no_address_and_no_time(server: Server) -> None:
    decision = server.ask(MessageType.INFORM, using="10.9.0.200")
    assert isinstance(decision, Ack)
    assert decision.lease.address == "0.0.0.0"
    assert not {50, 51, 58, 59} & decision.lease.options().keys()  # RFC 2131 section 4.3.5
    assert decision.lease.options()[1] == packed("255.255.255.0")
    assert decision.bindings == ()
    assert isinstance(server.ask(MessageType.INFORM, using="192.168.1.1"), Silent)


def test_bootp_gets_its_reserved_address_for_ever(server: Server) -> None:
    decision = server.ask(None, RESERVED_MAC)
    assert isinstance(decision, Ack)
    assert decision.lease.address == "10.9.0.50"
    assert decision.bindings[0].expires == math.inf
    assert 51 not in decision.lease.options()
    assert isinstance(server.ask(None, mac(1)), Silent)


@pytest.mark.parametrize(
    ("relay", "link", "expected"),
    [
        ("10.8.0.1", "", "10.8.0."),
        ("10.9.0.1", "", "10.9.0."),
        ("192.0.2.1", "10.8.0.0", "10.8.0."),  # RFC 3527: the link is not giaddr's
        ("10.9.0.1", "10.8.0.0", "10.8.0."),
    ],
)
def test_relay_says_which_subnet(server: Server, relay: str, link: str, expected: str) -> None:
    option = {82: b"\x01\x02ab\x05\x04" + packed(link)} if link else {82: b"\x01\x02ab"}
    decision = server.ask(MessageType.DISCOVER, relay=relay, more=option)
    assert isinstance(decision, Grant)
    assert decision.lease.address.startswith(expected)
    assert decision.relayed
    assert decision.lease.server == SERVER


def test_relay_may_put_itself_in_our_place(server: Server) -> None:
    """RFC 5107: server identifier override."""
    option = {82: b"\x0b\x04" + packed("10.8.0.1")}
    decision = server.ask(MessageType.DISCOVER, relay="10.8.0.1", more=option)
    assert isinstance(decision, Grant)
    assert decision.lease.server == "10.8.0.1"
    address = decision.lease.address
    more = {"relay": "10.8.0.1", "more": option, "requested": address}
    assert isinstance(server.ask(MessageType.REQUEST, server="10.8.0.1", **more), Ack)  # type: ignore[arg-type]


def test_unknown_relay_and_option_82_of_a_client_itself(server: Server) -> None:
    assert isinstance(server.ask(MessageType.DISCOVER, relay="192.0.2.1"), Silent)
    own = server.ask(MessageType.DISCOVER, more={82: b"\x05\x04" + packed("10.8.0.0")})
    assert isinstance(own, Grant)
    assert own.lease.address.startswith("10.9.0.")


def test_renewal_from_behind_a_relay_comes_without_it(server: Server) -> None:
    address = server.offered(relay="10.8.0.1")
    server.ask(MessageType.REQUEST, requested=address, server=SERVER, relay="10.8.0.1")
    unicast = Arrival((SERVER,), broadcast=False)
    assert isinstance(server.ask(MessageType.REQUEST, using=address, arrival=unicast), Ack)
    assert isinstance(server.ask(MessageType.REQUEST, using=address), Nak)  # it has moved to our link
    released = server.ask(MessageType.RELEASE, using=address, server=SERVER, arrival=unicast)
    assert isinstance(released, Silent)
    assert [binding.state for binding in released.bindings] == [State.RELEASED]


@pytest.mark.parametrize(("asked", "given"), [(100, 120), (400, 400), (9999, 1000), (0, 1000), (0xFFFFFFFF, 1000)])
def test_client_may_ask_for_less_time(server: Server, asked: int, given: int) -> None:
    decision = server.ask(MessageType.DISCOVER, more={51: asked.to_bytes(4, "big")})
    assert isinstance(decision, Grant)
    assert decision.lease.seconds == given


def test_lost_acknowledgement_does_not_shorten_a_promise(server: Server) -> None:
    address = server.bound()
    shorter = server.ask(MessageType.REQUEST, using=address, more={51: (200).to_bytes(4, "big")})
    assert isinstance(shorter, Ack)
    assert shorter.lease.seconds == 200
    assert shorter.bindings[0].expires == NOW + 1000


@pytest.mark.parametrize("hardware", [bytes(6), b"\x01\0\0\0\0\1", b""])
def test_nobody_is_no_client(hardware: bytes) -> None:
    request = Message(Operation.REQUEST, 1, 1, hardware, options={53: b"\x01"})
    decision = lease_machine.decide(request, ADDRESSING, LeaseTable(), ARRIVAL, NOW)
    assert isinstance(decision, Silent)


def test_infiniband_is_known_by_its_identifier() -> None:
    """RFC 4390 section 2.1: hardware type 32, hardware length 0, an identifier."""
    request = Message(Operation.REQUEST, 1, 32, b"", options={53: b"\x01", 61: b"\xff" + bytes(range(18))})
    decision = lease_machine.decide(request, ADDRESSING, LeaseTable(), ARRIVAL, NOW)
    assert isinstance(decision, Grant)
    assert decision.bindings[0].client.startswith("id-ff00")


def test_conflict_keeps_the_address_from_all(server: Server) -> None:
    address = server.offered()
    server.table.put(lease_machine.conflict(number(address), NOW, ADDRESSING))
    assert server.offered() != address
    assert server.table.at(number(address)) == Binding(
        number(address), "", State.QUARANTINED, NOW + ADDRESSING.quarantine_seconds
    )


def test_relay_option_is_the_last_and_the_boot_file_the_last_for_the_client() -> None:
    """RFC 3046 section 2.2 and quirk file-name-ends: the relay removes 82, and then 67 is the last. scapy reads."""
    options = {82: b"\x01\x02ab", 67: b"file\0", 53: b"\x02", 1: packed("255.255.255.0"), 54: packed(SERVER)}
    data = dhcp.build(Message(Operation.REPLY, 1, 1, bytes(6), relay="10.8.0.1", options=options))
    names = [option[0] for option in BOOTP(data)[DHCP].options if isinstance(option, tuple)]
    assert names[0] == "message-type"
    assert names[-2:] == ["boot-file-name", "relay_agent_information"]


def test_asking_in_vain_costs_no_search(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of unknown clients at a full pool; and the pool is not full for ever."""
    full = parse_subnet("10.9.0.0/16", ["10.9.0.3-10.9.255.254"])
    server.addressing = replace(ADDRESSING, subnets=(full,), reservations={})
    for address in range(full.ranges[0].first, full.ranges[0].last + 1):
        server.table.put(Binding(address, f"client{address}", State.BOUND, NOW + 100 + address % 7))
    looked_at: list[int] = []
    address_at = Subnet.address_at

    def counted(self: Subnet, index: int) -> int:
        looked_at.append(index)
        return address_at(self, index)

    monkeypatch.setattr(Subnet, "address_at", counted)
    for last in range(256):
        assert isinstance(server.ask(MessageType.DISCOVER, mac(last)), Silent)
    assert len(looked_at) == full.size, "one search, not one for each that asks"
    server.now += 101
    assert server.offered(mac(1))
