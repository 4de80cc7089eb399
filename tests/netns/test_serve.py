"""The daemon as a whole: start, refusals, hostile requests, its end, and a ring through it."""

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from random import Random

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room, until

CHUNK = 1 << 20
NODES = ("n1", "n2", "n3")


@pytest.fixture
def room() -> Iterator[Room]:
    with Room("server", *NODES) as made:
        made.address("server", f"{ADDRESS}/24")
        for number, name in enumerate(NODES, 1):
            made.address(name, f"10.9.0.{10 + number}/24")
            made.mac(name, f"52:54:00:00:00:0{number}")
        yield made


BULK = "bootd.drivers.http.bulk"
HEAD = "bootd.member.head"


def children(pid: int, module: str = "") -> list[int]:
    """Processes that ``pid`` started; only those that run ``module``, if it is given."""
    numbers = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [number for number in numbers if module.encode() in command_line(number)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def bulk_worker(daemon: Process) -> int:
    """Process id of a bulk worker, once it is there."""
    until(lambda: bool(children(daemon.pid, BULK)), 10, "the bulk worker is there")
    return children(daemon.pid, BULK)[0]


def gone(pid: int) -> bool:
    """No such process, or one that only waits to be collected."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_ready_then_ends_cleanly_without_orphans(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    process = daemon.start()
    assert daemon.socket.stat().st_mode & 0o777 == 0o600
    image = folder / "image"
    image.write_bytes(os.urandom(CHUNK))
    options = ["--fan-out", "3", "--order", "switch", "--delta", "--zeros", "discard", "--keep-open", "60"]
    daemon.command(
        "deploy", str(image), "any", "--disk", "only", "--expect", "1", "--yes", "--name", "one", *options
    )
    until(lambda: daemon.session("one")["state"] == "waiting", 20, "the head has digested the source")
    asked = ("fan_out", "order", "compare", "zeros", "keep_open")
    assert [daemon.session("one")[key] for key in asked] == [3, "switch", True, "discard", 60.0]
    assert "fan-out 3 · order switch · delta · zeros discarded · open 60 s longer" in daemon.command("state")
    workers = children(process.pid)
    for module in (BULK, "bootd.drivers.tftp.worker", HEAD):
        assert children(process.pid, module), module
    begun = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait(10) == Exit.OK
    assert time.monotonic() - begun < 6
    assert all(gone(pid) for pid in workers)
    assert not daemon.socket.exists()
    process = daemon.start()  # the state that it left is taken over, and the session goes on with another head
    assert daemon.session("one")["state"] == "waiting"
    until(lambda: daemon.session("one")["head"]["state"] == "ready", 20, "another head has digested the source")
    assert len(children(process.pid, HEAD)) == 1
    assert [daemon.session("one")[key] for key in asked] == [3, "switch", True, "discard", 60.0]
    daemon.command("session", "close", "one")
    daemon.command("wait", "one", "--timeout", "20", expect=Exit.ERROR)
    assert daemon.session("one")["reason"] == "closed before any node had joined"


def test_workers_end_when_the_daemon_is_killed(room: Room, folder: Path) -> None:
    process = Daemon(room, folder).start()
    bulk_worker(process)
    workers = children(process.pid)
    process.signal(signal.SIGKILL)
    process.wait(5)
    until(lambda: all(gone(pid) for pid in workers), 5, "workers end with their standard input")


def test_dead_bulk_worker_is_replaced(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    process = daemon.start()
    (daemon.boot / "file").write_bytes(b"x" * 100_000)
    bulk = bulk_worker(process)
    os.kill(bulk, signal.SIGKILL)
    until(lambda: gone(bulk) and bool(children(process.pid, BULK)), 10, "another worker")
    assert bulk not in children(process.pid, BULK)
    size = room.run("n1", ["curl", "-sSf", "-o", "/dev/null", "-w", "%{size_download}", bulk_url("file")])
    assert size == "100000"


def bulk_url(path: str) -> str:
    return f"http://{ADDRESS}:7468/{path}"


def test_bulk_serves_ranges_and_nothing_outside(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    daemon.start()
    content = os.urandom(300_000)
    (daemon.boot / "stage1").mkdir()
    (daemon.boot / "stage1" / "vmlinuz").write_bytes(content)
    (folder / "state" / "secret").write_text("secret")
    (daemon.boot / "link").symlink_to("../secret")
    part = room.run(
        "n1", ["curl", "-sSf", "-r", "1000-1999", bulk_url("stage1/vmlinuz"), "-o", str(folder / "part")]
    )
    assert part == ""
    assert (folder / "part").read_bytes() == content[1000:2000]
    for path in ("link", "../secret", "..%2fsecret", "stage1", "", "nothing", "%00", "x" * 5000):
        status = room.run("n1", curl("-o", "/dev/null", "-w", "%{http_code}", bulk_url(path)))
        assert status == "404", path


def curl(*words: str) -> list[str]:
    return ["curl", "-sS", "--path-as-is", "-m", "10", *words]


def test_second_daemon_and_ports_in_use_are_refused(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    daemon.start()
    second = daemon.start_unready()
    assert second.wait(10) == Exit.BUSY
    assert "running already" in second.output
    assert "-> " in second.output
    other = folder / "other"
    other.mkdir()
    third = Daemon(room, other).start_unready()  # another run folder, the same ports
    assert third.wait(10) == Exit.BUSY
    assert re.search(r"port 7467/tcp", third.output)
    assert not (other / "run" / "bootd.sock").exists()
    assert daemon.state()["sessions"] == []


@pytest.mark.parametrize(("port", "protocol"), [(69, "udp"), (67, "udp"), (4011, "udp"), (7468, "tcp")])
def test_each_port_in_use_is_named(room: Room, folder: Path, port: int, protocol: str) -> None:
    kind = "SOCK_DGRAM" if protocol == "udp" else "SOCK_STREAM"
    program = (
        f"import socket, sys; s = socket.socket(socket.AF_INET, socket.{kind}); s.bind(('', {port}))\n"
        f"{'s.listen()' if protocol == 'tcp' else ''}\nprint('bound', flush=True); sys.stdin.read()"
    )
    room.start("server", [sys.executable, "-c", program]).wait_for("bound")
    process = Daemon(room, folder).start_unready()
    assert process.wait(10) == Exit.BUSY
    assert re.search(rf"port {port}\b", process.output), process.output


def test_interface_must_be_clear(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    daemon.config.write_text(daemon.config.read_text().replace('interface = "eth0"\n', ""))
    namespace = room.namespace("server")
    room.run("server", ["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2"])
    room.run("server", ["ip", "address", "add", "10.8.0.1/24", "dev", "eth1"])
    room.run("server", ["ip", "link", "set", "eth1", "up"])
    process = daemon.start_unready()
    assert process.wait(10) == Exit.CONFIG, namespace
    assert "eth0 (10.9.0.2)" in process.output
    assert "eth1 (10.8.0.1)" in process.output
    room.run("server", ["ip", "link", "delete", "eth1"])
    daemon.start()  # now there is only one


HOSTILE = [
    ("POST", "/node/v1/join", "", 401),
    ("POST", "/node/v1/join", "{", 400),
    ("POST", "/node/v1/join", '{"type":"join"}', 400),
    ("POST", "/node/v1/join", "[" * 5000, 400),
    ("POST", "/node/v1/join", '{"type":"report","node":"x"}', 400),
    ("POST", "/node/v1/join", "\\xff\\xfe", 400),
    ("POST", "/node/v1/report", "null", 400),
    ("POST", "/node/v1/report", '{"type":"report","node":5,"session":"","state":"ready"}', 400),
    ("POST", "/node/v1/report", '{"type":"report","node":"52:54:00:00:00:02","session":"","state":"ready"}', 401),
    ("GET", "/node/v1/events?node=52:54:00:00:00:02", "", 401),
    ("GET", "/node/v1/events?node=head-x", "", 401),
    ("POST", "/node/v1/log", "{", 400),
    ("POST", "/node/v1/log", '{"type":"log","node":"x","boot":"","stage":"","first":-1,"lines":[]}', 400),
    ("POST", "/node/v1/log", '{"type":"log","node":"x","boot":"","stage":"","first":0,"lines":[]}', 401),
    ("POST", "/node/v1/output", '{"type":"output","node":"x","id":"","number":0,"pieces":[5]}', 400),
    ("POST", "/node/v1/output", '{"type":"output","node":"52:54:00:00:00:01","id":"","number":1,"pieces":[]}', 410),
    ("PUT", "/node/v1/manifest?session=x", "rubbish", 401),
    ("GET", "/node/v1/manifest?session=x", "", 404),
    ("GET", "/node/v1/stage2?node=52:54:00:00:00:01", "", 503),
    ("GET", "/boot/../../etc/passwd", "", 404),
    ("GET", "/boot/%2e%2e/%2e%2e/etc/passwd", "", 404),
    ("GET", "/boot/boot.ipxe?mac=rubbish", "", 404),
    ("GET", "/boot/boot.ipxe", "", 404),
    ("DELETE", "/node/v1/join", "", 405),
    ("GET", "/", "", 404),
]


def test_hostile_requests_of_nodes(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    process = daemon.start()
    url = f"http://{ADDRESS}:{HTTP_PORT}"
    daemon.command("label", "set-default", "rescue")
    script = room.run("n1", ["curl", "-sSf", f"{url}/boot/boot.ipxe?mac=52:54:00:00:00:01"])
    found = re.search(r"bootd\.token=([0-9a-f]+)", script)
    assert found is not None, script
    for method, path, body, expected in HOSTILE:
        words = ["-X", method, "-o", str(folder / "answer"), "-w", "%{http_code}", "--data-binary", body]
        token = [] if (path.endswith("join") and not body) else ["-H", f"Authorization: Bearer {found.group(1)}"]
        status = room.run("n1", curl(*words, *token, url + path))
        assert status == str(expected), (method, path, body[:40], (folder / "answer").read_text())
        if expected in (400, 401):
            assert len((folder / "answer").read_text().splitlines()) == 1
    big = folder / "big"
    big.write_bytes(b" " * (3 << 20))
    words = ["-X", "POST", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", f"@{big}"]
    header = ["-H", f"Authorization: Bearer {found.group(1)}"]
    assert room.run("n1", curl(*words, *header, f"{url}/node/v1/report")) == "413"
    chunked = ["-H", "Transfer-Encoding: chunked"]
    assert room.run("n1", curl(*words, *header, *chunked, f"{url}/node/v1/report")) == "413"
    rubbish = "import socket; s = socket.create_connection(('%s', %d)); s.sendall(b'\\xff\\x00' * 9000); s.recv(9)"
    room.run("n1", [sys.executable, "-c", rubbish % (ADDRESS, HTTP_PORT)], check=False)
    assert daemon.state()["sessions"] == []
    assert process.running()
    assert "internal error" not in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "sessions", "{", 400),
        ("POST", "sessions", "{}", 400),
        ("POST", "sessions", '{"source":"/nowhere","nodes":"any","disk":"only"}', 422),
        ("POST", "sessions", '{"source":"relative","nodes":"any","disk":"only"}', 422),
        ("POST", "sessions", '{"source":"/dev/null","nodes":"any","disk":"only","expect":1}', 422),
        ("POST", "sessions", '{"source":"/etc","nodes":"any","disk":"only","expect":1}', 422),
        ("POST", "sessions", '{"source":"/x","nodes":"any","disk":"only","surprise":1}', 400),
        ("PATCH", "sessions/none", '{"expect":2}', 400),
        ("DELETE", "sessions/none", "", 400),
        ("GET", "sessions/none", "", 400),
        ("PUT", "labels/default", '{"label":"nonesuch"}', 400),
        ("PUT", "labels/default", '{"label":5}', 400),
        ("PUT", "nodes/%ff/name", '{"name":"x"}', 400),
        ("PUT", "nodes/52:54:00:00:00:01/name", '{"name":"-"}', 400),
        ("DELETE", "nodes/nobody/parked", "", 400),
        ("GET", "nothing", "", 404),
    ],
)
def test_hostile_requests_of_operators(served: Daemon, method: str, path: str, body: str, status: int) -> None:
    words = ["-X", method, "--unix-socket", str(served.socket), "-w", "\n%{http_code}", "--data-binary", body]
    answer, _, code = served.room.run("n1", curl(*words, f"http://bootd/api/v1/{path}")).rpartition("\n")
    assert code == str(status), answer
    assert '"message"' in answer
    assert served.state()["sessions"] == []


def test_only_root_may_command(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    daemon.start()
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    ask = curl(
        "--unix-socket", str(daemon.socket), "-w", "%{http_code}", "-o", "/dev/null", "http://bootd/api/v1/state"
    )
    for path in (folder, folder / "run"):
        path.chmod(0o755)
    assert room.run("n1", ask) == "200"
    assert room.run("n1", [*nobody, *ask], check=False) == "000"  # the socket's mode
    daemon.socket.chmod(0o666)
    assert room.run("n1", [*nobody, *ask]) == "403"  # who asks, whatever the mode


def test_timeline_of_a_node(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    daemon.start()
    room.run("n1", curl("-f", f"http://{ADDRESS}:{HTTP_PORT}/boot/boot.ipxe?mac=52:54:00:00:00:01"))
    room.run(
        "n1", curl("-f", "tftp://10.9.0.2/pxelinux.cfg/01-52-54-00-00-00-01", "-o", str(folder / "configuration"))
    )
    lines = daemon.command("node", "timeline", "52:54:00:00:00:01").splitlines()
    assert "iPXE configuration, label local, over HTTP" in lines[0]
    assert any("PXELINUX" in line for line in lines[1:]), lines
    daemon.command("node", "timeline", "nobody", expect=Exit.USAGE)


@pytest.fixture(scope="module")
def served() -> Generator[Daemon]:
    """One daemon for many small requests."""
    path = Path(tempfile.mkdtemp(prefix="bootd-"))
    with Room("server", "n1") as made, contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        made.address("server", f"{ADDRESS}/24")
        daemon = Daemon(made, path)
        daemon.start()
        yield daemon


def numbered(path: Path, chunks: int) -> bytes:
    """An image that does not compress, a number in every 4 KiB block, and a stretch of zeros in the middle."""
    random = Random(chunks)
    blocks = [b"%015d\n" % index + random.randbytes(4080) for index in range(chunks * CHUNK // 4096)]
    data = b"".join(blocks)
    middle = chunks // 2 * CHUNK
    data = data[:middle] + bytes(CHUNK) + data[middle + CHUNK :]
    path.write_bytes(data)
    return data


def start_nodes(room: Room, folder: Path, size: int) -> dict[str, Process]:
    nodes = {}
    for number, name in enumerate(NODES, 1):
        arguments = [f"52:54:00:00:00:0{number}", f"10.9.0.{10 + number}", f"{ADDRESS}:{HTTP_PORT}"]
        target = folder / f"{name}.disk"
        target.write_bytes(b"\xaa" * size)  # not blank: zeros must be written
        nodes[name] = room.start(
            name, [sys.executable, "-m", "tests.netns.ring_node", *arguments, str(target), str(size)]
        )
    return nodes


def test_three_nodes_are_cloned_through_the_daemon(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    daemon.start()
    image = folder / "image"
    data = numbered(image, 24)
    daemon.command("label", "set-default", "kamethod")
    daemon.command("deploy", str(image), "any", "--disk", "only", "--expect", "3", "--name", "room", "--yes")
    nodes = start_nodes(room, folder, len(data))
    text = daemon.command("wait", "room", "--timeout", "50", expect=Exit.OK, seconds=60)
    assert "done" in text
    for name, node in nodes.items():
        assert node.wait(10) == 0
        assert (folder / f"{name}.disk").read_bytes() == data, name
    state = daemon.state()
    assert state["default_label"] == "local"
    assert {node["next_label"] for node in state["nodes"]} == {"local"}
    members = daemon.session("room")["members"]
    assert [member["verified"] for member in members] == [len(data)] * 3
    # The chain is a chain: each member's predecessor is another one.
    assert len({member["predecessor"] for member in members}) == 3


def start_slow_session(daemon: Daemon) -> tuple[bytes, dict[str, Process]]:
    """The daemon with a session "room" of three nodes, over links so slow that there is time to disturb it."""
    daemon.start()
    image = daemon.folder / "image"
    data = numbered(image, 32)
    for name in NODES:
        daemon.room.limit(name, 20)
    daemon.command("label", "set-default", "kamethod")
    daemon.command("deploy", str(image), "any", "--disk", "only", "--expect", "3", "--name", "room", "--yes")
    return data, start_nodes(daemon.room, daemon.folder, len(data))


def test_a_node_killed_in_the_middle_leaves_the_others_cloned(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, "[session]\nsilence_seconds = 2\n")
    data, nodes = start_slow_session(daemon)
    victim = "52:54:00:00:00:02"  # the middle of the chain, which goes by address

    def written() -> int:
        return sum(item["written"] for item in daemon.session("room")["members"] if item["node"] == victim)

    until(lambda: written() > 2 * CHUNK, 40, "the victim is being written")
    nodes["n2"].signal(signal.SIGKILL)
    assert written() < len(data)
    for name in NODES:
        daemon.room.limit(name, 1000)
    daemon.command("wait", "room", "--timeout", "60", expect=Exit.PARTLY, seconds=70)
    for name in ("n1", "n3"):
        assert nodes[name].wait(10) == 0
        assert (folder / f"{name}.disk").read_bytes() == data, name
    verdicts = {item["node"]: item for item in daemon.session("room")["outcome"]["nodes"]}
    assert verdicts[victim]["state"] == "lost"
    assert not verdicts[victim]["ok"]
    assert verdicts[victim]["reason"]
    labels = {node["mac"]: node["next_label"] for node in daemon.state()["nodes"]}
    assert labels == {"52:54:00:00:00:01": "local", victim: "kamethod", "52:54:00:00:00:03": "local"}


def test_a_head_that_dies_again_and_again_fails_the_session(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    process = daemon.start()
    image = folder / "image"
    numbered(image, 4)
    daemon.command("deploy", str(image), "any", "--disk", "only", "--expect", "1", "--name", "room", "--yes")
    killed: set[int] = set()

    def another_listens() -> bool:
        there = set(children(process.pid, HEAD)) - killed
        return bool(there) and daemon.session("room")["head"]["state"] == "ready"

    for _ in range(3):
        until(another_listens, 20, "a head has digested the source")
        (head,) = set(children(process.pid, HEAD)) - killed
        os.kill(head, signal.SIGKILL)
        killed.add(head)
    daemon.command("wait", "room", "--timeout", "20", expect=Exit.ERROR)
    assert "killed by signal 9" in daemon.session("room")["reason"]
    assert process.running()


def test_nodes_wait_through_a_restart_and_are_cloned_afterwards(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    process = daemon.start()
    image = folder / "image"
    data = numbered(image, 8)
    daemon.command("label", "set-default", "kamethod")
    nodes = start_nodes(room, folder, len(data))
    for node in nodes.values():
        node.wait_for("waits: no session wants this node")
    process.signal(signal.SIGKILL)
    process.wait(5)
    daemon.start()
    until(lambda: all(node["present"] for node in daemon.state()["nodes"]), 20, "all nodes are heard of again")
    daemon.command("deploy", str(image), "any", "--disk", "only", "--expect", "3", "--name", "room", "--yes")
    daemon.command("wait", "room", "--timeout", "40", expect=Exit.OK, seconds=50)
    for name, node in nodes.items():
        assert node.wait(10) == 0
        assert (folder / f"{name}.disk").read_bytes() == data, name


def test_a_cancelled_session_stops_its_nodes(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    _, nodes = start_slow_session(daemon)
    until(lambda: daemon.session("room")["state"] == "running", 30, "it runs")
    daemon.command("session", "cancel", "room", "--yes")
    for node in nodes.values():
        node.wait_for("cancelled: cancelled by root")
        assert node.wait(10) == 3
    daemon.command("wait", "room", expect=Exit.ERROR)
    assert daemon.state()["default_label"] == "kamethod"


def test_a_disk_that_no_selector_matches_is_refused_and_untouched(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder)
    daemon.start()
    image = folder / "image"
    data = numbered(image, 4)
    daemon.command("label", "set-default", "kamethod")
    words = ("any", "--disk", "serial=TEST-02", "--expect", "3", "--name", "room", "--yes")
    daemon.command("deploy", str(image), *words)
    start_nodes(room, folder, len(data))
    daemon.command("wait", "room", "--timeout", "40", expect=Exit.PARTLY, seconds=50)
    verdicts = {item["node"][-2:]: item["state"] for item in daemon.session("room")["outcome"]["nodes"]}
    assert verdicts == {"01": "refused", "02": "done", "03": "refused"}
    assert (folder / "n2.disk").read_bytes() == data
    for name in ("n1", "n3"):
        assert (folder / f"{name}.disk").read_bytes() == b"\xaa" * len(data), name
