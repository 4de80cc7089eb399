"""The little HTTP that stage1 needs, on plain sockets: python3-minimal has no http package.

`parse_head` is pure. `request` makes one request on one connection (RFC 9112), closed afterwards.
"""

import socket
from dataclasses import dataclass

MAX_HEAD = 16 << 10  # bytes
MAX_BODY = 1 << 20  # bytes, of answers that are read whole


class HttpError(Exception):
    """The server did not answer as expected; the text says how. Trying again may help."""


@dataclass(frozen=True)
class Head:
    """Status line and fields of an answer; field names in lower case."""

    status: int
    reason: str
    fields: dict[str, str]

    @property
    def length(self) -> int | None:
        """Bytes of the body, None when the server ends it by closing."""
        text = self.fields.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def parse_head(data: bytes) -> tuple[Head, bytes] | None:
    """Head and the bytes behind it, None while more must come; `HttpError` when it is no HTTP answer."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MAX_HEAD:
            raise HttpError(f"the head of the answer has more than {MAX_HEAD} bytes")
        return None
    lines = data[:end].decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit() or len(words[1]) != 3:
        raise HttpError(f"not an HTTP answer: {lines[0][:60]!r}")
    fields = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise HttpError(f"field without a colon: {line[:60]!r}")
        fields[name.strip().lower()] = value.strip()
    if "transfer-encoding" in fields:
        raise HttpError(f"transfer encoding {fields['transfer-encoding']!r} is not understood")
    return Head(int(words[1]), words[2] if len(words) > 2 else "", fields), data[end + 4 :]


class Connection:
    """One request and its answer. ``timeout`` (seconds) bounds the connecting and every wait for bytes."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._rest = b""
        try:
            self._socket.connect((host, port))
        except OSError:
            self._socket.close()
            raise
        self._host = f"{host}:{port}"

    def request(self, method: str, path: str, fields: dict[str, str], body: bytes = b"") -> Head:
        """Send a request and read the head of the answer."""
        everything = {"Host": self._host, "Connection": "close", **fields}
        if body:
            everything["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in everything.items()), "", ""]
        self._socket.sendall("\r\n".join(lines).encode("latin-1") + body)
        data = b""
        while (parsed := parse_head(data)) is None:
            more = self._socket.recv(4096)
            if not more:
                raise HttpError("the server closed the connection instead of answering")
            data += more
        head, self._rest = parsed
        return head

    def read_into(self, buffer: memoryview) -> int:
        """Bytes of the body, as many as have come; 0 at the end of the connection."""
        if self._rest:
            count = min(len(buffer), len(self._rest))
            buffer[:count] = self._rest[:count]
            self._rest = self._rest[count:]
            return count
        return self._socket.recv_into(buffer)

    def read_body(self, head: Head) -> bytes:
        """The whole body; `HttpError` when it is longer than MAX_BODY or is cut off."""
        length = head.length
        if length is not None and length > MAX_BODY:
            raise HttpError(f"an answer of {length} bytes, at most {MAX_BODY} expected")
        body = bytearray()
        buffer = memoryview(bytearray(64 << 10))
        while length is None or len(body) < length:
            count = self.read_into(buffer)
            if count == 0:
                break
            body += buffer[:count]
            if len(body) > MAX_BODY:
                raise HttpError(f"an answer of more than {MAX_BODY} bytes")
        if length is not None and len(body) < length:
            raise HttpError(f"the answer was cut off after {len(body)} of {length} bytes")
        return bytes(body)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
