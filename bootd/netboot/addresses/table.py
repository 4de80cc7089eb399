"""Who has which address: bindings by address and by client, and the search for a free one.

Sans-IO, changed only by `put` and `drop`. One address has at most one binding, so that two clients on one address
cannot be written down. A binding that has ended stays as a memory: its client gets the same address again as long
as nobody else has needed it. Time is seconds since the epoch, given by the caller.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from bootd.netboot.addresses.pool import Subnet

_LOOKED_AT = 4096  # addresses in one search, once a used one that is free again has been seen
_FULL_SECONDS = 60.0  # a subnet in which nothing was free is searched again after so long, or when something ends


class State(Enum):
    OFFERED = "offered"  # held in memory until the client takes it or the offer ends
    BOUND = "bound"
    RELEASED = "released"  # given back; the client has it again when it asks
    QUARANTINED = "quarantined"  # somebody else uses it: declined, or found by the probe


@dataclass(frozen=True)
class Binding:
    """``address`` is a number (`pool.dotted`); ``client`` "" when quarantined; ``expires`` may be infinite."""

    address: int
    client: str
    state: State
    expires: float
    name: str = ""  # what the client calls itself (option 12), for people

    def live(self, now: float) -> bool:
        """It keeps the address from others."""
        return self.state is not State.RELEASED and self.expires > now


class LeaseTable:
    def __init__(self, bindings: Iterable[Binding] = ()) -> None:
        self._by_address: dict[int, Binding] = {}
        self._by_client: dict[str, dict[int, None]] = {}
        self._full_until: dict[Subnet, float] = {}  # so that asking in vain, over and over, costs no search
        for binding in bindings:
            self.put(binding)

    def __len__(self) -> int:
        return len(self._by_address)

    def __iter__(self) -> Iterator[Binding]:
        return iter(self._by_address.values())

    def at(self, address: int) -> Binding | None:
        return self._by_address.get(address)

    def of(self, client: str) -> list[Binding]:
        """Every binding of ``client``, also those that have ended; it may have one in each subnet."""
        return [self._by_address[address] for address in self._by_client.get(client, ())]

    def put(self, binding: Binding) -> None:
        """Write ``binding`` down in place of what its address had."""
        self.drop(binding.address)
        if binding.state is State.RELEASED:
            self._full_until.clear()
        self._by_address[binding.address] = binding
        if binding.client:
            self._by_client.setdefault(binding.client, {})[binding.address] = None

    def drop(self, address: int) -> None:
        before = self._by_address.pop(address, None)
        if before is None or not before.client:
            return
        addresses = self._by_client[before.client]
        del addresses[address]
        if not addresses:
            del self._by_client[before.client]

    def free_for(self, address: int, client: str, now: float) -> bool:
        """Nobody but ``client`` has the address, and it is not quarantined."""
        binding = self._by_address.get(address)
        return binding is None or not binding.live(now) or (binding.client == client and bool(client))

    def live_in(self, subnet: Subnet, now: float) -> int:
        """How many addresses of the ranges are not free."""
        return sum(binding.live(now) and subnet.in_ranges(binding.address) for binding in self)

    def choose(self, subnet: Subnet, client: str, now: float, allowed: Callable[[int], bool]) -> int | None:
        """A free address of the ranges: one that nobody had, else the one whose lease ended first; None when full.

        The search begins at a place that belongs to the client, so that it finds the same address even after the
        table was lost.
        """
        if now < self._full_until.get(subnet, now):
            return None
        size = subnet.size
        start = zlib.crc32(client.encode()) % size if size else 0
        oldest: Binding | None = None
        for step in range(size):
            address = subnet.address_at(start + step)
            if not allowed(address):
                continue
            binding = self._by_address.get(address)
            if binding is None:
                return address
            if not binding.live(now) and (oldest is None or binding.expires < oldest.expires):
                oldest = binding
            if oldest is not None and step >= _LOOKED_AT:
                break
        if oldest is None:
            ends = (binding.expires for binding in self if subnet.in_ranges(binding.address) and binding.live(now))
            self._full_until[subnet] = min((now + _FULL_SECONDS, *ends))
            return None
        return oldest.address
