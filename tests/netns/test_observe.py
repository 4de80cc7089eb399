"""What the daemon tells of itself: metrics as the Prometheus project's parser reads them, health, and its log."""

import json
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bootd.drivers.boot_context import ARTEFACTS
from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room, until
from tests.netns.test_serve import numbered

NODES = {"n1": "52:54:00:00:00:01", "n2": "52:54:00:00:00:02"}
SETTINGS = '[dns]\nenabled = true\nzone = "room.example"\n'
SIZE = 4 << 20

pytestmark = pytest.mark.netns


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    try:
        with Room("server", *NODES) as room:
            room.address("server", f"{ADDRESS}/24")
            for number, (name, mac) in enumerate(NODES.items(), 1):
                room.mac(name, mac)
                room.address(name, f"10.9.0.{10 + number}/24")
            daemon = Daemon(room, folder, SETTINGS)
            for artefact in ARTEFACTS:
                path = daemon.boot / artefact
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"x" * 1000)
            yield daemon
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def metrics(daemon: Daemon) -> dict[tuple[str, ...], float]:
    """Sample name and label values to value. No name may be declared twice: Prometheus refuses that."""
    families = list(text_string_to_metric_families(daemon.command("metrics")))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(family.documentation and family.type in ("counter", "gauge") for family in families)
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def lines(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]


def start_node(daemon: Daemon, name: str, size: int) -> Process:
    target = daemon.folder / f"{name}.disk"
    target.write_bytes(b"\xaa" * size)
    words = [NODES[name], f"10.9.0.1{name[1:]}", f"{ADDRESS}:{HTTP_PORT}", str(target), str(size)]
    return daemon.room.start(name, [sys.executable, "-m", "tests.netns.ring_node", *words])


def test_every_service_is_counted(daemon: Daemon) -> None:
    daemon.start()
    before = metrics(daemon)
    room = daemon.room
    call = {"arch": 7, "mac": NODES["n1"], "xid": 1, "seconds": 5.0, "answers": 1}
    assert room.run("n1", [sys.executable, "-m", "tests.netns.pxe_client", "discover", json.dumps(call)], 30)
    other = {**call, "xid": 2, "vendor": "udhcp", "seconds": 0.5}
    assert not room.run("n1", [sys.executable, "-m", "tests.netns.pxe_client", "discover", json.dumps(other)], 30)
    room.run("n1", ["curl", "-sS", "-o", "/dev/null", f"tftp://{ADDRESS}/ipxe.efi"], 30)
    room.run("n1", ["sh", "-c", f"curl -sS -o /dev/null tftp://{ADDRESS}/none || true"], 30)
    room.run("n1", ["curl", "-sS", "-o", "/dev/null", f"http://{ADDRESS}:7468/ipxe.efi"], 30)
    room.run("n1", ["curl", "-sS", "-o", "/dev/null", f"http://{ADDRESS}:{HTTP_PORT}/boot/none"], 30)
    room.run("n1", ["dig", f"@{ADDRESS}", "+tries=1", "+time=4", "ns.room.example"], 30)
    wanted: dict[tuple[str, ...], float] = {
        ("bootd_dhcp_answers_total", "offer"): 1,
        ("bootd_dhcp_ignored_total", "not a network boot client"): 1,
        ("bootd_tftp_transfers_total", "complete"): 1,
        ("bootd_tftp_bytes_total",): 1000,
        ("bootd_tftp_refused_total", "not_found"): 1,
        ("bootd_http_files_total",): 1,
        ("bootd_http_file_bytes_total",): 1000,
        ("bootd_http_requests_total", "nodes", "404"): 1,
        ("bootd_dns_answers_total", "reply"): 1,
    }

    def grown() -> dict[tuple[str, ...], float]:
        after = metrics(daemon)
        return {key: after.get(key, 0.0) - before.get(key, 0.0) for key in wanted}

    until(lambda: grown() == wanted, 10, "what was asked is counted")  # TFTP and file workers tell a moment later
    after = metrics(daemon)
    assert after["bootd_info", "0.1.0"] == 1
    assert after["process_resident_memory_bytes",] > 1 << 20
    assert after["bootd_healthy",] == 1


