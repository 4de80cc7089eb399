"""TFTP server: takes requests, decides what each gets, and hands the transfer to a worker process.

The daemon's loop sees one datagram per file; blocks and acknowledgements are the business of
`bootd.drivers.tftp.worker`, so neither a slow disk nor a room that boots can delay an offer. Nothing is logged per
packet: one line per transfer.
"""

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from bootd.config import Settings
from bootd.drivers import metrics
from bootd.drivers.dhcp.neighbours import neighbour
from bootd.drivers.tftp.pool import Carriers
from bootd.drivers.tftp.sockets import Datagram, open_ipv4, open_ipv6, receive
from bootd.drivers.tree import File, Rendered, VirtualTree, open_file
from bootd.member.durable import write_all
from bootd.netboot.files import tftp
from bootd.netboot.files.tftp import ErrorCode, Request, Result
from bootd.netboot.files.tftp_caps import cap_for
from bootd.wire.errors import PeerProtocolError

OnEvent = Callable[[str, str, str, str], None]
"""(kind, mac, address, detail) for the timeline of a node; "" for what is not known. Must not raise."""

_BATCH = 64  # datagrams per wake-up of one socket
_WARN_SECONDS = 60.0
_REPEATED_SECONDS = 3.0  # the same request from the same port is a repetition for so long
_LARGEST_TEXT = 1 << 20  # netascii is for text: bytes that may be converted in memory
_KINDS = {
    Result.COMPLETE: "fetched",
    Result.UNCONFIRMED: "fetched",
    Result.PROBED: "probed",
    Result.ABORTED: "aborted",
    Result.SILENT: "stalled",
}


@dataclass(frozen=True)
class _Transfer:
    """What the daemon knows of a transfer under way. ``mac`` and ``what`` are those of a rendered configuration."""

    number: int
    client: tuple[str, int]
    data: bytes  # the request
    path: str
    mac: str
    what: str
    began: float


