"""Client models on a real network: ``python -m tests.netns.model_clients SECONDS [NAME...]``, run in a namespace.

Each model's broadcasts go out on ``eth0`` as frames, what comes back within ``SECONDS`` (or the first answer) is
given to it, and its outcome is printed, one JSON line each. For servers that are asked by broadcast only.
"""

import json
import select
import socket
import struct
import sys
import time

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from bootd.netboot import dhcp
from bootd.netboot.clients.air import Received, Request
from bootd.netboot.clients.roster import CLIENTS
from bootd.wire.errors import PeerProtocolError

_ETH_P_IP = 0x0800


def exchange(link: socket.socket, request: Request, seconds: float) -> tuple[Received, ...]:
    payload = dhcp.build(request.message)
    frame = Ether(src=request.message.hardware.hex(":"), dst="ff:ff:ff:ff:ff:ff")
    frame = frame / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=request.port) / Raw(payload)
    link.send(bytes(frame))
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([link], [], [], left)[0]:
            break
        received = read(link.recv(4096), request.message.transaction)
        if received is not None:
            return (received,)
    return ()


def read(frame: bytes, transaction: int) -> Received | None:
    """The DHCP reply in an Ethernet frame, taken apart by hand."""
    if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_UDP:
        return None
    start = 14 + 4 * (frame[14] & 15)
    source_port, port, length = struct.unpack_from("!HHH", frame, start)
    if (source_port, port) != (67, 68):
        return None
    data = frame[start + 8 : start + length]
    try:
        message = dhcp.parse(data)
    except PeerProtocolError:
        return None
    if message.operation is not dhcp.Operation.REPLY or message.transaction != transaction:
        return None
    return Received(message, len(data), socket.inet_ntoa(frame[26:30]), source_port, port)


def main(seconds: float, names: list[str]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP)) as link:
        link.bind(("eth0", _ETH_P_IP))
        for client in CLIENTS:
            if names and client.name not in names:
                continue
            attempt = client.boot()
            try:
                request = next(attempt)
                while True:
                    request = attempt.send(exchange(link, request, seconds))
            except StopIteration as stop:
                outcome = stop.value
            line = {
                "client": client.name,
                "ending": outcome.ending.name,
                "url": outcome.url,
                "notes": outcome.notes,
            }
            print(json.dumps({**line, "reason": outcome.reason}), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
