"""Handing stage2 on: a child process serves to successors what this node has of it, while it still arrives.

It outlives stage1: the file is open, and lies in /run, which moves to the new root. Once it has all and nobody has
asked for `IDLE_SECONDS`, it ends. It gives only bytes that were checked: the file grows block by checked block.
"""

import os
import signal
import socket
import threading
import time

from stage1.http import MAX_HEAD

IDLE_SECONDS = 75.0
STUCK_SECONDS = 900.0  # nothing has come for so long: stage1 is gone, or will never have it
WAIT = 0.02  # seconds between two looks for more bytes
MAX_SUCCESSORS = 4  # at a time
TIMEOUT = 20.0  # seconds, for a successor that takes nothing
PIECE = 1 << 20


def listen(address: str) -> socket.socket:
    """A socket on a port that the kernel chooses; connections wait until `Child` takes them. OSError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.bind((address, 0))
        listener.listen(MAX_SUCCESSORS * 2)
    except OSError:
        listener.close()
        raise
    return listener


class Child:
    """The process. ``descriptor`` is of a file that grows up to ``size`` bytes; asked for as ``/SHA256``."""

    def __init__(self, listener: socket.socket, descriptor: int, size: int, sha256: str) -> None:
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.setsid()
                nothing = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):  # the console belongs to what is booted
                    os.dup2(nothing, stream)
                signal.signal(signal.SIGPIPE, signal.SIG_IGN)
                Server(listener, descriptor, size, f"/{sha256}").run()
            finally:
                os._exit(0)  # whatever happens: stage1 goes on in the parent alone

    def end(self) -> None:
        """End it; for a stage2 that never came, or another in its place."""
        try:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        except OSError:
            pass


class Server:
    """Answers GET of one growing file, from the byte that a Range field names."""

    def __init__(self, listener: socket.socket, descriptor: int, size: int, path: str) -> None:
        self._listener, self._file, self._size, self._path = listener, descriptor, size, path
        self._free = threading.BoundedSemaphore(MAX_SUCCESSORS)
        self._last, self._seen = time.monotonic(), 0

    def run(self) -> None:
        """Until nobody needs it any more."""
        self._listener.settimeout(0.25)
        with self._listener:
            while not self._is_done():
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    continue
                self._last = time.monotonic()
                if not self._free.acquire(blocking=False):
                    connection.close()  # it will be fed by another
                    continue
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _is_done(self) -> bool:
        now, received = time.monotonic(), self._received()
        if received != self._seen:
            self._seen, self._last = received, now
        return now - self._last > (IDLE_SECONDS if received >= self._size else STUCK_SECONDS)

    def _received(self) -> int:
        return os.fstat(self._file).st_size

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(TIMEOUT)
                start = start_of(_read_request(connection), self._path, self._size)
                if start is None:
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    return
                where = f"Content-Range: bytes {start}-{self._size - 1}/{self._size}\r\n" if start else ""
                status = "206 Partial Content" if start else "200 OK"
                head = f"HTTP/1.1 {status}\r\n{where}Content-Length: {self._size - start}\r\n\r\n"
                connection.sendall(head.encode("ascii"))
                self._send(connection, start)
        except OSError:
            pass  # the successor's concern
        finally:
            self._free.release()

    def _send(self, connection: socket.socket, position: int) -> None:
        """Everything from ``position`` on, as it arrives; a stage2 that does not grow any more ends it."""
        grown = time.monotonic()
        while position < self._size:
            here = min(self._received(), self._size)
            if here <= position:
                if time.monotonic() - grown > STUCK_SECONDS:
                    return
                time.sleep(WAIT)
                continue
            piece = os.pread(self._file, min(PIECE, here - position), position)
            connection.sendall(piece)
            position += len(piece)
            grown = self._last = time.monotonic()


def start_of(request: bytes, path: str, size: int) -> int | None:
    """The first byte that ``request`` asks for; None when it is no request for ``path``, or for nothing of it."""
    lines = request.decode("latin-1").split("\r\n")
    if lines[0].split(" ")[:2] != ["GET", path]:
        return None
    start = 0
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "range":
            text = value.strip().removeprefix("bytes=").removesuffix("-")
            if not text.isascii() or not text.isdigit() or len(text) > 12:
                return None
            start = int(text)
    return start if start < size else None


def _read_request(connection: socket.socket) -> bytes:
    """Head of a request; what was read when the successor closes or sends too much."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) <= MAX_HEAD:
        more = connection.recv(4096)
        if not more:
            break
        data += more
    return data
