"""Answers IPv6 router solicitations with "here is no router", so that firmware goes on at once.

iPXE asks for IPv6 routers and waits 13 s when nobody answers (measured; `docs/booting.md`). Any advertisement ends
the wait. Ours has a router lifetime of 0 and no prefix: no host makes a route or an address of it (RFC 4861
sections 4.2, 6.3.4). It is sent only when a client asks, only where bootd is the one that gives addresses, and not
while a real router is heard on the link.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence

import structlog

from bootd.netboot.addresses import router

_ALL_ROUTERS, _ALL_NODES = "ff02::2", "ff02::1"
_ICMP6_FILTER = 1  # option of IPPROTO_ICMPV6 (linux/icmpv6.h)
_HOP_LIMIT = 255  # RFC 4861 section 6.1.2: others are dropped
_BATCH = 32
_GAP_SECONDS = 0.5  # the answer goes to all nodes, so one is enough for so long
_LOOK_SECONDS = 5.0  # an interface that was not there is looked for again
_ROUTER_SECONDS = 1800.0  # a real router advertises at least so often (RFC 4861 section 6.2.1)

log = structlog.get_logger("bootd.router")


class RouterAdvertisement:
    """`Service`. An interface without IPv6 has no such clients either: it is left out and looked at again later."""

    name = "router-advertisement"

    def __init__(self, interfaces: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._names = tuple(interfaces)
        self._clock = clock
        self._sockets: dict[str, tuple[int, socket.socket]] = {}  # by interface: its index, and the socket
        self._answered: dict[str, float] = {}
        self._router_heard: dict[str, float] = {}

    async def bind(self) -> None:
        """Nothing here is worth not starting for."""

    async def serve(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        for name in list(self._sockets):
            self._drop(name)

    def _look(self) -> None:
        """Have a socket on each interface that is there."""
        for name in self._names:
            try:
                index = socket.if_nametoindex(name)
            except OSError:
                index = 0
            if name in self._sockets and self._sockets[name][0] != index:
                self._drop(name)
            if index and name not in self._sockets:
                with contextlib.suppress(OSError):
                    opened = _open(name, index)
                    self._sockets[name] = (index, opened)
                    asyncio.get_running_loop().add_reader(opened, self._receive, name, opened)
                    log.info("answers router solicitations: no router here", interface=name)

    def _drop(self, name: str) -> None:
        _, opened = self._sockets.pop(name)
        asyncio.get_running_loop().remove_reader(opened)
        opened.close()

    def _receive(self, name: str, opened: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                data, _, _, source = opened.recvmsg(2048)
            except OSError:  # nothing left, or the link is down
                return
            now = self._clock()
            if router.is_advertisement(data) and router.lifetime(data):
                self._router_heard[name] = now
            if not router.is_solicitation(data) or self._heard(name, now):
                continue
            if now - self._answered.get(name, float("-inf")) < _GAP_SECONDS:
                continue
            self._answered[name] = now
            with contextlib.suppress(OSError):  # no link-local address yet: the client asks again after a second
                opened.sendto(router.NO_ROUTER, (_ALL_NODES, 0, 0, source[3]))

    def _heard(self, name: str, now: float) -> bool:
        return now - self._router_heard.get(name, float("-inf")) < _ROUTER_SECONDS


def _open(name: str, index: int) -> socket.socket:
    """A raw ICMPv6 socket that hears solicitations and advertisements on one interface. `OSError`."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        blocked = [0xFFFF_FFFF] * 8
        for wanted in (router.SOLICITATION, router.ADVERTISEMENT):
            blocked[wanted >> 5] &= ~(1 << (wanted & 31))
        opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
        group = socket.inet_pton(socket.AF_INET6, _ALL_ROUTERS) + struct.pack("=I", index)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    except OSError:
        opened.close()
        raise
    return opened
