"""DHCP on ports 67 and 4011: sockets around the two pure decisions, which address and what to boot.

Proxy mode asks only the second one; full mode asks both, and an answer then waits for the probe and for the disk.
Sockets belong to one interface each (SO_BINDTODEVICE), so bootd and another DHCP server may share a machine as long
as they do not share an interface. Interfaces are followed: one that loses its address, or goes, is silent until it
is back.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from bootd.config import Settings
from bootd.drivers import metrics
from bootd.drivers.dhcp import offering, rogue
from bootd.drivers.dhcp import sockets as dhcp_sockets
from bootd.drivers.dhcp.leases import Leases
from bootd.drivers.dhcp.probe import Prober
from bootd.drivers.dhcp.sockets import Datagram
from bootd.drivers.dhcp.told import REPEAT_SECONDS, OnEvent, Told
from bootd.drivers.links import Link, Links
from bootd.errors import Exit, OperatorError
from bootd.netboot import dhcp, offer
from bootd.netboot.addresses.decision import Arrival, Nak
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.dhcp import Message, MessageType
from bootd.netboot.offer import Destination, Ignore, Interface, NodePolicy, Offer
from bootd.netboot.refusal import refuse
from bootd.wire.errors import PeerProtocolError

_BATCH = 16  # datagrams per wake-up, so that a flood leaves time for everything else, offers that are due above all
_HELD_BACK = 64  # replies at most that wait for slow firmware
_PORTS = (dhcp.SERVER_PORT, dhcp.PXE_PORT)


@dataclass
class _Served:
    """One interface that is served now."""

    interface: Interface
    index: int
    addresses: tuple[str, ...]
    sockets: dict[int, socket.socket]


class DhcpServer:
    """`Service` that answers on ``interfaces``: beside another DHCP server, or with pools as the only one.

    ``decide_context`` gives what is known of a MAC (lower case, colons) when its firmware asks. Events: ``offer``
    (detail: architecture and file), ``boot-file`` (the same, confirmed), ``ignored`` (the reason); in full mode
    also ``lease``, ``refused``, ``conflict``, ``exhausted``, ``rival``.
    """

    name = "dhcp"

    def __init__(
        self,
        settings: Settings,
        interfaces: Sequence[str],
        decide_context: Callable[[str], NodePolicy],
        on_event: OnEvent,
    ) -> None:
        self._settings = settings
        self._names = tuple(interfaces)
        self._artefacts = offering.artefacts(settings)
        self._ignored = settings.ignored
        self._policy = decide_context
        self._on_event = on_event
        self._links = Links(self._names, self._follow)
        self._prober = Prober(settings.dhcp.probe_seconds)
        self._leases = Leases(settings, self._prober, self._say) if settings.dhcp.pool else None
        self._served: dict[str, _Served] = {}
        self._malformed = 0
        self._waiting = 0  # replies that are held back for slow firmware
        self._malformed_told = float("-inf")
        self._log = structlog.get_logger("bootd.dhcp")
        self._told = Told(self._log, on_event)

    @property
    def malformed(self) -> int:
        """Datagrams that were no DHCP messages, since the start."""
        return self._malformed

    @property
    def trouble(self) -> str:
        """For `Health`: interfaces on which nobody is answered."""
        silent = [name for name in self._names if name not in self._served or not self._served[name].addresses]
        return f"DHCP is silent on {', '.join(silent)}: no address there" if silent else ""

    def list_leases(self) -> list[dict[str, Any]]:
        """Every lease for people and programs, by address; [] in proxy mode."""
        return self._leases.listing() if self._leases is not None else []

    async def bind(self) -> None:
        try:
            links = await self._links.look()
            for name in self._names:
                self._open(_there(links, name))
            if self._leases is not None:
                ours = [link for link in links.values() if self._leases.gives_on(link.addresses)]
                await rogue.check(self._settings.dhcp, ours)
                self._leases.own_addresses(address for link in links.values() for address in link.addresses)
                self._leases.open()
                for link in links.values():
                    if not self._leases.serves(link.addresses):
                        self._log.warning(
                            "no pool has an address of this interface: only relays are served on it",
                            interface=link.name,
                            addresses=list(link.addresses),
                            hint="add its subnet as [[dhcp.pool]]",
                        )
        except BaseException:
            await self.close()
            raise

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        for name, served in self._served.items():
            self._listen(loop, name, served)
        mode = "full" if self._leases is not None else "proxy"
        for name, served in self._served.items():
            self._log.info("DHCP serves", mode=mode, interface=name, address=served.interface.address)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._links.follow(), name="links")
            if self._leases is not None:
                group.create_task(self._leases.run(), name="leases")

    async def close(self) -> None:
        for name in list(self._served):
            self._drop(name)
        if self._leases is not None:
            await self._leases.close()
        self._prober.close()

    def _follow(self, links: dict[str, Link]) -> None:
        """The interfaces have changed."""
        loop = asyncio.get_running_loop()
        if self._leases is not None:
            self._leases.own_addresses(address for link in links.values() for address in link.addresses)
        for name in self._names:
            link, served = links.get(name), self._served.get(name)
            if served is not None and (link is None or link.index != served.index):
                self._drop(name)
                self._log.warning("interface is gone", interface=name)
                served = None
            if link is None:
                continue
            if served is None:
                try:
                    served = self._open(link)
                except OperatorError as error:
                    self._log.error("interface is not served", interface=name, error=str(error))
                    continue
                self._listen(loop, name, served)
                self._log.info("interface is there", interface=name, address=served.interface.address)
                continue
            if self._leases is not None:
                self._prober.follow(link.name, link.index, link.mac)
            if served.addresses != link.addresses:
                served.addresses = link.addresses
                served.interface = replace(served.interface, address=self._address(link))
                if link.addresses:
                    self._log.info("address has changed", interface=name, address=served.interface.address)
                else:
                    self._log.warning("interface has no address: silent on it", interface=name)

    def _address(self, link: Link) -> str:
        """What clients are told: the configured address where the interface has it, else its first; "" for none."""
        own = self._settings.server.address
        return own if own in link.addresses else next(iter(link.addresses), "")

    def _open(self, link: Link) -> _Served:
        served = _Served(
            offering.interface(self._settings, link.name, self._address(link)), link.index, link.addresses, {}
        )
        self._served[link.name] = served
        try:
            for port in _PORTS:
                served.sockets[port] = dhcp_sockets.open_socket(link.name, port)
        except OperatorError:
            self._drop(link.name)
            raise
        group = served.interface.menu.multicast
        if group:  # quirk discovery-on-67: boot server discovery by multicast comes to 4011
            try:
                dhcp_sockets.join(served.sockets[dhcp.PXE_PORT], group, link.index)
            except OSError as error:
                self._log.warning("no discovery by multicast", interface=link.name, error=error.strerror)
        if self._leases is not None:
            self._prober.follow(link.name, link.index, link.mac)
        return served

    def _listen(self, loop: asyncio.AbstractEventLoop, name: str, served: _Served) -> None:
        for port, opened in served.sockets.items():
            loop.add_reader(opened, self._receive, name, opened, port)

    def _drop(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        self._prober.forget(name)
        for opened in self._served.pop(name).sockets.values():
            loop.remove_reader(opened)
            opened.close()

    def _receive(self, name: str, opened: socket.socket, port: int) -> None:
        for _ in range(_BATCH):
            try:
                datagram = dhcp_sockets.receive(opened)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error of an earlier reply, interface down
                self._told.once("receive", "", "", f"port {port}: {error.strerror}")
                return
            self._handle(name, port, datagram)

    def _handle(self, name: str, port: int, datagram: Datagram) -> None:
        served = self._served[name]
        if not served.interface.address:
            return
        try:
            request = dhcp.parse(datagram.data)
        except PeerProtocolError as error:
            self._count_malformed(port, datagram.source, str(error))
            return
        if request.mac in self._ignored:
            self._ignore(request.mac, datagram.source[0], "the settings say so")
            return
        policy = self._policy(request.mac)
        if self._leases is None or port != dhcp.SERVER_PORT or request.operation is not dhcp.Operation.REQUEST:
            self._decide(name, port, request, datagram.source, policy=policy)
            return
        if policy.silence:
            self._ignore(request.mac, datagram.source[0], policy.silence)
            return

        def answer(given: Lease | Nak) -> None:
            if isinstance(given, Lease):
                self._decide(name, port, request, datagram.source, policy=policy, lease=given)
            else:
                sent = self._transmit(name, port, *refuse(request, given), mac=request.mac, server=given.server)
                metrics.DHCP_ANSWERS.labels("nak").inc(sent)

        arrival = Arrival(served.addresses, broadcast=datagram.target not in served.addresses)
        silence = self._leases.handle(request, arrival, name, answer)
        if silence is not None:
            metrics.count_ignored(silence.reason)
            if silence.subnet is not None and not silence.subnet.size:
                # Only reservations count here: another server may have an address for this client.
                self._decide(name, port, request, datagram.source, policy=policy)

    def _decide(
        self,
        name: str,
        port: int,
        request: Message,
        source: tuple[str, int],
        *,
        policy: NodePolicy,
        lease: Lease | None = None,
    ) -> None:
        """The boot decision, and its answer on the way."""
        served = self._served.get(name)
        if served is None or not served.interface.address:  # gone while the address was probed
            return
        interface = replace(served.interface, artefacts=self._artefacts())
        decision = offer.decide(request, policy, interface, port, source, lease=lease)
        if isinstance(decision, Ignore):
            if decision.network_boot:
                self._ignore(decision.mac, source[0], decision.reason)
            else:
                metrics.count_ignored(decision.reason)
            return
        if decision.no_boot and decision.network_boot:
            self._ignore(decision.mac, source[0], f"an address only: {decision.no_boot}")
        server = lease.server if lease is not None else ""
        if decision.delay and self._waiting < _HELD_BACK:
            self._waiting += 1
            asyncio.get_running_loop().call_later(
                decision.delay, self._send_late, name, port, decision, source, server
            )
            return
        self._send(name, port, decision, source, server)

    def _send_late(self, name: str, port: int, decision: Offer, source: tuple[str, int], server: str) -> None:
        self._waiting -= 1
        self._send(name, port, decision, source, server)

    def _send(self, name: str, port: int, decision: Offer, source: tuple[str, int], server: str) -> None:
        if not self._transmit(name, port, decision.reply, decision.destination, mac=decision.mac, server=server):
            return
        metrics.DHCP_ANSWERS.labels(decision.kind.name.lower() if decision.kind is not None else "bootp").inc()
        if decision.file:
            kind = "offer" if decision.kind is MessageType.OFFER else "boot-file"
            self._on_event(kind, decision.mac, source[0], f"{decision.architecture}: {decision.file}")
            self._log.info(
                kind, mac=decision.mac, architecture=decision.architecture, file=decision.file, port=port
            )

    def _transmit(
        self, name: str, port: int, data: bytes, destination: Destination, *, mac: str, server: str
    ) -> bool:
        """Send as ``server`` where that is an address of ours: clients compare the sender with option 54."""
        served = self._served.get(name)
        if served is None or not served.interface.address:  # gone while the address was probed
            return False
        sender = server if server in served.addresses else served.interface.address
        try:
            dhcp_sockets.send(served.sockets[port], data, sender, destination)
        except OSError as error:  # no route to a claimed address, interface down: the client asks again
            self._ignore(mac, "", f"cannot answer to {destination.address}: {error.strerror}")
            return False
        return True

    def _ignore(self, mac: str, address: str, reason: str) -> None:
        metrics.count_ignored(reason)
        self._told.once("ignored", mac, address, reason)

    def _say(self, kind: str, mac: str, detail: str) -> None:
        """What the leases have to tell."""
        self._told.once(kind, mac, "", detail)

    def _count_malformed(self, port: int, source: tuple[str, int], reason: str) -> None:
        self._malformed += 1
        metrics.MALFORMED.labels("dhcp").inc()
        now = time.monotonic()
        if now - self._malformed_told >= REPEAT_SECONDS:
            self._malformed_told = now
            self._log.warning(
                "malformed DHCP message", port=port, address=source[0], reason=reason, count=self._malformed
            )


def _there(links: dict[str, Link], name: str) -> Link:
    if name not in links:
        raise OperatorError(f"there is no interface {name}", "see `ip link`", Exit.CONFIG)
    return links[name]
