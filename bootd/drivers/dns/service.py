"""DNS on one address: UDP and TCP around the pure decision, and the questions that are passed on.

Everything is bounded: connections, questions under way at other servers, in all and of one client, and what one
network is told about one name (`bootd.netboot.names.response_rate`).
"""

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from bootd.config import Dns
from bootd.drivers import metrics
from bootd.drivers.sockets import listen
from bootd.errors import Exit, OperatorError
from bootd.netboot.names import answers as dns
from bootd.netboot.names import zone
from bootd.netboot.names.answers import Drop, Forward, Question, Rcode, Reply
from bootd.netboot.names.response_rate import ResponseRate, Verdict
from bootd.netboot.names.zone import Host, Zone

_FRESH_SECONDS = 1.0  # the zone is made anew at most so often
_BATCH = 64  # datagrams per wake-up
_MOST_FORWARDED = 256
_MOST_FORWARDED_PER_CLIENT = 32
_MOST_CONNECTIONS = 64
_IDLE_SECONDS = 10.0
_WARN_SECONDS = 60.0

Address = tuple[str, int]


class DnsServer:
    """`Service` that answers for the nodes on ``address``. ``hosts`` is asked for them when the zone is made."""

    name = "dns"

    def __init__(self, settings: Dns, address: str, hosts: Callable[[], Iterable[Host]]) -> None:
        self._settings, self._address, self._hosts = settings, address, hosts
        self._clients = tuple(ipaddress.IPv4Network(text) for text in settings.clients)
        self._upstream = Upstream(settings.upstream, settings.timeout_seconds)
        self._rate = ResponseRate(settings.responses_per_second)
        self._zone: Zone | None = None
        self._known: tuple[Host, ...] = ()
        self._made = float("-inf")
        self._serial = 0
        self._udp: socket.socket | None = None
        self._tcp: socket.socket | None = None
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned: dict[str, float] = {}
        self._log = structlog.get_logger("bootd.dns")

    async def bind(self) -> None:
        port = self._settings.port
        self._tcp = listen(self._address, port, "DNS", "dns.port")
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            opened.bind((self._address, port))
        except OSError as error:
            opened.close()
            self._tcp.close()
            self._tcp = None
            raise OperatorError(
                f"cannot open UDP port {port} (DNS) on {self._address}: {error.strerror}",
                f"see who has it: ss -ulpn sport = :{port}; or set another dns.port, or dns.enabled = false",
                Exit.BUSY,
            ) from None
        self._udp = opened

    async def serve(self) -> None:
        if self._udp is None or self._tcp is None:
            raise RuntimeError("serve() before bind()")
        asyncio.get_running_loop().add_reader(self._udp, self._receive, self._udp)
        # The limit bounds what is read of one message before it is judged.
        server = await asyncio.start_server(self._converse, sock=self._tcp, limit=dns.MAX_MESSAGE)
        self._log.info(
            "DNS serves",
            address=self._address,
            zone=self._settings.zone,
            upstream=list(self._settings.upstream),
        )
        async with server:
            await server.serve_forever()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp)
            self._udp.close()
            self._udp = None
        if self._tcp is not None:
            self._tcp.close()
            self._tcp = None

    def zone(self) -> Zone:
        """As it is now."""
        now = time.monotonic()
        if self._zone is None or now - self._made >= _FRESH_SECONDS:
            self._made = now
            hosts = tuple(self._hosts())
            if self._zone is None or hosts != self._known:
                self._known = hosts
                self._serial = max(self._serial + 1, int(time.time()))
                settings = self._settings
                self._zone = zone.build(settings.zone, settings.prefix, self._address, hosts, self._serial)
        return self._zone

    def _receive(self, opened: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                data, source = opened.recvfrom(dns.MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier answer
                continue
            if source[1] == 0:
                continue
            decision = self._decide(data, source[0], tcp=False)
            if isinstance(decision, Reply):
                self._answer(opened, data, decision, source)
            elif isinstance(decision, Forward):
                self._pass_on(opened, data, decision.question, source)

    def _decide(self, data: bytes, client: str, *, tcp: bool) -> dns.Decision:
        allowed = any(ipaddress.IPv4Address(client) in network for network in self._clients)
        decision = dns.decide(data, self.zone(), allowed=allowed, forwards=bool(self._settings.upstream), tcp=tcp)
        metrics.DNS_ANSWERS.labels(type(decision).__name__.lower()).inc()
        if isinstance(decision, Drop):
            metrics.MALFORMED.labels("dns").inc()
            self._warn("malformed DNS message", client, decision.reason)
        return decision

    def _answer(self, opened: socket.socket, query: bytes, reply: Reply, source: Address) -> None:
        """Over UDP, as far as that network may be told so much."""
        verdict = self._rate.judge(source[0], reply.key, time.monotonic())
        if verdict is Verdict.ANSWER:
            self._send(opened, reply.data, source)
            return
        metrics.DNS_ANSWERS.labels("limited").inc()
        self._warn("answers are limited", source[0], "one network asks too much")
        if verdict is Verdict.TRUNCATE:
            self._send(opened, self._shortened(query, reply.data), source)

    def _shortened(self, query: bytes, reply: bytes) -> bytes:
        """``reply`` without its records. Those without a question are short already."""
        if not any(reply[4:6]):
            return reply
        return dns.truncated(dns.parse_question(query), forwards=bool(self._settings.upstream))

    def _send(self, opened: socket.socket, data: bytes, source: Address) -> None:
        try:
            opened.sendto(data, source)
        except OSError as error:  # no route to a claimed address, a full buffer: the client asks again
            self._warn("cannot answer", source[0], error.strerror or str(error))

    def _pass_on(self, opened: socket.socket, query: bytes, question: Question, source: Address) -> None:
        async def ask() -> None:
            answer = await self._upstream.ask(query, question, source[0], tcp=False)
            if self._udp is not opened:  # closed meanwhile
                return
            data = answer if answer is not None else self._failed(question)
            if len(data) > question.limit:
                data = dns.truncated(question, forwards=True)
            self._answer(opened, query, Reply(data, "forwarded"), source)

        if not self._upstream.room_for(source[0]):
            self._answer(opened, query, Reply(self._failed(question), "forwarded"), source)
            return
        task = asyncio.get_running_loop().create_task(ask(), name="dns forward")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _failed(question: Question) -> bytes:
        return dns.respond(question, Rcode.SERVER, forwards=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: questions one after the other (RFC 7766), until the client is silent."""
        peer = writer.get_extra_info("peername")
        try:
            if self._connections >= _MOST_CONNECTIONS or peer is None:
                return
            self._connections += 1
            try:
                with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, OSError):
                    while await self._exchange(reader, writer, peer[0]):
                        pass
            finally:
                self._connections -= 1
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str) -> bool:
        """One question and its answer; False when the connection has to end."""
        async with asyncio.timeout(_IDLE_SECONDS):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            query = await reader.readexactly(length)
        decision = self._decide(query, client, tcp=True)
        if isinstance(decision, Drop):
            return False
        if isinstance(decision, Reply):
            data = decision.data
        else:
            answer = None
            if self._upstream.room_for(client):
                answer = await self._upstream.ask(query, decision.question, client, tcp=True)
            data = answer if answer is not None else self._failed(decision.question)
        writer.write(struct.pack("!H", len(data)) + data)
        async with asyncio.timeout(_IDLE_SECONDS):
            await writer.drain()
        return True

    def _warn(self, what: str, address: str, reason: str) -> None:
        """At most one line per kind of trouble and minute."""
        now = time.monotonic()
        if now - self._warned.get(what, float("-inf")) >= _WARN_SECONDS:
            self._warned[what] = now
            self._log.warning(what, address=address, reason=reason)


class Upstream:
    """The servers that know everything else, asked in turn, ``seconds`` each."""

    def __init__(self, servers: Iterable[str], seconds: float) -> None:
        self._servers = tuple(address_of(text) for text in servers)
        self._seconds = seconds
        self._under_way: Counter[str] = Counter()

    def room_for(self, client: str) -> bool:
        """Whether one more question of ``client`` may go out."""
        return self._under_way.total() < _MOST_FORWARDED and self._under_way[client] < _MOST_FORWARDED_PER_CLIENT

    async def ask(self, query: bytes, question: Question, client: str, *, tcp: bool) -> bytes | None:
        """The first answer, with the id and the spelling of the client; None when nobody answers."""
        self._under_way[client] += 1
        try:
            for server in self._servers:
                id_ = secrets.randbits(16)
                sent = struct.pack("!H", id_) + query[2:]
                try:
                    async with asyncio.timeout(self._seconds):
                        over = self._over_tcp if tcp else self._over_udp
                        return await over(sent, query, question, server, id_)
                except (TimeoutError, OSError, asyncio.IncompleteReadError):
                    continue
            return None
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]

    @staticmethod
    async def _over_udp(sent: bytes, query: bytes, question: Question, server: Address, id_: int) -> bytes:
        """Each from a port of its own, and connected: a forger has to guess port and id (RFC 5452)."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as own:
            own.connect(server)
            await loop.sock_sendall(own, sent)
            while True:
                answer = dns.relay(question, query, await loop.sock_recv(own, dns.MAX_MESSAGE), id_)
                if answer is not None:
                    return answer

    @staticmethod
    async def _over_tcp(sent: bytes, query: bytes, question: Question, server: Address, id_: int) -> bytes | None:
        reader, writer = await asyncio.open_connection(*server)
        try:
            writer.write(struct.pack("!H", len(sent)) + sent)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            return dns.relay(question, query, await reader.readexactly(length), id_)
        finally:
            writer.close()


def address_of(text: str) -> Address:
    """``192.0.2.53`` or ``192.0.2.53:5353``."""
    host, _, port = text.partition(":")
    return host, int(port or 53)
