"""The DHCPNAK: "not this address, ask anew" (RFC 2131 sections 4.1, 4.3.2)."""

from dataclasses import replace

from bootd.netboot import dhcp
from bootd.netboot.addresses.decision import Nak
from bootd.netboot.addresses.relay import NOBODY
from bootd.netboot.dhcp import Message, MessageType, Operation, Option
from bootd.netboot.offer import Destination

_MESSAGE = 56  # text for the client's log


def refuse(request: Message, refusal: Nak) -> tuple[bytes, Destination]:
    """The datagram and where it goes: always a broadcast on the client's link, since its address is not valid."""
    options = {
        Option.MESSAGE_TYPE: bytes((MessageType.NAK,)),
        Option.SERVER_IDENTIFIER: dhcp.packed(refusal.server),
        _MESSAGE: refusal.reason.encode("ascii", "replace")[:128],
    }
    relayed = request.relay != NOBODY
    if relayed and Option.RELAY_AGENT in request.options:
        options[Option.RELAY_AGENT] = request.options[Option.RELAY_AGENT]
    reply = replace(
        request,
        operation=Operation.REPLY,
        seconds=0,
        broadcast=request.broadcast or relayed,  # section 4.3.2: the relay is to broadcast it
        client=NOBODY,
        your=NOBODY,
        server=NOBODY,
        server_name=b"",
        file=b"",
        options=options,
    )
    if relayed:
        return dhcp.build(reply), Destination(request.relay, dhcp.SERVER_PORT)
    return dhcp.build(reply), Destination("255.255.255.255", dhcp.CLIENT_PORT)
