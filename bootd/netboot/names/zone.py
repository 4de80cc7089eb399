"""The DNS zone of the nodes: what names, aliases and addresses exist, as a table made anew when something changes.

Names are tuples of labels, lower case, without the root: ``(b"lab3", b"bootd", b"internal")``. Nothing here knows
the wire format (see `bootd.netboot.names.answers`).
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SERVER = "bootd"  # the daemon's own name in its zone
TTL = 60  # seconds; addresses of nodes change
NEGATIVE_TTL = 15  # seconds; a node that is not known yet may be known at once
REVERSE = (b"in-addr", b"arpa")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_NUMBER = re.compile(r"(\d{1,6})\Z")

Name = tuple[bytes, ...]


@dataclass(frozen=True)
class Host:
    """One node. ``address`` "" = not known now; ``number`` is the host id that its alias ends in, None for the
    number at the end of its name."""

    name: str
    address: str = ""
    number: int | None = None


@dataclass(frozen=True)
class Record:
    """``value`` is an address (A), a name (CNAME, PTR, NS), or None (SOA: the zone says it)."""

    owner: Name
    kind: str
    value: str | Name | None = None


@dataclass(frozen=True)
class Found:
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Missing:
    """Nothing of that type. ``exists``: the name has other records, or none but names below it (RFC 2308)."""

    apex: Name
    exists: bool


@dataclass(frozen=True)
class Elsewhere:
    """Not in a zone of ours."""


Answer = Found | Missing | Elsewhere


@dataclass(frozen=True)
class Zone:
    """``serial`` grows with every change (seconds since the epoch when it was made)."""

    origin: Name
    server: Name
    server_address: str
    serial: int
    addresses: Mapping[Name, tuple[str, ...]]
    aliases: Mapping[Name, Name]
    pointers: Mapping[Name, Name]
    reverse: frozenset[Name]  # the apexes of /24 networks that have a pointer

    def look_up(self, name: Name, kind: str, *, complete: bool) -> Answer:
        """What ``name`` (any case) has of type ``kind``.

        ``complete``: nobody else can be asked, so an address that we do not know does not exist; else only those
        we know are ours.
        """
        wanted = tuple(label.lower() for label in name)
        if len(wanted) == 1:  # a plain name, as firmware and BusyBox ask without a search list
            longer = wanted + self.origin
            if longer in self.addresses or longer in self.aliases:
                return self._forward(longer, kind, wanted)
            return Missing((), exists=False) if kind in ("A", "AAAA") else Elsewhere()
        if wanted[-len(self.origin) :] == self.origin:
            return self._forward(wanted, kind, wanted)
        if wanted[-2:] == REVERSE:
            return self._backward(wanted, kind, complete)
        return Elsewhere()

    def _forward(self, name: Name, kind: str, owner: Name) -> Answer:
        if name in self.aliases:
            target = self.aliases[name]
            alias = Record(owner, "CNAME", target)
            if kind in ("CNAME", "ANY"):
                return Found((alias,))
            rest = self._forward(target, kind, target)
            return Found((alias, *rest.records)) if isinstance(rest, Found) else Found((alias,))
        if name == self.origin:
            return self._apex(name, kind)
        if name not in self.addresses:
            return Missing(self.origin, exists=False)
        own = self.addresses[name]
        if kind == "A" and own:
            return Found(tuple(Record(owner, "A", address) for address in own))
        return Missing(self.origin, exists=True)

    def _backward(self, name: Name, kind: str, complete: bool) -> Answer:
        if name in self.pointers:
            if kind == "PTR":
                return Found((Record(name, "PTR", self.pointers[name]),))
            return Missing(name[1:], exists=True)
        for apex in (name, name[1:]):
            if complete and apex in self.reverse:
                return self._apex(apex, kind) if apex == name else Missing(apex, exists=False)
        return Elsewhere()

    def _apex(self, name: Name, kind: str) -> Answer:
        if kind == "SOA":
            return Found((Record(name, "SOA"),))
        if kind == "NS":
            return Found((Record(name, "NS", self.server),))
        return Missing(name, exists=True)


def name_of(text: str) -> Name:
    """``lab3.bootd.internal`` as labels."""
    return tuple(label.encode() for label in text.lower().strip(".").split(".") if label)


def reverse_name(address: str) -> Name:
    """The owner of the PTR record of an IPv4 address (RFC 1035 section 3.5)."""
    return (*(part.encode() for part in reversed(address.split("."))), *REVERSE)


def problem(origin: str, prefix: str) -> str:
    """Why these cannot make a zone, or ""."""
    labels = origin.lower().strip(".").split(".")
    if not origin.strip(".") or not all(_NAME.match(label) for label in labels) or len(origin) > 180:
        return f"zone {origin!r} is not a domain name"
    if labels[-2:] == ["in-addr", "arpa"]:
        return f"zone {origin!r} is for addresses: those are added by themselves"
    if prefix and not re.match(r"[A-Za-z][A-Za-z0-9-]{0,40}\Z", prefix):
        return f"prefix {prefix!r} does not begin a host name"
    return ""


def build(origin: str, prefix: str, server_address: str, hosts: Iterable[Host], serial: int) -> Zone:
    """The zone of ``hosts``. Aliases are ``prefix`` and the host's number; one that two hosts would share, or that
    is the name of a host, is left out. The first of two hosts with one name or one address has it."""
    apex = name_of(origin)
    server = (SERVER.encode(), *apex)
    addresses: dict[Name, tuple[str, ...]] = {server: (server_address,)}
    pointers = {reverse_name(server_address): server}
    numbered: list[tuple[int, Name]] = []
    taken: Counter[int] = Counter()
    for host in hosts:
        name = (*name_of(host.name), *apex)
        if len(name) != len(apex) + 1 or not _NAME.match(host.name.lower()) or name in addresses:
            continue
        addresses[name] = (host.address,) if _usable(host.address) else ()
        if addresses[name]:
            pointers.setdefault(reverse_name(host.address), name)
        number = host.number if host.number is not None else _number_of(host.name)
        if number is not None:
            numbered.append((number, name))
            taken[number] += 1
    aliases = {
        (f"{prefix.lower()}{number}".encode(), *apex): name
        for number, name in numbered
        if prefix and taken[number] == 1
    }
    aliases = {alias: name for alias, name in aliases.items() if alias not in addresses}
    reverse = frozenset(pointer[1:] for pointer in pointers)
    return Zone(apex, server, server_address, serial, addresses, aliases, pointers, reverse)


def _number_of(name: str) -> int | None:
    """3 of ``lab3`` and ``lab03``; none of a name that is only made of a MAC address."""
    found = _NUMBER.search(name)
    return int(found.group(1)) if found and not re.match(r"node-[0-9a-f]{12}\Z", name.lower()) else None


def _usable(address: str) -> bool:
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return not (parsed.is_unspecified or parsed.is_multicast)
