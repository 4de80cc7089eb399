"""TFTP server: sockets, files and timers around `bootd.netboot.tftp`.

One socket takes requests; every transfer has its own, connected to its client, so that the kernel sorts datagrams
and reports a client that is gone. Nothing is logged per packet: one line per transfer.
"""

import asyncio
import errno
import os
import socket
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from bootd.config import Settings
from bootd.drivers.tree import File, NotFound, Rendered, VirtualTree
from bootd.errors import Exit, OperatorError
from bootd.netboot import tftp
from bootd.netboot.tftp import Action, ErrorCode, Request, Result, SendOptions, Transfer
from bootd.wire.errors import PeerProtocolError

OnEvent = Callable[[str, str, str, str], None]
"""(kind, mac, address, detail) for the timeline of a node; "" for what is not known. Must not raise."""

_BATCH = 64  # datagrams per wake-up of one socket
_WARN_SECONDS = 60.0
_LARGEST_TEXT = 1 << 20  # netascii is for text: bytes that may be converted in memory
_IP_MTU = 14
_UDP_SEGMENT = 103  # cut one buffer into datagrams in the kernel
_SLACK = 0.05  # seconds that a timer may be late
_LARGEST_SEND = 65000  # bytes in one such buffer


@dataclass(frozen=True)
class _Content:
    """What is sent: an open file, or bytes. ``mac`` and ``what`` are those of a rendered configuration."""

    size: int
    descriptor: int = -1
    data: bytes = b""
    mac: str = ""
    what: str = ""

    def read(self, start: int, length: int) -> bytes:
        if self.descriptor < 0:
            return self.data[start : start + length]
        return os.pread(self.descriptor, length, start)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class TftpServer:
    """`Service` that serves a `VirtualTree`, read-only.

    Events: ``config`` (a node's rendered configuration), ``fetched`` (a file, to its end), ``probed`` (only its
    size), ``not-found``, ``aborted`` and ``stalled`` (the client went silent); detail has the path and the reason.
    """

    name = "tftp"

    def __init__(self, settings: Settings, address: str, tree: VirtualTree, on_event: OnEvent) -> None:
        self.address = address
        self.port = settings.tftp.port
        self._limit = settings.tftp.max_sessions
        self._limit_per_client = settings.tftp.max_sessions_per_client
        self._tree = tree
        self._on_event = on_event
        self._socket: socket.socket | None = None
        self._sessions: dict[tuple[str, int], _Session] = {}
        self._clients: Counter[str] = Counter()
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
        return len(self._sessions)

    async def bind(self) -> None:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            opened.setblocking(False)
            opened.bind((self.address, self.port))
        except OSError as error:
            opened.close()
            raise _operator_error(error, self.address, self.port) from None
        self._socket = opened

    async def serve(self) -> None:
        if self._socket is None:
            raise RuntimeError("serve() before bind()")
        asyncio.get_running_loop().add_reader(self._socket, self._receive, self._socket)
        self._log.info("TFTP serves", address=self.address, port=self.port)
        await asyncio.Event().wait()

    async def close(self) -> None:
        for session in list(self._sessions.values()):
            session.close()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _receive(self, opened: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                data, source = opened.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier refusal
                continue
            client = (source[0], source[1])
            try:
                request = tftp.parse_request(data)
            except PeerProtocolError as error:
                self.count_malformed(client[0], str(error))
                continue
            self._open(opened, request, client)

    def _open(self, opened: socket.socket, request: Request, client: tuple[str, int]) -> None:
        if client in self._sessions or client[1] == 0:
            return  # a repeated request: the session's own timer answers it
        if request.opcode is not tftp.Opcode.READ:
            self._refuse(opened, client, ErrorCode.ACCESS, "this server is read-only")
            return
        if len(self._sessions) >= self._limit or self._clients[client[0]] >= self._limit_per_client:
            # Silence instead of an error: the client asks again, and there may be room by then.
            self._warn("too many transfers", client[0], f"{len(self._sessions)} in all")
            return
        content = self._content(opened, request, client)
        if content is None:
            return
        try:
            session = _Session(self, request, client, content)
        except OSError as error:
            content.close()
            self._warn("cannot open a transfer", client[0], str(error))
            return
        self._sessions[client] = session
        self._clients[client[0]] += 1
        session.start()

    def _content(self, opened: socket.socket, request: Request, client: tuple[str, int]) -> _Content | None:
        """What to send; None when the client has been refused."""
        answer = self._tree.resolve(request.path)
        text = request.mode == "netascii"
        if isinstance(answer, Rendered):
            data = tftp.netascii(answer.content) if text else answer.content
            return _Content(len(data), data=data, mac=answer.mac, what=answer.what)
        if isinstance(answer, File):
            content = _open_file(answer)
            if isinstance(content, _Content):
                return self._as_text(opened, content, client) if text else content
            answer = content
        self._refuse(opened, client, ErrorCode.NOT_FOUND, answer.reason)
        # PXELINUX asks for a dozen names in turn: that is its way, not trouble.
        if not request.path.lstrip("/").startswith("pxelinux.cfg/"):
            self._on_event("not-found", neighbour(client[0]), client[0], f"{request.path}: {answer.reason}")
            self._log.info("not found", address=client[0], path=request.path, reason=answer.reason)
        return None

    def _as_text(self, opened: socket.socket, content: _Content, client: tuple[str, int]) -> _Content | None:
        try:
            if content.size > _LARGEST_TEXT:
                self._refuse(opened, client, ErrorCode.UNDEFINED, "mode netascii is for text: use octet")
                return None
            data = tftp.netascii(content.read(0, content.size))
        finally:
            content.close()
        return _Content(len(data), data=data)

    def _refuse(self, opened: socket.socket, client: tuple[str, int], code: ErrorCode, text: str) -> None:
        try:
            opened.sendto(tftp.error_packet(code, text), client)
        except OSError as error:
            self._warn("cannot answer", client[0], str(error))

    def ended(self, session: "_Session") -> None:
        """A transfer is over, for whatever reason."""
        self._sessions.pop(session.client, None)
        self._clients[session.client[0]] -= 1
        if self._clients[session.client[0]] <= 0:
            del self._clients[session.client[0]]

    def report(self, session: "_Session", result: Result) -> None:
        """One event and one line per transfer."""
        path, transfer, what = session.request.path, session.transfer, session.content.what
        mac = session.content.mac or neighbour(session.client[0])
        kind = {
            Result.COMPLETE: "config" if what else "fetched",
            Result.UNCONFIRMED: "config" if what else "fetched",
            Result.PROBED: "probed",
            Result.ABORTED: "aborted",
            Result.SILENT: "stalled",
        }[result]
        words = [what or path, f"{transfer.size} bytes"]
        if result not in (Result.COMPLETE, Result.PROBED):
            words.append(transfer.detail or result.value)
        self._on_event(kind, mac, session.client[0], ", ".join(words))
        self._log.info(
            "transfer",
            address=session.client[0],
            mac=mac,
            path=path,
            size=transfer.size,
            result=result.value,
            seconds=round(session.seconds, 3),
            resent=transfer.retransmissions,
        )

    def count_malformed(self, address: str, reason: str) -> None:
        self._malformed += 1
        self._warn("malformed TFTP packet", address, reason)

    def _warn(self, what: str, address: str, reason: str) -> None:
        """At most one line per kind of trouble and minute."""
        now = time.monotonic()
        if now - self._warned.get(what, float("-inf")) >= _WARN_SECONDS:
            self._warned[what] = now
            self._log.warning(what, address=address, reason=reason, malformed=self._malformed)


class _Session:
    """One transfer's socket, content and timer."""

    def __init__(self, server: TftpServer, request: Request, client: tuple[str, int], content: _Content) -> None:
        self.request = request
        self.client = client
        self._server = server
        self.content = content
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._segments = True  # UDP_SEGMENT until the kernel refuses it
        self._started = self._loop.time()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setblocking(False)
            self._socket.bind((server.address, 0))
            self._socket.connect(client)
            mtu = self._socket.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError:
            self._socket.close()
            raise
        self.transfer = Transfer(content.size, tftp.negotiate(request, content.size, mtu))

    @property
    def seconds(self) -> float:
        return self._loop.time() - self._started

    def start(self) -> None:
        self._loop.add_reader(self._socket, self._receive)
        self._send(self.transfer.start(self._loop.time()))
        self._arm()

    def close(self) -> None:
        """Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self.content.close()
            self._server.ended(self)

    def _receive(self) -> None:
        for _ in range(_BATCH):
            try:
                data = self._socket.recv(2048)
            except BlockingIOError:
                break
            except OSError as error:  # ICMP: nobody listens on the client's port any more
                self.transfer.detail = f"client is gone: {error.strerror}"
                self._finish(Result.ABORTED)
                return
            try:
                action = self.transfer.receive(data, self._loop.time())
            except PeerProtocolError as error:
                self._server.count_malformed(self.client[0], str(error))
                continue
            if action is not None:
                self._send(action)
            if self._over():
                return
        self._arm()

    def _tick(self) -> None:
        self._timer = None
        action = self.transfer.tick(self._loop.time())
        if action is not None:
            self._send(action)
        if not self._over():
            self._arm()

    def _over(self) -> bool:
        if self.transfer.result is not None:
            self._finish(self.transfer.result)
        return self._socket.fileno() < 0

    def _finish(self, result: Result) -> None:
        self.close()
        self._server.report(self, result)

    def _arm(self) -> None:
        """One timer at a time; it is let run out and set anew, instead of being cancelled at every packet."""
        if self._timer is not None and self._timer.when() > self.transfer.deadline + _SLACK:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self._socket.fileno() >= 0:
            self._timer = self._loop.call_at(self.transfer.deadline, self._tick)

    def _send(self, action: Action) -> None:
        try:
            if isinstance(action, SendOptions):
                self._socket.send(action.packet)
            else:
                self._send_blocks(action.first, action.count)
        except (BlockingIOError, ConnectionRefusedError):
            return  # full, or an ICMP error that the next receive reports: the timer sends again
        except OSError as error:
            if error.errno in (errno.ENOBUFS, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EPERM):
                return  # the cable may come back: the timer sends again, and gives up in the end
            self.transfer.detail = f"reading or sending failed: {error.strerror}"
            self._finish(Result.ABORTED)

    def _send_blocks(self, first: int, count: int) -> None:
        block = self.transfer.terms.block
        batch = max(1, min(count, _LARGEST_SEND // (block + 4))) if self._segments else 1
        for start in range(first, first + count, batch):
            packets: list[bytes] = []
            for number in range(start, min(start + batch, first + count)):
                packets += [tftp.data_header(number), self._read(number, block)]
            if len(packets) == 2:
                self._socket.sendmsg(packets)
                continue
            segment = struct.pack("=H", block + 4)
            try:
                self._socket.sendmsg(packets, [(socket.IPPROTO_UDP, _UDP_SEGMENT, segment)])
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT):
                    raise
                self._segments = False
                self._send_blocks(start, first + count - start)
                return

    def _read(self, number: int, block: int) -> bytes:
        """Block ``number`` of the content; `OSError` when the file has shrunk since the transfer began."""
        start = (number - 1) * block
        wanted = max(0, min(block, self.content.size - start))
        data = self.content.read(start, wanted) if wanted else b""
        if len(data) != wanted:
            raise OSError(errno.EIO, "the file has changed")
        return data


def _open_file(file: File) -> _Content | NotFound:
    """The file that `VirtualTree` resolved; its last part must still be no symbolic link."""
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return NotFound(error.strerror or "cannot be opened")
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return NotFound("not a regular file")
    return _Content(status.st_size, descriptor)


def neighbour(address: str) -> str:
    """The MAC address that the kernel knows for an IPv4 address of this network, or ""."""
    try:
        lines = Path("/proc/net/arp").read_text().splitlines()[1:]
    except OSError:
        return ""
    for line in lines:
        columns = line.split()
        if len(columns) >= 4 and columns[0] == address and columns[3] != "00:00:00:00:00:00":
            return columns[3].lower()
    return ""


def _operator_error(error: OSError, address: str, port: int) -> OperatorError:
    if error.errno == errno.EADDRINUSE:
        return OperatorError(
            f"UDP port {port} (TFTP) on {address} is in use by another program",
            f"find it with `ss -ulpn 'sport = :{port}'` and stop it, or set [tftp] port",
            Exit.BUSY,
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return OperatorError(
            f"not allowed to open UDP port {port} (TFTP)", "run as root, or with CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return OperatorError(f"{address} is no address of this machine", "see `ip address`", Exit.CONFIG)
    return OperatorError(f"cannot open UDP port {port} (TFTP) on {address}: {error.strerror}")
