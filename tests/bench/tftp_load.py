"""``python -m tests.bench.tftp_load HOST PORT FILE CLIENTS BLKSIZE WINDOW SECONDS``: many TFTP clients at
once.

Each fetches FILE, which lies in the current folder under the same name, again and again; every block is compared.
After SECONDS it prints one JSON line: bytes in order, seconds, files fetched to their end, times a client had to
ask again after a second of silence, and the share of the time in which it had something to do. Near 1 the client is
what limits the rate. One epoll loop, one socket for each client; no asyncio, which would cost as much again. It
never sleeps: to wake it would be the server's work here, which on a wire it is not.
"""

import ctypes
import json
import select
import socket
import struct
import sys
import time
from pathlib import Path

PATIENCE = 1.0  # seconds of silence before a client asks again
ACKS = [struct.pack("!HH", 4, number) for number in range(1 << 16)]


class Fetch:
    """One file on its way to one client (RFC 1350, 2347, 2348, 7440)."""

    __slots__ = ("acked", "asked", "gap", "heard", "number", "opened", "server")

    def __init__(self, server: tuple[str, int], request: bytes) -> None:
        self.opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.opened.sendto(request, server)
        self.server: tuple[str, int] | None = None
        self.number = 0  # last block in order
        self.acked = 0
        self.asked = request
        self.gap = False
        self.heard = time.monotonic()


class _Piece(ctypes.Structure):  # struct iovec
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):  # struct mmsghdr
    _fields_ = (
        ("name", ctypes.c_void_p), ("name_size", ctypes.c_uint32),
        ("pieces", ctypes.c_void_p), ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_long), ("length", ctypes.c_uint32),  # an int, and what fills the struct up
    )  # fmt: skip


