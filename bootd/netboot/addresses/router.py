"""ICMPv6 router solicitation and advertisement as bytes (RFC 4861 sections 4.1, 4.2). Sans-IO."""

import struct

SOLICITATION, ADVERTISEMENT = 133, 134
_ADVERTISEMENT = struct.Struct("!BBHBBHII")

# Hop limit, flags, lifetime, reachable time, retransmission time: all 0, "unspecified"; the kernel adds the sum.
# No M or O flag, so nobody goes on to ask for DHCPv6; no option, so there is no prefix.
NO_ROUTER = _ADVERTISEMENT.pack(ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0)


def is_solicitation(message: bytes) -> bool:
    return len(message) >= 8 and message[0] == SOLICITATION and message[1] == 0


def is_advertisement(message: bytes) -> bool:
    return len(message) >= _ADVERTISEMENT.size and message[0] == ADVERTISEMENT and message[1] == 0


def lifetime(advertisement: bytes) -> int:
    """Seconds for which its sender is a default router; 0 for one that is none."""
    return int(_ADVERTISEMENT.unpack_from(advertisement)[5])