def test_a_session_is_counted_and_each_of_its_lines_names_it(daemon: Daemon) -> None:
    process = daemon.start()
    data = numbered(daemon.folder / "image", 4)
    daemon.command("label", "set-default", "kamethod")
    image = str(daemon.folder / "image")
    daemon.command("deploy", image, "any", "--disk", "only", "--expect", "9", "--name", "room", "--yes")
    id_ = daemon.session("room")["id"]
    until(lambda: metrics(daemon).get(("bootd_sessions", "waiting")) == 1, 10, "the session is counted")
    nodes = [start_node(daemon, name, len(data)) for name in NODES]
    until(lambda: metrics(daemon).get(("bootd_members", "ready")) == 2, 40, "both are counted as ready")
    daemon.command("session", "start-now", "room", "--wait", expect=Exit.OK, seconds=70)
    assert [node.wait(10) for node in nodes] == [0, 0]
    after = metrics(daemon)
    for kind in ("written", "durable", "verified"):
        assert after["bootd_ring_bytes_total", kind] == 2 * len(data), kind
    assert after["bootd_sessions_ended_total", "done"] == 1
    assert after["bootd_nodes", "known"] == 2
    log = lines(process)
    assert log
    for line in log:
        assert {"node", "session", "level", "timestamp", "event"} <= line.keys(), line
    text = [line for line in log if line["session"]]
    assert {line["session"] for line in text} == {id_}
    assert {line["node"] for line in text} >= set(NODES.values()), "each node has lines of the session"
    begun = next(number for number, line in enumerate(log) if line["session"] == id_)
    ended = max(number for number, line in enumerate(log) if line["session"] == id_)
    for line in log[begun : ended + 1]:
        told = {"joined", "ready", "verified", "done", "durable", "receiving", "saved", "worker"}
        if line["event"] in told:
            assert line["session"] == id_, line
    secrets = kept_secrets(daemon)
    assert len(secrets) >= 2, "of the nodes"
    assert_untold(daemon, process, secrets)


def test_no_secret_is_told(daemon: Daemon) -> None:
    """Tokens made, used, revoked, guessed, sent to the wrong place; a session with its join tokens, cancelled."""
    daemon.config.write_text(daemon.config.read_text() + '[api]\nenabled = true\naddress = "127.0.0.1"\n')
    process = daemon.start()
    token = json.loads(daemon.command("token", "create", "ci", "--scope", "admin", "--json"))["token"]
    url = "http://127.0.0.1:7469/api/v1"

    def ask(path: str, bearer: str, *words: str) -> str:
        command = ["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", *words]
        return daemon.room.run("server", [*command, "-H", f"Authorization: Bearer {bearer}", f"{url}{path}"], 20)

    guess = "bootd_" + "guess" * 8
    assert ask("/state", token) == "200"
    assert ask("/state", guess) == "401"
    assert ask(f"/nodes/{token}/boots", token) == "400", "a token in the wrong place"
    assert ask("/sessions", token, "-d", json.dumps({"source": guess})) == "400"
    numbered(daemon.folder / "image", 4)
    daemon.command(
        "deploy", str(daemon.folder / "image"), "any", "--disk", "only", "--expect", "9", "--name", "room", "--yes"
    )
    until(lambda: daemon.session("room")["state"] == "waiting", 10, "the head has digested the image")
    secrets = kept_secrets(daemon)
    assert len(secrets) >= 2, "of the session and of its head"
    daemon.command("session", "cancel", "room", "--yes")
    daemon.command("token", "revoke", "ci")
    assert ask("/state", token) == "401"
    assert_untold(daemon, process, [token, guess, *secrets])


def kept_secrets(daemon: Daemon) -> list[str]:
    """Boot tokens, and the tokens of open sessions, as the journal keeps them."""
    with closing(sqlite3.connect(daemon.folder / "state" / "bootd.db")) as book:
        secrets = [token for (token,) in book.execute("SELECT token FROM node")]
        for (body,) in book.execute("SELECT body FROM session"):
            secrets += [json.loads(body)[key] for key in ("join_token", "head_token")]
    return [secret for secret in secrets if len(secret) >= 16]


def assert_untold(daemon: Daemon, process: Process, secrets: list[str]) -> None:
    """None of them is in the log, the state, the audit, the metrics or a timeline."""
    told = process.output + daemon.command("audit", "--json") + daemon.command("state", "--json")
    told += daemon.command("metrics") + "".join(daemon.command("node", "timeline", mac) for mac in NODES.values())
    for secret in secrets:
        assert secret not in told


def test_health(daemon: Daemon) -> None:
    daemon.start()
    room = daemon.room

    def probe() -> str:
        url = f"http://{ADDRESS}:{HTTP_PORT}/health"
        return room.run("n1", ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url], 30)

    until(lambda: daemon.command("health").strip() == "ok", 10, "workers run")
    assert json.loads(daemon.command("health", "--json")) == {"ok": True, "trouble": []}
    assert probe() == "200"
    (daemon.boot / "ipxe.efi").unlink()
    text = daemon.command("health", expect=Exit.ERROR)
    assert "ipxe.efi" in text
    assert "bootd stage build" in text
    assert probe() == "503"
    assert metrics(daemon)["bootd_healthy",] == 0
    (daemon.boot / "ipxe.efi").write_bytes(b"x")
    assert probe() == "200"
    room.run("server", ["ip", "address", "flush", "dev", "eth0"])
    until(lambda: metrics(daemon)["bootd_healthy",] == 0, 10, "the interface is missed")
    assert "DHCP is silent on eth0" in daemon.command("health", expect=Exit.ERROR)
