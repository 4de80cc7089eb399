"""What rsync runs in the place of ssh: a connection to the daemon's HTTP port, handed to the rsync server there.

``python3 -m stage2.pipe HOST WORDS...``; the words are rsync's own and are not sent. Where to, and with which
token, is in the environment: an argument list can be read by every user of a running system.
"""

import os
import socket
import sys
import threading
from collections.abc import Mapping

from bootd.wire.sync import UPGRADE

SERVER, PATH, TOKEN = "BOOTD_SYNC_SERVER", "BOOTD_SYNC_PATH", "BOOTD_SYNC_TOKEN"
CONNECT_SECONDS = 15.0
MAX_HEAD = 16384  # bytes of the answer's head
_BUFFER = 1 << 18


class PipeError(Exception):
    """There is no connection; the text says why."""


def connect(environment: Mapping[str, str]) -> tuple[socket.socket, bytes]:
    """A socket behind the answer "101", and what came with that already; `PipeError`."""
    host, _, port = environment[SERVER].rpartition(":")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(
            f"POST {environment[PATH]} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {environment[TOKEN]}\r\nContent-Length: 0\r\n"
            f"Connection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n".encode("ascii")
        )
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(4096)
            data += piece
            if not piece or len(data) > MAX_HEAD:
                raise PipeError("the server does not answer as it should")
    except (OSError, ValueError) as error:
        raise PipeError(f"the server cannot be reached: {error}") from None
    head, _, rest = data.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if status[1:2] != [b"101"]:
        text = rest.decode("utf-8", "replace").strip() or head.split(b"\r\n", 1)[0].decode("ascii", "replace")
        raise PipeError(f"the server says no: {text[:500]}")
    connection.settimeout(None)
    return connection, rest


def carry(connection: socket.socket, rest: bytes, inward: int, outward: int) -> None:
    """Copy both ways until the server has said its last byte."""

    for descriptor in (inward, outward):  # rsync gives them as it likes them itself
        os.set_blocking(descriptor, True)

    def upwards() -> None:
        try:
            while data := os.read(inward, _BUFFER):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # the other direction ends the program
            pass

    threading.Thread(target=upwards, daemon=True).start()
    data = rest
    while True:
        while data:
            data = data[os.write(outward, data) :]
        data = connection.recv(_BUFFER)
        if not data:
            return


def main() -> int:
    try:
        connection, rest = connect(os.environ)
    except (PipeError, KeyError) as error:
        sys.stderr.write(f"bootd: {error}\n")
        return 5
    try:
        carry(connection, rest, sys.stdin.fileno(), sys.stdout.fileno())
    except OSError as error:
        sys.stderr.write(f"bootd: the connection broke: {error}\n")
        return 10
    return 0


if __name__ == "__main__":
    # No waiting for the thread that reads from rsync: it may be in the middle of a read.
    os._exit(main())
