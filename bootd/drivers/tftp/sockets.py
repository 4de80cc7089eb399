"""The sockets on which TFTP requests arrive, over IPv4 and IPv6."""

import errno
import socket
import struct
from dataclasses import dataclass
from typing import Any

import structlog

from bootd.drivers.interfaces import list_interfaces
from bootd.errors import Exit, OperatorError

_PKTINFO = struct.Struct("=16sI")


@dataclass(frozen=True)
class Datagram:
    """``source`` and ``local`` are socket addresses: where it came from, and where the answer must come from."""

    data: bytes
    source: tuple[Any, ...]
    local: tuple[Any, ...]

    @property
    def address(self) -> str:
        return str(self.source[0])

    @property
    def client(self) -> tuple[str, int]:
        return str(self.source[0]), int(self.source[1])


def open_ipv4(address: str, port: int) -> socket.socket:
    """`OperatorError` when the port is not to be had."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        opened.bind((address, port))
    except OSError as error:
        opened.close()
        raise _operator_error(error, address, port) from None
    return opened


def open_ipv6(address: str, port: int) -> socket.socket | None:
    """The same port on every IPv6 address of the interface that has the IPv4 ``address``; None, and a line in the
    log, where there is no IPv6. Bound to the interface, so that several of them can be served side by side."""
    log = structlog.get_logger("bootd.tftp")
    name = next((item.name for item in list_interfaces() if address in item.addresses), "")
    opened = None
    try:
        opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        if name:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
        opened.bind(("::", port))
    except OSError as error:
        if opened is not None:
            opened.close()
        log.warning("no TFTP over IPv6", interface=name, reason=error.strerror)
        return None
    return opened


def receive(opened: socket.socket) -> Datagram:
    """The next datagram. `BlockingIOError` when there is none, `OSError` for an ICMP error."""
    if opened.family == socket.AF_INET:
        data, source = opened.recvfrom(65535)
        return Datagram(data, source, (opened.getsockname()[0], 0))
    data, ancillary, _, source = opened.recvmsg(65535, socket.CMSG_SPACE(_PKTINFO.size))
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(value) >= _PKTINFO.size:
            packed, scope = _PKTINFO.unpack_from(value)
            local = socket.inet_ntop(socket.AF_INET6, packed)
            return Datagram(data, source, (local, 0, 0, scope if packed[:2] == b"\xfe\x80" else 0))
    return Datagram(data, source, ("::", 0, 0, 0))


def _operator_error(error: OSError, address: str, port: int) -> OperatorError:
    if error.errno == errno.EADDRINUSE:
        return OperatorError(
            f"UDP port {port} (TFTP) on {address} is in use by another program",
            f"find it with `ss -ulpn 'sport = :{port}'` and stop it, or set [tftp] port",
            Exit.BUSY,
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return OperatorError(
            f"not allowed to open UDP port {port} (TFTP)", "run as root, or with CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return OperatorError(f"{address} is no address of this machine", "see `ip address`", Exit.CONFIG)
    return OperatorError(f"cannot open UDP port {port} (TFTP) on {address}: {error.strerror}")
