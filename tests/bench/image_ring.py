"""``python -m tests.bench.image_ring SOURCE STORE``: how fast a head feeds a successor. Part of `images`.

The head is a process of its own; the successor throws away what it gets, on loopback. Prints seconds from the first
byte wanted to the last one taken in, and the head's CPU, as JSON. What a head does before that (digests of a raw
file) does not count.
"""

import json
import resource
import subprocess
import sys
import threading
import time

from bootd.member.member import Member
from bootd.member.sources import describe_sources, join_stores, open_source, suitable_chunk_size
from bootd.member.store import PlainStore
from bootd.wire import manifest
from bootd.wire.control import Address, Arrange, Report

SESSION, KEY = "bench", "c0ffee"


class Nothing(PlainStore):
    """Takes everything and keeps nothing."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, offset: int, buffer: memoryview) -> None:
        raise OSError("nothing is kept")

    def read_back(self, offset: int, buffer: memoryview) -> None:
        self.read(offset, buffer)

    def write(self, offset: int, buffer: memoryview) -> None:
        """Gone."""

    def zero(self, offset: int, length: int) -> None:
        """Gone."""

    def sync(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def serve(source: str, store: str) -> None:
    """The head: tells the manifest and its port, and serves until its standard input closes."""
    opened = open_source(source, None, store)
    image = describe_sources([opened], suitable_chunk_size([opened]), lambda _: None)
    head = Member(
        node="head", session=SESSION, join_token=KEY, manifest=image, store=join_stores(image, [opened]),
        listen_host="127.0.0.1", report=lambda _: None, is_head=True,
    )  # fmt: skip
    port = head.start()
    head.arrange(Arrange(SESSION, 1, None, ""))
    sys.stdout.buffer.write(json.dumps({"port": port, "size": len(image.encoded)}).encode() + b"\n" + image.encoded)
    sys.stdout.buffer.flush()
    sys.stdin.read()
    head.stop()


def main(source: str, store: str) -> None:
    words = [sys.executable, "-m", "tests.bench.image_ring", "--serve", source, store]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if child.stdout is None or child.stdin is None:
        raise SystemExit("no pipes")
    told = json.loads(child.stdout.readline())
    image = manifest.parse(child.stdout.read(told["size"]))
    taken = threading.Event()

    def report(message: Report) -> None:
        if message.written == message.total:
            taken.set()

    member = Member(
        node="n", session=SESSION, join_token=KEY, manifest=image, store=Nothing(image.size),
        listen_host="127.0.0.1", report=report, is_head=False,
    )  # fmt: skip
    member.start()
    began = time.monotonic()
    member.arrange(Arrange(SESSION, 1, Address("127.0.0.1", told["port"]), "head"))
    while not taken.wait(0.005):
        if member.snapshot().written == image.size:
            break
    seconds = time.monotonic() - began
    member.stop()
    child.stdin.close()
    child.wait(30)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss * 1024}))


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(*sys.argv[2:4])
    else:
        main(*sys.argv[1:3])
