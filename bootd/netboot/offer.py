"""The one decision about a client's request: an `Offer`, or `Ignore` with the reason. Ports 67 and 4011 share it.

Three ways of serving, told apart by ``lease`` alone:

- proxy: no lease. Another server gives addresses; the answer has none, and who does not ask for a network boot is
  none of our business.
- full: the lease machine has granted an address. The reply carries it, and the boot part beside it when the client
  asks for a network boot and there is an artefact for it; an ordinary client gets the address alone.
- boot only: full mode, but the lease machine has no address for this client (reservations only): as in proxy mode.

Port 4011 never gives addresses, whatever the mode. A NAK does not exist here. Rows in `quirks.py` are named where
they act.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bootd.netboot import dhcp, menu
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.boot_part import BootPart, Interface, NodePolicy, Pxelinux, boot_part
from bootd.netboot.dhcp import Message, MessageType, Operation, Option
from bootd.netboot.loaders import Platform

__all__ = ["Destination", "Ignore", "Interface", "NodePolicy", "Offer", "Pxelinux", "decide"]

_NOBODY = "0.0.0.0"
_EVERYBODY = "255.255.255.255"


@dataclass(frozen=True)
class Destination:
    """Where the reply goes. ``address`` may be 255.255.255.255."""

    address: str
    port: int


@dataclass(frozen=True)
class Offer:
    """Send ``reply`` to ``destination`` from the port that the request came to, ``delay`` seconds from now.

    ``file`` is what the firmware fetches next, a path or a URL; "" when only an address is given, and ``no_boot``
    then says why (and ``network_boot`` whether the client asked for one at all).
    """

    reply: bytes
    destination: Destination
    kind: MessageType | None  # OFFER or ACK; None in an answer to BOOTP
    mac: str
    architecture: str
    file: str
    delay: float = 0.0
    no_boot: str = ""
    network_boot: bool = True


@dataclass(frozen=True)
class Ignore:
    """No answer. ``network_boot``: the client did ask for one, so an operator wants to know the reason."""

    reason: str
    mac: str = ""
    network_boot: bool = False


def decide(
    request: Message,
    policy: NodePolicy,
    interface: Interface,
    port: int,
    source: tuple[str, int],
    *,
    lease: Lease | None = None,
) -> Offer | Ignore:
    """What to do about ``request``, which came from ``source`` (address, port) to our ``port`` (67 or 4011).

    ``lease`` is what the lease machine grants to a DISCOVER, REQUEST, INFORM or BOOTP request on 67; with it the
    result is an `Offer` unless policy keeps the node out or the request has no usable return address.
    """
    mac = request.mac
    if request.operation is not Operation.REQUEST:
        return Ignore("it is a reply", mac)
    wanted = any(request.vendor_class.startswith(prefix) for prefix in interface.client_prefixes)
    if lease is not None and port == dhcp.SERVER_PORT:
        return _with_address(request, policy, interface, source, lease=lease)
    if not wanted:
        return Ignore("not a network boot client", mac)
    if not mac:
        return Ignore("hardware address is not Ethernet")
    kind = _answer_to(request, port)
    if isinstance(kind, str):
        return Ignore(kind, mac)
    if not _may_receive(request, port, source):
        return Ignore("no usable return address", mac, True)
    if policy.silence or policy.no_boot:
        return Ignore(policy.silence or policy.no_boot, mac, True)
    boot = boot_part(request, policy, interface, leased=False)
    if isinstance(boot, str):
        return Ignore(boot, mac, True)
    own: dict[int, bytes] = {Option.SERVER_IDENTIFIER: dhcp.packed(interface.address)}
    reply = _reply(request, kind, own, boot, interface)
    return Offer(
        dhcp.build(reply),
        _destination(request, port, source),
        kind,
        mac,
        boot.architecture.name,
        boot.file,
        _delay(boot, interface),
    )


def _with_address(
    request: Message, policy: NodePolicy, interface: Interface, source: tuple[str, int], *, lease: Lease
) -> Offer | Ignore:
    """Full mode on port 67: the address, and the boot part when there is one."""
    wanted = any(request.vendor_class.startswith(prefix) for prefix in interface.client_prefixes)
    if policy.silence:
        return Ignore(policy.silence, request.mac, wanted)
    if not _may_receive(request, dhcp.SERVER_PORT, source):
        return Ignore("no usable return address", request.mac, wanted)
    kind = MessageType.OFFER if request.message_type is MessageType.DISCOVER else MessageType.ACK
    boot: BootPart | str = "not a network boot client"
    if wanted:
        boot = policy.no_boot or boot_part(request, policy, interface, leased=True)
    found = boot if isinstance(boot, BootPart) else None
    reply = replace(_reply(request, kind, lease.options(), found, interface), your=lease.address)
    return Offer(
        dhcp.build(reply),
        _destination(request, dhcp.SERVER_PORT, source),
        kind if request.message_type is not None else None,
        request.mac,
        found.architecture.name if found else "",
        found.file if found else "",
        _delay(found, interface),
        boot if isinstance(boot, str) else "",
        wanted,
    )


def _delay(boot: BootPart | None, interface: Interface) -> float:
    """Quirk raspberry-pi: its ROM may miss a reply that comes at once."""
    waits = boot is not None and boot.architecture.platform is Platform.RASPBERRY_PI
    return interface.raspberry_pi_delay if waits else 0.0


def _answer_to(request: Message, port: int) -> MessageType | str:
    """OFFER, ACK, or why there is no answer. A DHCPREQUEST on 67 is for the server that gives addresses."""
    kind = request.message_type
    if port == dhcp.PXE_PORT:
        if kind in (MessageType.REQUEST, MessageType.INFORM):
            return MessageType.ACK
        return f"{kind.name if kind else 'BOOTP'} on port {port}"
    if kind is MessageType.DISCOVER:
        return MessageType.OFFER
    # Quirk discovery-on-67. A client that is still after an address has none in ciaddr.
    discovery = menu.ITEM in request.vendor_options and request.client != _NOBODY
    if discovery and kind in (MessageType.REQUEST, MessageType.INFORM):
        return MessageType.ACK
    return f"{kind.name if kind else 'BOOTP'} is for the address server"


def _may_receive(request: Message, port: int, source: tuple[str, int]) -> bool:
    """Addresses in a request are claims: never send to a loopback, multicast or broadcast one."""
    claimed = [address for address in (request.client, request.relay) if address != _NOBODY]
    if port == dhcp.PXE_PORT and source[0] != _NOBODY:
        claimed.append(source[0])
    if port == dhcp.PXE_PORT and source[1] == 0:
        return False
    return all(0 < int(address.split(".", 1)[0]) < 224 and not address.startswith("127.") for address in claimed)


def _reply(
    request: Message,
    kind: MessageType,
    addressing: Mapping[int, bytes],
    boot: BootPart | None,
    interface: Interface,
) -> Message:
    """The request turned round. ``addressing`` has option 54 and, in full mode, the lease's options."""
    options: dict[int, bytes] = {}
    if request.message_type is not None:
        options[Option.MESSAGE_TYPE] = bytes((kind,))
    options |= addressing
    if boot and Option.MACHINE in request.options:
        options[Option.MACHINE] = request.options[Option.MACHINE]  # quirk machine-id
    if Option.RELAY_AGENT in request.options and request.relay != _NOBODY:
        options[Option.RELAY_AGENT] = request.options[Option.RELAY_AGENT]
    options |= boot.options if boot else {}
    return replace(
        request,
        operation=Operation.REPLY,
        seconds=0,
        your=_NOBODY,
        server=interface.address if boot else _NOBODY,  # quirk server-address-everywhere
        server_name=interface.address.encode("ascii") if boot else b"",
        file=boot.file.encode("ascii") if boot else b"",  # quirk both-file-names
        options=options,
    )


def _destination(request: Message, port: int, source: tuple[str, int]) -> Destination:
    """RFC 2131 section 4.1; on 4011 back to where it came from (quirk reply-from-4011)."""
    if port == dhcp.PXE_PORT:
        if source[0] != _NOBODY:
            return Destination(*source)
        return Destination(request.client if request.client != _NOBODY else _EVERYBODY, source[1])
    if request.relay != _NOBODY:
        return Destination(request.relay, dhcp.SERVER_PORT)
    if request.client != _NOBODY:
        # Before the broadcast flag counts (quirk discovery-answer): the client has this address.
        return Destination(request.client, dhcp.CLIENT_PORT)
    # Without an address there is nobody to ARP for, whether or not the broadcast flag is set.
    return Destination(_EVERYBODY, dhcp.CLIENT_PORT)
