"""The one decision about a client's request: an `Offer`, or `Ignore` with the reason. Ports 67 and 4011 share it.

Proxy mode: another server gives addresses. So an answer never has an address in it, a NAK does not exist, and a
client that does not ask for a network boot is none of our business. Rows in `quirks.py` are named where they act.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bootd.netboot import dhcp
from bootd.netboot.dhcp import Message, MessageType, Operation, Option
from bootd.netboot.quirks import ARCHITECTURES, RASPBERRY_PI_PREFIXES, Architecture, Platform

_NOBODY = "0.0.0.0"
# PXE 2.1 table 2-1: 6 is discovery control (8: use the boot file of this offer), 10 is the prompt (time-out 0),
# 71 is the boot item that a client asks for.
_DISCOVERY_CONTROL = 6
_MENU_PROMPT = 10
_BOOT_ITEM = 71
_BIOS_VENDOR = dhcp.vendor_options({_DISCOVERY_CONTROL: b"\x08", _MENU_PROMPT: b"\0PXE"})


@dataclass(frozen=True)
class Interface:
    """Where we are reached. ``address`` is what clients see; ``http_port`` serves ``/boot/boot.ipxe``."""

    name: str
    address: str
    http_port: int
    client_prefixes: Sequence[str] = ("PXEClient", "HTTPClient")


@dataclass(frozen=True)
class NodePolicy:
    """What is known of a node when its firmware asks. ``silence`` is why it gets no answer, "" to answer."""

    silence: str = ""


@dataclass(frozen=True)
class Destination:
    """Where the reply goes. ``address`` may be 255.255.255.255."""

    address: str
    port: int


@dataclass(frozen=True)
class Offer:
    """Send ``reply`` to ``destination`` from the port that the request came to."""

    reply: bytes
    destination: Destination
    kind: MessageType  # OFFER or ACK
    mac: str
    architecture: str
    file: str  # what the firmware fetches next: a path or a URL


@dataclass(frozen=True)
class Ignore:
    """No answer. ``network_boot``: the client did ask for one, so an operator wants to know the reason."""

    reason: str
    mac: str = ""
    network_boot: bool = False


def decide(
    request: Message, policy: NodePolicy, interface: Interface, port: int, source: tuple[str, int]
) -> Offer | Ignore:
    """What to do about ``request``, which came from ``source`` (address, port) to our ``port`` (67 or 4011)."""
    mac = request.mac
    if request.operation is not Operation.REQUEST:
        return Ignore("it is a reply", mac)
    if not any(request.vendor_class.startswith(prefix) for prefix in interface.client_prefixes):
        return Ignore("not a network boot client", mac)
    if not mac:
        return Ignore("hardware address is not Ethernet")
    kind = _answer_to(request, port)
    if isinstance(kind, str):
        return Ignore(kind, mac)
    if not _may_receive(request, port, source):
        return Ignore("no usable return address", mac, True)
    architecture = _architecture(request)
    if isinstance(architecture, str):
        return Ignore(architecture, mac, True)
    if policy.silence:
        return Ignore(policy.silence, mac, True)
    file = _file(request, architecture, interface)
    reply = _reply(request, kind, architecture, interface, file)
    return Offer(dhcp.build(reply), _destination(request, port, source), kind, mac, architecture.name, file)


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
    discovery = _BOOT_ITEM in request.vendor_options and request.client != _NOBODY
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


def _architecture(request: Message) -> Architecture | str:
    """What the client is, or why it is not served."""
    if request.mac.startswith(RASPBERRY_PI_PREFIXES):
        return "Raspberry Pi: bootd has no loader for it"
    codes = request.architectures
    if not codes and request.vendor_class.startswith("PXEClient:Arch:"):
        digits = request.vendor_class[15:20]
        codes = (int(digits),) if digits.isascii() and digits.isdigit() else ()
    if not codes and request.vendor_class.startswith("HTTPClient"):
        return "HTTP Boot without an architecture"
    # RFC 4578 section 2.1 makes option 93 mandatory; ROMs older than it are BIOS.
    code = codes[0] if codes else 0
    architecture = ARCHITECTURES.get(code)
    if architecture is None:
        return f"architecture {code}: unknown"
    if architecture.refusal:
        return f"{architecture.name} (architecture {code}): {architecture.refusal}"
    if request.vendor_class.startswith("HTTPClient"):
        return f"{architecture.name} as HTTPClient: HTTP Boot is not served, the firmware's PXE entry is"
    return architecture


def _file(request: Message, architecture: Architecture, interface: Interface) -> str:
    """The next file. iPXE on UEFI has HTTP and gets its script; as a BIOS option ROM it starts PXELINUX."""
    if request.from_ipxe and architecture.platform is Platform.UEFI:
        return f"http://{interface.address}:{interface.http_port}/boot/boot.ipxe?mac={request.mac}"
    return architecture.loader


def _reply(
    request: Message, kind: MessageType, architecture: Architecture, interface: Interface, file: str
) -> Message:
    own = dhcp.packed(interface.address)
    name = interface.address.encode("ascii")
    options: dict[int, bytes] = {
        Option.MESSAGE_TYPE: bytes((kind,)),
        Option.SERVER_IDENTIFIER: own,
        Option.VENDOR_CLASS: b"PXEClient",
    }
    if Option.MACHINE in request.options:
        options[Option.MACHINE] = request.options[Option.MACHINE]  # quirk machine-id
    if architecture.platform is Platform.BIOS:
        options[Option.VENDOR] = _bios_vendor(request)  # quirks bios-prompt, no-discovery-for-uefi
    if Option.RELAY_AGENT in request.options and request.relay != _NOBODY:
        options[Option.RELAY_AGENT] = request.options[Option.RELAY_AGENT]
    options[Option.SERVER_NAME] = name
    options[Option.BOOT_FILE] = file.encode("ascii") + b"\0"  # quirk file-name-ends
    return replace(
        request,
        operation=Operation.REPLY,
        seconds=0,
        your=_NOBODY,
        server=interface.address,  # quirk server-address-everywhere
        server_name=name,
        file=file.encode("ascii"),  # quirk both-file-names
        options=options,
    )


def _bios_vendor(request: Message) -> bytes:
    """Option 43 for BIOS. A client that asked for a boot item gets it confirmed (PXE 2.1 section 2.2.4)."""
    item = request.vendor_options.get(_BOOT_ITEM, b"")
    if len(item) != 4:
        return _BIOS_VENDOR
    return dhcp.vendor_options({_BOOT_ITEM: item})


def _destination(request: Message, port: int, source: tuple[str, int]) -> Destination:
    """RFC 2131 section 4.1; on 4011 back to where it came from (quirk reply-from-4011)."""
    if port == dhcp.PXE_PORT:
        if source[0] != _NOBODY:
            return Destination(*source)
        return Destination(request.client if request.client != _NOBODY else "255.255.255.255", source[1])
    if request.relay != _NOBODY:
        return Destination(request.relay, dhcp.SERVER_PORT)
    if request.client != _NOBODY and not request.broadcast:
        return Destination(request.client, dhcp.CLIENT_PORT)
    # Without an address there is nobody to ARP for, whether or not the broadcast flag is set.
    return Destination("255.255.255.255", dhcp.CLIENT_PORT)
