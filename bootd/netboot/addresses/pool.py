"""The addresses that bootd may give: subnets, ranges, reservations. Values made from the settings' own words.

Sans-IO. Inside, an address is a number (32 bits), so that ranges can be counted; `number` and `dotted` translate.
"""

import ipaddress
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bootd.netboot import dhcp

MAX_ADDRESSES = 65_536  # of one pool: what one search for a free address may look at


def number(address: str) -> int:
    """A dotted quad as a number; `LocalProtocolError` for anything else."""
    return int.from_bytes(dhcp.packed(address), "big")


def dotted(address: int) -> str:
    return ".".join(str(byte) for byte in address.to_bytes(4, "big"))


@dataclass(frozen=True)
class Range:
    first: int
    last: int  # included

    def __contains__(self, address: int) -> bool:
        return self.first <= address <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Subnet:
    """One subnet that is ours, on the own link or behind a relay. ``seconds`` is the longest lease."""

    network: int
    prefix: int  # bits
    ranges: tuple[Range, ...] = ()  # () = reservations only
    routers: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()
    domain: str = ""
    seconds: int = 3600

    def __contains__(self, address: int) -> bool:
        return (address ^ self.network) >> (32 - self.prefix) == 0

    def __str__(self) -> str:
        return f"{dotted(self.network)}/{self.prefix}"

    @property
    def netmask(self) -> str:
        return dotted((0xFFFF_FFFF << (32 - self.prefix)) & 0xFFFF_FFFF)

    @property
    def broadcast(self) -> int:
        return self.network | (0xFFFF_FFFF >> self.prefix)

    @property
    def size(self) -> int:
        """Addresses in the ranges."""
        return sum(len(part) for part in self.ranges)

    def in_ranges(self, address: int) -> bool:
        return any(address in part for part in self.ranges)

    def address_at(self, position: int) -> int:
        """The address at ``position`` of all ranges in a row, counted from 0 and around."""
        position %= self.size
        for part in self.ranges:
            if position < len(part):
                return part.first + position
            position -= len(part)
        raise IndexError(position)

    def usable(self, address: int) -> bool:
        """A host may have it: inside, and neither the network's nor the broadcast address."""
        return address in self and (self.prefix > 30 or address not in (self.network, self.broadcast))


@dataclass(frozen=True)
class Addressing:
    """All that decides who may have which address. Clients are keyed as `lease_machine.client_of` does."""

    subnets: tuple[Subnet, ...]
    reservations: Mapping[str, int] = field(default_factory=dict)  # client -> address
    names: Mapping[str, str] = field(default_factory=dict)  # client -> host name
    kept_out: frozenset[int] = frozenset()  # routers, name servers, this server: never given to a client
    authoritative: bool = False  # nobody else gives addresses on these links
    offer_seconds: float = 30.0  # how long an offered address is held
    quarantine_seconds: float = 3600.0  # how long an address that somebody else uses is left alone

    def subnet_of(self, address: int) -> Subnet | None:
        return next((subnet for subnet in self.subnets if address in subnet), None)

    def gives_on(self, addresses: Iterable[str]) -> bool:
        """On a link where we have one of these ``addresses`` any client gets one of ours: it is our network."""
        found = (self.subnet_of(number(address)) for address in addresses)
        return any(subnet is not None and subnet.size for subnet in found)

    def owner(self, address: int) -> str:
        """The client that the address is reserved for, "" for none."""
        return self._owners.get(address, "")

    @cached_property
    def _owners(self) -> Mapping[int, str]:
        return {address: client for client, address in self.reservations.items()}


def parse_subnet(
    subnet: str,
    ranges: Sequence[str],
    *,
    routers: Sequence[str] = (),
    name_servers: Sequence[str] = (),
    domain: str = "",
    seconds: int = 3600,
) -> Subnet:
    """A subnet as the settings write it: "192.0.2.0/24", ranges "192.0.2.100-192.0.2.199" or one address.

    `ValueError` with one sentence on what is wrong.
    """
    try:
        network = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        raise ValueError(f"subnet {subnet!r}: {error}") from None
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,253}", domain):
        raise ValueError(f"domain {domain!r} is no domain name in ASCII")
    if network.prefixlen < 8:
        raise ValueError(f"subnet {subnet}: larger than a /8")
    made = Subnet(
        int(network.network_address),
        network.prefixlen,
        tuple(_parse_range(text) for text in ranges),
        tuple(_checked(address, "gateway") for address in routers),
        tuple(_checked(address, "dns") for address in name_servers),
        domain,
        seconds,
    )
    for text, part in zip(ranges, made.ranges, strict=True):
        if not (made.usable(part.first) and made.usable(part.last)):
            raise ValueError(f"range {text!r} is not inside {made}, or touches its first or last address")
    for router in made.routers:
        if number(router) not in made:
            raise ValueError(f"gateway {router} is not inside {made}")
    ordered = sorted(made.ranges, key=lambda part: part.first)
    for one, next_one in itertools.pairwise(ordered):
        if next_one.first <= one.last:
            raise ValueError(f"two ranges of {made} overlap at {dotted(next_one.first)}")
    if made.size > MAX_ADDRESSES:
        raise ValueError(f"the ranges of {made} have {made.size} addresses, at most {MAX_ADDRESSES} are possible")
    return made


def overlapping(subnets: Iterable[Subnet]) -> str:
    """One sentence when two subnets overlap, else ""."""
    ordered = sorted(subnets, key=lambda subnet: subnet.network)
    for one, other in itertools.pairwise(ordered):
        if other.network in one:
            return f"{one} and {other} overlap"
    return ""


def _parse_range(text: str) -> Range:
    first, dash, last = text.partition("-")
    ends = (first.strip(), (last if dash else first).strip())
    made = Range(*(number(_checked(end, "range")) for end in ends))
    if made.last < made.first:
        raise ValueError(f"range {text!r} ends before it begins")
    return made


def _checked(address: str, what: str) -> str:
    try:
        return str(ipaddress.IPv4Address(address))
    except ValueError:
        raise ValueError(f"{what} {address!r} is not an IPv4 address") from None
