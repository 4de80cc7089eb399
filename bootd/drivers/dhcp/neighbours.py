"""Which MAC address stands behind an address of this network."""

import ipaddress
from pathlib import Path

_NOBODY = "00:00:00:00:00:00"


def neighbour(address: str) -> str:
    """Lower case with colons, or "" when it is not known: the kernel's ARP table, or what firmware makes its IPv6
    address of (RFC 4291, appendix A: modified EUI-64)."""
    if ":" in address:
        return _from_interface_identifier(address.partition("%")[0])
    try:
        lines = Path("/proc/net/arp").read_text().splitlines()[1:]
    except OSError:
        return ""
    for line in lines:
        columns = line.split()
        if len(columns) >= 4 and columns[0] == address and columns[3] != _NOBODY:
            return columns[3].lower()
    return ""


def _from_interface_identifier(address: str) -> str:
    packed = ipaddress.IPv6Address(address).packed[8:]
    if packed[3:5] != b"\xff\xfe":
        return ""
    return bytes((packed[0] ^ 2, *packed[1:3], *packed[5:])).hex(":")
