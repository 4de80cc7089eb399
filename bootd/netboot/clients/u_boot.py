"""U-Boot's ``dhcp`` command.

From net/bootp.c: check_reply_packet, dhcp_handler, dhcp_packet_process_options, store_net_params. It takes the
first offer that has an address and drops every other one; a build with CONFIG_SERVERIP_FROM_PROXYDHCP (2022 on)
takes server and file from a proxy's offer (lib/lwip/dhcp.c: ``have_proxy``), and from the ACK only without one.
"""

from dataclasses import dataclass

from bootd.netboot import dhcp
from bootd.netboot.clients.air import NOBODY, Attempt, Firmware, Received, acknowledged, failure, fetch
from bootd.netboot.dhcp import Option


@dataclass(frozen=True)
class UBoot:
    """``proxy``: built with CONFIG_SERVERIP_FROM_PROXYDHCP."""

    name: str
    firmware: Firmware
    proxy: bool = False

    def boot(self) -> Attempt:
        notes: list[str] = []
        server, file = NOBODY, ""
        taken: Received | None = None
        for offer in (yield self.firmware.discover()):
            if offer.source_port != dhcp.SERVER_PORT or offer.port != dhcp.CLIENT_PORT:
                notes.append(f"drops the offer of {offer.server}: not from 67 to 68")
            elif offer.message.your == NOBODY:
                if self.proxy:
                    server, file = offer.message.server, offer.message.file.decode("ascii", "replace")
                else:
                    notes.append(f"drops the offer of {offer.server}: no address in it")
            elif taken is None:
                taken = offer
                if self.proxy and server == NOBODY:
                    notes.append("waits 100 ms for a proxy offer")
        if taken is None:
            return failure("Retry time exceeded: no offer with an address", notes)
        ack = acknowledged((yield self.firmware.take(taken)), taken)
        if ack is None:
            return failure(f"no ACK from {taken.server_identifier}", notes)
        message = ack.message
        option = message.options.get(Option.BOOT_FILE, b"").rstrip(b"\0").decode("ascii", "replace")
        if server == NOBODY:
            server, file = message.server, message.file.decode("ascii", "replace") or option
        if not file:
            return failure("no boot file name: it would ask for one made of its address", notes)
        if "://" in file:
            return failure(f"File not found: it asks for {file!r} by TFTP", notes)
        return fetch(server, file, notes)
