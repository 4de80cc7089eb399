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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bootd.netboot import dhcp, loaders, menu
from bootd.netboot.dhcp import Message, MessageType, Operation, Option
from bootd.netboot.lease import Lease
from bootd.netboot.loaders import Architecture, LoaderKind, Platform
from bootd.netboot.menu import Menu
from bootd.netboot.quirks import RASPBERRY_PI_PREFIXES

_NOBODY = "0.0.0.0"
_EVERYBODY = "255.255.255.255"
_HTTP_CLIENT = "HTTPClient"
_STAGE1 = b"bootd"  # user class of our own stage1 when it was started without a command line of its own
_ETHERBOOT = "Etherboot"
# Quirk raspberry-pi: the ROM looks for this text in the first menu item. The ROM of the Pi 3 and older (all of them
# have the first of the prefixes) wants three blanks after it.
_RASPBERRY_PI_ITEM = b"Raspberry Pi Boot"
_RASPBERRY_PI_ROM_PREFIX = "b8:27:eb"
_ETHERBOOT_VENDOR = b"\x3c\x09Etherboot\xff"  # Etherboot 5 takes an offer for a PXE one by this mark
_ETHERBOOT_CLASS = b"Etherboot-5.0"
_IPXE_SOLE_SERVER = b"\xb0\x01\x01"  # 175.176 no-pxedhcp: quirk sole-server
_PXELINUX_MAGIC = b"\xf1\x00\x74\x7e"  # RFC 5071 section 2


@dataclass(frozen=True)
class Pxelinux:
    """Options 209 to 211 of RFC 5071 for PXELINUX; "" and 0 leave them out."""

    config_file: str = ""
    path_prefix: str = ""
    reboot_seconds: int = 0


@dataclass(frozen=True)
class Interface:
    """Where we are reached, and what there is to boot.

    ``address`` is what clients see; ``http_port`` serves ``/boot/boot.ipxe``, ``bulk_port`` the files of HTTP Boot.
    ``artefacts`` are the boot files that are there (of `loaders.ARTEFACTS` and an operator's own), ``overrides``
    his own file per family. ``raspberry_pi_delay`` in seconds.
    """

    name: str
    address: str
    http_port: int
    client_prefixes: Sequence[str] = ("PXEClient", "HTTPClient", "Etherboot")
    bulk_port: int = 7468
    artefacts: frozenset[str] = frozenset()
    overrides: Mapping[str, str] = field(default_factory=dict)
    secure_boot: bool = False
    menu: Menu = field(default_factory=Menu)
    pxelinux: Pxelinux = field(default_factory=Pxelinux)
    raspberry_pi_prefixes: Sequence[str] = RASPBERRY_PI_PREFIXES
    raspberry_pi_delay: float = 0.0


@dataclass(frozen=True)
class NodePolicy:
    """What is known of a node when its firmware asks.

    ``silence`` is why it gets no answer at all, not even an address; ``no_boot`` why it gets no boot file (beside
    a lease it still gets its address). "" for neither. ``stage``: its label starts a stage, so a kernel image that
    can do nothing else is of use to it. ``disk``: it boots its own disk, and nobody is to be shown anything before.
    """

    silence: str = ""
    no_boot: str = ""
    stage: bool = True
    disk: bool = False


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


@dataclass(frozen=True)
class _Boot:
    """The boot part of a reply: header fields and options, without message type and addresses."""

    architecture: Architecture
    file: str
    options: Mapping[int, bytes]


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
    boot = _boot(request, policy, interface, leased=False)
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
    boot: _Boot | str = "not a network boot client"
    if wanted:
        boot = policy.no_boot or _boot(request, policy, interface, leased=True)
    found = boot if isinstance(boot, _Boot) else None
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


def _delay(boot: _Boot | None, interface: Interface) -> float:
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


