"""What a relay tells us: which link the client is on, and under which name we are to answer (RFC 3046, 3527, 5107).

Sans-IO. Only a message with giaddr comes from a relay; without it option 82 is the client's own invention
(RFC 3046 section 2.1) and says nothing.
"""

from dataclasses import dataclass

from bootd.netboot.dhcp import Message, Option

_LINK_SELECTION = 5  # RFC 3527
_SERVER_OVERRIDE = 11  # RFC 5107
NOBODY = "0.0.0.0"


@dataclass(frozen=True)
class Relay:
    """``address`` is giaddr, where the reply goes; ``link`` an address on the client's link; ``server`` the server
    identifier that the relay wants to see, "" for our own."""

    address: str
    link: str
    server: str = ""


def relay_of(request: Message) -> Relay | None:
    """The relay that sent ``request``; None for a client on our own link."""
    if request.relay == NOBODY:
        return None
    parts = _sub_options(request.options.get(Option.RELAY_AGENT, b""))
    link = _address(parts.get(_LINK_SELECTION, b""))
    return Relay(request.relay, link or request.relay, _address(parts.get(_SERVER_OVERRIDE, b"")))


def _sub_options(value: bytes) -> dict[int, bytes]:
    """Code to value; what comes after a part that is cut off is not read."""
    parts: dict[int, bytes] = {}
    position = 0
    while position + 2 <= len(value):
        end = position + 2 + value[position + 1]
        if end > len(value):
            break
        parts[value[position]] = value[position + 2 : end]
        position = end
    return parts


def _address(value: bytes) -> str:
    """A dotted quad; "" for anything that is none, and for 0.0.0.0."""
    if len(value) != 4 or not any(value):
        return ""
    return ".".join(str(byte) for byte in value)
