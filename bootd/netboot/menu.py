"""The boot menu of PXE ROMs and boot server discovery: option 43 of an offer (PXE 2.1 section 2.4 and table 2-1).

A menu names boot server types; the client shows the prompt, waits, takes the first item or the user's, and asks a
server of that type for its file (sub-option 71). Type 0 is the local disk: nobody is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bootd.netboot import dhcp

DISCOVERY_CONTROL, MULTICAST, SERVERS, MENU, PROMPT, ITEM = 6, 7, 8, 9, 10, 71
NO_BROADCAST, NO_MULTICAST, ONLY_LISTED, USE_BOOT_FILE = 1, 2, 4, 8  # bits of DISCOVERY_CONTROL
LOCAL = 0  # boot server type: leave the ROM, boot the disk
FIRST_TYPE = 0x8000  # types below are assigned by Intel, from here on they are the vendor's
MAX_SECONDS = 254  # 255 would mean: wait for the user for ever
MAX_OPTION = 255  # bytes: PXE ROMs do not join split options (RFC 3396)
MAX_TITLE = 63
DISCOVERY_GROUP = "224.0.1.2"

# The whole of option 43 when there is no menu: take the file of this offer, ask nobody, show nothing. Without a
# prompt some ROMs stop and wait (quirk bios-prompt).
NO_MENU = dhcp.vendor_options({DISCOVERY_CONTROL: bytes((USE_BOOT_FILE,)), PROMPT: b"\0PXE"})


@dataclass(frozen=True)
class MenuItem:
    """One line. ``file`` is a path in the virtual tree, "" for the loader of the client's architecture.

    ``{layer}`` in ``file`` becomes the layer that the client asks for, up to ``layers`` (pxe.conf's minimum and
    maximum). ``families`` are the rows of `loaders.LOADERS` that see the item, none for all.
    """

    title: str
    local: bool = False
    file: str = ""
    layers: int = 0
    families: frozenset[str] = frozenset()

    def path(self, layer: int) -> str:
        """The file of ``layer``; "" when there is no such layer or the item has no file of its own."""
        return self.file.replace("{layer}", str(layer)) if 0 <= layer <= self.layers else ""


@dataclass(frozen=True)
class Menu:
    """``seconds`` until the first item is taken; 0 takes it at once. ``multicast`` "" switches that discovery off.

    ``uefi`` shows it to UEFI, too, whose menu code is broken in the field: off unless an operator knows better.
    """

    items: tuple[MenuItem, ...] = ()
    prompt: str = "Press F8 to view menu ..."
    seconds: int = 2
    multicast: str = DISCOVERY_GROUP
    broadcast: bool = True
    uefi: bool = False

    def numbered(self, family: str) -> dict[int, MenuItem]:
        """Boot server type to item, in the order of the menu, for clients of ``family``."""
        types = {}
        for position, item in enumerate(self.items):
            if not item.families or family in item.families:
                types[LOCAL if item.local else FIRST_TYPE + position] = item
        return types


def problem(menu: Menu) -> str:
    """Why ``menu`` cannot be sent, or ""."""
    if not 0 <= menu.seconds <= MAX_SECONDS:
        return f"menu seconds {menu.seconds}: use 0 to {MAX_SECONDS}"
    if sum(item.local for item in menu.items) > 1:
        return "two items for the local disk"
    for text in (menu.prompt, *(item.title for item in menu.items)):
        if not text or len(text) > MAX_TITLE or not all(" " <= character <= "~" for character in text):
            return f"{text!r}: 1 to {MAX_TITLE} printable ASCII characters are needed"
    if menu.multicast:
        parts = menu.multicast.split(".")
        whole = len(parts) == 4 and all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts)
        if not whole or not 224 <= int(parts[0]) < 240:
            return f"{menu.multicast!r} is not a multicast address"
    longest = max((len(item.file) for item in menu.items), default=0)
    if longest > dhcp.MAX_FILE:
        return f"a boot file name has {longest} bytes, {dhcp.MAX_FILE} fit"
    if len(vendor_option(menu, menu.numbered(""), "255.255.255.255")) > MAX_OPTION:
        return f"prompt and items need more than the {MAX_OPTION} bytes of option 43: shorten titles"
    return ""


def vendor_option(menu: Menu, items: Mapping[int, MenuItem], server: str) -> bytes:
    """Option 43 for a client that sees ``items``; ``server`` answers for all of them."""
    control = ONLY_LISTED | (0 if menu.broadcast else NO_BROADCAST) | (0 if menu.multicast else NO_MULTICAST)
    own = dhcp.packed(server)
    options = {DISCOVERY_CONTROL: bytes((control,))}
    if menu.multicast:
        options[MULTICAST] = dhcp.packed(menu.multicast)
    options[SERVERS] = b"".join(_word(number) + b"\x01" + own for number in items if number != LOCAL)
    options[MENU] = b"".join(
        _word(number) + bytes((len(item.title),)) + item.title.encode("ascii") for number, item in items.items()
    )
    options[PROMPT] = bytes((menu.seconds,)) + menu.prompt.encode("ascii")
    return dhcp.vendor_options(options)


def asked(options: Mapping[int, bytes]) -> tuple[int, int] | None:
    """(boot server type, layer) of a client's sub-option 71, or None. The layer's top bit asks for BIS."""
    item = options.get(ITEM, b"")
    if len(item) != 4:
        return None
    return int.from_bytes(item[:2], "big"), int.from_bytes(item[2:], "big") & 0x7FFF


def _word(number: int) -> bytes:
    return number.to_bytes(2, "big")
