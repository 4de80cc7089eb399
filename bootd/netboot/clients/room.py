"""Clients and servers in one room: what each client does with this configuration, step by step.

A `Server` answers requests; `play` runs one client model against some of them. bootd's own answers come from the
one offer decision, through its codec and back, so what is judged is the bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from bootd.netboot import dhcp, menu, offer
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.clients.air import EVERYBODY, NOBODY, Attempt, Outcome, Received, Request, failure
from bootd.netboot.dhcp import Message, MessageType, Operation, Option
from bootd.netboot.offer import Ignore, Interface, NodePolicy

_MOST_REQUESTS = 24  # a client that asks more often than this is stuck


class Server(Protocol):
    @property
    def address(self) -> str: ...

    def answer(self, request: Request) -> tuple[Received | None, str]:
        """What the server sends for ``request``, which has reached it, None for nothing; and why no boot file."""


class Client(Protocol):
    @property
    def name(self) -> str: ...

    def boot(self) -> Attempt: ...


@dataclass(frozen=True)
class Bootd:
    """Us: as a proxy, or with ``lease`` (an example) as the server that gives addresses."""

    interface: Interface
    lease: Lease | None = None
    policy: NodePolicy = field(default_factory=NodePolicy)

    @property
    def address(self) -> str:
        return self.interface.address

    def answer(self, request: Request) -> tuple[Received | None, str]:
        message = dhcp.parse(dhcp.build(request.message))
        lease = self.lease
        if message.message_type is MessageType.REQUEST and message.client == NOBODY:
            chosen = message.options.get(Option.SERVER_IDENTIFIER)
            if lease is not None and chosen not in (None, dhcp.packed(lease.server)):
                return None, ""  # the client has taken another server's offer
        if message.client != NOBODY:
            lease = None  # it has its address: this is boot server discovery
        source = (message.client, request.source_port)
        decision = offer.decide(message, self.policy, self.interface, request.port, source, lease=lease)
        if isinstance(decision, Ignore):
            return None, decision.reason if decision.network_boot else ""
        reply = dhcp.parse(decision.reply)
        to = decision.destination
        received = Received(reply, len(decision.reply), self.address, request.port, to.port, to.address)
        return received, decision.no_boot if decision.network_boot else ""


@dataclass(frozen=True)
class AddressServer:
    """Another server's plain DHCP: it gives ``lease``, and ``file`` of ``next_server`` if it has one to give."""

    lease: Lease
    file: str = ""
    next_server: str = NOBODY
    vendor_class: str = ""

    @property
    def address(self) -> str:
        return self.lease.server

    def answer(self, request: Request) -> tuple[Received | None, str]:
        message = request.message
        kinds = {MessageType.DISCOVER: MessageType.OFFER, MessageType.REQUEST: MessageType.ACK}
        kind = kinds.get(message.message_type) if message.message_type else None
        chosen = message.options.get(Option.SERVER_IDENTIFIER, dhcp.packed(self.address))
        if kind is None or request.port != dhcp.SERVER_PORT or chosen != dhcp.packed(self.address):
            return None, ""
        options = {Option.MESSAGE_TYPE: bytes((kind,)), **self.lease.options()}
        if self.vendor_class:
            options[Option.VENDOR_CLASS] = self.vendor_class.encode("ascii")
        reply = dhcp.build(
            replace(
                message,
                operation=Operation.REPLY,
                your=self.lease.address,
                server=self.next_server,
                file=self.file.encode("ascii"),
                options=options,
            )
        )
        # To this server a discovery by broadcast is a client that renews its lease: RFC 2131 section 4.3.2.
        target = message.client if message.client != NOBODY else EVERYBODY
        return Received(dhcp.parse(reply), len(reply), self.address, dhcp.SERVER_PORT, target=target), ""


@dataclass(frozen=True)
class Step:
    """One request and who answered with what, in words; ``refusals`` are why bootd named no boot file."""

    request: str
    answers: tuple[str, ...]
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Play:
    client: str
    outcome: Outcome
    steps: tuple[Step, ...]

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why bootd named no boot file, each reason once."""
        return tuple(dict.fromkeys(reason for step in self.steps for reason in step.refusals))


def play(client: Client, servers: Sequence[Server], group: str = menu.DISCOVERY_GROUP) -> Play:
    """The whole attempt of ``client``; answers arrive in the order of ``servers``."""
    attempt = client.boot()
    steps: list[Step] = []
    try:
        request = next(attempt)
        while True:
            reached = [server for server in servers if request.address in (EVERYBODY, group, server.address)]
            replies = [server.answer(request) for server in reached]
            answers = tuple(answer for answer, _ in replies if answer is not None)
            refusals = tuple(reason for _, reason in replies if reason)
            said = tuple(describe_answer(answer) for answer in answers)
            steps.append(Step(describe_request(request), said, refusals))
            if len(steps) > _MOST_REQUESTS:
                attempt.close()
                return Play(client.name, failure("it asks without end", []), tuple(steps))
            request = attempt.send(answers)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return Play(client.name, outcome, tuple(steps))


def describe_request(request: Request) -> str:
    kind = request.message.message_type
    name = kind.name if kind else "BOOTP"
    where = "everybody" if request.address == EVERYBODY else request.address
    item = menu.asked(request.message.vendor_options)
    return f"{name} to {where}:{request.port}" + (f" for boot server type {item[0]:#06x}" if item else "")


def describe_answer(answer: Received) -> str:
    message: Message = answer.message
    kind = message.message_type
    parts = [kind.name if kind else "BOOTP", f"from {answer.server}:{answer.source_port}"]
    if message.your != NOBODY:
        parts.append(f"address {message.your}")
    if message.vendor_class:
        parts.append(message.vendor_class)
    if answer.file:
        parts.append(f"file {answer.file}")
    if menu.MENU in message.vendor_options:
        parts.append("menu")
    return ", ".join([" ".join(parts[:2]), *parts[2:]])
