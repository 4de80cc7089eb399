"""Does somebody use an address? Asked before a client is offered it: by ARP on the own link, else by ICMP echo.

Answers are awaited for a fixed time, a fraction of what firmware waits for an offer; so a machine that sleeps or
that drops ICMP is not found, and the client's own check (DECLINE) remains.
"""

import asyncio
import errno
import secrets
import socket

import structlog

from bootd.netboot.addresses import arp

_ETH_P_ARP = 0x0806
_EVERYBODY = b"\xff" * 6
_REPEATS = 2  # a probe may be lost; the second one leaves in the middle of the wait
_BATCH = 64
_MOST = 4096  # probes at a time; a client beyond them is told nothing and asks again
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23  # linux/if_packet.h: our own probes need not come back to us

log = structlog.get_logger("bootd.probe")


class Prober:
    """`in_use` for one address at a time; sockets are opened for the interfaces as `follow` names them."""

    def __init__(self, seconds: float) -> None:
        """``seconds`` to wait for an answer; 0 = never ask."""
        self._seconds = seconds
        self._links: dict[str, tuple[int, socket.socket, bytes]] = {}  # name -> index, socket, MAC
        self._icmp: socket.socket | None = None
        self._identifier = secrets.randbelow(1 << 16)
        self._sequence = 0
        self._asked: dict[str, tuple[str, asyncio.Future[str]]] = {}  # address -> MAC that may have it, answer

    @property
    def busy(self) -> bool:
        """No further probe is possible now."""
        return len(self._asked) >= _MOST

    def follow(self, name: str, index: int, mac: str) -> None:
        """Probe on this interface from now on, as ``mac``: answers come to it. Again when either has changed."""
        own = bytes.fromhex(mac.replace(":", ""))
        found = self._links.get(name)
        if not self._seconds or len(own) != 6 or (found and (found[0], found[2]) == (index, own)):
            return
        self.forget(name)
        try:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
                opened.bind((name, _ETH_P_ARP))
            except OSError:
                opened.close()
                raise
        except OSError as error:
            log.warning("no ARP probes: addresses are offered without asking", interface=name, error=error.strerror)
            return
        self._links[name] = (index, opened, own)
        asyncio.get_running_loop().add_reader(opened, self._receive_arp, opened)

    def forget(self, name: str) -> None:
        found = self._links.pop(name, None)
        if found is not None:
            asyncio.get_running_loop().remove_reader(found[1])
            found[1].close()

    def close(self) -> None:
        for name in list(self._links):
            self.forget(name)
        if self._icmp is not None:
            asyncio.get_running_loop().remove_reader(self._icmp)
            self._icmp.close()
            self._icmp = None

    async def in_use(self, address: str, interface: str, client: str, relayed: bool) -> str:
        """Who uses ``address``, other than ``client`` (a MAC): a MAC, or "somebody" behind a relay; "" for nobody.

        Takes the whole time that was set unless an answer comes. One call per address at a time.
        """
        if not self._seconds or self.busy or address in self._asked:
            return ""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        self._asked[address] = (client, answer)
        self._send(address, interface, relayed)
        timers = [
            loop.call_later(self._seconds * number / _REPEATS, self._send, address, interface, relayed)
            for number in range(1, _REPEATS)
        ]
        timers.append(loop.call_later(self._seconds, self._claimed, address, ""))
        try:
            return await answer
        finally:
            del self._asked[address]
            for timer in timers:
                timer.cancel()

    def _send(self, address: str, interface: str, relayed: bool) -> None:
        if relayed:
            self._send_echo(address)
        else:
            self._send_arp(address, interface)

    def _send_arp(self, address: str, interface: str) -> None:
        found = self._links.get(interface)
        if found is None:
            return
        _, opened, mac = found
        try:
            opened.sendto(arp.probe(mac, address), (interface, _ETH_P_ARP, 0, 0, _EVERYBODY))
        except OSError as error:  # link down: then nobody is offered anything either
            log.debug("ARP probe not sent", interface=interface, error=error.strerror)

    def _send_echo(self, address: str) -> None:
        if self._icmp is None:
            try:
                self._icmp = socket.socket(
                    socket.AF_INET,
                    socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                    socket.IPPROTO_ICMP,
                )
            except OSError as error:
                log.warning("no ICMP probes behind relays", error=error.strerror)
                return
            asyncio.get_running_loop().add_reader(self._icmp, self._receive_icmp, self._icmp)
        self._sequence = (self._sequence + 1) & 0xFFFF
        try:
            self._icmp.sendto(arp.echo(self._identifier, self._sequence), (address, 0))
        except OSError as error:
            if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                log.debug("ICMP probe not sent", address=address, error=error.strerror)

    def _receive_arp(self, opened: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                body, sender = opened.recvfrom(128)
            except OSError:  # nothing left, or the link is down
                return
            claim = arp.claim(body) if sender[2] != socket.PACKET_OUTGOING else None
            if claim is not None:
                self._claimed(claim.address, claim.mac)

    def _receive_icmp(self, opened: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                packet = opened.recv(2048)
            except OSError:
                return
            address = arp.echo_reply(packet, self._identifier)
            if address:
                self._claimed(address, "somebody")

    def _claimed(self, address: str, who: str) -> None:
        """``who`` uses it; "" for nobody."""
        client, answer = self._asked.get(address, ("", None))
        if answer is not None and who != client and not answer.done():
            answer.set_result(who)