def _architecture(request: Message, interface: Interface) -> Architecture | str:
    """What the client is, or why it is not served."""
    over_http = request.vendor_class.startswith(_HTTP_CLIENT)
    if request.vendor_class.startswith(_ETHERBOOT):
        return loaders.ETHERBOOT
    codes = request.architectures
    if not codes and request.vendor_class.startswith(("PXEClient:Arch:", "HTTPClient:Arch:")):
        digits = request.vendor_class.split(":")[2]
        codes = (int(digits),) if len(digits) == 5 and digits.isascii() and digits.isdigit() else ()
    if not codes and over_http:
        return "HTTP Boot without an architecture"
    # RFC 4578 section 2.1 makes option 93 mandatory; ROMs older than it are BIOS.
    code = codes[0] if codes else 0
    # Quirk raspberry-pi: its ROM says 0 like a PC; a UEFI or U-Boot that runs on it says what it is.
    if code == 0 and request.mac.startswith(tuple(interface.raspberry_pi_prefixes)):
        return loaders.RASPBERRY_PI
    architecture = loaders.ARCHITECTURES.get(code)
    if architecture is None:
        return f"architecture {code}: unknown"
    if over_http and architecture.platform is not Platform.HTTP:
        return replace(architecture, platform=Platform.HTTP)
    if not over_http and architecture.platform is Platform.HTTP:
        return replace(architecture, platform=loaders.BY_TFTP.get(architecture.family, Platform.UEFI))
    return architecture


def _boot(request: Message, policy: NodePolicy, interface: Interface, *, leased: bool) -> _Boot | str:
    """The boot part of the answer, or why there is none (an unknown architecture, an artefact that is missing)."""
    architecture = _architecture(request, interface)
    if isinstance(architecture, str):
        return architecture
    if _STAGE1 in request.user_classes:
        return _words(request, architecture, interface)
    loader = loaders.choose(
        architecture,
        interface.artefacts,
        interface.secure_boot,
        interface.overrides,
        stage=policy.stage,
        disk=policy.disk,
    )
    file = ""
    if request.from_ipxe and architecture.platform in (Platform.BIOS, Platform.UEFI):
        # Quirk ipxe-rom: iPXE has HTTP and gets its script; as a BIOS option ROM it starts PXELINUX.
        plain = isinstance(loader, str) or loader.kind is LoaderKind.IPXE
        if architecture.platform is Platform.UEFI or plain:
            file = f"http://{interface.address}:{interface.http_port}/boot/boot.ipxe?mac={request.mac}"
    items = _items(architecture, interface)
    chosen = menu.asked(request.vendor_options) if items else None
    if chosen is not None:
        item = items.get(chosen[0])
        if item is None or item.local:
            return f"boot server type {chosen[0]}: not in the menu"
        if item.file:
            file = item.path(chosen[1])
            if file not in interface.artefacts:
                return f"{file or item.file} is missing in the boot folder"
    if not file:
        if isinstance(loader, str):
            return f"{architecture.name}: {loader}"
        file = loader.file
        if architecture.platform is Platform.HTTP:
            file = f"http://{interface.address}:{interface.bulk_port}/{loader.file}"
    if len(file) > dhcp.MAX_FILE or not file.isascii():
        return f"boot file name {file!r} does not fit into {dhcp.MAX_FILE} bytes of ASCII"  # quirk long-file-name
    options = _class_options(request, architecture, interface, leased=leased)
    if isinstance(loader, loaders.Loader) and loader.kind is LoaderKind.PXELINUX:
        options |= _pxelinux_options(interface.pxelinux)
    options[Option.SERVER_NAME] = interface.address.encode("ascii")
    options[Option.BOOT_FILE] = file.encode("ascii") + b"\0"  # quirk file-name-ends
    return _Boot(architecture, file, options)


def _words(request: Message, architecture: Architecture, interface: Interface) -> _Boot:
    """Where a stage1 that came alone finds its command line (docs/decisions/0005)."""
    file = f"http://{interface.address}:{interface.http_port}/boot/stage1/words?mac={request.mac}"
    options: dict[int, bytes] = {
        Option.VENDOR_CLASS: b"PXEClient",
        Option.SERVER_NAME: interface.address.encode("ascii"),
        Option.BOOT_FILE: file.encode("ascii") + b"\0",
    }
    return _Boot(architecture, file, options)


