"""What single clients are given at most over TFTP, whatever they ask for: some firmware asks for more than it can
take. The first rule that fits is the one."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from bootd.netboot.files.tftp import Cap

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class CapRule:
    """For clients whose MAC begins with ``mac`` (lower case, colons) and whose address is in ``network``."""

    cap: Cap
    mac: str = ""
    network: Network | None = None

    def fits(self, mac: str, address: str) -> bool:
        """``mac`` "" is unknown: then a rule for MACs does not fit."""
        if self.mac and not mac.startswith(self.mac):
            return False
        return self.network is None or ipaddress.ip_address(address) in self.network


def cap_for(rules: Sequence[CapRule], mac: str, address: str) -> Cap:
    return next((rule.cap for rule in rules if rule.fits(mac, address)), Cap())
