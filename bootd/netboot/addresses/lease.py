"""The address part of a DHCP reply, as a frozen value that the offer decision may put beside its boot part.

Sans-IO. Addresses are dotted quads; times are whole seconds from the reply on (RFC 2131 section 3.3).
"""

import struct
from dataclasses import dataclass

from bootd.netboot import dhcp

INFINITE = 0xFFFF_FFFF  # RFC 2131 section 3.3: a lease of so many seconds has no end

# RFC 2132; only what a lease puts into a reply.
SUBNET_MASK = 1
ROUTERS = 3
NAME_SERVERS = 6
HOST_NAME = 12
DOMAIN = 15
BROADCAST = 28
LEASE_SECONDS = 51
SERVER_IDENTIFIER = 54
RENEWAL_SECONDS = 58
REBINDING_SECONDS = 59


@dataclass(frozen=True)
class Lease:
    """What a client is given. ``address`` is yiaddr; ``server`` is option 54, the server's own address.

    ``seconds`` 0 means that no time is given: an answer to DHCPINFORM (RFC 2131 section 4.3.5, ``address`` is then
    "0.0.0.0") or to BOOTP, whose addresses do not end.
    """

    address: str
    netmask: str
    server: str
    seconds: int = 0
    renewal: int = 0  # T1
    rebinding: int = 0  # T2
    broadcast: str = ""
    routers: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()
    domain: str = ""
    host_name: str = ""

    def options(self) -> dict[int, bytes]:
        """Option code to value, without message type. T1 and T2 are in the OFFER already (quirk early-times)."""
        options: dict[int, bytes] = {
            SERVER_IDENTIFIER: dhcp.packed(self.server),
            SUBNET_MASK: dhcp.packed(self.netmask),
        }
        if self.seconds:
            options[LEASE_SECONDS] = struct.pack("!I", self.seconds)
            options[RENEWAL_SECONDS] = struct.pack("!I", self.renewal)
            options[REBINDING_SECONDS] = struct.pack("!I", self.rebinding)
        if self.routers:
            options[ROUTERS] = b"".join(dhcp.packed(address) for address in self.routers)
        if self.name_servers:
            options[NAME_SERVERS] = b"".join(dhcp.packed(address) for address in self.name_servers)
        if self.broadcast:
            options[BROADCAST] = dhcp.packed(self.broadcast)
        if self.host_name:
            options[HOST_NAME] = self.host_name.encode("ascii")
        if self.domain:
            options[DOMAIN] = self.domain.encode("ascii")
        return options
