"""Network configuration that is tied to a card of the machine that the tree came from: text in, text out.

With one card named, its address becomes this node's. With several, none of them is here, and nobody knows which of
them ours should be: then the line goes, so that the configuration fits any card, or it stays and is told.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_MAC = r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}"
# A line that chooses a card by its address: ifcfg, NetworkManager's key files and .link/.network, netplan.
_MATCHING = re.compile(
    rf"(?im)^(?P<head>\s*(?:HWADDR\s*=\s*|mac-address\s*=\s*|(?:Permanent)?MACAddress\s*=\s*|macaddress:\s*)[\"']?)"
    rf"(?P<mac>{_MAC})(?P<tail>[\"']?[ \t]*)$"
)
# A line that gives a card another address than its own: two machines with one address take each other off the net.
_IMPOSING = re.compile(
    rf"(?im)^[ \t]*(?:hwaddress[ \t]+(?:ether[ \t]+)?|MACADDR[ \t]*=[ \t]*[\"']?|cloned-mac-address[ \t]*=[ \t]*)"
    rf"{_MAC}[\"']?[ \t]*\n?"
)
_STATIC = re.compile(
    r"(?im)^\s*(?:address\s+(?P<ifupdown>\d[\d.]+)|IPADDR\d*\s*=\s*[\"']?(?P<ifcfg>\d[\d.]+)"
    r"|address1?\s*=\s*(?P<keyfile>\d[\d./]+)|-\s+[\"']?(?P<netplan>\d+\.\d+\.\d+\.\d+/\d+))"
)


@dataclass(frozen=True)
class Bound:
    """``text``: the file anew. ``notes``: what an operator should know of it."""

    text: str
    notes: tuple[str, ...] = ()


def cards_named(texts: Iterable[str]) -> frozenset[str]:
    """The addresses by which these files choose a card, lower case with colons."""
    return frozenset(_plain(match["mac"]) for text in texts for match in _MATCHING.finditer(text))


def bind(text: str, mac: str, cards: frozenset[str]) -> Bound:
    """``text`` for the card ``mac``; ``cards``: those that all files of the tree name (`cards_named`)."""
    notes = []
    fresh = text
    if len(cards) == 1:
        fresh = _MATCHING.sub(lambda match: f"{match['head']}{mac}{match['tail']}", fresh)
    elif cards - {mac} and _MATCHING.search(text):
        notes.append(f"chooses among {len(cards)} cards by their addresses, which are not those of this node")
    fresh, imposed = _IMPOSING.subn("", fresh)
    if imposed:
        notes.append("no longer gives the card another address than its own")
    notes += [f"gives every clone the address {address}" for address in static_addresses(fresh)]
    return Bound(fresh, tuple(notes))


def static_addresses(text: str) -> list[str]:
    """Addresses that the file sets, without loopback."""
    found = [next(group for group in match.groups() if group) for match in _STATIC.finditer(text)]
    return [address for address in found if not address.startswith("127.")]


def without_aliases(text: str) -> str:
    """modprobe.conf without what names drivers of one machine's cards: udev finds them by itself today."""
    drivers = (
        r"(?m)^\s*(?:alias\s+(?:eth\d+|wlan\d+|scsi_hostadapter\d*)\s+\S+|install\s+scsi_hostadapter\d*\s.*)\s*$\n?"
    )
    return re.sub(drivers, "", text)


def _plain(mac: str) -> str:
    return mac.lower().replace("-", ":")
