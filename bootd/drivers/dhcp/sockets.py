"""UDP sockets of the DHCP service: one interface each, with the address that a datagram came to and leaves from."""

import errno
import socket
import struct
from dataclasses import dataclass

from bootd.errors import Exit, OperatorError
from bootd.netboot import dhcp
from bootd.netboot.offer import Destination

_IP_PKTINFO = 8
_INFO = struct.Struct("=i4s4s")  # struct in_pktinfo: interface index, local address, header destination
_LARGEST = 65535
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h: beyond net.core.rmem_max, for root
_RECEIVE_BUFFER = 4 << 20  # a room that is switched on at once: some 2 KiB of kernel memory per waiting datagram


@dataclass(frozen=True)
class Datagram:
    data: bytes
    source: tuple[str, int]
    target: str  # the address in the header: ours, or a broadcast; "" when the kernel did not say


def open_socket(interface: str, port: int) -> socket.socket:
    """A datagram socket for ``port`` on ``interface`` only; `OperatorError` says what is in the way.

    No SO_REUSEADDR: with it two servers would share the port, and broadcasts would reach both or either.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        opened.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        _widen(opened)
        opened.bind(("0.0.0.0", port))
    except OSError as error:
        opened.close()
        raise _operator_error(error, interface, port) from None
    return opened


def _widen(opened: socket.socket) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)  # what the system allows


def join(opened: socket.socket, group: str, index: int) -> None:
    """Hear ``group`` on the interface with this index; `OSError` when the kernel refuses."""
    membership = socket.inet_aton(group) + bytes(4) + struct.pack("=i", index)  # struct ip_mreqn
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)


def receive(opened: socket.socket) -> Datagram:
    """The next datagram; `BlockingIOError` when there is none, `OSError` for an error of an earlier one."""
    data, control, _, source = opened.recvmsg(_LARGEST, socket.CMSG_SPACE(_INFO.size))
    target = ""
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(value) >= _INFO.size:
            target = socket.inet_ntoa(_INFO.unpack_from(value)[2])
    return Datagram(data, (source[0], source[1]), target)


def send(opened: socket.socket, data: bytes, address: str, destination: Destination) -> None:
    """Send from ``address``: clients compare it with option 54, and an interface may have several. `OSError`."""
    info = _INFO.pack(0, dhcp.packed(address), bytes(4))
    target = (destination.address, destination.port)
    opened.sendmsg([data], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, target)


def _operator_error(error: OSError, interface: str, port: int) -> OperatorError:
    if error.errno == errno.EADDRINUSE:
        return OperatorError(
            f"UDP port {port} on {interface} is in use by another program",
            f"find it with `ss -ulpn 'sport = :{port}'` and stop it there, or keep it off {interface}",
            Exit.BUSY,
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return OperatorError(
            f"not allowed to open UDP port {port}",
            "run as root, or with the capabilities CAP_NET_BIND_SERVICE and CAP_NET_RAW",
        )
    if error.errno == errno.ENODEV:
        return OperatorError(f"there is no interface {interface}", "see `ip link`", Exit.CONFIG)
    return OperatorError(f"cannot open UDP port {port} on {interface}: {error.strerror}")
