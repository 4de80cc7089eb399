"""The node registry: machines that may be deployed, keyed by boot MAC, their names, numbers and groups."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bootd.errors import Exit, OperatorError
from bootd.session.effects import NodeRecord
from bootd.session.groups import ConfiguredGroup, Groups
from bootd.session.hosts import ANY, HostSet, normal_mac, parse, plain_name
from bootd.session.machine import Machine, Twins, machine_of
from bootd.wire.control import Join
from bootd.wire.errors import PeerProtocolError

MAX_NODES = 10_000
MAX_NUMBER = 999_999

_TRAILING = re.compile(r"(\d{1,6})\Z")


@dataclass
class Node:
    """One machine. Empty strings mean "not set"; times are monotonic seconds."""

    mac: str
    name: str
    token: str  # boot token, hex: what its kernel command line carries
    given_name: str = ""  # by an operator at run time
    label: str = ""  # by an operator or the configuration, for every boot
    once: str = ""  # for the next boot
    once_until: float = 0.0  # 0 = not asked for yet; then the boot that asked may ask again until this time
    automatic: str = ""  # set by the session that ended for this node
    parked: str = ""  # why nothing more is done without an operator
    attempts: int = 0  # failed attempts in its last session
    join: Join | None = None
    seen: float | None = None  # last request, None = not since the daemon started
    heard: float | None = None  # last join or report
    cloned: float | None = None  # when a session last ended well for it
    session: str = ""  # id of the open session that it is a live member of
    told: str = ""  # the reason it was last told to wait
    approved: bool = False  # an operator has said that it belongs here, or policy has
    number: int | None = None  # by an operator: host id
    switch: str = ""  # by an operator: where it is plugged in
    machine: Machine | None = None  # that is behind this MAC, as it was accepted
    changed: str = ""  # how the machine differs that answers now; "" = it does not
    warned: tuple[str, ...] = ()  # warnings that were told

    def present(self, now: float, silence: float) -> bool:
        """Whether it is up in stage2: has joined, and was heard of within ``silence`` seconds."""
        return self.join is not None and self.heard is not None and now - self.heard <= silence

    def record(self) -> NodeRecord:
        return NodeRecord(
            mac=self.mac,
            name=self.given_name,
            token=self.token,
            label=self.label,
            once=self.once,
            automatic=self.automatic,
            parked=self.parked,
            attempts=self.attempts,
            join=self.join,
            approved=self.approved,
            number=self.number,
            switch=self.switch,
            machine=self.machine,
            changed=self.changed,
        )


class Registry:
    """All nodes known, by MAC. Names come from the configuration, then from operators, else from the MAC.

    ``numbers``: host ids by MAC, ``addresses``: reserved ones, from the configuration; ``prefix`` and a number is
    an alias.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        draw: Callable[[int], str],
        *,
        groups: Sequence[ConfiguredGroup] = (),
        numbers: Mapping[str, int] | None = None,
        addresses: Mapping[str, str] | None = None,
        prefix: str = "",
    ) -> None:
        self._configured = {mac.lower(): name for mac, name in names.items()}
        self._numbers = {mac.lower(): number for mac, number in (numbers or {}).items()}
        self._addresses = {mac.lower(): address for mac, address in (addresses or {}).items()}
        self._prefix = prefix.lower()
        self._by_name = {name.lower(): mac for mac, name in self._configured.items()}
        self._by_given: dict[str, str] = {}  # MACs by the names that operators have given, in lower case
        self._by_number: tuple[int, dict[int, list[str]]] = (-1, {})
        self._draw = draw
        self._nodes: dict[str, Node] = {}
        self._renamed = 0
        self.twins = Twins()
        self.groups = Groups(groups, self.find, lambda: self._renamed)

    def __iter__(self) -> Iterator[Node]:
        return iter(sorted(self._nodes.values(), key=lambda node: node.mac))

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, mac: str) -> Node | None:
        return self._nodes.get(mac)

    def add(self, mac: str) -> Node:
        """The node with ``mac``, made with a fresh token if it is new. ``mac`` is in normal form."""
        node = self._nodes.get(mac)
        if node is None:
            node = Node(mac, self._configured.get(mac) or default_name(mac), self._draw(16))
            self._nodes[mac] = node
        return node

    def restore(self, record: NodeRecord) -> Node:
        name = self._configured.get(record.mac) or record.name or default_name(record.mac)
        node = Node(
            mac=record.mac,
            name=name,
            token=record.token,
            given_name=record.name,
            label=record.label,
            once=record.once,
            automatic=record.automatic,
            parked=record.parked,
            attempts=record.attempts,
            join=record.join,
            approved=record.approved,
            number=record.number,
            switch=record.switch,
            machine=record.machine,
            changed=record.changed,
        )
        if node.machine is None and node.join is not None:  # a record of an older bootd
            node.machine = machine_of(node.join)
        self._nodes[node.mac] = node
        if record.name and node.mac not in self._configured:
            self._by_given[record.name.lower()] = node.mac
        self.twins.put(node.mac, node.machine)
        self._renamed += 1
        return node

    def room_for(self, mac: str) -> tuple[bool, Node | None]:
        """Whether ``mac`` may be known, and which node must be forgotten for it.

        Any station on the network can make up MACs; one that never joined and has no policy may be forgotten.
        """
        if mac in self._nodes or len(self._nodes) < MAX_NODES:
            return True, None
        idle = [
            node
            for node in self._nodes.values()
            if node.join is None
            and not (node.label or node.once or node.parked or node.given_name or node.approved)
            and node.mac not in self._configured
        ]
        if not idle:
            return False, None
        return True, min(idle, key=lambda node: node.seen or 0.0)

    def forget(self, mac: str) -> None:
        self.take_name(mac)
        self._nodes.pop(mac, None)
        self.twins.put(mac, None)
        self._renamed += 1

    def is_configured(self, mac: str) -> bool:
        return mac in self._configured

    def reserved(self, mac: str) -> str:
        """The address that the configuration reserves for it, "" = none."""
        return self._addresses.get(mac, "")

    def own_number(self, mac: str) -> int | None:
        """A node's host id by the configuration, else by an operator; None = nobody has given it one."""
        node = self._nodes.get(mac)
        return self._numbers.get(mac, node.number if node is not None else None)

    def number(self, mac: str) -> int | None:
        """The same, else the number that its name ends in."""
        own, node = self.own_number(mac), self._nodes.get(mac)
        if own is not None:
            return own
        if mac not in self._configured and (node is None or not node.given_name):
            return None
        match = _TRAILING.search(self.name(mac))
        return int(match.group(1)) if match else None

    def find(self, text: str) -> str:
        """The MAC that a name, a MAC, ``node-HEX``, or a host id with or without the prefix of the aliases means.

        `OperatorError` when it means nobody, or several.
        """
        mac = normal_mac(text.strip().lower().removeprefix("node-")) or normal_mac(text)
        if mac:
            return mac
        wanted = text.strip().lower()
        named = self._by_name.get(wanted) or self._by_given.get(wanted)
        if named:
            return named
        bare = wanted.removeprefix(self._prefix)
        if bare.isascii() and bare.isdigit() and len(bare) <= 6:
            found = self._numbered(int(bare))
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(sorted(self.name(one) for one in found))
                raise OperatorError(f"{text.strip()!r} is the number of {names}", "say its name", Exit.USAGE)
        raise OperatorError(
            f"no node is called {text.strip()!r}",
            "say a MAC, or name it: bootd node name MAC NAME",
            Exit.USAGE,
        )

    def name(self, mac: str) -> str:
        node = self._nodes.get(mac)
        return node.name if node else self._configured.get(mac) or default_name(mac)

    def rename(self, mac: str, name: str) -> Node:
        """Gives the node a name; `OperatorError` when it is malformed, taken, or set by the configuration."""
        if not plain_name(name) or normal_mac(name) or name.lower() == ANY:
            raise OperatorError(f"{name!r} is not a host name", "use letters, digits and '-'", Exit.USAGE)
        if mac in self._configured:
            raise OperatorError(f"{mac} is named by the configuration", "change its [[node]] there", Exit.USAGE)
        lower = name.lower()
        taken = self._by_name.get(lower) or self._by_given.get(lower) or normal_mac(lower.removeprefix("node-"))
        if taken and taken != mac:
            raise OperatorError(f"{name!r} is the name of {taken}", "choose another", Exit.USAGE)
        self.take_name(mac)
        node = self.add(mac)
        node.name = node.given_name = name
        self._by_given[lower] = mac
        self._renamed += 1
        return node

    def take_name(self, mac: str) -> None:
        """Its operators' name is free again; its own is what the configuration or its MAC makes it."""
        node = self._nodes.get(mac)
        if node is None:
            return
        if self._by_given.get(node.given_name.lower()) == mac:
            del self._by_given[node.given_name.lower()]
        node.given_name, node.name = "", self._configured.get(mac) or default_name(mac)
        self._renamed += 1

    def host_set(self, text: str) -> HostSet:
        """The machines that ``text`` names (`hosts.parse`); `OperatorError` for what is wrong or unknown."""
        written = parse(text)
        without = self._macs(written.without)
        if written.names is None:
            return HostSet(None, without)
        macs = self._macs(written.names) - without
        if not macs:
            raise OperatorError(f"{text.strip()!r} names nobody", "see bootd group list", Exit.USAGE)
        return HostSet(macs, without)

    def select(self, text: str) -> list[str]:
        """The MACs of a host set, in order; ``any`` is all that are known."""
        wanted = self.host_set(text)
        return sorted(wanted.macs if wanted.macs is not None else self._nodes.keys() - wanted.without)

    def may_number(self, mac: str, number: int) -> bool:
        """Whether an operator may give a node this host id: the configuration goes before."""
        return self._numbers.get(mac, number) == number

    def set_number(self, node: Node, number: int | None) -> None:
        """Its host id, by an operator; None = the number that its name ends in."""
        if number is not None and not 0 <= number <= MAX_NUMBER:
            raise OperatorError(f"number {number}", f"say 0 to {MAX_NUMBER}", Exit.USAGE)
        if node.mac in self._numbers:
            raise OperatorError(f"{node.mac} has its number in bootd.toml", "change its [[node]] there", Exit.USAGE)
        node.number = number
        self._renamed += 1

    def accept_machine(self, node: Node, machine: Machine) -> None:
        """``machine`` is behind this MAC from now on."""
        node.machine, node.changed = machine, ""
        self.twins.put(node.mac, machine)

    def _numbered(self, number: int) -> list[str]:
        """The MACs that have this host id."""
        if self._by_number[0] != self._renamed:
            index: dict[int, list[str]] = {}
            for mac in {*self._configured, *self._nodes}:
                own = self.number(mac)
                if own is not None:
                    index.setdefault(own, []).append(mac)
            self._by_number = (self._renamed, index)
        return self._by_number[1].get(number, [])

    def _macs(self, names: tuple[str, ...]) -> frozenset[str]:
        macs: set[str] = set()
        for name in names:
            macs |= self.groups.members(name[1:]) if name.startswith("@") else {self.find(name)}
        return frozenset(macs)


def default_name(mac: str) -> str:
    return "node-" + mac.replace(":", "")


def checked_join(message: Join) -> Join:
    """``message``, if its identity and address make sense; else `PeerProtocolError`."""
    if normal_mac(message.node) != message.node or not message.node:
        raise PeerProtocolError(f"join: {message.node[:40]!r} is not a MAC in lower case with colons")
    try:
        address = ipaddress.IPv4Address(message.address)
    except ValueError:
        raise PeerProtocolError(f"join: {message.address[:40]!r} is not an IPv4 address") from None
    if address.is_unspecified or address.is_multicast:
        raise PeerProtocolError(f"join: neighbours cannot dial {address}")
    return message
