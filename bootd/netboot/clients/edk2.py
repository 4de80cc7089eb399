"""EDK2's PXE client over IPv4, old and new.

From NetworkPkg/UefiPxeBcDxe: PxeBcDhcp4.c (PxeBcParseDhcp4Packet, PxeBcCacheDhcp4Offer, PxeBcSelectDhcp4Offer,
PxeBcHandleDhcp4Offer, PxeBcRetryBinlOffer, PxeBcDhcp4Discover), PxeBcBoot.c (PxeBcSelectBootPrompt,
PxeBcSelectBootMenu, PxeBcExtractDiscoverInfo, PxeBcDhcp4BootInfo) and PxeBcImpl.c (EfiPxeBcDiscover).

Old means before the condition in PxeBcCacheDhcp4Offer was put right: it kept the first discovery offer of a proxy
only if it had one already, so it never had one. It also knew nothing of bit 3 of the discovery control.
"""

from dataclasses import dataclass
from enum import IntEnum

from bootd.netboot import dhcp, menu
from bootd.netboot.clients.air import (
    EVERYBODY,
    NOBODY,
    Attempt,
    Ending,
    Exchange,
    Firmware,
    Outcome,
    Received,
    acknowledged,
    dotted,
    failure,
    fetch,
    first_byte,
)
from bootd.netboot.dhcp import Option

_DISCOVERY = {menu.DISCOVERY_CONTROL, menu.MULTICAST, menu.SERVERS, menu.MENU, menu.PROMPT}
_MTFTP = {1, 2, 3, 4, 5}
_NO_OFFER = "PXE-E16: No valid offer received"
_MOST_OFFERS = 16  # PXEBC_OFFER_MAX_NUM
_LARGEST = 1472  # PXEBC_DHCP4_PACKET_MAX_SIZE


class Kind(IntEnum):
    """PXEBC_OFFER_TYPE."""

    ONLY = 0  # an address and nothing about PXE
    DHCP_BINL = 1
    DHCP_PXE10 = 2
    PROXY_BINL = 3
    PROXY_PXE10 = 4
    PROXY_ONLY = 5  # neither address nor PXEClient
    BOOTP = 6


@dataclass
class _Cache:
    """The offers that were kept, and whether any came from a proxy (IsProxyRecved)."""

    offers: list[tuple[Kind, Received]]
    proxied: bool = False

    def of(self, kind: Kind) -> list[Received]:
        return [received for own, received in self.offers if own is kind]


