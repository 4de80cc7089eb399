"""GRUB's second stage: where shim's GRUB, or GRUB alone, looks for its configuration.

From grub-core/net/drivers/efi/efinet.c, grub_efi_net_config_real, of GRUB 2.06: it reads the DHCP acknowledgement
that the firmware kept (``dhcp_ack``), not the proxy's offer, and so asks the siaddr of the server that gave the
address. `docs/booting.md`, "Secure Boot", says what was seen in virtual machines.
"""

from dataclasses import replace

from bootd.netboot.clients.air import NOBODY, Ending
from bootd.netboot.clients.room import Play
from bootd.netboot.loaders import LOADERS, LoaderKind

_FILES = frozenset(
    loader.file
    for loaders in LOADERS.values()
    for loader in loaders
    if loader.kind in (LoaderKind.SHIM, LoaderKind.GRUB)
)


def follow(played: Play, next_server: str, own: str) -> Play:
    """``played`` one step further when its boot file is GRUB. ``next_server`` is the siaddr of the ACK."""
    outcome = played.outcome
    if outcome.ending is not Ending.FETCHES or outcome.url.rpartition("/")[2] not in _FILES:
        return played
    if next_server == own:
        note = f"GRUB asks {own} for grub/grub.cfg"
        return replace(played, outcome=replace(outcome, notes=(*outcome.notes, note)))
    where = "names no next server" if next_server == NOBODY else f"names {next_server}, and GRUB asks there"
    reason = f"GRUB stands at its prompt: the address server {where}"
    return replace(played, outcome=replace(outcome, ending=Ending.FAILS, reason=reason))
