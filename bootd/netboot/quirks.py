"""The one table of firmware quirks in proxy mode: who, what goes wrong, what bootd does, and its source.

`offer.py` and `dhcp.py` name a row in a comment (``quirk: NAME``) where they act on it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quirk:
    name: str
    firmware: str
    symptom: str
    answer: str
    source: str


QUIRKS: tuple[Quirk, ...] = (
    Quirk(
        "uefi-no-43",
        "EDK2, older",
        "drops a proxy offer that carries option 43 discovery",
        "UEFI gets no option 43; it asks port 4011 for the file",
        "EDK2 PxeBcDhcp4.c; pixiecore's offers",
    ),
    Quirk(
        "siaddr-and-54",
        "EDK2",
        "sends the 4011 request to siaddr, else to option 54",
        "both are set",
        "EDK2 PxeBcDhcp4.c",
    ),
    Quirk(
        "reply-from-4011",
        "iPXE, EDK2, BIOS ROMs",
        "iPXE drops replies that do not come from 4011; the source port of requests differs",
        "the answer leaves from 4011 to the port that asked",
        "iPXE dhcp.c; captures of BIOS ROMs asking from 68",
    ),
    Quirk(
        "bios-menu-bypass",
        "Intel PXE ROMs",
        "start discovery or stop without a prompt when option 43 is incomplete",
        "option 43: sub-option 6 = 8 (use the file of this offer), sub-option 10 an empty prompt",
        "PXE 2.1, 2.4; ROMs in the field",
    ),
    Quirk(
        "file-in-offer",
        "iPXE, Intel ROMs",
        "ask a second time unless the offer has siaddr and a file name",
        "both are in the first offer of BIOS and iPXE clients",
        "iPXE dhcp.c",
    ),
    Quirk(
        "fields-twice",
        "U-Boot, shim, some ROMs",
        "read only the BOOTP fields, or only options 66 and 67",
        "siaddr, sname, file and 54, 66, 67 all carry the answer",
        "U-Boot bootp.c; shim netboot.c",
    ),
    Quirk(
        "nul-after-file",
        "PXE ROMs, EDK2",
        "append 0xFF to an unterminated option 67, or patch a NUL over the next byte",
        "option 67 ends with NUL and is the last option",
        "EDK2 PxeBcDhcp4.c; dnsmasq's change log",
    ),
    Quirk(
        "type-first",
        "old ROMs",
        "look for option 53 only at the start",
        "option 53 comes first",
        "dnsmasq rfc2131.c",
    ),
    Quirk("pad-300", "old ROMs", "drop replies under 300 bytes", "replies are padded", "RFC 1542, 2.1"),
    Quirk(
        "no-overload", "PXE ROMs", "do not read options in file and sname", "never overloaded", "dnsmasq rfc2131.c"
    ),
    Quirk(
        "broadcast-all-ones",
        "ROMs without an address",
        "do not listen to the subnet broadcast",
        "answers go to 255.255.255.255",
        "RFC 2131, 4.1",
    ),
    Quirk(
        "user-class-both",
        "iPXE and others",
        "send option 77 raw, not counted as RFC 3004 says",
        "both forms are read; option 175 counts as iPXE too",
        "iPXE dhcp.c; RFC 3004",
    ),
    Quirk(
        "arch-9-is-x64",
        "x64 firmware",
        "says architecture 9 (EBC) as RFC 4578 first numbered it",
        "9 is served as 7",
        "RFC 4578 errata; IANA processor architecture types",
    ),
    Quirk(
        "no-97",
        "some ROMs",
        "send no option 97, or the same UUID on many boards",
        "97 is echoed when it came; nodes are keyed by MAC",
        "RFC 4578, 2.3",
    ),
    Quirk(
        "never-nak",
        "all, beside another server",
        "a NAK ends the other server's lease",
        "never sent",
        "RFC 2131, 4.3",
    ),
)
