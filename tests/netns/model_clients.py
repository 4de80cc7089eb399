"""Client models on a real network: ``python -m tests.netns.model_clients JSON``, run in a namespace.

What each model sends goes out on ``eth0`` as a frame, broadcast, multicast or unicast; what comes back is given to
it, and its outcome is printed, one JSON line each. The call has ``servers`` (answers that a DISCOVER has at most),
``seconds`` to wait for them, and ``names`` of clients (all without any).
"""

import json
import select
import socket
import struct
import sys
import time
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from bootd.netboot import dhcp
from bootd.netboot.clients.air import EVERYBODY, Attempt, Outcome, Received, Request
from bootd.netboot.clients.roster import CLIENTS
from bootd.wire.errors import PeerProtocolError

_ETH_P_ALL = 3
_ETH_P_IP, _ETH_P_ARP = b"\x08\x00", b"\x08\x06"


class Link:
    """``eth0`` as a bare wire: there is no address on it, so ARP for the clients is answered here."""

    def __init__(self, opened: socket.socket, call: dict[str, Any]) -> None:
        self._socket, self._seconds, self._servers = opened, call["seconds"], call["servers"]

    def boot(self, attempt: Attempt) -> Outcome:
        try:
            request = next(attempt)
            while True:
                request = attempt.send(self.exchange(request))
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome

    def exchange(self, request: Request) -> tuple[Received, ...]:
        message = request.message
        frame = Ether(src=message.hardware.hex(":"), dst=_hardware_of(request.address))
        frame = frame / IP(src=message.client, dst=request.address, ttl=4)
        frame = frame / UDP(sport=request.source_port, dport=request.port) / Raw(dhcp.build(message))
        self._socket.send(bytes(frame))
        wanted = self._servers if message.message_type is dhcp.MessageType.DISCOVER else 1
        answers: list[Received] = []
        deadline = time.monotonic() + self._seconds
        while len(answers) < wanted and (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                break
            data = self._socket.recv(4096)
            if data[12:14] == _ETH_P_ARP:
                self._answer_arp(data, request)
            elif (received := _read(data, request)) is not None:
                answers.append(received)
        return tuple(answers)

    def _answer_arp(self, data: bytes, request: Request) -> None:
        question = Ether(data)[ARP]
        if question.op == 1 and question.pdst == request.message.client != "0.0.0.0":
            own = request.message.hardware.hex(":")
            reply = ARP(op=2, hwsrc=own, psrc=question.pdst, hwdst=question.hwsrc, pdst=question.psrc)
            self._socket.send(bytes(Ether(src=own, dst=question.hwsrc) / reply))


def _hardware_of(address: str) -> str:
    """A multicast group has its own (RFC 1112); unicast goes to all, the IP address picks who listens."""
    octets = [int(part) for part in address.split(".")]
    if address != EVERYBODY and octets[0] >= 224:
        return f"01:00:5e:{octets[1] & 127:02x}:{octets[2]:02x}:{octets[3]:02x}"
    return "ff:ff:ff:ff:ff:ff"


def _read(frame: bytes, request: Request) -> Received | None:
    """The DHCP reply in an Ethernet frame, taken apart by hand."""
    if frame[12:14] != _ETH_P_IP or frame[23] != socket.IPPROTO_UDP:
        return None
    start = 14 + 4 * (frame[14] & 15)
    source_port, port, length = struct.unpack_from("!HHH", frame, start)
    if source_port not in (67, 4011) or port != request.source_port:
        return None
    data = frame[start + 8 : start + length]
    try:
        message = dhcp.parse(data)
    except PeerProtocolError:
        return None
    if message.operation is not dhcp.Operation.REPLY or message.transaction != request.message.transaction:
        return None
    source, target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    return Received(message, len(data), source, source_port, port, target)


def main(call: dict[str, Any]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as opened:
        opened.bind(("eth0", _ETH_P_ALL))
        link = Link(opened, call)
        for client in CLIENTS:
            if call.get("names") and client.name not in call["names"]:
                continue
            outcome = link.boot(client.boot())
            line = {"client": client.name, "ending": outcome.ending.name, "url": outcome.url}
            print(json.dumps({**line, "reason": outcome.reason, "notes": outcome.notes}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