class TftpServer:
    """`Service` that serves a `VirtualTree`, read-only.

    Events: ``config`` (a node's rendered configuration), ``fetched`` (a file, to its end), ``probed`` (only its
    size), ``not-found``, ``aborted`` and ``stalled`` (the client went silent); detail has the path and the reason.
    """

    name = "tftp"

    def __init__(self, settings: Settings, address: str, tree: VirtualTree, on_event: OnEvent) -> None:
        self.address = address
        self.port = settings.tftp.port
        self._ipv6 = settings.tftp.ipv6
        self._limit = settings.tftp.max_sessions
        self._limit_per_client = settings.tftp.max_sessions_per_client
        self._rules = settings.tftp.rules()
        self._tree = tree
        self._on_event = on_event
        self._sockets: list[socket.socket] = []
        self._carriers = Carriers(settings.tftp.workers, self._on_message, self._on_lost)
        self._transfers: dict[int, _Transfer] = {}
        self._ports: dict[tuple[str, int], int] = {}  # which transfer a client's port has
        self._clients: Counter[str] = Counter()
        self._next = 0
        self._malformed = 0
        self._warned: dict[str, float] = {}
        self._log = structlog.get_logger("bootd.tftp")

    @property
    def malformed(self) -> int:
        """Datagrams that were no TFTP packets, since the start."""
        return self._malformed

    @property
    def active(self) -> int:
        """Transfers under way."""
        return len(self._transfers)

    @property
    def trouble(self) -> str:
        """For `Health`."""
        return "" if self._carriers.running else "no TFTP worker runs: see the log"

    async def bind(self) -> None:
        """`OperatorError` when the port is not to be had."""
        self._sockets.append(open_ipv4(self.address, self.port))
        if self._ipv6:
            six = open_ipv6(self.address, self.port)
            self._sockets += [six] if six is not None else []
        self._carriers.bind()

    async def serve(self) -> None:
        if not self._sockets:
            raise RuntimeError("serve() before bind()")
        for opened in self._sockets:
            asyncio.get_running_loop().add_reader(opened, self._receive, opened)
        families = ["IPv6" if opened.family == socket.AF_INET6 else "IPv4" for opened in self._sockets]
        self._log.info("TFTP serves", address=self.address, port=self.port, over=families)
        await self._carriers.serve()

    async def close(self) -> None:
        for opened in self._sockets:
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()
        self._sockets = []
        await self._carriers.close()

    def _receive(self, opened: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                datagram = receive(opened)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier refusal
                continue
            try:
                request = tftp.parse_request(datagram.data)
            except PeerProtocolError as error:
                self._count_malformed(datagram.address, str(error))
                continue
            self._open(opened, request, datagram)

    def _open(self, opened: socket.socket, request: Request, datagram: Datagram) -> None:
        client, now = datagram.client, time.monotonic()
        if client[1] == 0:
            return
        if request.opcode is not tftp.Opcode.READ:
            self._refuse(opened, datagram, ErrorCode.ACCESS, "this server is read-only")
            return
        known = self._transfers.get(self._ports.get(client, -1))
        if known is not None:
            if known.data == datagram.data and now - known.began < _REPEATED_SECONDS:
                return  # a repeated request: the transfer's own timer answers it
            self._carriers.cancel(known.number)  # firmware that started anew and always uses the same port
            self._forget(known)
        if len(self._transfers) >= self._limit or self._clients[client[0]] >= self._limit_per_client:
            # Silence instead of an error: the client asks again, and there may be room by then.
            self._warn("too many transfers", client[0], f"{len(self._transfers)} in all")
            return
        mac = neighbour(client[0])
        found = self._content(opened, request, datagram, mac)
        if found is None:
            return
        descriptor, rendered = found
        self._next += 1
        cap = cap_for(self._rules, mac, client[0].partition("%")[0])
        order = {
            "id": self._next,
            "client": datagram.source,
            "local": datagram.local,
            "mode": request.mode,
            "options": dict(request.options),
            "block": cap.block,
            "window": cap.window,
        }
        try:
            taken = self._carriers.start(order, descriptor)
        finally:
            os.close(descriptor)
        if not taken:
            self._warn("no worker takes the transfer", client[0], "the client asks again")
            return
        owner, what = (rendered.mac or mac, rendered.what) if rendered else (mac, "")
        self._transfers[self._next] = _Transfer(self._next, client, datagram.data, request.path, owner, what, now)
        self._ports[client] = self._next
        self._clients[client[0]] += 1

    def _content(
        self, opened: socket.socket, request: Request, datagram: Datagram, mac: str
    ) -> tuple[int, Rendered | None] | None:
        """The open file to send, and what was rendered into it; None when the client has been refused."""
        answer = self._tree.resolve(request.path)
        text = request.mode == "netascii"
        if isinstance(answer, Rendered):
            return _in_memory(tftp.netascii(answer.content) if text else answer.content), answer
        if isinstance(answer, File):
            descriptor = open_file(answer)
            if isinstance(descriptor, int):
                if not text:
                    return descriptor, None
                data = _whole(descriptor)
                if data is not None:
                    return _in_memory(tftp.netascii(data)), None
                self._refuse(opened, datagram, ErrorCode.UNDEFINED, "mode netascii is for text: use octet")
                return None
            answer = descriptor
        self._refuse(opened, datagram, ErrorCode.NOT_FOUND, answer.reason)
        # PXELINUX asks for a dozen names in turn: that is its way, not trouble.
        if not request.path.lstrip("/").startswith("pxelinux.cfg/"):
            self._on_event("not-found", mac, datagram.address, f"{request.path}: {answer.reason}")
            self._log.info("not found", address=datagram.address, path=request.path, reason=answer.reason)
        return None

    def _refuse(self, opened: socket.socket, datagram: Datagram, code: ErrorCode, text: str) -> None:
        metrics.TFTP_REFUSED.labels(code.name.lower()).inc()
        try:
            opened.sendto(tftp.error_packet(code, text), datagram.source)
        except OSError as error:
            self._warn("cannot answer", datagram.address, str(error))

    def _on_message(self, message: dict[str, Any]) -> None:
        """What a worker says: a transfer is over, or a client sent what is no TFTP."""
        if "malformed" in message:
            self._count_malformed(message["address"], message["malformed"], message["count"])
            return
        transfer = self._transfers.get(message["id"])
        if transfer is not None:
            self._forget(transfer)
            self._report(transfer, message)

    def _on_lost(self, numbers: list[int]) -> None:
        for number in numbers:
            ended = {
                "result": "ABORTED",
                "detail": "the transfer worker died",
                "size": 0,
                "seconds": 0,
                "resent": 0,
            }
            self._on_message({"id": number, **ended})

    def _forget(self, transfer: _Transfer) -> None:
        del self._transfers[transfer.number]
        if self._ports.get(transfer.client) == transfer.number:
            del self._ports[transfer.client]
        address = transfer.client[0]
        self._clients[address] -= 1
        if self._clients[address] <= 0:
            del self._clients[address]

    def _report(self, transfer: _Transfer, message: dict[str, Any]) -> None:
        """One event and one line per transfer."""
        result = Result[message["result"]]
        metrics.TFTP_TRANSFERS.labels(result.name.lower()).inc()
        metrics.TFTP_RESENT.inc(message["resent"])
        if result in (Result.COMPLETE, Result.UNCONFIRMED):
            metrics.TFTP_BYTES.inc(message["size"])
        kind = "config" if transfer.what and _KINDS[result] == "fetched" else _KINDS[result]
        words = [transfer.what or transfer.path, f"{message['size']} bytes"]
        if result not in (Result.COMPLETE, Result.PROBED):
            words.append(message["detail"] or result.value)
        address = transfer.client[0]
        self._on_event(kind, transfer.mac, address, ", ".join(words))
        self._log.info(
            "transfer",
            address=address,
            mac=transfer.mac,
            path=transfer.path,
            size=message["size"],
            result=result.value,
            seconds=message["seconds"],
            resent=message["resent"],
        )

    def _count_malformed(self, address: str, reason: str, count: int = 1) -> None:
        self._malformed += count
        metrics.MALFORMED.labels("tftp").inc(count)
        self._warn("malformed TFTP packet", address, reason)

    def _warn(self, what: str, address: str, reason: str) -> None:
        """At most one line per kind of trouble and minute."""
        now = time.monotonic()
        if now - self._warned.get(what, float("-inf")) >= _WARN_SECONDS:
            self._warned[what] = now
            self._log.warning(what, address=address, reason=reason, malformed=self._malformed)


def _in_memory(data: bytes) -> int:
    """A file that is nowhere but in memory, for what was made for this request."""
    descriptor = os.memfd_create("bootd-tftp", os.MFD_CLOEXEC)
    write_all(descriptor, data)
    return descriptor


def _whole(descriptor: int) -> bytes | None:
    """All of a text file, None when it is larger than text is; closes ``descriptor``."""
    try:
        data = os.pread(descriptor, _LARGEST_TEXT + 1, 0)
    finally:
        os.close(descriptor)
    return data if len(data) <= _LARGEST_TEXT else None
