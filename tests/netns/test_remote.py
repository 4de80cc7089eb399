"""Logs of nodes, commands on them, and word of a session's end: the real daemon, command line and agents."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, BOOTD, HTTP_PORT, Daemon
from tests.netns.room import Process, Room, until
from tests.netns.test_serve import CHUNK, numbered

NODES = {"n1": "52:54:00:00:00:01", "n2": "52:54:00:00:00:02"}
SIZE = 40 * CHUNK


class Place(Daemon):
    """A daemon, and two nodes whose disks are loop devices."""

    def __init__(self, room: Room, folder: Path, stack: contextlib.ExitStack) -> None:
        super().__init__(room, folder)
        self.process: Process
        self.devices: dict[str, str] = {}
        for name in NODES:
            file = folder / f"{name}.disk"
            file.write_bytes(b"\xaa" * SIZE)
            done = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"no loop device: {done.stderr.strip()}")
            self.devices[name] = done.stdout.strip()
            stack.callback(subprocess.run, ["losetup", "--detach", self.devices[name]], check=False)

    def node(self, name: str) -> Process:
        words = [NODES[name], f"10.9.0.1{name[1:]}", f"{ADDRESS}:{HTTP_PORT}", self.devices[name]]
        return self.room.start(name, [sys.executable, "-m", "tests.netns.agent_node", *words])

    def kill_and_start(self) -> None:
        """Kill -9, and the next daemon."""
        self.process.signal(signal.SIGKILL)
        self.process.wait(5)
        self.process = self.start()

    def nodes_up(self) -> dict[str, Process]:
        """A started daemon and both nodes, which wait for work."""
        self.process = self.start()
        self.command("label", "set-default", "kamethod")
        nodes = {name: self.node(name) for name in NODES}
        for one in nodes.values():
            one.wait_for("waiting: no session wants this node")
        return nodes


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        devices = stack.enter_context(contextlib.ExitStack())
        room = stack.enter_context(Room("server", *NODES))
        room.address("server", f"{ADDRESS}/24")
        for number, name in enumerate(NODES, 1):
            room.address(name, f"10.9.0.{10 + number}/24")
        yield Place(room, folder, devices)


# --- commands ----------------------------------------------------------------------------------------------


def test_a_command_on_two_nodes(place: Place) -> None:
    place.nodes_up()
    where = place.command("exec", "any", "--", "ip", "-o", "-4", "addr", "show", "eth0")
    assert "node-525400000001: " in where
    for number in (1, 2):
        assert f"10.9.0.1{number}/24" in where, "each on its own node"
    one = NODES["n1"]
    text = place.command("exec", one, "--", "sh", "-c", "echo fine; echo bad >&2; exit 5", expect=Exit.ERROR)
    assert "node-525400000001: fine" in text
    assert "node-525400000001: bad" in text
    assert "bootd: node-525400000001: status 5" in text
    test = 'ip -o -4 addr show eth0 | grep -q "10.9.0.11/"'
    partly = place.command("exec", "--json", "any", "--", "sh", "-c", test, expect=Exit.PARTLY)
    done = json.loads(partly)
    assert [(node["node"], node["code"]) for node in done["nodes"]] == [(NODES["n1"], 0), (NODES["n2"], 1)]
    absent = place.command("exec", "52:54:00:00:00:99", "--", "true", expect=Exit.REFUSED)
    assert "it is not up in stage2" in absent
    assert "NODES -- COMMAND" in place.command("exec", one, "true", expect=Exit.USAGE)
    lines = json.loads(place.command("audit", "--json"))
    told = [line["detail"] for line in lines if line["what"] == "exec"]
    assert any(f"on {NODES['n1']}: sh -c 'echo fine; echo bad >&2; exit 5'" in detail for detail in told)
    assert all(line["who"].startswith("root") for line in lines if line["what"] == "exec")
    assert "status 5" in place.command("node", "timeline", one)


def alive(place: Place, name: str, mark: str) -> list[str]:
    """Processes in the namespace of a node whose command line holds ``mark``."""
    listed = subprocess.run(["ip", "netns", "pids", place.room.namespace(name)], capture_output=True, text=True)
    found = []
    for number in listed.stdout.split():
        with contextlib.suppress(OSError):
            if mark.encode() in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(number)
    return found


def test_limit_and_cancel_leave_no_process(place: Place) -> None:
    place.nodes_up()
    text = place.command("exec", "--timeout", "1", NODES["n1"], "--", "sleep", "4711", expect=Exit.ERROR)
    assert "time limit" in text
    assert not alive(place, "n1", "4711")
    words = [BOOTD, "--socket", str(place.socket), "exec", "any", "--", "sh", "-c", "echo up; sleep 4712 & wait"]
    waiting = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: all(alive(place, name, "sleep\x004712") for name in NODES), 20, "it runs on both")
        waiting.send_signal(signal.SIGINT)
        text, _ = waiting.communicate(timeout=20)
    finally:
        waiting.kill()
        waiting.wait()
    assert waiting.returncode == Exit.ERROR, text
    assert "stopped" in text
    until(lambda: not any(alive(place, name, "4712") for name in NODES), 10, "nothing is left")


def test_commands_of_a_daemon_that_dies_are_ended(place: Place) -> None:
    place.nodes_up()
    words = [BOOTD, "--socket", str(place.socket), "exec", NODES["n1"], "--", "sleep", "4713"]
    waiting = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: bool(alive(place, "n1", "4713")), 20, "it runs")
        place.kill_and_start()
        until(lambda: not alive(place, "n1", "4713"), 30, "the next daemon knows nothing of it")
        waiting.communicate(timeout=20)
    finally:
        waiting.kill()
        waiting.wait()
    assert waiting.returncode in (Exit.UNREACHABLE, Exit.USAGE)


def test_only_with_the_token_of_the_node(place: Place) -> None:
    """Nobody without it can say what a node printed, nor hear what it is told; nothing listens on the node."""
    place.nodes_up()
    listening = place.room.run("n1", ["ss", "-H", "-ltn"])
    assert listening.strip() == "", "no port of a node that waits is open"
    url = f"http://{ADDRESS}:{HTTP_PORT}/node/v1"
    body = json.dumps({"type": "output", "node": NODES["n1"], "id": "x", "number": 1, "pieces": []})
    log = json.dumps({"type": "log", "node": NODES["n1"], "boot": "x", "stage": "stage2", "first": 0, "lines": []})
    script = place.room.run(
        "n2", ["curl", "-sSf", f"http://{ADDRESS}:{HTTP_PORT}/boot/boot.ipxe?mac={NODES['n2']}"]
    )
    other = script.partition("bootd.token=")[2].split()[0]
    ask = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"]
    for path, data in (("output", body), ("log", log)):
        for token in ("00" * 16, other):
            header = ["-H", f"Authorization: Bearer {token}"]
            assert place.room.run("n2", [*ask, *header, "--data-binary", data, f"{url}/{path}"]) == "401"
        assert place.room.run("n2", [*ask, "--data-binary", data, f"{url}/{path}"]) == "401"
    header = ["-H", f"Authorization: Bearer {other}"]
    assert place.room.run("n2", [*ask, *header, f"{url}/events?node={NODES['n1']}"]) == "401"


def test_a_node_at_work_is_left_alone(place: Place) -> None:
    nodes = place.nodes_up()
    numbered(place.folder / "image", 32)
    place.room.limit("n1", 16)
    image = str(place.folder / "image")
    place.command("deploy", image, NODES["n1"], "--disk", "only", "--name", "room", "--yes")
    nodes["n1"].wait_for("receiving", 90)
    text = place.command("exec", "any", "--", "true", expect=Exit.PARTLY)
    assert "node-525400000001: refused: session room is at it" in text
    place.command("exec", "--in-session", "any", "--", "true")
    place.command("wait", "room", "--timeout", "120", expect=Exit.OK, seconds=130)


# --- logs --------------------------------------------------------------------------------------------------


def test_logs_of_a_session_survive_the_daemon(place: Place) -> None:
    nodes = place.nodes_up()
    data = numbered(place.folder / "image", 8)
    image = str(place.folder / "image")
    place.command("deploy", image, ",".join(NODES.values()), "--disk", "only", "--name", "room", "--yes")
    place.command("wait", "room", "--timeout", "120", expect=Exit.OK, seconds=130)
    for name, one in nodes.items():
        assert one.wait(20) == 0
        assert (place.folder / f"{name}.disk").read_bytes()[: len(data)] == data
    text = place.command("logs", NODES["n1"])
    wanted = ["joined", "plan loop", "old partition table saved", "ready ", "receiving", "verified", "rebooting"]
    places = [text.index(word) for word in wanted]
    assert places == sorted(places)
    of_session = place.command("logs", NODES["n1"], "--session", "room")
    assert "verified" in of_session
    assert "joined" not in of_session.splitlines()[1]
    place.kill_and_start()
    assert place.command("logs", NODES["n1"]) == text
    lines = json.loads(place.command("logs", NODES["n2"], "--json"))
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert {line["boot"] for line in lines} == {boot}
    place.command("logs", NODES["n2"], "--clear")
    assert place.command("logs", NODES["n2"]) == ""
    assert "clear-logs" in place.command("audit")
    assert place.command("logs", NODES["n1"]) == text


def test_logs_are_followed_through_a_restart(place: Place) -> None:
    nodes = place.nodes_up()
    words = [BOOTD, "--socket", str(place.socket), "logs", "-f", NODES["n1"]]
    follower = place.room.start("server", words, {"PYTHONUNBUFFERED": "1"})
    follower.wait_for("waiting: no session wants this node")
    place.kill_and_start()
    until(lambda: all(node["present"] for node in place.state()["nodes"]), 20, "the nodes are heard of again")
    numbered(place.folder / "image", 2)
    image = str(place.folder / "image")
    place.command("deploy", image, NODES["n1"], "--disk", "only", "--name", "room", "--yes")
    follower.wait_for("plan loop", 60)
    follower.wait_for("rebooting", 60)
    assert nodes["n1"].wait(20) == 0
    follower.signal(signal.SIGINT)
    assert follower.wait(10) == 0


# --- word of the end ---------------------------------------------------------------------------------------

HOOK = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print("hook:", self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(("10.9.0.12", 8080), Handler).serve_forever()
"""


