"""A PXE client made of scapy, run in a namespace: ``python -m tests.netns.pxe_client COMMAND JSON``.

``discover`` broadcasts a DHCPDISCOVER as firmware without an address does and prints every answer to it, one JSON
line each, until as many as ``answers`` have come or ``seconds`` have passed; ``discover_all`` does so for each of
``calls``. ``request`` asks ``server`` on port
4011 from ``source_port`` and prints the answer. ``rom`` does what a ROM does: DISCOVER, REQUEST to the server that
offers an address, then 4011 from ``ciaddr``, which the interface must have.
"""

import json
import socket
import struct
import sys
import time
from typing import Any

from scapy.config import conf
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

UUID = b"\0" + bytes(range(16))


def message(kind: str, call: dict[str, Any], mac: str) -> Any:
    options: list[Any] = [("message-type", kind)]
    vendor = call.get("vendor", f"PXEClient:Arch:{call['arch']:05d}:UNDI:002001")
    options += [("vendor_class_id", vendor.encode()), (93, struct.pack("!H", call["arch"]))]
    options += [(94, b"\x01\x02\x01"), (97, UUID), ("param_req_list", [1, 3, 43, 54, 60, 66, 67])]
    options += [(name, call[key]) for name, key in (("requested_addr", "requested"), ("server_id", "chosen"))
                if key in call]  # fmt: skip
    if call.get("user_class"):
        options.append((77, call["user_class"].encode()))
    hardware = bytes.fromhex(mac.replace(":", ""))
    flags = 0x8000 if call.get("broadcast", True) else 0
    bootp = BOOTP(op=1, xid=call["xid"], flags=flags, chaddr=hardware, ciaddr=call.get("ciaddr", "0.0.0.0"))
    return bootp / DHCP(options=[*options, "end"])


def describe(data: bytes, source: tuple[str, int], target: tuple[str, int]) -> dict[str, Any]:
    answer = BOOTP(data)
    options = {item[0]: item[1] for item in answer[DHCP].options if isinstance(item, tuple)}
    return {
        "source": list(source),
        "target": list(target),
        "type": options["message-type"],
        "xid": answer.xid,
        "yiaddr": answer.yiaddr,
        "siaddr": answer.siaddr,
        "file": answer.file.rstrip(b"\0").decode(),
        "server_id": options.get("server_id", ""),
        "vendor": options.get("vendor_class_id", b"").decode(),
        "length": len(data),
    }


def discover(call: dict[str, Any]) -> list[dict[str, Any]]:
    mac = call["mac"]
    link = conf.L2socket(iface="eth0")
    frame = (
        Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    )
    link.send(frame / message(call.get("kind", "discover"), call, mac))
    deadline = time.monotonic() + call["seconds"]
    left = call["answers"]
    answers = []
    while left and time.monotonic() < deadline:
        if not link.select([link], max(0.0, deadline - time.monotonic())):
            continue
        packet = link.recv()
        if packet is None or UDP not in packet or packet[UDP].dport != 68 or packet[UDP].sport == 68:
            continue
        data = bytes(packet[UDP].payload)
        if BOOTP(data).xid != call["xid"]:
            continue
        source, target = (packet[IP].src, packet[UDP].sport), (packet[IP].dst, packet[UDP].dport)
        answers.append(describe(data, source, target))
        print(json.dumps(answers[-1]), flush=True)
        left -= 1
    link.close()
    return answers


def discover_all(call: dict[str, Any]) -> None:
    """Several ``calls`` one after the other; each has a transaction number of its own."""
    for one in call["calls"]:
        discover(one)


def rom(call: dict[str, Any]) -> None:
    without = {**call, "ciaddr": "0.0.0.0", "answers": 2}
    addresses = [offer for offer in discover(without) if offer["yiaddr"] != "0.0.0.0"]
    if len(addresses) == 1:
        wanted = {"kind": "request", "requested": addresses[0]["yiaddr"], "chosen": addresses[0]["server_id"]}
        discover({**without, **wanted, "seconds": call["patience"]})
        request({**call, "source_port": 4011})


def request(call: dict[str, Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.bind((call["ciaddr"], call["source_port"]))
        plain.settimeout(call["seconds"])
        plain.sendto(bytes(message(call.get("kind", "request"), call, call["mac"])), (call["server"], 4011))
        try:
            data, source = plain.recvfrom(4096)
        except TimeoutError:
            return
        print(json.dumps(describe(data, source, plain.getsockname())))


if __name__ == "__main__":
    {"discover": discover, "discover_all": discover_all, "request": request, "rom": rom}[sys.argv[1]](
        json.loads(sys.argv[2])
    )
