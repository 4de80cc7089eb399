"""Switching machines: the magic packet, and where a node's management controller is. Bytes and values only."""

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote, urlsplit

WAKE_PORT = 9  # discard: nothing listens, the card looks at the payload only
_USER = re.compile(r"[!-~]{1,63}\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\Z|[0-9A-Fa-f:]{2,45}\Z")
_PATH = re.compile(r"(/[A-Za-z0-9_.~-]+)+\Z")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")
_SECURE_ON = re.compile(r"([0-9a-fA-F]{2})([:-]?[0-9a-fA-F]{2}){5}\Z")
REDFISH_ROOT = "/redfish/v1"


class Kind(Enum):
    REDFISH = "redfish"  # HTTPS, DMTF DSP0266
    IPMI = "ipmi"  # RMCP+ over UDP, IPMI 2.0


_PORTS = {Kind.REDFISH: 443, Kind.IPMI: 623}


@dataclass(frozen=True)
class Controller:
    """A node's management controller. ``path`` of its system, for Redfish; no password is ever in here."""

    kind: Kind
    host: str
    port: int
    user: str
    path: str = ""


def parse_controller(text: str) -> Controller:
    """``redfish://USER@HOST[:PORT]/Systems/ID`` or ``ipmi://USER@HOST[:PORT]``.

    A Redfish path is below /redfish/v1, or begins with it. A password in it is refused: settings are read by many.
    `ValueError` with one sentence on what is wrong.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("its port is no number from 1 to 65535") from None
    kinds = {kind.value: kind for kind in Kind}
    if parts.scheme not in kinds:
        raise ValueError("write it as redfish://USER@HOST/Systems/ID or ipmi://USER@HOST")
    kind = kinds[parts.scheme]
    if parts.password is not None:
        raise ValueError("a password does not belong here: put it into a file and name that as power_secret")
    user, host = unquote(parts.username or ""), parts.hostname or ""
    if not _USER.match(user) or ":" in user or user.startswith("-"):
        raise ValueError("the user is missing, or has characters that it cannot have")
    if not _HOST.match(host):
        raise ValueError("the host is missing, or is neither a name nor an address")
    if port == 0 or parts.query or parts.fragment:
        raise ValueError("write nothing after the path, and a port from 1 on")
    path = parts.path.rstrip("/")
    if kind is Kind.IPMI:
        if path:
            raise ValueError("ipmi:// has no path")
        return Controller(kind, host, port or _PORTS[kind], user)
    if not _PATH.match(path) or "/.." in path:
        raise ValueError("the path of its system is missing, as /Systems/1")
    whole = path if path.startswith(REDFISH_ROOT + "/") else REDFISH_ROOT + path
    return Controller(kind, host, port or _PORTS[kind], user, whole)


def parse_fingerprint(text: str) -> bytes:
    """A SHA-256 fingerprint as openssl prints it, with colons or without; `ValueError` if it is none."""
    plain = text.strip().lower().removeprefix("sha256:").replace(":", "")
    if not _FINGERPRINT.match(plain):
        raise ValueError("a fingerprint is 64 hexadecimal digits: openssl x509 -fingerprint -sha256 -noout")
    return bytes.fromhex(plain)


def power_problem(address: str, fingerprint: str) -> str:
    """Why a node's controller cannot be used as it is written, or ""; both may be ""."""
    try:
        controller = parse_controller(address) if address else None
        if fingerprint:
            parse_fingerprint(fingerprint)
    except ValueError as error:
        return str(error)
    if fingerprint and (controller is None or controller.kind is not Kind.REDFISH):
        return "a fingerprint is for redfish:// only: nothing else has a certificate"
    return ""


def parse_secure_on(text: str) -> bytes:
    """The six bytes of a SecureOn password, written as a MAC address is; `ValueError` if it is none."""
    if not _SECURE_ON.match(text):
        raise ValueError("a SecureOn password is six bytes, as 01:23:45:67:89:ab")
    return bytes.fromhex(re.sub(r"[:-]", "", text))


def magic_packet(mac: str, password: bytes = b"") -> bytes:
    """What wakes the card ``mac`` (lower case, colons): AMD's Magic Packet, publication 20213; then SecureOn's
    password of six bytes, if the card wants one."""
    if len(password) not in (0, 6):
        raise ValueError("a SecureOn password is six bytes")
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16 + password
