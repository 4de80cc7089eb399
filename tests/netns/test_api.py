"""The network interface of the daemon: TLS, tokens, scopes, limits. The client is curl, and the command line."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, BOOTD, Daemon
from tests.netns.room import Process, Room

URL = f"https://{ADDRESS}:7469"


def certificate(folder: Path) -> None:
    """A key and a certificate that vouches for itself, for the daemon's address."""
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=bootd", "-addext", f"subjectAltName=IP:{ADDRESS},IP:127.0.0.1"]
    subprocess.run(
        ["openssl", *words, *names, "-keyout", "api.key", "-out", "api.pem"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=20,
    )


def settings(folder: Path, *lines: str) -> str:
    own = (f'certificate = "{folder}/api.pem"', f'key = "{folder}/api.key"', f'address = "{ADDRESS}"')
    return "\n".join(("[api]", "enabled = true", *own, *lines, ""))


@pytest.fixture
def folder(folder: Path) -> Path:
    certificate(folder)
    return folder


class Caller:
    """curl in a namespace, with what it has been given."""

    def __init__(self, room: Room, folder: Path, where: str = "n1") -> None:
        self.room, self.folder, self.where = room, folder, where

    def ask(
        self, method: str, path: str, token: str = "", body: Any = None, url: str = URL
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers; status 0 when there was no answer."""
        head = self.folder / f"head-{self.where}"
        head.unlink(missing_ok=True)
        words = [
            "curl",
            "-sS",
            "-m",
            "10",
            "--cacert",
            str(self.folder / "api.pem"),
            "-X",
            method,
            "-D",
            str(head),
            "-H",
            "Expect:",
        ]
        if token:
            words += ["-H", f"Authorization: Bearer {token}"]
        if body is not None:
            words += ["--data-binary", body if isinstance(body, str) else json.dumps(body)]
        text = self.room.run(self.where, [*words, f"{url}/api/v1/{path}"], check=False)
        lines = head.read_text().splitlines() if head.exists() else []
        if not lines:
            return 0, text, {}
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        return int(lines[0].split()[1]), json.loads(text) if text else None, headers


def make(daemon: Daemon, name: str, scope: str, *words: str) -> str:
    """A token, made over the unix socket."""
    answer = json.loads(daemon.command("token", "create", name, "--scope", scope, "--json", *words))
    return str(answer["token"])


REFUSED_TO_READ = [
    ("POST", "sessions", {"source": "/x", "nodes": "any", "disk": "only"}, "operate"),
    ("POST", "preview", {"source": "/x", "nodes": "any", "disk": "only"}, "operate"),
    ("PATCH", "sessions/x", {"start_now": True}, "operate"),
    ("DELETE", "sessions/x", None, "operate"),
    ("PUT", "labels/default", {"label": "rescue"}, "operate"),
    ("PUT", "nodes/52:54:00:00:00:01/name", {"name": "a"}, "operate"),
    ("DELETE", "nodes/52:54:00:00:00:01/parked", None, "operate"),
    ("GET", "tokens", None, "admin"),
    ("POST", "tokens", {"name": "more", "scope": "admin"}, "admin"),
    ("DELETE", "tokens/reader", None, "admin"),
]


def test_scopes_revocation_and_what_the_log_says(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, settings(folder, "failures_per_minute = 100"))
    process = daemon.start()
    caller = Caller(room, folder)
    reader, operator, admin = (make(daemon, f"{scope}er", scope) for scope in ("read", "operate", "admin"))
    status, state, _ = caller.ask("GET", "state", reader)
    assert (status, state["default_label"], state["journal"]) == (200, "local", "ok")
    for method, path, body, scope in REFUSED_TO_READ:
        status, answer, headers = caller.ask(method, path, reader, body)
        assert (status, answer["error"]["code"]) == (403, Exit.REFUSED), (method, path)
        assert headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{scope}"'
    assert caller.ask("GET", "state", reader)[1]["default_label"] == "local"
    assert caller.ask("PUT", "labels/default", operator, {"label": "rescue"})[0] == 204
    assert caller.ask("GET", "state", operator)[1]["default_label"] == "rescue"
    assert caller.ask("GET", "tokens", operator)[0] == 403
    status, answer, headers = caller.ask("POST", "tokens", admin, {"name": "new", "scope": "read", "seconds": 1e6})
    assert (status, headers["cache-control"]) == (201, "no-store")
    fresh = answer["token"]
    assert caller.ask("GET", "nodes", fresh)[:2] == (200, [])
    assert caller.ask("DELETE", "tokens/new", admin)[0] == 204
    status, answer, headers = caller.ask("GET", "nodes", fresh)
    assert (status, answer["error"]["message"]) == (401, "the token is unknown, revoked or expired")
    assert headers["www-authenticate"] == 'Bearer realm="bootd", error="invalid_token"'
    assert caller.ask("GET", "nodes")[0] == 401
    assert caller.ask("GET", "nothing")[0] == 401  # what is there is not told to strangers
    assert caller.ask("GET", "nothing", reader)[0] == 404
    assert caller.ask("PUT", "labels/default", operator, " " * 1000)[0] == 400
    (folder / "big").write_bytes(b" " * (2 << 20))
    assert caller.ask("PUT", "labels/default", operator, f"@{folder}/big")[0] == 413
    daemon.command("token", "revoke", "reader")
    assert caller.ask("GET", "state", reader)[0] == 401
    names = {line["name"]: line["used"] for line in json.loads(daemon.command("token", "list", "--json"))}
    assert set(names) == {"operateer", "adminer"}
    assert all(names.values())
    tls = ["curl", "-sS", "-o", "/dev/null", "--cacert", str(folder / "api.pem"), "-w", "%{http_code}"]
    assert room.run("n1", [*tls, URL]) == "401"
    assert room.run("n1", [*tls, "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", URL], check=False) == "000"
    assert caller.ask("GET", "state", operator, url=URL.replace("https", "http"))[0] == 0  # plain HTTP gets nothing
    process.stop()
    assert "wrong token" in process.output
    assert "Traceback" not in process.output
    for token in (reader, operator, admin, fresh):
        secret = token.removeprefix("bootd_")
        assert secret not in process.output
        for file in (folder / "state").glob("*.db*"):
            assert secret.encode() not in file.read_bytes(), file


def test_a_revoked_token_loses_its_stream(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, settings(folder))
    daemon.start()
    token = make(daemon, "watcher", "read")
    stream = watch(room, folder, token)
    stream.wait_for("event: state")
    daemon.command("token", "revoke", "watcher")
    assert stream.wait(10) == 0


def test_an_expired_token_loses_its_stream(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, settings(folder))
    daemon.start()
    caller, admin = Caller(room, folder), make(daemon, "admin", "admin")
    token = caller.ask("POST", "tokens", admin, {"name": "brief", "scope": "read", "seconds": 2})[1]["token"]
    stream = watch(room, folder, token)
    stream.wait_for("event: state")
    assert stream.wait(10) == 0
    assert caller.ask("GET", "state", token)[0] == 401
    assert [line["expired"] for line in caller.ask("GET", "tokens", admin)[1]] == [False, True]


def watch(room: Room, folder: Path, token: str) -> Process:
    words = ["--cacert", str(folder / "api.pem"), "-H", f"Authorization: Bearer {token}", f"{URL}/api/v1/events"]
    return room.start("n1", ["curl", "-sSN", *words])


def test_limits_are_per_address(room: Room, folder: Path) -> None:
    limits = ("requests_per_second = 0.5", "failures_per_minute = 3", "max_connections_per_address = 2")
    daemon = Daemon(room, folder, settings(folder, *limits))
    daemon.start()
    token = make(daemon, "reader", "read")
    first, second = Caller(room, folder), Caller(room, folder, "n2")
    assert first.ask("GET", "labels", token)[0] == 200
    status, answer, headers = first.ask("GET", "labels", token)
    assert (status, answer["error"]["message"]) == (429, "too many requests from this address")
    assert answer["error"]["code"] == Exit.BUSY
    assert 1 <= int(headers["retry-after"]) <= 2
    assert second.ask("GET", "labels", token)[0] == 200


def test_wrong_tokens_are_limited_and_right_ones_still_pass(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, settings(folder, "requests_per_second = 1000", "failures_per_minute = 3"))
    process = daemon.start()
    token = make(daemon, "reader", "read")
    caller = Caller(room, folder)
    answers = [caller.ask("GET", "labels", "bootd_wrong") for _ in range(6)]
    assert [status for status, _, _ in answers] == [401, 401, 401, 429, 429, 429]
    assert 1 <= int(answers[-1][2]["retry-after"]) <= 20
    assert caller.ask("GET", "labels", token)[0] == 200
    assert len(re.findall("wrong token", process.output)) == 3
    assert "bootd_wrong" not in process.output


def test_handshakes_that_never_end_keep_nobody_out(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, settings(folder))
    process = daemon.start()
    token = make(daemon, "reader", "read")
    program = (
        "import socket, sys\n"
        f"held = [socket.create_connection(('{ADDRESS}', 7469)) for _ in range(30)]\n"
        "closed = sum(sock.recv(1) == b'' for sock in held[8:])\n"
        "print('closed', closed, flush=True); sys.stdin.read()"
    )
    holder = room.start("n1", ["python3", "-c", program])
    assert holder.wait_for(r"closed (\d+)")[1] == "22"  # eight of an address at a time
    assert Caller(room, folder, "n2").ask("GET", "labels", token)[0] == 200
    assert process.running()


def test_the_command_line_works_over_it(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, settings(folder))
    daemon.start()
    daemon.command("token", "create", "me", "--scope", "admin", "--out", str(folder / "token"))
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    options = ["--server", URL, "--token-file", str(folder / "token"), "--ca", str(folder / "api.pem")]

    def command(*words: str, where: list[str] = options) -> str:
        return room.run("n1", [BOOTD, *where, *words], check=False)

    command("label", "set-default", "rescue")
    assert daemon.state()["default_label"] == "rescue"
    assert json.loads(command("state", "--json"))["default_label"] == "rescue"
    command("node", "name", "52:54:00:00:00:01", "one")
    assert [node["name"] for node in json.loads(command("node", "list", "--json"))] == ["one"]
    assert [line["name"] for line in json.loads(command("token", "list", "--json"))] == ["me"]
    untrusted = room.run("n1", ["sh", "-c", f"{BOOTD} {' '.join(options[:4])} state 2>&1; echo status $?"])
    assert "is not trusted" in untrusted
    assert f"status {Exit.UNREACHABLE.value}" in untrusted
    (folder / "token").chmod(0o644)
    readable = room.run("n1", ["sh", "-c", f"{BOOTD} {' '.join(options)} state 2>&1; echo status $?"])
    assert "chmod o=" in readable


def test_answers_are_as_described(room: Room, folder: Path) -> None:
    """The daemon's own answers against the schemas that it hands out."""
    daemon = Daemon(room, folder, settings(folder, "requests_per_second = 1000"))
    daemon.start()
    token = make(daemon, "me", "admin")
    caller = Caller(room, folder)
    image = folder / "image"
    image.write_bytes(b"x" * (1 << 20))
    room.run("n2", ["curl", "-sSf", f"http://{ADDRESS}:7467/boot/boot.ipxe?mac=52:54:00:00:00:02"])
    document = caller.ask("GET", "openapi.json", token)[1]
    deploy = {"source": str(image), "nodes": "any", "disk": "only", "expect": 1, "name": "one"}
    checked = set()

    def check(method: str, path: str, template: str, body: Any = None) -> None:
        status, answer, _ = caller.ask(method, path, token, body)
        operation = document["paths"][f"/api/v1/{template}"][method.lower()]
        described = operation["responses"][str(status)]["content"]["application/json"]["schema"]
        schema = {**described, "components": document["components"]}
        assert [error.message for error in OAS31Validator(schema).iter_errors(answer)] == [], path
        assert status in (200, 201), (path, answer)
        checked.add((method, template))

    check("POST", "preview", "preview", deploy)
    check("POST", "sessions", "sessions", deploy)
    check("PATCH", "sessions/one", "sessions/{id}", {"expect": 2})
    check("POST", "tokens", "tokens", {"name": "other", "scope": "read"})
    for path in ("state", "sessions", "nodes", "timeline", "leases", "labels", "tokens", "openapi.json"):
        check("GET", path, path)
    check("GET", "sessions/one", "sessions/{id}")
    check("GET", "nodes/52:54:00:00:00:02/boots", "nodes/{node}/boots")
    check("POST", "power", "power", {"nodes": "52:54:00:00:00:02", "action": "wake"})
    check("DELETE", "sessions/one", "sessions/{id}")
    assert caller.ask("GET", "nodes", token)[1]
    assert len(checked) == 16


def test_without_tls_only_on_loopback(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, f'[api]\nenabled = true\naddress = "{ADDRESS}"\n')
    process = daemon.start_unready()
    assert process.wait(10) == Exit.CONFIG
    assert "without TLS" in process.output
    daemon = Daemon(room, folder, "[api]\nenabled = true\n")
    daemon.start()
    token = make(daemon, "reader", "read")
    local = Caller(room, folder, "server")
    assert local.ask("GET", "labels", token, url="http://127.0.0.1:7469")[0] == 200
    assert local.ask("GET", "labels", url="http://127.0.0.1:7469")[0] == 401
    assert Caller(room, folder).ask("GET", "labels", token, url=f"http://{ADDRESS}:7469")[0] == 0


@pytest.mark.parametrize("broken", ["missing", "rubbish", "stranger", "locked"])
def test_a_certificate_that_cannot_be_used(room: Room, folder: Path, broken: str) -> None:
    key = folder / "api.key"
    if broken == "missing":
        key.unlink()
    elif broken == "rubbish":
        key.write_text("rubbish")
    elif broken == "locked":
        words = ["openssl", "ec", "-in", str(key), "-aes128", "-passout", "pass:secret", "-out", str(key)]
        subprocess.run(words, check=True, capture_output=True, timeout=20)
    else:
        old = (folder / "api.pem").read_bytes()
        certificate(folder)
        (folder / "api.pem").write_bytes(old)
    process = Daemon(room, folder, settings(folder)).start_unready()
    assert process.wait(10) == Exit.CONFIG
    assert "api.key" in process.output
