"""The boot part of an answer: what the client is, which file it gets, and the options that make it take it.

Nothing here knows of ports, addresses of clients or leases: `offer.py` puts the part into a reply. Rows in
`quirks.py` are named where they act.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bootd.netboot import dhcp, loaders, menu
from bootd.netboot.dhcp import Message, MessageType, Option
from bootd.netboot.loaders import Architecture, LoaderKind, Platform
from bootd.netboot.menu import Menu
from bootd.netboot.quirks import RASPBERRY_PI_PREFIXES

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
class BootPart:
    """The boot part of a reply: header fields and options, without message type and addresses."""

    architecture: Architecture
    file: str
    options: Mapping[int, bytes]


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


def boot_part(request: Message, policy: NodePolicy, interface: Interface, *, leased: bool) -> BootPart | str:
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
    return BootPart(architecture, file, options)


def _words(request: Message, architecture: Architecture, interface: Interface) -> BootPart:
    """Where a stage1 that came alone finds its command line (docs/decisions/0007)."""
    file = f"http://{interface.address}:{interface.http_port}/boot/stage1/words?mac={request.mac}"
    options: dict[int, bytes] = {
        Option.VENDOR_CLASS: b"PXEClient",
        Option.SERVER_NAME: interface.address.encode("ascii"),
        Option.BOOT_FILE: file.encode("ascii") + b"\0",
    }
    return BootPart(architecture, file, options)


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
