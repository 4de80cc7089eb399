"""A node that hands stage2 on, and does it badly: ``python -m tests.netns.bad_peer MAC SERVER KIND``.

KIND: ``lies`` (every byte is wrong), ``stalls`` (half a block, then nothing), ``trickles`` (a kilobyte a second),
``cuts`` (half a block, then the end), ``refuses`` (nobody listens).
"""

import json
import socket
import sys
import threading
import time
import urllib.request

from tests.netns.ring_node import boot_token


def main(mac: str, server: str, kind: str) -> None:
    listener = socket.create_server(("", 0), backlog=16)
    port = listener.getsockname()[1]
    url = f"http://{server}/node/v1/stage2?node={mac}&port={port}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {boot_token(server, mac)}"})
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http
        size = json.load(answer)["size"]
    if kind == "refuses":
        listener.close()
    print("takes part", flush=True)
    while kind != "refuses":
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, size, kind), daemon=True).start()
    threading.Event().wait()


def serve(connection: socket.socket, size: int, kind: str) -> None:
    with connection:
        connection.recv(4096)
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        try:
            if kind == "lies":
                connection.sendall(b"\xa5" * size)
            elif kind in ("cuts", "stalls"):
                connection.sendall(bytes(1 << 19))
                if kind == "stalls":
                    threading.Event().wait()
            while kind == "trickles":
                connection.sendall(bytes(1024))
                time.sleep(1)  # what it is about
        except OSError:
            pass


if __name__ == "__main__":
    main(*sys.argv[1:4])