def test_mail_and_webhook_after_a_restart(place: Place) -> None:
    """Asked for with deploy and with wait, owed through a kill -9, told by the next daemon."""
    with place.config.open("a") as file:
        file.write('[notify]\nsmtp = "10.9.0.12:2525"\nsender = "bootd@example.org"\n')
    mail = place.room.start(
        "n2", [sys.executable, "-m", "aiosmtpd", "-n", "-l", "10.9.0.12:2525"], {"PYTHONUNBUFFERED": "1"}
    )
    hook = place.room.start("n2", [sys.executable, "-c", HOOK])
    place.process = place.start()
    place.command("label", "set-default", "kamethod")
    numbered(place.folder / "image", 2)
    image = str(place.folder / "image")
    words = ("--notify", "mailto:ops@example.org", "--name", "room", "--yes")
    place.command("deploy", image, NODES["n1"], "--disk", "only", *words)
    place.command("wait", "room", "--timeout", "0.1", "--notify", "http://10.9.0.12:8080/x", expect=Exit.ERROR)
    assert place.command("session", "notices", "room").splitlines() == [
        "mailto:ops@example.org: waiting",
        "http://10.9.0.12:8080/…: waiting",
    ]
    place.kill_and_start()
    assert place.node("n1").wait_for("rebooting", 90)
    place.command("wait", "room", "--timeout", "30", expect=Exit.OK, seconds=40)
    told = json.loads(hook.wait_for(r"hook: (\{.*\})").group(1))
    assert (told["name"], told["state"], told["code"]) == ("room", "done", 0)
    mail.wait_for(r"Subject: \[bootd\] session room: done, 1 of 1 nodes cloned")
    until(lambda: place.command("session", "notices", "room").count(": sent") == 2, 10, "both are noted as sent")
    wrong = place.command("wait", "room", "--notify", "ops@example.org", expect=Exit.USAGE)
    assert "mailto:" in wrong
    assert (place.folder / "state" / "logs.db").stat().st_mode & 0o077 == 0
