"""Random histories of many clients, judged from the clients' side: no two ever use one address.

A client here believes what it was told: an address is its own from an ACK to the end of the time in that ACK,
unless it gave it back or was refused. Answers get lost, the server is killed and restarted (offers are forgotten),
strangers sit on addresses and are found by the probe.
"""

from dataclasses import dataclass, field
from random import Random

import pytest

from bootd.netboot import dhcp
from bootd.netboot.addresses import machine as lease_machine
from bootd.netboot.addresses.decision import Ack, Arrival, Decision, Grant, Nak, Silent
from bootd.netboot.addresses.pool import Addressing, number, parse_subnet
from bootd.netboot.addresses.table import LeaseTable, State
from bootd.netboot.dhcp import Message, MessageType, Operation
from bootd.netboot.refusal import refuse

SERVER = "10.9.0.2"
STEPS = 4000
CLIENTS = 24


@dataclass
class Client:
    mac: bytes
    relay: str = "0.0.0.0"
    offer: str = ""
    address: str = ""
    until: float = 0.0
    history: list[str] = field(default_factory=list)

    def uses(self, now: float) -> bool:
        return bool(self.address) and self.until > now


class Room:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = 1000.0
        here = parse_subnet("10.9.0.0/24", ["10.9.0.100-10.9.0.115", "10.9.0.120"], seconds=300)
        far = parse_subnet("10.8.0.0/24", ["10.8.0.100-10.8.0.103"], seconds=200)
        self.clients = [Client(bytes((0x52, 0x54, 0, 0, 0, last + 1))) for last in range(CLIENTS)]
        for client in self.clients[-6:]:
            client.relay = "10.8.0.1"
        reservations = {
            self.clients[0].mac.hex(":"): number("10.9.0.101"),
            self.clients[1].mac.hex(":"): number("10.9.0.50"),
        }
        self.addressing = Addressing(
            (here, far), reservations, {}, frozenset({number(SERVER)}), offer_seconds=20, quarantine_seconds=100
        )
        self.table = LeaseTable()
        self.disk: LeaseTable = LeaseTable()
        self.strangers: set[int] = set()
        self.answers = {Grant: 0, Ack: 0, Nak: 0, Silent: 0}

    def ask(self, client: Client, kind: MessageType, *, using: str = "0.0.0.0", **options: str) -> Decision:
        coded: dict[int, bytes] = {53: bytes((kind,))}
        for name, code in (("requested", 50), ("server", 54)):
            if name in options:
                coded[code] = number(options[name]).to_bytes(4, "big")
        if self.random.random() < 0.3:
            coded[51] = self.random.choice((60, 150, 500, 0xFFFFFFFF)).to_bytes(4, "big")
        if self.random.random() < 0.5:
            coded[61] = self.random.randbytes(7)
        relay = client.relay if using == "0.0.0.0" else "0.0.0.0"
        request = Message(
            Operation.REQUEST, 1, 1, client.mac, client=using, relay=relay, options=coded, broadcast=True
        )
        arrival = Arrival((SERVER,), broadcast=using == "0.0.0.0")
        for _ in range(40):
            decision = lease_machine.decide(request, self.addressing, self.table, arrival, self.now)
            for binding in getattr(decision, "bindings", ()):
                self.table.put(binding)
                if binding.state is not State.OFFERED:
                    self.disk.put(binding)
            if not isinstance(decision, Grant | Ack) or not decision.probe:
                break
            probed = number(decision.lease.address)
            others = (other for other in self.clients if other is not client and other.uses(self.now))
            if probed not in self.strangers:
                # The machine must not count on the probe where it knows better.
                assert decision.lease.address not in {other.address for other in others}
                break
            found = lease_machine.conflict(probed, self.now, self.addressing)
            self.table.put(found)
            self.disk.put(found)
        self.answers[type(decision)] += 1
        return decision

    def take(self, client: Client, decision: Decision) -> None:
        """What the client does about the answer to a REQUEST, if it arrives."""
        if isinstance(decision, Nak):
            client.address, client.offer = "", ""
        if isinstance(decision, Ack) and self.random.random() < 0.8:
            client.address, client.offer = decision.lease.address, ""
            client.until = self.now + decision.lease.seconds

    def step(self, client: Client) -> None:
        choice = self.random.randrange(11)
        using = client.uses(self.now)
        if choice <= 1 or (choice <= 5 and not using and not client.offer):
            # Firmware and a rebooted system ask anew, and forget what they had.
            client.address = ""
            wish = {"requested": self.random.choice(("10.9.0.105", "10.8.0.101", "10.9.0.101"))}
            decision = self.ask(client, MessageType.DISCOVER, **(wish if self.random.random() < 0.3 else {}))
            client.offer = decision.lease.address if isinstance(decision, Grant) else ""
        elif client.offer and choice <= 6:
            server = SERVER if self.random.random() < 0.9 else "10.9.0.3"
            decision = self.ask(client, MessageType.REQUEST, requested=client.offer, server=server)
            self.take(client, decision)
            client.offer = ""
        elif using and choice <= 7:
            self.take(client, self.ask(client, MessageType.REQUEST, using=client.address))
        elif client.address and choice == 8:
            # Back from a pause: it asks for the old address without using it.
            wanted, client.address = client.address, ""
            self.take(client, self.ask(client, MessageType.REQUEST, requested=wanted))
        elif using and choice == 9:
            kind = self.random.choice((MessageType.RELEASE, MessageType.DECLINE))
            if kind is MessageType.RELEASE:
                self.ask(client, kind, using=client.address, server=SERVER)
            else:
                self.ask(client, kind, requested=client.address, server=SERVER)
            client.address = ""
        else:
            # Any wish at all, also for what is another's.
            wanted = f"10.{self.random.choice((8, 9))}.0.{self.random.randrange(98, 124)}"
            client.address = ""
            self.take(client, self.ask(client, MessageType.REQUEST, requested=wanted))

    def check(self) -> None:
        users: dict[str, Client] = {}
        for client in self.clients:
            if not client.uses(self.now):
                continue
            assert client.address not in users, f"{client.address} at {self.now}"
            users[client.address] = client
            subnet = self.addressing.subnets[client.relay != "0.0.0.0"]
            assert number(client.address) in subnet
            owner = self.addressing.owner(number(client.address))
            assert owner in ("", client.mac.hex(":"))


