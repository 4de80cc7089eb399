"""EDK2's HTTP Boot client over IPv4.

From NetworkPkg/HttpBootDxe/HttpBootDhcp4.c: HttpBootParseDhcp4Packet, HttpBootSelectDhcpOffer (the corporate
branch: no URI was typed in), and HttpBootClient.c, HttpBootDhcp4ExtractUriInfo.
"""

from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from bootd.netboot.clients.air import NOBODY, Attempt, Firmware, Received, acknowledged, failure, fetch

_NAME_SERVERS = 6
_LARGEST = 1472  # HTTP_BOOT_DHCP4_PACKET_MAX_SIZE


class Kind(Enum):
    """HTTP_BOOT_OFFER_TYPE."""

    ONLY = "address"
    DNS = "address and name server"
    IP_URI = "address and URL with an address"
    NAME_URI = "address and URL with a name"
    NAME_URI_DNS = "address, URL with a name and name server"
    PROXY_IP_URI = "URL with an address"
    PROXY_NAME_URI = "URL with a name"


@dataclass(frozen=True)
class Edk2Http:
    name: str
    firmware: Firmware

    def boot(self) -> Attempt:
        notes: list[str] = []
        offers = yield self.firmware.discover()
        kept: list[tuple[Kind, Received]] = []
        for offer in offers:
            kind = classify(offer)
            if kind is None or offer.length > _LARGEST:
                notes.append(f"drops the offer of {offer.server}: neither an address nor HTTPClient with a URL")
            else:
                kept.append((kind, offer))
        selected = _select(kept)
        if selected is None:
            return failure("no valid offer received", notes)
        offer, source = selected
        if acknowledged((yield self.firmware.take(offer)), offer) is None:
            return failure(f"no ACK from {offer.server_identifier}", notes)
        return fetch(NOBODY, source.file, notes)


def classify(offer: Received) -> Kind | None:
    """HttpBootParseDhcp4Packet; None when the packet is dropped."""
    proxy = offer.message.your == NOBODY
    names = _NAME_SERVERS in offer.message.options
    # The driver compares nine bytes, of "HTTPClient".
    if not offer.message.vendor_class.startswith("HTTPClien"):
        if proxy:
            return None
        return Kind.DNS if names else Kind.ONLY
    try:
        address = urlsplit(offer.file)
        host = address.hostname or ""
    except ValueError:
        return None
    if address.scheme not in ("http", "https") or not host:
        return None
    literal = all(part.isdigit() for part in host.split("."))
    if proxy:
        return Kind.PROXY_IP_URI if literal else Kind.PROXY_NAME_URI
    if literal:
        return Kind.IP_URI
    return Kind.NAME_URI_DNS if names else Kind.NAME_URI


def _select(kept: list[tuple[Kind, Received]]) -> tuple[Received, Received] | None:
    """HttpBootSelectDhcpOffer: (offer to take, offer that has the URL)."""

    def first(kind: Kind) -> Received | None:
        return next((offer for own, offer in kept if own is kind), None)

    for kind in (Kind.IP_URI, Kind.NAME_URI_DNS):
        if offer := first(kind):
            return offer, offer
    for kind, source_kind in (
        (Kind.ONLY, Kind.PROXY_IP_URI),
        (Kind.DNS, Kind.PROXY_IP_URI),
        (Kind.DNS, Kind.PROXY_NAME_URI),
        (Kind.DNS, Kind.NAME_URI),
    ):
        offer, source = first(kind), first(source_kind)
        if offer and source:
            return offer, source
    return None
