"""Files and names, fetched as clients do: TFTP by tftpy, HTTP by the standard library, DNS by dnslib."""

import http.client
import logging
import time
from urllib.parse import urlsplit

from dnslib import QTYPE, DNSRecord

from bootd.errors import Exit, OperatorError
from bootd.netboot.diagnosis import Fetched, Resolved

MOST_BYTES = 64 << 20  # of a first file: larger ones are not fetched to their end
BEGINNING = 4096  # bytes that tell what a file is
_SECONDS = 2
_TRIES = 1


class _TooMuch(Exception):  # noqa: N818 - how a download is told to end
    pass


class _Memory:
    """What tftpy writes into."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, piece: bytes) -> None:
        self.data += piece
        if len(self.data) > MOST_BYTES:
            raise _TooMuch


def fetch(url: str) -> tuple[Fetched, bytes]:
    """All of ``url`` (tftp or http); never raises for what a server does."""
    begun = time.monotonic()
    parts = urlsplit(url)
    data, error = b"", ""
    try:
        host = parts.hostname or ""
        if parts.scheme == "tftp":
            data = _tftp(host, parts.port or 69, parts.path.lstrip("/"))
        elif parts.scheme == "http":
            data = _http(host, parts.port or 80, f"{parts.path}?{parts.query}" if parts.query else parts.path)
        else:
            error = f"{parts.scheme or 'this'} is not tried"
    except _TooMuch:
        error = f"it has more than {MOST_BYTES >> 20} MB"
    except (OSError, http.client.HTTPException, ValueError) as problem:
        error = str(problem) or type(problem).__name__
    return Fetched(url, len(data), round(time.monotonic() - begun, 3), error), data


def look(url: str) -> tuple[Fetched, bytes]:
    """Whether ``url`` (http) is there and how large, and its first bytes."""
    begun = time.monotonic()
    parts = urlsplit(url)
    size, error, data = 0, "", b""
    try:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_SECONDS)
        try:
            connection.request("GET", parts.path, headers={"Range": f"bytes=0-{BEGINNING - 1}"})
            response = connection.getresponse()
            whole = (response.headers.get("Content-Range") or "").rpartition("/")[2]
            size = int(whole or response.headers.get("Content-Length") or 0)
            error = "" if response.status < 400 else f"HTTP status {response.status}"
            data = response.read(BEGINNING)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as problem:
        error = str(problem) or type(problem).__name__
    return Fetched(url, size, round(time.monotonic() - begun, 3), error), data


def resolve(server: str, name: str, *, expected: str = "", asked_for: bool = False, port: int = 53) -> Resolved:
    """``name``'s addresses, as ``server`` tells them."""
    query = DNSRecord.question(name)
    try:
        answer = DNSRecord.parse(query.send(server, port, timeout=_SECONDS))
        found = tuple(str(record.rdata) for record in answer.rr if QTYPE[record.rtype] == "A")
        code = answer.header.rcode
        if answer.header.id != query.header.id:
            code = -1
        error = (
            ""
            if found
            else {-1: "an answer to something else", 0: "no address", 3: "no such name", 5: "refused"}.get(
                code, f"return code {code}"
            )
        )
    except Exception as problem:  # dnslib lets anything escape when an answer is malformed
        found, error = (), str(problem) or type(problem).__name__
    return Resolved(server, name, found, expected, error, asked_for)


def _tftp(host: str, port: int, file: str) -> bytes:
    logging.getLogger("tftpy").setLevel(logging.CRITICAL)
    try:
        import tftpy  # noqa: PLC0415 - optional
    except ImportError:
        raise OperatorError(
            "bootd doctor needs tftpy", "install it: pip install 'bootd[doctor]'", Exit.ERROR
        ) from None
    memory = _Memory()
    try:
        client = tftpy.TftpClient(host, port, options={"blksize": 1432, "tsize": 0})
        client.download(file, memory, timeout=_SECONDS, retries=_TRIES)
    except (_TooMuch, OSError):
        raise
    except Exception as problem:  # tftpy's own, and what escapes it
        text = str(problem) or type(problem).__name__
        raise OSError("no answer" if "imeout" in f"{type(problem).__name__} {text}" else text) from None
    return bytes(memory.data)


def _http(host: str, port: int, target: str) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        data = response.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise _TooMuch
        if response.status >= 400:
            raise OSError(f"HTTP status {response.status}")
        return data
    finally:
        connection.close()
