"""The Raspberry Pi: the ROM of the Pi 3 and older, and the EEPROM boot loader of the Pi 4 and later.

Both are closed. From the foundation's boot flow documentation ("Network booting", "Pi 4 Bootloader Configuration":
PXE_OPTION43) and its firmware and rpi-eeprom issue threads: the ROM sends no REQUEST, takes its address from the
first offer that has one, and a server from the answer whose option 43 has the text; it asks that server (siaddr)
for bootcode.bin. The EEPROM loader makes a whole DHCP exchange and asks for start4.elf.
"""

from dataclasses import dataclass

from bootd.netboot.clients.air import NOBODY, Attempt, Firmware, Received, acknowledged, failure, fetch
from bootd.netboot.dhcp import Option

_TEXT = b"Raspberry Pi Boot"


@dataclass(frozen=True)
class RaspberryPi:
    """``rom``: the mask ROM of a Pi 3 or older, which wants three blanks after the text."""

    name: str
    firmware: Firmware
    rom: bool

    def boot(self) -> Attempt:
        notes: list[str] = []
        text = _TEXT + b"   " if self.rom else _TEXT
        offers = yield self.firmware.discover()
        marked = [offer for offer in offers if text in offer.message.options.get(Option.VENDOR, b"")]
        for offer in offers:
            if offer.is_pxe and offer not in marked:
                notes.append(f"drops the offer of {offer.server}: option 43 has no {text.decode()!r}")
        address = next((offer for offer in offers if offer.message.your != NOBODY), None)
        if address is None:
            return failure("no offer with an address", notes)
        if not marked:
            return failure(f"no answer with {text.decode()!r} in option 43: it asks again and again", notes)
        if not self.rom and acknowledged((yield self.firmware.take(address)), address) is None:
            return failure(f"no ACK from {address.server_identifier}", notes)
        return fetch(_server(marked[0]), "bootcode.bin" if self.rom else "start4.elf", notes)


def _server(offer: Received) -> str:
    """Option 66 when it is an address, else siaddr, else the sender."""
    named = offer.message.options.get(Option.SERVER_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
    if named.count(".") == 3 and named.replace(".", "").isdigit():
        return named
    return offer.message.server if offer.message.server != NOBODY else offer.server
