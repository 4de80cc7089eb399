"""The doctor's ears and mouth: DHCP requests put on a link as frames, and what answers. Needs scapy, and root."""

import logging
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bootd.errors import Exit, OperatorError
from bootd.netboot import dhcp
from bootd.netboot.clients.air import EVERYBODY, NOBODY, Received, Request
from bootd.netboot.dhcp import Operation
from bootd.netboot.diagnosis import Offered
from bootd.wire.errors import PeerProtocolError

_MOST_FRAMES = 4096
_AGAIN_SECONDS = 0.4  # a question without an answer so far is asked once more


@dataclass(frozen=True)
class Scapy:
    """What is used of it."""

    L2socket: Any
    Ether: Any
    IP: Any
    UDP: Any
    Raw: Any
    BOOTP: Any
    DHCP: Any


def scapy() -> Scapy:
    """scapy, which is not among the daemon's own needs; `OperatorError` when it is not there."""
    logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
    try:  # optional, and slow to load: scapy.all would take four times as long
        from scapy.config import conf  # noqa: PLC0415
        from scapy.layers import dhcp as layer  # noqa: PLC0415
        from scapy.layers.inet import IP, UDP  # noqa: PLC0415
        from scapy.layers.l2 import Ether  # noqa: PLC0415
        from scapy.packet import Raw  # noqa: PLC0415
    except ImportError as error:
        raise OperatorError(
            f"bootd doctor needs {error.name or 'scapy'}", "install it: pip install 'bootd[doctor]'", Exit.ERROR
        ) from None
    return Scapy(conf.L2socket, Ether, IP, UDP, Raw, layer.BOOTP, layer.DHCP)


class DoctorLink:
    """One interface. ``mac`` is whom the doctor asks as; ``address`` the interface's own, "" for none."""

    def __init__(self, interface: str, mac: str, address: str) -> None:
        self._interface, self._address = interface, address
        self._hardware = bytes.fromhex(mac.replace(":", ""))
        self._scapy = scapy()
        self.offered: list[Offered] = []

    def ask_all(self, requests: Mapping[str, Request], first_id: int, seconds: float) -> dict[str, list[Received]]:
        """Broadcast ``requests`` (by client), and all that is answered within ``seconds``.

        ``first_id`` and those after it become their transaction numbers.
        """
        numbers = {first_id + index: client for index, client in enumerate(requests)}
        answers: dict[str, list[Received]] = {client: [] for client in requests}
        frames = [self._frame(requests[client], number) for number, client in numbers.items()]
        every = self._scapy
        with closing(self._open()) as link:
            for frame in frames:
                link.send(frame)
            begun = time.monotonic()
            again = True
            for _ in range(_MOST_FRAMES):
                now = time.monotonic()
                if now - begun >= seconds:
                    break
                if again and now - begun >= _AGAIN_SECONDS:
                    again = False
                    for frame, client in zip(frames, requests, strict=True):
                        if not answers[client]:
                            link.send(frame)
                limit = begun + (_AGAIN_SECONDS if again else seconds)
                if not link.select([link], max(0.0, limit - now)):
                    continue
                packet = link.recv()
                if packet is None or every.UDP not in packet or packet[every.UDP].dport != dhcp.CLIENT_PORT:
                    continue
                self._take(packet, numbers, requests, answers)
        return answers

    def ask_one(self, request: Request, number: int, seconds: float) -> list[Received]:
        """To one address and port, from the port that such firmware uses; the first answer."""
        if not self._address:
            return []
        message = replace(self._own(request, number), client=self._address, broadcast=False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as plain:
            try:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                plain.bind((self._address, request.source_port))
                deadline = time.monotonic() + seconds
                plain.sendto(dhcp.build(message), (request.address, request.port))
                while (left := deadline - time.monotonic()) > 0:
                    plain.settimeout(left)
                    data, source = plain.recvfrom(4096)
                    received = self._parsed(data, number, request, source, request.source_port)
                    if received is not None:
                        return [received]
            except OSError:  # nobody, a closed port, a port in use: no answer
                return []
        return []

    def _open(self) -> Any:
        try:
            return self._scapy.L2socket(iface=self._interface)
        except PermissionError:
            raise OperatorError("not allowed to send frames", "run this as root (sudo)", Exit.ERROR) from None
        except OSError as error:
            raise OperatorError(
                f"cannot use {self._interface}: {error.strerror or error}",
                f"ip link set {self._interface} up, or name another: --interface",
                Exit.ERROR,
            ) from None

    def _own(self, request: Request, number: int) -> dhcp.Message:
        return replace(request.message, transaction=number, hardware=self._hardware, broadcast=True)

    def _frame(self, request: Request, number: int) -> Any:
        every = self._scapy
        head = every.Ether(src=_hardware_of(self._interface), dst="ff:ff:ff:ff:ff:ff")
        to = every.IP(src=NOBODY, dst=EVERYBODY) / every.UDP(sport=dhcp.CLIENT_PORT, dport=request.port)
        return head / to / every.Raw(dhcp.build(self._own(request, number)))

    def _take(
        self,
        packet: Any,
        numbers: Mapping[int, str],
        requests: Mapping[str, Request],
        answers: dict[str, list[Received]],
    ) -> None:
        every = self._scapy
        data = bytes(packet[every.UDP].payload)
        try:
            read = every.BOOTP(data)
            options = {one[0]: one[1] for one in read[every.DHCP].options if isinstance(one, tuple)}
            client = numbers.get(read.xid, "")
        except Exception:  # scapy lets anything escape when a packet is malformed
            return
        if not client or read.op != Operation.REPLY:
            return
        source = (packet[every.IP].src, packet[every.UDP].sport)
        self.offered.append(
            Offered(
                client,
                source[0],
                packet[every.Ether].src,
                str(options.get("server_id", source[0])),
                str(read.yiaddr),
                str(read.siaddr),
                _text(options.get("boot-file-name", b"")) or _text(read.file),
                _text(options.get("vendor_class_id", b"")),
            )
        )
        received = self._parsed(data, read.xid, requests[client], source, dhcp.CLIENT_PORT)
        if received is not None and received not in answers[client]:
            answers[client].append(received)

    @staticmethod
    def _parsed(data: bytes, number: int, request: Request, source: tuple[str, int], port: int) -> Received | None:
        """As a client model takes it: with the transaction number that it had chosen."""
        try:
            message = dhcp.parse(data)
        except PeerProtocolError:
            return None
        if message.operation is not Operation.REPLY or message.transaction != number:
            return None
        own = replace(message, transaction=request.message.transaction, hardware=request.message.hardware)
        to = request.message.client
        return Received(own, len(data), source[0], source[1], port, EVERYBODY if to == NOBODY else to)


def _hardware_of(interface: str) -> str:
    """Its own MAC address: what switches and bridges expect frames to come from."""
    try:
        return Path(f"/sys/class/net/{interface}/address").read_text().strip()
    except OSError:
        return "00:00:00:00:00:00"


def _text(value: bytes | Sequence[bytes]) -> str:
    data = value if isinstance(value, bytes) else b"".join(value)
    return data.rstrip(b"\0").decode("ascii", "replace")