@pytest.mark.parametrize("seed", range(6))
def test_no_two_clients_ever_use_one_address(seed: int) -> None:
    room = Room(Random(seed))
    for number_of_step in range(STEPS):
        room.now += room.random.expovariate(1 / 4)
        if room.random.random() < 0.02:
            room.strangers = {number(f"10.9.0.{room.random.randrange(100, 121)}") for _ in range(2)}
            room.strangers -= {number(client.address) for client in room.clients if client.uses(room.now)}
        if number_of_step % 500 == 499:  # kill -9: what was on disk is what there is
            room.table = LeaseTable(room.disk)
            for client in room.clients:
                client.offer = ""
        room.step(room.random.choice(room.clients))
        room.check()
    assert min(room.answers.values()) > STEPS // 100, room.answers  # every kind of answer was given


def test_no_request_makes_the_machine_raise() -> None:
    """Whatever a client sends that is a DHCP message at all: decided, and the decision can be sent."""
    random = Random(9)
    room = Room(random)
    parts = [
        *(b"", b"\0", bytes(4), b"\xff" * 4, b"x" * 300, b"\x0a\x09\0\x65", b"\x0a\x08\0\x64", b"\x7f\0\0\1"),
        *(b"\x05\x04\x0a\x08\0\0", b"\x0b\x04\x0a\x08\0\1", b"\x05\x09\1"),
    ]
    addresses = ["0.0.0.0", "10.9.0.101", "10.8.0.1", "255.255.255.255", "127.0.0.1", "10.9.0.255"]
    arrivals = [Arrival(()), Arrival((SERVER,)), Arrival(("192.0.2.1",), broadcast=False)]
    for _ in range(4000):
        options = {code: random.choice(parts) for code in (12, 50, 51, 54, 55, 57, 61, 82) if random.random() < 0.5}
        if random.random() < 0.9:
            options[53] = bytes((random.randrange(12),))
        request = Message(
            random.choice(list(Operation)),
            1,
            random.choice((1, 32)),
            random.choice((room.clients[0].mac, room.clients[9].mac, bytes(6), b"", bytes(16))),
            client=random.choice(addresses),
            relay=random.choice(addresses),
            options=options,
        )
        before = {binding.address: binding for binding in room.table}
        decision = lease_machine.decide(request, room.addressing, room.table, random.choice(arrivals), room.now)
        assert {binding.address: binding for binding in room.table} == before  # it changes nothing itself
        for binding in getattr(decision, "bindings", ()):
            room.table.put(binding)
        if isinstance(decision, Grant | Ack):
            decision.lease.options()
        if isinstance(decision, Nak):
            dhcp.parse(refuse(request, decision)[0])
        room.now += 1
