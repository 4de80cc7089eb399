"""A BIOS PXE ROM as Intel's PXE 2.1 specification describes it (the Intel Boot Agent and its kin).

Their sources are closed. What is here is from "Preboot Execution Environment (PXE) Specification 2.1", sections
2.2.1 to 2.2.4 (the protocol), 2.4 (options; table 2-1) and appendix E of its error codes. Where field reports are
stricter than the text, ``strict`` follows the reports: a ROM that shows nothing without a prompt in option 43.
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
    acknowledged,
    dotted,
    failure,
    fetch,
    first_byte,
)
from bootd.netboot.clients.edk2 import servers
from bootd.netboot.dhcp import Option

BOOTP_SIZE = 300  # bytes of a BOOTP message (RFC 951): some old ROMs drop shorter ones
_FOR_EVER = 255


@dataclass(frozen=True)
class PxeRom:
    """``asks_from`` is the source port of requests to 4011; ``smallest``: it drops replies of fewer bytes."""

    name: str
    firmware: Firmware
    strict: bool = True
    asks_from: int = dhcp.CLIENT_PORT
    smallest: int = 0

    def boot(self) -> Attempt:
        notes: list[str] = []
        usable = []
        for offer in (yield self.firmware.discover()):
            if offer.length < self.smallest or Option.OVERLOAD in offer.message.options:
                notes.append(f"drops the offer of {offer.server}: too short or overloaded")
            else:
                usable.append(offer)
        pxe = next((offer for offer in usable if offer.is_pxe), None)
        # An address that comes with PXE options goes before one that does not (section 2.2.2).
        addresses = [offer for offer in usable if offer.message.your != NOBODY]
        addresses.sort(key=lambda offer: not offer.is_pxe)
        if not addresses:
            reason = "PXE-E51: No DHCP or proxyDHCP offers were received"
            return failure("PXE-E52: only proxyDHCP offers were received" if pxe else reason, notes)
        offer = addresses[0]
        ack = acknowledged((yield self.firmware.take(offer)), offer)
        if ack is None:
            return failure(f"no ACK from {offer.server_identifier}", notes)
        address = ack.message.your
        boot = pxe if pxe is not None and pxe.message.your == NOBODY else ack
        if boot.is_pxe and Option.VENDOR not in boot.message.options and not boot.file:
            again = yield from self._ask(boot, address, notes)
            if again is None:
                return failure("PXE-E55: ProxyDHCP service did not reply to request on port 4011", notes)
            boot = again
        return (yield from self._from_menu(boot, address, notes))

    def _ask(self, offer: Received, address: str, notes: list[str]) -> Exchange:
        server = offer.server_identifier
        notes.append(f"asks {server} on 4011")
        for answer in (yield self.firmware.ask(server, dhcp.PXE_PORT, address, self.asks_from)):
            if answer.port == self.asks_from and answer.source_port == dhcp.PXE_PORT:
                return answer
        return None

    def _from_menu(self, reply: Received, address: str, notes: list[str]) -> Attempt:
        options = reply.message.vendor_options if reply.is_pxe else {}
        control = first_byte(options, menu.DISCOVERY_CONTROL)
        if reply.is_pxe and self.strict and menu.PROMPT not in options:
            notes.append("no menu prompt in option 43")
            return Outcome(Ending.WAITS, notes=tuple(notes))
        if not options or (control & menu.USE_BOOT_FILE and reply.file) or menu.MENU not in options:
            return self._fetch(reply, notes)
        seconds = first_byte(options, menu.PROMPT)
        if seconds == _FOR_EVER:
            return Outcome(Ending.WAITS, notes=tuple(notes))
        if seconds:
            notes.append(f"shows its prompt for {seconds} s")
        number = int.from_bytes(options[menu.MENU][:2], "big")
        if number == menu.LOCAL:
            return Outcome(Ending.LOCAL, notes=tuple(notes))
        return (yield from self._discover(options, number, address, notes))

    def _discover(self, options: dict[int, bytes], number: int, address: str, notes: list[str]) -> Attempt:
        """Section 2.2.4: multicast, broadcast, then each listed server, as the control bits allow."""
        control = first_byte(options, menu.DISCOVERY_CONTROL)
        listed = servers(options.get(menu.SERVERS, b"")).get(number, [])
        targets: list[tuple[str, int]] = []
        if menu.MULTICAST in options and not control & menu.NO_MULTICAST:
            targets.append((dotted(options[menu.MULTICAST]), dhcp.PXE_PORT))
        if not control & menu.NO_BROADCAST:
            targets.append((EVERYBODY, dhcp.SERVER_PORT))
        targets += [(server, dhcp.PXE_PORT) for server in listed]
        item = number.to_bytes(2, "big") + b"\0\0"
        for server, port in targets:
            notes.append(f"looks for boot server type {number:#06x} at {server}:{port}")
            for answer in (yield self.firmware.ask(server, port, address, dhcp.CLIENT_PORT, item)):
                confirmed = answer.message.vendor_options.get(menu.ITEM, b"")[:2] == item[:2]
                if confirmed and (not control & menu.ONLY_LISTED or answer.server_identifier in listed):
                    return self._fetch(answer, notes)
        return failure("PXE-E78: Could not locate boot server", notes)

    def _fetch(self, reply: Received, notes: list[str]) -> Outcome:
        file = reply.message.file.decode("ascii", "replace") or reply.file
        if not file:
            return failure("PXE-E53: No boot filename received", notes)
        if "://" in file:
            return failure(f"PXE-T01: File not found: it asks for {file!r} by TFTP", notes)
        return fetch(reply.message.server, file, notes)
