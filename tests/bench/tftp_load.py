"""``python -m tests.bench.tftp_load HOST PORT FILE CLIENTS BLKSIZE WINDOW SECONDS``: many TFTP clients at
once.

Each fetches FILE, which lies in the current folder under the same name, again and again; every block is compared.
After SECONDS it prints one JSON line: bytes in order, seconds, files fetched to their end, times a client had to
ask again after a second of silence, and the share of the time in which it had something to do. Near 1 the client is
what limits the rate. One epoll loop, one socket for each client; no asyncio, which would cost as much again. It
never sleeps: to wake it would be the server's work here, which on a wire it is not.
"""

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
        self.opened.bind((server[0], 0))
        self.opened.sendto(request, server)
        self.server: tuple[str, int] | None = None
        self.number = 0  # last block in order
        self.acked = 0
        self.asked = request
        self.gap = False
        self.heard = time.monotonic()


class Load:
    def __init__(self, server: tuple[str, int], name: str, clients: int, block: int, window: int) -> None:
        content = Path(name).read_bytes()
        self.blocks = [content[start : start + block] for start in range(0, len(content) + 1, block)]
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
        opened, blocks = fetch.opened, self.blocks
        for _ in range(self.window):
            try:
                if fetch.server is None:
                    data, source = opened.recvfrom(65535)
                    opened.connect(source)
                    fetch.server = source
                else:
                    data = opened.recv(65535)
            except OSError:
                return
            if data[1] == 6:
                opened.send(ACKS[0])
                fetch.heard = now
                continue
            if data[1] != 3:
                raise SystemExit(f"the server says {data[:80]!r}")
            expected = fetch.number + 1
            if (data[2] << 8) + data[3] != expected & 0xFFFF:
                if not fetch.gap:
                    fetch.gap = True  # once for each gap: the rest of the window is under way still
                    opened.send(ACKS[fetch.number & 0xFFFF])
                    fetch.acked = fetch.number
                continue
            block = blocks[fetch.number]
            if data[4:] != block:
                raise SystemExit(f"block {expected} is not that of the file")
            fetch.number, fetch.gap, fetch.heard = expected, False, now
            self.bytes += len(block)
            last = expected == len(blocks)
            if last or expected - fetch.acked >= self.window:
                opened.send(ACKS[expected & 0xFFFF])
                fetch.acked = expected
            if last:
                self.files += 1
                del self.fetches[opened.fileno()]
                opened.close()
                self.begin()
                return


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
