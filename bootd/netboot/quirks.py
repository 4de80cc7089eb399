"""What firmware does in the field, and what bootd does about it. One row per fact; the code names its row.

`offer.py`, `boot_part.py`, `menu.py` and `loaders.py` carry out most rows, `dhcp.build` those about fields; the
rows about HTTP and TFTP are carried out where those are served. A row's ``source`` is where the behaviour was seen
or is written. Every row has a test of its name (``test_quirk_...``); a test fails when one has not.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quirk:
    """``firmware`` does ``symptom``; bootd does ``action``."""

    firmware: str
    symptom: str
    action: str
    source: str


# Boot ROMs of these boards say architecture 0, like a PC's BIOS, and cannot run its loaders.
RASPBERRY_PI_PREFIXES = ("28:cd:c1", "2c:cf:67", "88:a2:9e", "b8:27:eb", "d8:3a:dd", "dc:a6:32", "e4:5f:01")

# Port 4011 and the shape of an offer.
_SHAPE: dict[str, Quirk] = {
    "no-discovery-for-uefi": Quirk(
        "EDK2, older",
        "drops a proxy offer that carries option 43 discovery control",
        "no option 43 to UEFI; the same answer again on 4011",
        "EDK2 PxeBcDhcp4.c, PxeBcCacheDhcp4Offer: kept the first such offer only if it had one already",
    ),
    "no-class-with-address": Quirk(
        "EDK2",
        "goes to 4011 when an offer with an address has 60 = PXEClient and no option 43, although a file is there",
        "with an address UEFI gets no option 60; 4011 is served all the same",
        "EDK2 PxeBcDhcp4.c, PxeBcParseDhcp4Packet and PxeBcRetryBinlOffer",
    ),
    "asked-at-siaddr": Quirk(
        "EDK2",
        "sends its request on 4011 to siaddr, else to option 54",
        "both name this server",
        "EDK2 PxeBcDhcp4.c, PxeBcRetryBinlOffer",
    ),
    "reply-from-4011": Quirk(
        "iPXE, EDK2, BIOS ROMs",
        "iPXE drops a ProxyDHCP reply that comes from another port; EDK2 asks from 4011, some BIOS ROMs from 68",
        "a request to 4011 is answered from 4011 to its source port",
        "iPXE dhcp.c, dhcp_proxy_rx; EDK2 PxeBcDhcp4Discover",
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
        "UEFI",
        "menu code is broken in the field",
        "no PXE menu unless the settings say so, never with one item: menus are the loader's",
        "pixiecore",
    ),
    "file-name-at-once": Quirk(
        "iPXE, Intel ROMs",
        "skip the second request only with siaddr and a file name in the offer, or a menu (43.9)",
        "both are in the offer on 67",
        "iPXE dhcp.c, dhcp_has_pxeopts",
    ),
    "answer-at-once": Quirk(
        "iPXE", "waits 2 s for a proxy offer", "no delay, no ARP, no ping before a proxy's offer", "iPXE dhcp.h"
    ),
    "sole-server": Quirk(
        "iPXE",
        "waits 2 s for a proxy offer although there is no proxy",
        "175.176 = 1 beside an address of ours, never in a proxy's offer: it would silence the proxy itself",
        "iPXE dhcp.c, dhcp_discovery_rx (no_pxedhcp)",
    ),
    "discovery-on-67": Quirk(
        "PXE 2.1 clients",
        "boot server discovery by broadcast comes to 67 as REQUEST with 43.71, by unicast and multicast to 4011",
        "answered alike on both; 4011 hears the multicast group of the menu",
        "PXE 2.1 section 2.2.4; EDK2 PxeBcImpl.c, EfiPxeBcDiscover",
    ),
    "discovery-answer": Quirk(
        "iPXE",
        "looks for its boot server by broadcast with the broadcast flag set, but hears only its own address",
        "who has an address is answered there, whatever the flag says",
        "RFC 2131 section 4.1; seen in QEMU with Debian's ROM",
    ),
    "vendor-prefixes": Quirk(
        "some vendors", "send another option 60", "the list of prefixes is a setting", "field reports"
    ),
    "etherboot": Quirk(
        "Etherboot 5",
        "takes an offer only with its own option 60 and a mark in option 43 (sub-option 60)",
        "both, and etherboot/nbgrub",
        "Etherboot 5.0 user manual; CloneSys's dhcpd.conf",
    ),
}

# Fields.
_FIELDS: dict[str, Quirk] = {
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
        "U-Boot net/bootp.c, store_net_params; field reports",
    ),
    "server-address-everywhere": Quirk(
        "EDK2, U-Boot, Raspberry Pi, Intel ROMs",
        "each reads another of siaddr, sname, 66 and 54",
        "all four name this server",
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
    "long-file-name": Quirk(
        "BOOTP", "`file` holds 127 bytes", "a longer name is refused when the settings are read", "RFC 951"
    ),
    "user-class-forms": Quirk(
        "iPXE and others",
        "option 77 comes raw or counted",
        "both are read; iPXE is user class iPXE or option 175",
        "RFC 3004; iPXE dhcp.c",
    ),
    "machine-id": Quirk(
        "ROMs",
        "want their option 97 back; some send none; many boards share 03000200-0400-0500-0006-000700080009",
        "echoed when it came, never needed, never a key",
        "RFC 4578 section 2.3",
    ),
    "mac-is-the-key": Quirk(
        "all; InfiniBand",
        "firmware and system use different client ids; InfiniBand sends an 8-byte port GUID",
        "keyed by MAC; of a GUID the six bytes that are its Ethernet alias",
        "RFC 4390; field reports",
    ),
    "no-nak": Quirk(
        "all",
        "a NAK for another server's lease stops the boot",
        "a proxy sends none; with addresses of our own only for our subnets",
        "RFC 2131 section 4.3.2",
    ),
    "early-times": Quirk(
        "some clients", "need T1 and T2 already in the OFFER", "they are in the OFFER", "field reports"
    ),
    "ipxe-rom": Quirk(
        "QEMU and others with iPXE as option ROM",
        "user class iPXE on first contact, architecture 0",
        "lpxelinux.0 as for any BIOS; iPXE's script when there is no PXELINUX",
        "seen in QEMU",
    ),
}

_BOARDS: dict[str, Quirk] = {
    "raspberry-pi": Quirk(
        "Raspberry Pi",
        "says architecture 0, is no PC; wants 'Raspberry Pi Boot' in option 43.9, up to the Pi 3 with three blanks",
        "known by its MAC prefix; it gets that text as the first menu item, with the blanks for the old prefix",
        "Raspberry Pi documentation, Network booting; rpi-eeprom and firmware issues",
    ),
    "raspberry-pi-asks-once": Quirk(
        "Raspberry Pi 3",
        "sends no REQUEST: everything must be in the offer",
        "server and file are in the offer",
        "Raspberry Pi documentation, Network booting",
    ),
    "raspberry-pi-delay": Quirk(
        "Raspberry Pi 3",
        "may miss a reply that comes at once",
        "a delay can be set for it",
        "dnsmasq dhcp-reply-delay",
    ),
}

_HTTP: dict[str, Quirk] = {
    "http-boot": Quirk(
        "UEFI HTTP Boot",
        "takes only an offer with 60 = HTTPClient and a URL; a proxy's offer on 67 will do",
        "both, with or without an address",
        "UEFI 2.10 section 24.7; EDK2 HttpBootDhcp4.c, HttpBootParseDhcp4Packet",
    ),
    "http-boot-address": Quirk(
        "UEFI HTTP Boot",
        "needs a name server to use a URL with a name in it",
        "URLs have our address in them",
        "EDK2 HttpBootDhcp4.c, HttpBootSelectDhcpOffer",
    ),
    "http-boot-head": Quirk(
        "UEFI HTTP Boot",
        "sends HEAD, then GET on the same connection, and loses the GET when the server closes in between",
        "connections are kept open; every answer has its Content-Length and no empty header",
        "EDK2 HttpBootClient.c, HttpBootGetBootFile",
    ),
    "http-boot-no-grub": Quirk(
        "Debian's signed GRUB",
        "has no http module",
        "over HTTP never shim and GRUB: a unified kernel image or iPXE",
        "grub2 debian/build-efi-images",
    ),
}

_TFTP: dict[str, Quirk] = {
    "tftp-size": Quirk("UEFI, PXELINUX", "need tsize", "it is answered", "RFC 2349"),
    "tftp-size-probe": Quirk(
        "EDK2",
        "first request asks only for the size and is aborted with error 8",
        "not counted as a failure",
        "EDK2 PxeBcMtftp.c, PxeBcTftpGetFileSize",
    ),
    "tftp-block-size": Quirk(
        "EDK2 and others", "ask for blocks larger than the path takes", "clamped to the MTU less 32", "RFC 2348"
    ),
    "tftp-last-ack": Quirk(
        "loaders", "may never acknowledge the last block", "given up quietly after a few repeats", "RFC 1350"
    ),
    "tftp-slashes": Quirk(
        "EDK2, Windows loaders", "ask with a leading / or with \\", "both are understood", "field reports"
    ),
    "shim-asks-the-root": Quirk(
        "shim", "may ask for grubx64.efi at the root", "that is where it is", "shim netboot.c, parseDhcp4"
    ),
    "grub-next-server": Quirk(
        "shim and signed GRUB under a proxy",
        "ask the server that gave the address (siaddr of the ACK) for the next file",
        "iPXE unless the settings want Secure Boot; `bootd export` prints the next-server for the other server",
        "grub-core/net/bootp.c; shim netboot.c",
    ),
    "ipxe-asks-autoexec": Quirk(
        "iPXE as an EFI program", "asks for autoexec.ipxe first", "it is rendered", "iPXE efi_autoexec.c"
    ),
    "pxelinux-order": Quirk(
        "PXELINUX",
        "looks for its configuration by UUID, 01-MAC in lower case, hexadecimal address, default",
        "answered at the MAC, which comes second",
        "syslinux doc/pxelinux.txt",
    ),
}

QUIRKS: dict[str, Quirk] = {**_SHAPE, **_FIELDS, **_BOARDS, **_HTTP, **_TFTP}
