"""ProxyDHCP on ports 67 and 4011: sockets around the one offer decision.

Both sockets belong to one interface (SO_BINDTODEVICE), so bootd and another DHCP server may share a machine as
long as they do not share an interface. Replies go out at once: firmware waits as little as 2 s.
"""

import asyncio
import errno
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import structlog

from bootd.config import Settings
from bootd.drivers import offering
from bootd.errors import Exit, OperatorError
from bootd.netboot import dhcp, offer
from bootd.netboot.offer import Ignore, NodePolicy, Offer
from bootd.wire.errors import PeerProtocolError

OnEvent = Callable[[str, str, str, str], None]
"""(kind, mac, address, detail) for the timeline of a node; "" for what is not known. Must not raise."""

_BATCH = 64  # datagrams per wake-up, so that a flood leaves time for everything else
_REPEAT_SECONDS = 60.0  # the same reason for the same node is told once in so long
_REMEMBERED = 1024
_IP_PKTINFO = 8
_INFO = struct.Struct("=i4s4s")  # struct in_pktinfo: interface index, local address, header destination


class ProxyDhcp:
    """`Service` that answers PXE clients beside another DHCP server.

    ``decide_context`` gives what is known of a MAC (lower case, colons) when its firmware asks. Events: ``offer``
    (detail: architecture and file), ``boot-file`` (the same on 4011), ``ignored`` (detail: the reason).
    """

    name = "proxy-dhcp"

    def __init__(
        self,
        settings: Settings,
        interface: str,
        address: str,
        decide_context: Callable[[str], NodePolicy],
        on_event: OnEvent,
    ) -> None:
        self._interface = offering.interface(settings, interface, address)
        self._artefacts = offering.artefacts(settings)
        self._policy = decide_context
        self._on_event = on_event
        self._sockets: dict[int, socket.socket] = {}
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._malformed = 0
        self._waiting = 0  # replies that are held back for slow firmware
        self._malformed_told = float("-inf")
        self._log = structlog.get_logger("bootd.dhcp")

    @property
    def malformed(self) -> int:
        """Datagrams that were no DHCP messages, since the start."""
        return self._malformed

    async def bind(self) -> None:
        try:
            for port in (dhcp.SERVER_PORT, dhcp.PXE_PORT):
                self._sockets[port] = _open(self._interface.name, port)
        except BaseException:
            await self.close()
            raise

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        for port, opened in self._sockets.items():
            loop.add_reader(opened, self._receive, opened, port)
        self._log.info("proxy DHCP serves", interface=self._interface.name, address=self._interface.address)
        await asyncio.Event().wait()

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        while self._sockets:
            _, opened = self._sockets.popitem()
            loop.remove_reader(opened)
            opened.close()

    def _receive(self, opened: socket.socket, port: int) -> None:
        for _ in range(_BATCH):
            try:
                data, source = opened.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error of an earlier reply, interface down
                self._tell("receive", "", "", f"port {port}: {error.strerror}")
                return
            self._handle(opened, port, data, (source[0], source[1]))

    def _handle(self, opened: socket.socket, port: int, data: bytes, source: tuple[str, int]) -> None:
        try:
            request = dhcp.parse(data)
        except PeerProtocolError as error:
            self._count_malformed(port, source, str(error))
            return
        interface = replace(self._interface, artefacts=self._artefacts())
        decision = offer.decide(request, self._policy(request.mac), interface, port, source)
        if isinstance(decision, Ignore):
            if decision.network_boot:
                self._tell("ignored", decision.mac, source[0], decision.reason)
            return
        if decision.delay and self._waiting < _BATCH:
            self._waiting += 1
            asyncio.get_running_loop().call_later(decision.delay, self._send_late, port, decision, source)
            return
        self._send(opened, port, decision, source)

    def _send_late(self, port: int, decision: Offer, source: tuple[str, int]) -> None:
        self._waiting -= 1
        if port in self._sockets:  # else the daemon has stopped meanwhile
            self._send(self._sockets[port], port, decision, source)

    def _send(self, opened: socket.socket, port: int, decision: Offer, source: tuple[str, int]) -> None:
        destination = (decision.destination.address, decision.destination.port)
        # The source address of the reply is what the client compares with option 54: name it, an interface may
        # have several.
        info = _INFO.pack(0, dhcp.packed(self._interface.address), bytes(4))
        try:
            opened.sendmsg([decision.reply], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, destination)
        except OSError as error:  # no route to a claimed address, interface down: the client asks again
            self._tell("ignored", decision.mac, source[0], f"cannot answer to {destination[0]}: {error.strerror}")
            return
        kind = "offer" if port == dhcp.SERVER_PORT else "boot-file"
        self._on_event(kind, decision.mac, source[0], f"{decision.architecture}: {decision.file}")
        self._log.info(kind, mac=decision.mac, architecture=decision.architecture, file=decision.file, port=port)

    def _tell(self, kind: str, mac: str, address: str, detail: str) -> None:
        """Event and log line, unless the same was told within the last minute."""
        now = time.monotonic()
        key = (mac, detail)
        if now - self._told.get(key, float("-inf")) < _REPEAT_SECONDS:
            return
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        self._log.info(kind, mac=mac, address=address, reason=detail)
        if mac:
            self._on_event(kind, mac, address, detail)

    def _count_malformed(self, port: int, source: tuple[str, int], reason: str) -> None:
        self._malformed += 1
        now = time.monotonic()
        if now - self._malformed_told >= _REPEAT_SECONDS:
            self._malformed_told = now
            self._log.warning(
                "malformed DHCP message", port=port, address=source[0], reason=reason, count=self._malformed
            )


def _open(interface: str, port: int) -> socket.socket:
    """A datagram socket for ``port`` on ``interface`` only; `OperatorError` says what is in the way.

    No SO_REUSEADDR: with it two servers would share the port, and broadcasts would reach both or either.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        opened.bind(("0.0.0.0", port))
    except OSError as error:
        opened.close()
        raise _operator_error(error, interface, port) from None
    return opened


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
