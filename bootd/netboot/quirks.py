"""What firmware does in the field, and what bootd does about it. One row per fact; the code names its row.

`offer.py` and `menu.py` carry out most rows, `dhcp.build` those about fields. A row's ``source`` is where
the behaviour was seen or is written.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quirk:
    firmware: str
    symptom: str
    action: str
    source: str


# Boot ROMs of these boards say architecture 0, like a PC's BIOS, and cannot run its loaders.
RASPBERRY_PI_PREFIXES = ("28:cd:c1", "2c:cf:67", "88:a2:9e", "b8:27:eb", "d8:3a:dd", "dc:a6:32", "e4:5f:01")

QUIRKS: dict[str, Quirk] = {
    "no-discovery-for-uefi": Quirk(
        "EDK2, older",
        "drops a proxy offer that carries option 43 discovery control",
        "no option 43 to UEFI; the same answer again on 4011",
        "EDK2 PxeBcDhcp4.c: an offer with PXEClient and no discovery is BINL, asked again on 4011",
    ),
    "server-address-everywhere": Quirk(
        "EDK2, U-Boot, Intel ROMs",
        "each reads another of siaddr, sname, 66 and 54; EDK2 asks 4011 at siaddr, else at 54",
        "all four name this server",
        "EDK2 PxeBcRetryBinlOffer; field reports",
    ),
    "reply-from-4011": Quirk(
        "iPXE",
        "drops a ProxyDHCP reply that does not come from port 4011",
        "a request to 4011 is answered from 4011 to its source port (EDK2: 4011, some BIOS ROMs: 68)",
        "iPXE dhcp.c dhcp_proxy_rx",
    ),
    "bios-asks-4011": Quirk(
        "BIOS ROMs", "some ask again on 4011", "4011 serves architecture 0, too", "PXE 2.1 section 2.2.3"
    ),
    "bios-prompt": Quirk(
        "BIOS ROMs",
        "stop and wait without a menu prompt",
        "option 43: sub-option 6 = 8 (use the boot file, no discovery) and 10 = 0 and 'PXE'",
        "PXE 2.1 section 2.2.1.2; dnsmasq and pixiecore send the same",
    ),
    "no-uefi-menu": Quirk(
        "UEFI", "menu code is broken in the field", "no PXE menu: menus are the loader's", "pixiecore"
    ),
    "file-name-at-once": Quirk(
        "iPXE, Intel ROMs",
        "skip the second request only with siaddr and a file name in the offer",
        "both are in the offer on 67",
        "iPXE dhcp.c dhcp_has_pxeopts",
    ),
    "answer-at-once": Quirk(
        "iPXE", "waits 2 s for a proxy offer", "no delay, no ARP, no ping before the offer", "iPXE dhcp.h"
    ),
    "discovery-on-67": Quirk(
        "PXE 2.1 clients",
        "broadcast boot server discovery comes to 67 as REQUEST with option 43.71",
        "answered like a request on 4011",
        "PXE 2.1 section 2.2.4",
    ),
    "vendor-prefixes": Quirk(
        "some vendors", "send another option 60", "the list of prefixes is a setting", "field reports"
    ),
    "file-name-ends": Quirk(
        "ROMs; EDK2",
        "append 0xFF to option 67 without a NUL; EDK2 writes a NUL over the byte after it",
        "option 67 ends in a NUL and is the last option",
        "EDK2 PxeBcParseDhcp4Packet",
    ),
    "both-file-names": Quirk(
        "U-Boot, ROMs, shim",
        "read only the BOOTP field `file`; shim loses its directory when it is empty",
        "`file` and option 67 both",
        "field reports",
    ),
    "no-overload": Quirk("PXE ROMs", "do not read overloaded fields", "option 52 is never sent", "field reports"),
    "smallest-reply": Quirk("BOOTP ROMs", "drop replies below 300 bytes", "replies are padded", "RFC 951"),
    "type-first": Quirk("ROMs", "expect option 53 first", "it is first", "field reports"),
    "all-ones-broadcast": Quirk(
        "ROMs without an address",
        "do not know the subnet's broadcast address",
        "broadcast to 255.255.255.255",
        "RFC 2131 section 4.1",
    ),
    "long-file-name": Quirk("BOOTP", "`file` holds 127 bytes", "a longer name is refused", "RFC 951"),
    "user-class-forms": Quirk(
        "iPXE and others",
        "option 77 comes raw or counted",
        "both are read; iPXE is user class iPXE or option 175",
        "RFC 3004; iPXE dhcp.c",
    ),
    "machine-id": Quirk(
        "ROMs", "want their option 97 back; some send none", "echoed when it came", "RFC 4578 section 2.3"
    ),
    "mac-is-the-key": Quirk(
        "all",
        "firmware and system use different client ids; many boards share a UUID",
        "keyed by MAC",
        "field reports",
    ),
    "no-nak": Quirk(
        "all", "a NAK for another server's lease stops the boot", "never sent", "RFC 2131 section 4.3.2"
    ),
    "ipxe-rom": Quirk(
        "QEMU and others with iPXE as option ROM",
        "user class iPXE on first contact, architecture 0",
        "lpxelinux.0 as for any BIOS",
        "seen in QEMU",
    ),
    "raspberry-pi": Quirk(
        "Raspberry Pi",
        "architecture 0, but no PC; looks for the text 'Raspberry Pi Boot' in option 43; may miss an instant reply",
        "known by its MAC prefix: menu item with that text, after a delay if one is set",
        "dnsmasq, field reports",
    ),
    "http-boot": Quirk(
        "UEFI HTTP Boot",
        "asks for a URL as HTTPClient, then falls back to PXE",
        "answered with 60 = HTTPClient and a URL with our address in it; a proxy's answer on 67 will do",
        "UEFI 2.10 section 24.7; EDK2 HttpBootDhcp4.c",
    ),
}
