"""``python -m tests.bench.tls``: the rate of one link over loopback, in the clear and in TLS.

Both ends in one process. One line for each: MB/s, and CPU seconds of sender and receiver together for each GB.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from bootd.member.sockets import FrameSocket
from bootd.member.tls import TlsSettings, load
from bootd.wire import frames
from bootd.wire.frames import ChunkHeader, Decoder, Encoding
from tests.unit.test_member_tls import make_authority, make_certificate, pair

CHUNK = 1 << 20
SECONDS = 30.0
GB = 1e9


def measure(chunks: int, settings: TlsSettings | None) -> tuple[float, float]:
    """Seconds, and CPU seconds, for so many random chunks."""
    payload = os.urandom(CHUNK)
    header = frames.encode_chunk_header(ChunkHeader(0, Encoding.RAW, CHUNK, bytes(32), CHUNK))
    memory = memoryview(bytearray(CHUNK))
    there, here = pair()
    decoder = Decoder(max_chunk=CHUNK, allocate=lambda header: memory[: header.payload_length])
    if settings is None:
        sender, receiver = FrameSocket(there, Decoder(max_chunk=0)), FrameSocket(here, decoder)
    else:
        sender = settings.socket(there, Decoder(max_chunk=0), is_accepting=True)
        receiver = settings.socket(here, decoder, is_accepting=False)

    def serve() -> None:
        sender.handshake(SECONDS)
        for _ in range(chunks):
            sender.send(header, payload, patience=SECONDS)

    thread = threading.Thread(target=serve)
    thread.start()
    receiver.handshake(SECONDS)
    wall, cpu = time.monotonic(), time.process_time()
    for _ in range(chunks):
        receiver.receive(SECONDS)
    taken = time.monotonic() - wall, time.process_time() - cpu
    thread.join()
    sender.close()
    receiver.close()
    return taken


def main(mebibytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_authority(folder, "room")
        make_certificate(folder, "room", "one")
        settings = load(*(str(folder / file) for file in ("one.pem", "one.key", "room.pem")))
        for words, security in (("clear", None), ("TLS", settings)) * 2:
            wall, cpu = measure(mebibytes, security)
            size = mebibytes * CHUNK
            print(f"{words:5} {size / 1e6 / wall:6.0f} MB/s {cpu / (size / GB):5.2f} CPU-s/GB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