def _items(architecture: Architecture, interface: Interface) -> dict[int, menu.MenuItem]:
    """The menu that a client of this architecture sees; {} for none (quirk no-uefi-menu)."""
    if architecture.platform is Platform.BIOS or (
        architecture.platform is Platform.UEFI and interface.menu.uefi and len(interface.menu.items) > 1
    ):
        return interface.menu.numbered(architecture.family)
    return {}


def _class_options(
    request: Message, architecture: Architecture, interface: Interface, *, leased: bool
) -> dict[int, bytes]:
    """What says to the firmware that this answer is for it: 60, 43, and iPXE's own."""
    platform = architecture.platform
    options: dict[int, bytes] = {}
    if platform is Platform.HTTP:
        options[Option.VENDOR_CLASS] = b"HTTPClient"  # quirk http-boot
    elif platform is Platform.ETHERBOOT:
        options[Option.VENDOR_CLASS] = _ETHERBOOT_CLASS
    elif not leased or platform is not Platform.UEFI or _items(architecture, interface):
        # Quirk no-class-with-address: with an address, 60 would only send UEFI on to 4011 for the same file. For
        # its menu, which comes on 4011, that is what is wanted.
        options[Option.VENDOR_CLASS] = b"PXEClient"
    vendor = _vendor(request, architecture, interface, leased=leased)
    if vendor:
        options[Option.VENDOR] = vendor
    if leased and request.from_ipxe:
        options[Option.IPXE] = _IPXE_SOLE_SERVER
    return options


def _vendor(request: Message, architecture: Architecture, interface: Interface, *, leased: bool) -> bytes:
    """Option 43. Quirks bios-prompt, no-discovery-for-uefi, raspberry-pi, etherboot."""
    platform = architecture.platform
    if platform is Platform.RASPBERRY_PI:
        old = request.mac.startswith(_RASPBERRY_PI_ROM_PREFIX)
        text = _RASPBERRY_PI_ITEM + (b"   " if old else b"")
        return dhcp.vendor_options(
            {
                menu.DISCOVERY_CONTROL: b"\x03",
                menu.MENU: bytes((0, 0, len(text))) + text,
                menu.PROMPT: b"\0PXE",
            }
        )
    if platform is Platform.ETHERBOOT:
        return _ETHERBOOT_VENDOR
    item = request.vendor_options.get(menu.ITEM, b"")
    if len(item) == 4 and platform in (Platform.BIOS, Platform.UEFI):
        # A client that asked for a boot item gets it confirmed (PXE 2.1 section 2.2.4).
        return dhcp.vendor_options({menu.ITEM: item})
    items = _items(architecture, interface)
    if items and platform is Platform.BIOS:
        return menu.vendor_option(interface.menu, items, interface.address)
    if items and not leased and request.message_type is not MessageType.DISCOVER:
        return menu.vendor_option(interface.menu, items, interface.address)
    return menu.NO_MENU if platform is Platform.BIOS else b""


def _pxelinux_options(settings: Pxelinux) -> dict[int, bytes]:
    """RFC 5071; {} when nothing is set. 208 is a mark that PXELINUX before 3.55 wants to see beside the others."""
    options: dict[int, bytes] = {}
    if settings.config_file:
        options[Option.PXELINUX_CONFIG] = settings.config_file.encode("ascii")
    if settings.path_prefix:
        options[Option.PXELINUX_PREFIX] = settings.path_prefix.encode("ascii")
    if settings.reboot_seconds:
        options[Option.PXELINUX_REBOOT] = settings.reboot_seconds.to_bytes(4, "big")
    return {Option.PXELINUX_MAGIC: _PXELINUX_MAGIC, **options} if options else {}


def _reply(
    request: Message, kind: MessageType, addressing: Mapping[int, bytes], boot: _Boot | None, interface: Interface
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