@dataclass(frozen=True)
class Edk2:
    """``old``: see above. ``firmware`` is what it sends."""

    name: str
    firmware: Firmware
    old: bool = False

    def boot(self) -> Attempt:
        notes: list[str] = []
        offers = yield self.firmware.discover()
        cache = self._keep(offers, notes)
        selected = _select(cache)
        if selected is None:
            return failure(_NO_OFFER, notes)
        kind, offer, proxies = selected
        ack = offer
        if kind is not Kind.BOOTP:
            found = acknowledged((yield self.firmware.take(offer)), offer)
            if found is None:
                return failure(f"no ACK from {offer.server_identifier}", notes)
            ack = found
        address = ack.message.your
        proxy: Received | None = None
        if kind is Kind.DHCP_BINL:
            proxy = yield from self._ask_again(offer, address, notes)
            if proxy is None:
                return failure(_NO_OFFER, notes)
        elif kind is Kind.ONLY and cache.proxied:
            for candidate in proxies:
                proxy = candidate
                if classify(candidate) is Kind.PROXY_BINL:
                    proxy = yield from self._ask_again(candidate, address, notes)
                if proxy is not None:
                    break
            if proxy is None:
                return failure(_NO_OFFER, notes)
        elif kind is Kind.ONLY and not offer.file:
            return failure(_NO_OFFER, notes)
        return (yield from self._from_menu(proxy or ack, address, notes))

    def _keep(self, offers: tuple[Received, ...], notes: list[str]) -> _Cache:
        """PxeBcCacheDhcp4Offer over all that arrived."""
        cache = _Cache([])
        for offer in offers[:_MOST_OFFERS]:
            kind = classify(offer)
            if kind is None or offer.length > _LARGEST:
                notes.append(f"drops the offer of {offer.server}: not usable")
                continue
            if kind in (Kind.PROXY_BINL, Kind.PROXY_PXE10, Kind.PROXY_ONLY):
                cache.proxied = True
            if kind is Kind.PROXY_ONLY:
                notes.append(f"drops the offer of {offer.server}: neither an address nor PXEClient")
                continue
            if kind is Kind.PROXY_PXE10 and self.old:
                notes.append(f"drops the offer of {offer.server}: it carries discovery options (option 43)")
                continue
            if kind in (Kind.PROXY_PXE10, Kind.BOOTP) and cache.of(kind):
                continue
            cache.offers.append((kind, offer))
        return cache

    def _ask_again(self, offer: Received, address: str, notes: list[str]) -> Exchange:
        """PxeBcRetryBinlOffer: port 4011 of siaddr, else of option 54, from our own 4011."""
        server = offer.message.server if offer.message.server != NOBODY else offer.server_identifier
        notes.append(f"asks {server} on 4011")
        answers = yield self.firmware.ask(server, dhcp.PXE_PORT, address, dhcp.PXE_PORT)
        for answer in answers:
            if answer.source_port != dhcp.PXE_PORT or answer.port != dhcp.PXE_PORT:
                notes.append(f"drops the answer of {answer.server}: not from 4011 to 4011")
                continue
            kind = classify(answer)
            if kind is not None and (answer.file or kind is Kind.PROXY_PXE10):
                return answer
        notes.append(f"no boot file from {server} on 4011")
        return None

    def _from_menu(self, reply: Received, address: str, notes: list[str]) -> Attempt:
        """PxeBcDiscoverBootFile from the prompt on."""
        kind = classify(reply)
        options = reply.message.vendor_options
        if kind not in (Kind.PROXY_PXE10, Kind.DHCP_PXE10):
            return self._boot_information(reply, notes)
        control = first_byte(options, menu.DISCOVERY_CONTROL)
        if not self.old and control & menu.USE_BOOT_FILE and reply.file:
            return self._boot_information(reply, notes)
        prompt = options.get(menu.PROMPT, b"")
        if prompt and prompt[0] == 255:  # PXE 2.1: for ever
            return Outcome(Ending.WAITS, notes=tuple(notes))
        if prompt and prompt[0]:
            notes.append(f"shows its prompt for {prompt[0]} s")
        number = int.from_bytes(options.get(menu.MENU, b"\0\0")[:2], "big")
        if number == menu.LOCAL:
            return Outcome(Ending.LOCAL, notes=tuple(notes))
        return (yield from self._discover(options, number, address, notes))

    def _discover(self, options: dict[int, bytes], number: int, address: str, notes: list[str]) -> Attempt:
        """EfiPxeBcDiscover: multicast if allowed, else broadcast, else each server of the list."""
        control = first_byte(options, menu.DISCOVERY_CONTROL)
        listed = servers(options.get(menu.SERVERS, b"")).get(number, [])
        if menu.SERVERS in options and not listed:
            return failure(f"no boot server of type {number:#06x} in the list", notes)
        targets: list[tuple[str, int]]
        if not control & menu.NO_MULTICAST:
            targets = [(dotted(options.get(menu.MULTICAST, b"")), dhcp.PXE_PORT)]
        elif not control & menu.NO_BROADCAST:
            targets = [(EVERYBODY, dhcp.SERVER_PORT)]
        else:
            targets = [(server, dhcp.PXE_PORT) for server in listed]
        item = number.to_bytes(2, "big") + b"\0\0"
        for server, port in targets:
            notes.append(f"looks for boot server type {number:#06x} at {server}:{port}")
            source_port = dhcp.PXE_PORT if port == dhcp.PXE_PORT else dhcp.CLIENT_PORT
            for answer in (yield self.firmware.ask(server, port, address, source_port, item)):
                strict = control & menu.ONLY_LISTED and listed
                if answer.port == source_port and (not strict or answer.message.server in listed):
                    return self._boot_information(answer, notes)
        return failure("no boot server answers", notes)

    def _boot_information(self, reply: Received, notes: list[str]) -> Outcome:
        """PxeBcDhcp4BootInfo: siaddr, else option 54; new EDK2 prefers the server list when bit 3 is set."""
        if not reply.file:
            return failure("PXE-E99: Unexpected network error: the last answer has no boot file name", notes)
        server = NOBODY
        options = reply.message.vendor_options
        control = first_byte(options, menu.DISCOVERY_CONTROL)
        if reply.is_pxe and not self.old and control & menu.USE_BOOT_FILE:
            listed = list(servers(options.get(menu.SERVERS, b"")).values())
            server = listed[0][0] if listed and listed[0] else NOBODY
        if server == NOBODY:
            server = reply.message.server
        if server == NOBODY:
            server = reply.server_identifier
        return fetch(server, reply.file, notes)


def classify(offer: Received) -> Kind | None:
    """PxeBcParseDhcp4Packet; None when the packet is dropped."""
    message = offer.message
    proxy = message.your == NOBODY
    if message.message_type is None:
        return Kind.BOOTP if offer.file else None
    options = message.vendor_options if offer.is_pxe and Option.VENDOR in message.options else {}
    if _DISCOVERY & options.keys():
        return Kind.PROXY_PXE10 if proxy else Kind.DHCP_PXE10
    if options.keys() >= _MTFTP:
        return None
    if offer.is_pxe:
        return Kind.PROXY_BINL if proxy else Kind.DHCP_BINL
    return Kind.PROXY_ONLY if proxy else Kind.ONLY


def _select(cache: _Cache) -> tuple[Kind, Received, list[Received]] | None:
    """PxeBcSelectDhcp4Offer, sorted: (kind, offer, proxies to try), None when there is nothing to select."""
    only = cache.of(Kind.ONLY)
    if found := cache.of(Kind.DHCP_PXE10):
        return Kind.DHCP_PXE10, found[0], []
    if only and (proxies := cache.of(Kind.PROXY_PXE10)):
        return Kind.ONLY, only[0], proxies
    if found := cache.of(Kind.DHCP_BINL):
        return Kind.DHCP_BINL, found[0], []
    if only and (proxies := cache.of(Kind.PROXY_BINL)):
        return Kind.ONLY, only[0], proxies
    for offer in only:
        if offer.file:
            return Kind.ONLY, offer, []
    if found := cache.of(Kind.BOOTP):
        return Kind.BOOTP, found[0], []
    return None


def servers(value: bytes) -> dict[int, list[str]]:
    """Sub-option 8: boot server type to addresses; a ragged tail is left out."""
    table: dict[int, list[str]] = {}
    position = 0
    while position + 3 <= len(value):
        number, count = int.from_bytes(value[position : position + 2], "big"), value[position + 2]
        end = position + 3 + 4 * count
        if end > len(value):
            break
        table[number] = [dotted(value[start : start + 4]) for start in range(position + 3, end, 4)]
        position = end
    return table
