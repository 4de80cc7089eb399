"""HTTP inside TLS. Strangers can connect here, so handshakes are counted and timed."""

import asyncio
import errno
import socket
import ssl
from collections import Counter
from pathlib import Path

import structlog
from aiohttp import web

from bootd.drivers.http.gate import Bounds, Gate
from bootd.drivers.http.limits import network_of
from bootd.drivers.http.server import HttpServer
from bootd.errors import Exit, OperatorError

log = structlog.get_logger(__name__)

HANDSHAKES = 64  # at a time
HANDSHAKES_PER_ADDRESS = 8
HANDSHAKE_SECONDS = 10.0
_PAUSE_SECONDS = 1.0  # after a connection could not be taken: no descriptors or memory left


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer. `OperatorError` when the files are missing, no PEM, or no pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (certificate, key):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise OperatorError(
                f"cannot read {path}: {error.strerror}",
                "see api.certificate and api.key in bootd.toml",
                Exit.CONFIG,
            ) from None
    try:
        # Without a password: a daemon cannot be asked for one.
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise OperatorError(
            f"{certificate} and {key} cannot be used: {error}",
            "both must be PEM, belong together, and the key must have no password",
            Exit.CONFIG,
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


class TlsServer(HttpServer):
    """As `HttpServer`, behind ``context``."""

    def __init__(
        self, listener: socket.socket, app: web.Application, bounds: Bounds, context: ssl.SSLContext
    ) -> None:
        super().__init__(listener, app, bounds)
        self._context = context
        self._shaking: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accept until cancelled. A connection reaches the application once its handshake is done."""
        inner = self._runner.server
        if inner is None:
            raise RuntimeError("serve() before prepare()")
        gate = Gate(inner, self._bounds)
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(self._socket)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # that one only was gone before it was taken
                    log.warning("no connection can be taken", error=error.strerror)
                    await asyncio.sleep(_PAUSE_SECONDS)
                continue
            address = network_of(str(peer[0]))
            if self._shaking.total() >= HANDSHAKES or self._shaking[address] >= HANDSHAKES_PER_ADDRESS:
                sock.close()
                continue
            self._shaking[address] += 1
            task = asyncio.create_task(self._shake(gate, sock, address), name="handshake")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End handshakes and connections, and close the socket."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().close()

    async def _shake(self, gate: Gate, sock: socket.socket, address: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                gate.make,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=HANDSHAKE_SECONDS,
            )
        except (OSError, TimeoutError):  # ssl.SSLError too: plain HTTP, no version in common, or it went away
            sock.close()
        finally:
            self._shaking[address] -= 1
            if self._shaking[address] <= 0:
                del self._shaking[address]
