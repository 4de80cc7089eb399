"""The operators' interface on a unix socket that only root, or the daemon's own user, may use.

Who asks is taken from the socket (SO_PEERCRED) and goes into the audit.
"""

import contextlib
import os
import pwd
import socket
import struct
from pathlib import Path

from aiohttp import web

from bootd.drivers.http.operator import Operators
from bootd.drivers.http.routes import Caller, Denied, Scope
from bootd.drivers.http.server import HttpServer
from bootd.errors import Exit, OperatorError

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class OperatorInterface:
    """The server on the unix socket. A `bootd.drivers.service.Service`."""

    name = "operators"

    def __init__(self, operators: Operators, path: Path) -> None:
        self._operators, self._path = operators, path
        self._server: HttpServer | None = None

    async def bind(self) -> None:
        """Make the socket, mode 0600. A socket that an earlier daemon left is replaced: the lock is ours."""
        self._server = HttpServer(_listen(self._path), self._operators.application(_authenticate))
        await self._server.prepare()

    async def serve(self) -> None:
        """Accept connections; aiohttp runs them as tasks of the loop."""
        if self._server is not None:
            await self._server.serve()

    async def close(self) -> None:
        """End the streams and the connections, and take the socket away."""
        self._operators.end_streams()
        if self._server is not None:
            await self._server.close()
            self._server = None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()


def _authenticate(request: web.Request) -> Caller:
    uid = _credentials(request)
    if uid not in (0, os.geteuid()):
        raise Denied(403, OperatorError("only root may command bootd", "use sudo", Exit.REFUSED))
    try:
        who = f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except (KeyError, OverflowError):
        who = f"uid {uid}"
    return Caller(who, Scope.ADMIN)


def _credentials(request: web.Request) -> int:
    """User id of the peer; -1 when the connection is gone already."""
    peer = request.transport.get_extra_info("socket") if request.transport is not None else None
    if peer is None:
        return -1
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if path.is_socket():
            path.unlink()
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise OperatorError(
            f"cannot listen on {path}: {error.strerror or error}", "see server.run_dir in bootd.toml", Exit.CONFIG
        ) from None
    return sock
