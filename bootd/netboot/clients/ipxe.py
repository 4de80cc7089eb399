"""iPXE, as it is since 2010 (two proxy offers, the last one wins) and since 2014 (server and file of one origin).

From src/net/udp/dhcp.c (dhcp_has_pxeopts, dhcp_discovery_rx, dhcp_request_rx, dhcp_proxy_tx, dhcp_proxy_rx,
dhcp_pxebs_tx, dhcp_pxebs_rx), src/usr/autoboot.c (have_pxe_menu, fetch_next_server_and_filename),
src/usr/pxemenu.c (pxe_menu_parse, pxe_menu_boot) and src/core/settings.c (reprioritise_settings: the DHCP settings
of a card are looked at before the ProxyDHCP settings beside it).
"""

from dataclasses import dataclass

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
    dotted,
    failure,
    fetch,
    first_byte,
)
from bootd.netboot.clients.edk2 import servers
from bootd.netboot.dhcp import MessageType, Option

_PROXY_WAIT = "waits 2 s for a proxy offer"  # DHCP_DISC_PROXY_TIMEOUT_SEC
_PRIORITY, _NO_PXEDHCP = 0x01, 0xB0  # encapsulated in option 175


@dataclass(frozen=True)
class Ipxe:
    name: str
    firmware: Firmware

    def boot(self) -> Attempt:
        notes: list[str] = []
        offers = yield self.firmware.discover()
        offer, proxy = _discover(offers)
        if offer is None:
            return failure("no offer with an address", notes)
        alone = _encapsulated(offer, _NO_PXEDHCP) != 0
        if not alone and proxy is None:
            notes.append(_PROXY_WAIT)
        ack = None
        for answer in (yield self.firmware.take(offer)):
            same = answer.server_identifier == offer.server_identifier and answer.message.your == offer.message.your
            if answer.source_port == dhcp.SERVER_PORT and answer.message.message_type is MessageType.ACK and same:
                ack = answer
                break
        if ack is None:
            return failure(f"no ACK from {offer.server_identifier}", notes)
        settings = [ack]
        if proxy is not None and not alone:
            if not _has_pxe_options(proxy):
                proxy = yield from self._ask(proxy, ack.message.your, notes)
            if proxy is not None:
                settings.append(proxy)
        return (yield from self._netboot(settings, ack.message.your, notes))

    def _ask(self, proxy: Received, address: str, notes: list[str]) -> Exchange:
        server = _pseudo_identifier(proxy)
        notes.append(f"asks {server} on 4011")
        for answer in (yield self.firmware.ask(server, dhcp.PXE_PORT, address, dhcp.CLIENT_PORT)):
            if answer.source_port != dhcp.PXE_PORT:
                notes.append(f"drops the answer of {answer.server}: not from port 4011")
                continue
            kind = answer.message.message_type
            known = _pseudo_identifier(answer) == server and kind in (MessageType.OFFER, MessageType.ACK)
            if known and _has_pxe_options(answer):
                return answer
        notes.append("no boot file on 4011: goes on with what it has")
        return None

    def _netboot(self, settings: list[Received], address: str, notes: list[str]) -> Attempt:
        """netboot(): the PXE menu if there is a usable one, else the first file name in order of the settings."""
        with_menu = next((origin for origin in settings if menu.MENU in origin.message.vendor_options), None)
        found = next((origin for origin in settings if _file(origin)), None)
        pxe = any(origin.message.vendor_class == "PXEClient" for origin in settings)
        if with_menu is not None and pxe:
            options = with_menu.message.vendor_options
            control = first_byte(options, menu.DISCOVERY_CONTROL)
            if not (control & menu.USE_BOOT_FILE and found):
                return (yield from self._menu(options, address, notes))
        if found is None:
            return failure("Nothing to boot: no file name in any offer", notes)
        server = found.message.server if found.message.server != NOBODY else _pseudo_identifier(found)
        return fetch(server, _file(found), notes)

    def _menu(self, options: dict[int, bytes], address: str, notes: list[str]) -> Attempt:
        prompt = options.get(menu.PROMPT, b"")
        if not prompt or prompt[0] == 255:  # without a prompt the menu is shown at once
            return Outcome(Ending.WAITS, notes=tuple(notes))
        if prompt[0]:
            notes.append(f"shows its prompt for {prompt[0]} s")
        number = int.from_bytes(options[menu.MENU][:2], "big")
        if number == menu.LOCAL:
            return Outcome(Ending.LOCAL, notes=tuple(notes))
        control = first_byte(options, menu.DISCOVERY_CONTROL)
        listed = servers(options.get(menu.SERVERS, b"")).get(number, [])
        attempts: list[tuple[str, int]] = []
        if menu.MULTICAST in options and not control & menu.NO_MULTICAST:
            attempts.append((dotted(options[menu.MULTICAST]), dhcp.PXE_PORT))
        if not control & menu.NO_BROADCAST:
            attempts.append((EVERYBODY, dhcp.SERVER_PORT))
        attempts += [(server, dhcp.PXE_PORT) for server in listed]
        accepted = listed if control & menu.ONLY_LISTED else []
        item = number.to_bytes(2, "big") + b"\0\0"
        for server, port in attempts:
            notes.append(f"looks for boot server type {number:#06x} at {server}:{port}")
            for answer in (yield self.firmware.ask(server, port, address, dhcp.CLIENT_PORT, item)):
                if answer.target != address:  # its socket is bound to its address by now
                    notes.append(f"does not hear the answer of {answer.server}: it goes to {answer.target}")
                    continue
                confirmed = answer.message.vendor_options.get(menu.ITEM, b"")[:2] == item[:2]
                welcome = not accepted or _pseudo_identifier(answer) in accepted
                if answer.message.message_type is MessageType.ACK and confirmed and welcome:
                    if not _file(answer):
                        return failure("Nothing to boot: the boot server names no file", notes)
                    return fetch(answer.message.server, _file(answer), notes)
        return failure("no boot server answers", notes)


