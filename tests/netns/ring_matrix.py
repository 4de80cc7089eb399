"""A node with one fault, for the failure matrix: the real member and daemon link of `ring_node`, on a bad machine.

``python -m tests.netns.ring_matrix FAULT MAC ADDRESS SERVER TARGET SIZE``. TARGET is a file or a block device.
FAULT is a word, with a number after a colon where one is named:

========== ===================================================================================================
none       a good machine
kill:N     the process kills itself (SIGKILL) in place of write N, counted from 0
silence    it kills itself in place of the first read-back: all data is durable, nothing is verified
freeze:N   it stops itself (SIGSTOP) in place of write N, and goes on with that write when it is woken
eio:N      write N and all later ones give EIO, as a dying disk does
lie:N      read-back N and the same place ever after gives one bit other than what was written
slow:N     every write takes N milliseconds more
flip:N     one bit of the payload of chunk N that it sends, counted from 0, is another one
stale      it stops itself (SIGSTOP) before it dials for the first time; when it is woken it dials as it meant to,
           and hears of later epochs only when its predecessor has answered
========== ===================================================================================================
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from bootd.member import context, receiving
from bootd.member.sockets import FrameSocket
from bootd.member.store import BlockStore, FileStore, Store
from bootd.wire.control import Arrange, Message
from bootd.wire.frames import Encoding
from tests.netns import ring_node


class FaultyStore:
    """A store that has ``fault`` (see above) on top of ``inner``."""

    def __init__(self, inner: Store, fault: str, number: int) -> None:
        self.size, self.completes = inner.size, inner.completes
        self._inner, self._fault, self._number = inner, fault, number
        self._writes = self._reads = 0
        self._bad_offset: int | None = None

    def read(self, offset: int, buffer: memoryview) -> None:
        self._inner.read(offset, buffer)

    def packed(self, offset: int, length: int) -> tuple[Encoding, bytes] | None:
        return self._inner.packed(offset, length)

    def write(self, offset: int, buffer: memoryview) -> None:
        self._strike()
        self._inner.write(offset, buffer)

    def zero(self, offset: int, length: int) -> None:
        self._strike()
        self._inner.zero(offset, length)

    def sync(self) -> None:
        self._inner.sync()

    def read_back(self, offset: int, buffer: memoryview) -> None:
        if self._fault == "silence":
            os.kill(os.getpid(), signal.SIGKILL)
        self._inner.read_back(offset, buffer)
        if self._fault == "lie" and self._reads == self._number:
            self._bad_offset = offset
        if offset == self._bad_offset:
            buffer[len(buffer) // 2] ^= 1
        self._reads += 1

    def complete(self, stop: threading.Event) -> str:
        return self._inner.complete(stop)

    def close(self) -> None:
        self._inner.close()

    def _strike(self) -> None:
        """In place of a write, of zeros or others, or before it."""
        if self._fault in ("kill", "freeze") and self._writes == self._number:
            os.kill(os.getpid(), signal.SIGKILL if self._fault == "kill" else signal.SIGSTOP)
        if self._fault == "eio" and self._writes >= self._number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._fault == "slow":
            threading.Event().wait(self._number / 1000)
        self._writes += 1


class FlippingSocket(FrameSocket):
    """Sends one bit wrong, once in the life of the process: what bad memory in a relay does."""

    left = 0
    lock = threading.Lock()

    def send(self, data: bytes, payload: bytes | memoryview = b"", *, patience: float) -> None:
        if len(payload):
            with FlippingSocket.lock:
                FlippingSocket.left -= 1
                is_hit = FlippingSocket.left == -1
            if is_hit:
                bad = bytearray(payload)
                bad[len(bad) // 2] ^= 0x10
                payload = bytes(bad)
                ring_node.say("flipped a bit")
        super().send(data, payload, patience=patience)


class Stale:
    """Dials under the epoch that was in force when it froze."""

    def __init__(self) -> None:
        self._dial, self._act = vars(receiving)["dial"], ring_node.TestNode.act
        self._is_first = True
        self._woken, self._answered = threading.Event(), threading.Event()
        signal.signal(signal.SIGCONT, lambda *_: self._woken.set())
        vars(receiving)["dial"] = self.dial

        def act(node: ring_node.TestNode, message: Message) -> int | None:
            if isinstance(message, Arrange) and message.epoch > 1:
                self._answered.wait(10)
            return self._act(node, message)

        vars(ring_node)["TestNode"] = type("TestNode", (ring_node.TestNode,), {"act": act})

    def dial(self, host: str, port: int, timeout: float, wanted: Callable[[], bool]) -> object:
        if self._is_first:
            self._is_first = False
            os.kill(os.getpid(), signal.SIGSTOP)
            self._woken.wait(60)  # this thread may run on for a moment before all stand still
            return self._dial(host, port, timeout, lambda: True)
        self._answered.set()  # the first link is over
        return self._dial(host, port, timeout, wanted)


def open_target(path: str, size: int) -> Store:
    """By its kind, as stage2 does."""
    if Path(path).is_block_device():
        return BlockStore(os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC), size)
    return FileStore(path, size)


def main(fault: str, number: int, arguments: list[str]) -> int:
    if fault == "flip":
        FlippingSocket.left = number
        vars(context)["FrameSocket"] = FlippingSocket
    if fault == "stale":
        Stale()
    vars(ring_node)["FileStore"] = lambda path, size: FaultyStore(open_target(path, size), fault, number)
    mac, address, server, target, size = arguments
    return ring_node.main(mac, address, server, Path(target), int(size))


if __name__ == "__main__":
    word, _, count = sys.argv[1].partition(":")
    sys.exit(main(word, int(count or 0), sys.argv[2:]))
