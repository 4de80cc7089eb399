"""Listening TCP sockets, with errors that an operator can act upon."""

import errno
import socket

from bootd.errors import Exit, OperatorError

BACKLOG = 512


def listen(address: str, port: int, purpose: str, setting: str) -> socket.socket:
    """A non-blocking listening socket. `OperatorError` names port and protocol; ``setting`` is where it is set."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise OperatorError(
                f"port {port}/tcp on {address} is in use ({purpose})",
                f"see who has it: ss -tlnp sport = :{port}; or choose another {setting} in bootd.toml",
                Exit.BUSY,
            ) from None
        if error.errno == errno.EACCES:
            raise OperatorError(
                f"not allowed to listen on port {port}/tcp ({purpose})", "start bootd as root", Exit.ERROR
            ) from None
        raise OperatorError(
            f"cannot listen on {address} port {port}/tcp ({purpose}): {error.strerror}",
            "see server.address in bootd.toml",
            Exit.CONFIG,
        ) from None
    return sock