def _discover(offers: tuple[Received, ...]) -> tuple[Received | None, Received | None]:
    """dhcp_discovery_rx over all that arrived: (offer with the address, ProxyDHCP offer); equal priority: the last.

    It stops listening as soon as it has both, which the order of arrival decides.
    """
    offer: Received | None = None
    proxy: Received | None = None
    for received in offers:
        kind = received.message.message_type
        priority = _encapsulated(received, _PRIORITY)
        usable = kind in (MessageType.OFFER, None) and received.source_port == dhcp.SERVER_PORT
        if (
            received.message.your != NOBODY
            and usable
            and (not offer or priority >= _encapsulated(offer, _PRIORITY))
        ):
            offer = received
        if received.is_pxe and (not proxy or priority >= _encapsulated(proxy, _PRIORITY)):
            proxy = received
        if offer and (proxy or _encapsulated(offer, _NO_PXEDHCP)):
            break
    return offer, proxy


def _has_pxe_options(received: Received) -> bool:
    """dhcp_has_pxeopts: siaddr and a file name, or a menu."""
    complete = received.message.server != NOBODY and bool(_file(received))
    return complete or menu.MENU in received.message.vendor_options


def _file(received: Received) -> str:
    """src/net/dhcppkt.c, dhcppkt_fetch: ``file`` of the header when it is used, else option 67."""
    own = received.message.file or received.message.options.get(Option.BOOT_FILE, b"").rstrip(b"\0")
    return own.decode("ascii", "replace")


def _pseudo_identifier(received: Received) -> str:
    """Option 54, else siaddr, else where the datagram came from."""
    for address in (received.server_identifier, received.message.server):
        if address != NOBODY:
            return address
    return received.server


def _encapsulated(received: Received, code: int) -> int:
    """A one-byte setting inside option 175; 0 when it is not there."""
    value = dhcp.encapsulated(received.message.options.get(Option.IPXE, b"")).get(code, b"")
    return value[0] if len(value) == 1 else 0
