"""What can become of a request for an address: values that `lease_machine.decide` returns, for the caller to do.

The caller first writes ``bindings`` into the table, so that the next decision knows of them; those that are more
than offered are on disk before the answer leaves.
"""

from dataclasses import dataclass
from enum import Enum, auto

from bootd.netboot.addresses.lease import Lease
from bootd.netboot.addresses.pool import Subnet
from bootd.netboot.addresses.table import Binding


class Topic(Enum):
    """What an operator may want to be told of a silence."""

    ROUTINE = auto()
    EXHAUSTED = auto()  # no address is left: told once per subnet
    RIVAL = auto()  # another server gives addresses here
    CONFLICT = auto()  # somebody uses an address that is not theirs


@dataclass(frozen=True)
class Arrival:
    """Where a request came in: the addresses of our interface, the one that we answer from first; ``broadcast``
    when it was sent to all of that link and not to us alone."""

    addresses: tuple[str, ...]
    broadcast: bool = True


@dataclass(frozen=True)
class _Given:
    lease: Lease
    bindings: tuple[Binding, ...]
    probe: bool  # ask first whether somebody uses the address
    relayed: bool  # the client is on another link, behind a relay
    subnet: Subnet


@dataclass(frozen=True)
class Grant(_Given):
    """Offer ``lease``; it is held in memory only."""


@dataclass(frozen=True)
class Ack(_Given):
    """Confirm ``lease``, once ``bindings`` are on disk."""


@dataclass(frozen=True)
class Nak:
    reason: str
    server: str  # server identifier, a dotted quad


@dataclass(frozen=True)
class Silent:
    """No answer; ``bindings`` are still to be written down (a release, a decline)."""

    reason: str
    topic: Topic = Topic.ROUTINE
    bindings: tuple[Binding, ...] = ()
    subnet: Subnet | None = None


Decision = Grant | Ack | Nak | Silent
