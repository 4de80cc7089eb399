"""What stands beside a registry in the tests: a line that breaks, a storage elsewhere, a token server."""

import base64
import http.server
import json
import socket
import subprocess
import threading
import time
import urllib.request
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

Rule = int | bytes | None  # cut after so many bytes for the client; answer this; pass


class Line:
    """A TCP line to ``127.0.0.1:port``; ``rules`` are used up, one for each connection, then all pass."""

    def __init__(self, port: int, *rules: Rule) -> None:
        self._port = port
        self.rules = deque(rules)
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Line":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            self.connections += 1
            rule = self.rules.popleft() if self.rules else None
            thread = threading.Thread(target=self._carry, args=(client, rule))
            thread.start()
            threads.append(thread)
        for sock in self._open:
            _shut(sock)
        for thread in threads:
            thread.join()

    def _carry(self, client: socket.socket, rule: Rule) -> None:
        self._open.append(client)
        if isinstance(rule, bytes):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            client.sendall(rule)
            _shut(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._port))
        except OSError:
            _shut(client)
            return
        self._open.append(server)
        upward = threading.Thread(target=_pump, args=(client, server, None))
        upward.start()
        _pump(server, client, rule)
        upward.join()


def _pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    left = limit
    try:
        while (left is None or left > 0) and (data := source.recv(65536 if left is None else min(left, 65536))):
            sink.sendall(data)
            left = None if left is None else left - len(data)
    except OSError:
        pass
    _shut(source)
    _shut(sink)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class Front:
    """An HTTP server of the test. ``respond(handler)`` answers; requests are kept as (path, headers)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                front.seen.append((self.path, dict(self.headers)))
                front.respond(self)

            do_POST = do_HEAD = do_PUT = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def respond(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        raise NotImplementedError


class Redirecting(Front):
    """A registry with a password that keeps its blobs elsewhere, as those in clouds do."""

    def __init__(self, elsewhere: str) -> None:
        super().__init__()
        self._elsewhere = elsewhere

    def respond(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        if "Authorization" not in handler.headers:
            answer(handler, 401, {"WWW-Authenticate": 'Basic realm="front"'})
        else:
            answer(handler, 307, {"Location": f"http://{self._elsewhere}{handler.path}"})


class Passing(Front):
    """Hands GET on to a registry, and remembers what it was asked."""

    def __init__(self, registry: str) -> None:
        super().__init__()
        self._registry = registry

    def respond(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        headers = {name: handler.headers[name] for name in ("Accept", "Range") if name in handler.headers}
        request = urllib.request.Request(f"http://{self._registry}{handler.path}", headers=headers)
        with urllib.request.urlopen(request) as response:  # noqa: S310
            body = response.read()
            kept = ("Content-Type", "Content-Range", "Docker-Content-Digest")
            passed = {name: response.headers[name] for name in kept if name in response.headers}
            answer(handler, response.status, passed, body)


class TokenServer(Front):
    """Gives JWTs that docker-registry checks with the certificate (Distribution's "Token Authentication")."""

    ISSUER, SERVICE = "tests", "registry of the tests"

    def __init__(self, folder: Path, user: str, password: str, *, seconds: int = 300) -> None:
        super().__init__()
        self._folder, self._seconds = folder, seconds
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.certificate = folder / "token.pem"
        words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]
        words += ["-keyout", str(folder / "token.key"), "-out", str(self.certificate)]
        subprocess.run(["openssl", *words], check=True, capture_output=True)

    @property
    def auth(self) -> str:
        """For the registry's configuration."""
        return (
            f"  token: {{realm: 'http://{self.host}/token', service: '{self.SERVICE}', issuer: {self.ISSUER},"
            f" rootcertbundle: {self.certificate}}}"
        )

    def respond(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Authorization") != self._basic:
            answer(handler, 401, {})
            return
        query = parse_qs(urlsplit(handler.path).query)
        access: list[dict[str, Any]] = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        body = json.dumps({"token": self._sign(query["service"][0], access), "expires_in": self._seconds})
        answer(handler, 200, {"Content-Type": "application/json"}, body.encode())

    def _sign(self, service: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        lines = [line for line in self.certificate.read_text().splitlines() if "-----" not in line]
        head = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(lines)]}
        claims: dict[str, Any] = {
            "iss": self.ISSUER,
            "sub": "tester",
            "aud": service,
            "access": access,
            "jti": str(time.time_ns()),
        }
        claims |= {"iat": now, "nbf": now - 10, "exp": now + max(self._seconds, 60)}
        text = ".".join(_encode(json.dumps(part).encode()) for part in (head, claims))
        words = ["openssl", "dgst", "-sha256", "-sign", str(self._folder / "token.key")]
        return (
            f"{text}.{_encode(subprocess.run(words, input=text.encode(), check=True, capture_output=True).stdout)}"
        )


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def answer(
    handler: http.server.BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b""
) -> None:
    length = int(handler.headers.get("Content-Length", "0"))
    handler.rfile.read(length)
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