class Batch:
    """recvmmsg(2), which Python lacks: ``most`` datagrams of up to ``size`` bytes, one behind the other."""

    def __init__(self, most: int, size: int) -> None:
        memory = bytearray(most * size)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._pieces = (_Piece * most)(*(_Piece(start + place * size, size) for place in range(most)))
        self._messages = (_Message * most)()
        for place, message in enumerate(self._messages):
            message.pieces, message.count = ctypes.addressof(self._pieces[place]), 1
        self.view = memoryview(memory)
        step = ctypes.sizeof(_Message) // 4
        self.lengths = memoryview(self._messages).cast("B").cast("I")[_Message.length.offset // 4 :: step]
        self._most, self._call = most, ctypes.CDLL(None).recvmmsg

    def receive(self, descriptor: int) -> int:
        """Datagrams taken; -1 for none."""
        taken: int = self._call(descriptor, self._messages, self._most, socket.MSG_DONTWAIT, None)
        return taken


class Load:
    def __init__(self, server: tuple[str, int], name: str, clients: int, block: int, window: int) -> None:
        content = Path(name).read_bytes()
        starts = enumerate(range(0, len(content) + 1, block), 1)
        self.packets = [struct.pack("!HH", 3, n & 0xFFFF) + content[start : start + block] for n, start in starts]
        self.stream, self.last = b"".join(self.packets), len(self.packets)
        self.block, self.size, self.batch = block, block + 4, Batch(window, block + 4)
        self.server, self.window = server, window
        options = [b"blksize", str(block).encode()]
        if window > 1:
            options += [b"windowsize", str(window).encode()]
        self.request = b"\0\1" + b"".join(word + b"\0" for word in (name.encode(), b"octet", *options))
        self.poll = select.epoll()
        self.fetches: dict[int, Fetch] = {}
        self.clients = clients
        self.bytes = self.files = self.asked_again = 0
        self.idle = 0.0  # seconds

    def begin(self) -> None:
        fetch = Fetch(self.server, self.request)
        self.fetches[fetch.opened.fileno()] = fetch
        self.poll.register(fetch.opened, select.EPOLLIN)

    def run(self, seconds: float) -> float:
        """Seconds that it took."""
        began = now = checked = time.monotonic()
        for _ in range(self.clients):
            self.begin()
        while now < began + seconds:
            ready = self.poll.poll(0, 512)
            for descriptor, _ in ready:
                fetch = self.fetches.get(descriptor)
                if fetch is not None:
                    self.receive(fetch, now)
            before, now = now, time.monotonic()
            self.idle += 0 if ready else now - before
            if now > checked + 0.1:
                checked = now
                for fetch in list(self.fetches.values()):
                    if now > fetch.heard + PATIENCE:
                        self.ask_again(fetch, now)
        return now - began

    def ask_again(self, fetch: Fetch, now: float) -> None:
        self.asked_again += 1
        fetch.heard = now
        if fetch.server is None:
            fetch.opened.sendto(self.request, self.server)
        else:
            fetch.opened.send(ACKS[fetch.number & 0xFFFF])

    def receive(self, fetch: Fetch, now: float) -> None:
        """What came for a client: nearly always the block it waits for, or several in a row."""
        if fetch.server is None:
            self.first(fetch, now)
        elif self.window == 1:
            try:
                data = fetch.opened.recv(self.size + 1)
            except OSError:
                return
            number = fetch.number
            if data == self.packets[number] and number + 1 < self.last:
                fetch.opened.send(ACKS[(number + 1) & 0xFFFF])
                fetch.number = fetch.acked = number + 1
                fetch.gap, fetch.heard = False, now
                self.bytes += self.block
            else:
                self.take(fetch, data, now)
        else:
            self.several(fetch, now)

    def first(self, fetch: Fetch, now: float) -> None:
        try:
            data, source = fetch.opened.recvfrom(65535)
        except OSError:
            return
        fetch.opened.connect(source)
        fetch.server = source
        self.take(fetch, data, now)

    def several(self, fetch: Fetch, now: float) -> None:
        """As much of a window as is there, taken with one call."""
        count, size, number = self.batch.receive(fetch.opened.fileno()), self.size, fetch.number
        if count <= 0:
            return
        lengths = self.batch.lengths[:count].tolist()
        whole = lengths == [size] * count and number + count < self.last
        if whole and self.stream.startswith(self.batch.view[: count * size], number * size):
            fetch.number, fetch.gap, fetch.heard = number + count, False, now
            self.bytes += count * self.block
            if fetch.number - fetch.acked >= self.window:
                fetch.opened.send(ACKS[fetch.number & 0xFFFF])
                fetch.acked = fetch.number
            return
        for place, length in enumerate(lengths):
            if not self.take(fetch, bytes(self.batch.view[place * size : place * size + length]), now):
                return

    def take(self, fetch: Fetch, data: bytes, now: float) -> bool:
        """One datagram, whatever it is; False when the file is complete."""
        if data[1] == 6:
            fetch.opened.send(ACKS[0])
            fetch.heard = now
            return True
        if data[1] != 3:
            raise SystemExit(f"the server says {data[:80]!r}")
        expected = fetch.number + 1
        if (data[2] << 8) + data[3] != expected & 0xFFFF:
            if not fetch.gap:
                fetch.gap = True  # once for each gap: the rest of the window is under way still
                fetch.opened.send(ACKS[fetch.number & 0xFFFF])
                fetch.acked = fetch.number
            return True
        if data != self.packets[fetch.number]:
            raise SystemExit(f"block {expected} is not that of the file")
        fetch.number, fetch.gap, fetch.heard = expected, False, now
        self.bytes += len(data) - 4
        is_last = expected == self.last
        if is_last or expected - fetch.acked >= self.window:
            fetch.opened.send(ACKS[expected & 0xFFFF])
            fetch.acked = expected
        if is_last:
            self.files += 1
            del self.fetches[fetch.opened.fileno()]
            fetch.opened.close()
            self.begin()
        return not is_last


def main() -> None:
    host, port, name = sys.argv[1:4]
    clients, block, window = (int(word) for word in sys.argv[4:7])
    load = Load((host, int(port)), name, clients, block, window)
    seconds = load.run(float(sys.argv[7]))
    print(
        json.dumps(
            {
                "bytes": load.bytes,
                "seconds": seconds,
                "files": load.files,
                "asked_again": load.asked_again,
                "own_core": 1 - load.idle / seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
