"""The node registry: machines that may be deployed, keyed by boot MAC, their names and sets of names."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bootd.errors import Exit, OperatorError
from bootd.session.effects import NodeRecord
from bootd.wire.control import Join
from bootd.wire.errors import PeerProtocolError

MAX_NODES = 10_000
MAX_HOSTS = 4096  # in one host set
ANY = "any"

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_HEX = re.compile(r"[0-9a-f]{12}\Z")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_RANGE = re.compile(r"([A-Za-z0-9-]*)\[([^\[\]]*)\]([A-Za-z0-9-]*)\Z")
_SPAN = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?\Z")


def normal_mac(text: str) -> str:
    """``text`` as a MAC in lower case with colons; "" when it is none. Dashes and bare hex are accepted."""
    mac = text.strip().lower().replace("-", ":")
    if _HEX.match(mac):
        mac = ":".join(mac[index : index + 2] for index in range(0, 12, 2))
    return mac if _MAC.match(mac) else ""


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
        )


class Registry:
    """All nodes known, by MAC. Names come from the configuration, then from operators, else from the MAC."""

    def __init__(self, names: Mapping[str, str], draw: Callable[[int], str]) -> None:
        self._configured = {mac.lower(): name for mac, name in names.items()}
        self._draw = draw
        self._nodes: dict[str, Node] = {}

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
        )
        self._nodes[node.mac] = node
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
            and not (node.label or node.once or node.parked or node.given_name)
            and node.mac not in self._configured
        ]
        if not idle:
            return False, None
        return True, min(idle, key=lambda node: node.seen or 0.0)

    def forget(self, mac: str) -> None:
        self._nodes.pop(mac, None)

    def find(self, text: str) -> str:
        """The MAC that a name, a MAC or ``node-HEX`` means; `OperatorError` when there is no such name."""
        mac = normal_mac(text.strip().lower().removeprefix("node-")) or normal_mac(text)
        if mac:
            return mac
        wanted = text.strip().lower()
        for known, name in self._configured.items():
            if name.lower() == wanted:
                return known
        for node in self._nodes.values():
            if node.name.lower() == wanted:
                return node.mac
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
        if not _NAME.match(name) or normal_mac(name) or name.lower() == ANY:
            raise OperatorError(f"{name!r} is not a host name", "use letters, digits and '-'", Exit.USAGE)
        if mac in self._configured:
            raise OperatorError(f"{mac} is named by the configuration", "change its [[node]] there", Exit.USAGE)
        taken = [known for known, own in self._configured.items() if own.lower() == name.lower()]
        taken += [node.mac for node in self._nodes.values() if node.name.lower() == name.lower()]
        if any(other != mac for other in taken):
            raise OperatorError(f"{name!r} is the name of {taken[0]}", "choose another", Exit.USAGE)
        node = self.add(mac)
        node.name = node.given_name = name
        return node

    def resolve(self, text: str) -> frozenset[str] | None:
        """The MACs of a host set, or None for ``any``; `OperatorError` for what is malformed or unknown."""
        names = parse_hosts(text)
        return None if names is None else frozenset(self.find(name) for name in names)


def default_name(mac: str) -> str:
    return "node-" + mac.replace(":", "")


def plain_name(text: str) -> bool:
    """Whether ``text`` may name a node or a session: letters, digits and inner dashes, at most 63."""
    return _NAME.match(text) is not None


def parse_hosts(text: str) -> tuple[str, ...] | None:
    """The names and MACs of a host set, or None for ``any``. No name twice, in the order written.

    Grammar: items joined by commas or blanks; an item is a name, a MAC, or PREFIX[3-5,7]SUFFIX, where leading
    zeros set the width: ``lab[08-11]`` is lab08, lab09, lab10, lab11. `OperatorError` (USAGE) otherwise.
    """
    items = [item for item in re.split(r"[,\s]+(?![^\[]*\])", text.strip()) if item]
    if not items:
        raise OperatorError("no nodes are named", "say any, or names such as lab[3-5],lab9", Exit.USAGE)
    if ANY in (item.lower() for item in items):
        if len(items) > 1:
            raise OperatorError("'any' does not go with other nodes", "say any alone", Exit.USAGE)
        return None
    names: dict[str, None] = {}
    for item in items:
        for name in _expand(item):
            names[name] = None
            if len(names) > MAX_HOSTS:
                raise OperatorError(f"more than {MAX_HOSTS} nodes in one set", "use a smaller range", Exit.USAGE)
    return tuple(names)


def _expand(item: str) -> list[str]:
    if normal_mac(item) or _NAME.match(item):
        return [item]
    match = _RANGE.match(item)
    if match is None:
        raise OperatorError(
            f"{item!r} is neither a node name nor a MAC nor a range", "say lab3, lab[3-5]", Exit.USAGE
        )
    prefix, spans, suffix = match.groups()
    names: list[str] = []
    for span in spans.split(","):
        bounds = _SPAN.match(span.strip())
        first = int(bounds.group(1)) if bounds else 0
        last = int(bounds.group(2) or bounds.group(1)) if bounds else -1
        if bounds is None or last < first or last - first >= MAX_HOSTS:
            raise OperatorError(f"{item!r}: {span!r} is not a range", "say lab[3-5] or lab[3,7-9]", Exit.USAGE)
        width = len(bounds.group(1)) if bounds.group(1).startswith("0") else 0
        names += [f"{prefix}{number:0{width}d}{suffix}" for number in range(first, last + 1)]
    for name in names:
        if not _NAME.match(name):
            raise OperatorError(f"{name!r} is not a node name", "use letters, digits and '-'", Exit.USAGE)
    return names


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
