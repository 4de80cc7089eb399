"""The one offer decision of proxy mode, for ports 67 and 4011: a request in, an offer or the reason for none."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bootd.netboot import dhcp
from bootd.netboot.dhcp import Packet

MAX_FILE = 127  # the BOOTP `file` field holds 128 bytes with its NUL
BYPASS_MENU = b"\x06\x01\x08" + b"\x0a\x04\x00PXE" + b"\xff"


class Firmware(Enum):
    BIOS = "bios"
    UEFI_X64 = "uefi x64"


# Option 93 (RFC 4578; IANA). What is not here is named in the reason for which it is ignored.
ARCHITECTURES: Mapping[int, Firmware] = {
    0: Firmware.BIOS,
    7: Firmware.UEFI_X64,
    9: Firmware.UEFI_X64,  # quirk: arch-9-is-x64
}
NAMES = {6: "ia32 UEFI", 10: "ARM32 UEFI", 11: "ARM64 UEFI", 15: "ia32 HTTP", 16: "x64 HTTP", 19: "ARM64 HTTP"}


@dataclass(frozen=True)
class Place:
    """Where and as whom bootd answers."""

    address: str  # IPv4 address of the interface the request came in on
    http_port: int
    class_prefixes: tuple[str, ...] = ("PXEClient", "HTTPClient")
    bios_file: str = "lpxelinux.0"
    uefi_file: str = "ipxe.efi"


@dataclass(frozen=True)
class Client:
    """What a request tells of who sent it."""

    mac: str
    firmware: Firmware
    ipxe: bool


@dataclass(frozen=True)
class Offer:
    """What to send: ``reply`` to ``host``:``port``. ``file`` is "" when the client is to ask port 4011 for it."""

    client: Client
    reply: Packet
    file: str
    host: str
    port: int


@dataclass(frozen=True)
class Ignore:
    """No answer. ``noteworthy`` when an operator might wonder (a PXE client that is not served)."""

    reason: str
    noteworthy: bool = False


def decide(packet: Packet, port: int, source: tuple[str, int], place: Place) -> Offer | Ignore:
    """The answer to a request that came to ``port`` (67 or 4011) from ``source`` (host, port)."""
    if packet.operation != 1:
        return Ignore("not a request")
    wanted = _wants_answer(packet, port)
    if wanted:
        return Ignore(wanted)
    client = identify(packet, place.class_prefixes)
    if isinstance(client, Ignore):
        return client
    file = _file_for(client, place)
    # quirk: file-in-offer; quirk: uefi-no-43 (plain UEFI gets no file on 67, so it asks 4011)
    named = port == 4011 or client.ipxe or client.firmware is Firmware.BIOS
    reply = _reply(packet, client, place, file if named else "", port)
    if port == 4011:
        host, answer_port = source  # quirk: reply-from-4011
    elif packet.giaddr != "0.0.0.0":
        host, answer_port = packet.giaddr, 67
    elif packet.ciaddr != "0.0.0.0":
        host, answer_port = packet.ciaddr, 68
    else:
        host, answer_port = "255.255.255.255", 68  # quirk: broadcast-all-ones
    return Offer(client, reply, file if named else "", host, answer_port)


def identify(packet: Packet, prefixes: tuple[str, ...]) -> Client | Ignore:
    """Who asks; everything that is not a PXE client of a served architecture is ignored with the reason."""
    identifier = packet.options.get(dhcp.CLASS, b"").decode("ascii", "replace")
    if not identifier.startswith(prefixes):
        return Ignore("not a network-boot client (option 60)")
    if not packet.mac:
        return Ignore("no Ethernet address in the request", noteworthy=True)
    architecture = _architecture(packet, identifier)
    if identifier.startswith("HTTPClient"):
        return Ignore("UEFI HTTP Boot is not served", noteworthy=True)
    firmware = ARCHITECTURES.get(architecture)
    if firmware is None:
        name = NAMES.get(architecture, "unknown")
        return Ignore(f"no loader for architecture {architecture} ({name})", noteworthy=True)
    # quirk: user-class-both
    classes = dhcp.user_classes(packet.options.get(dhcp.USER_CLASS, b""))
    return Client(packet.mac, firmware, b"iPXE" in classes or dhcp.IPXE in packet.options)


def _wants_answer(packet: Packet, port: int) -> str:
    if port == 67:
        return "" if packet.message == dhcp.DISCOVER else f"message type {packet.message} is for the DHCP server"
    return "" if packet.message in (dhcp.REQUEST, dhcp.INFORM) else f"message type {packet.message} on port 4011"


def _architecture(packet: Packet, identifier: str) -> int:
    value = packet.options.get(dhcp.ARCHITECTURE, b"")
    if len(value) >= 2:
        return int.from_bytes(value[:2], "big")  # a list; the first is the preferred one (RFC 4578, 2.1)
    parts = identifier.split(":")  # PXEClient:Arch:00007:UNDI:003016
    if len(parts) > 2 and parts[1] == "Arch" and parts[2].isascii() and parts[2].isdigit():
        return int(parts[2])
    return 0


def _file_for(client: Client, place: Place) -> str:
    if client.firmware is Firmware.BIOS:
        # Also for an option ROM that is iPXE itself: the BIOS way goes on with lpxelinux.
        return place.bios_file
    if client.ipxe:
        return f"http://{place.address}:{place.http_port}/boot/boot.ipxe?mac={client.mac}"
    return place.uefi_file


def _reply(packet: Packet, client: Client, place: Place, file: str, port: int) -> Packet:
    server = bytes(int(part) for part in place.address.split("."))
    options = {
        dhcp.TYPE: bytes((dhcp.OFFER if port == 67 else dhcp.ACK,)),
        dhcp.SERVER_ID: server,  # quirk: siaddr-and-54
        dhcp.CLASS: b"PXEClient",
    }
    if dhcp.MACHINE_ID in packet.options:  # quirk: no-97
        options[dhcp.MACHINE_ID] = packet.options[dhcp.MACHINE_ID]
    if client.firmware is Firmware.BIOS:
        options[dhcp.VENDOR] = BYPASS_MENU  # quirk: bios-menu-bypass
    if file:  # quirk: fields-twice; quirk: nul-after-file
        options[dhcp.TFTP_NAME] = place.address.encode()
        options[dhcp.BOOT_FILE] = file.encode() + b"\0"
    return Packet(
        operation=2,
        xid=packet.xid,
        mac=packet.mac,
        flags=packet.flags,
        ciaddr=packet.ciaddr if port == 4011 else "0.0.0.0",
        siaddr=place.address,
        giaddr=packet.giaddr,
        server_name=place.address if file else "",
        file=file,
        options=options,
    )
