"""Magic packets on the daemon's interfaces."""

import errno
import fcntl
import socket
import struct
from collections.abc import Sequence

from bootd.errors import Exit, OperatorError
from bootd.netboot.power import WAKE_PORT, magic_packet

REPEATS = 3  # nobody acknowledges one, and a switch may drop it
_SIOCGIFBRDADDR = 0x8919  # linux/sockios.h


def wake(mac: str, interfaces: Sequence[str], password: bytes = b"", beyond: Sequence[str] = ()) -> list[str]:
    """Send it to the broadcast address of each interface's subnet, and to ``beyond``: addresses behind routers.

    The addresses that it was sent to. `OperatorError` when it could be sent nowhere.
    """
    packet = magic_packet(mac, password)
    sent: list[str] = []
    trouble: list[str] = []
    for interface in interfaces:
        try:
            target = _broadcast(interface)
            _send(packet, target, interface)
            sent.append(f"{target} on {interface}")
        except OSError as error:
            trouble.append(f"{interface}: {error.strerror or error}")
    for target in beyond:
        try:
            _send(packet, target, "")
            sent.append(target)
        except OSError as error:
            trouble.append(f"{target}: {error.strerror or error}")
    if not sent:
        raise OperatorError(
            f"no magic packet could be sent: {'; '.join(trouble) or 'no interface is served'}",
            "see that the interface is up: ip address",
            Exit.ERROR,
        )
    return sent


def _send(packet: bytes, target: str, interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setblocking(False)
        if interface:  # or a wider route would choose another
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        for _ in range(REPEATS):
            sock.sendto(packet, (target, WAKE_PORT))


def _broadcast(interface: str) -> str:
    """Of the interface's first address, as the kernel keeps it; 255.255.255.255 where it keeps none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14s", interface.encode()[:15], socket.AF_INET, b"")
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFBRDADDR, request)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return "255.255.255.255"
            raise
    address = socket.inet_ntoa(answer[20:24])
    return "255.255.255.255" if address == "0.0.0.0" else address
