"""The Debian package in a booted system: installed, set up, served from, killed, upgraded, removed, purged."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bootd.drivers.workers import NICENESS
from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, HTTP_PORT
from tests.netns.room import Process, Room, until
from tests.netns.test_serve import numbered
from tests.nspawn.container import Container, debian

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "nspawn"
NODES = {"n1": "52:54:00:00:00:01", "n2": "52:54:00:00:00:02"}
MEBIBYTES, MEGABITS = 24, 60  # of the image, of each node's link: a transfer takes seconds
HIGHER = "9.0.0"


class Packages(NamedTuple):
    first: Path
    higher: Path  # of version `HIGHER`


@pytest.fixture(scope="module")
def packages() -> Packages:
    """Built side by side, as `make deb` does."""
    commands = [["sh", "debian/build.sh", str(OUT), *version] for version in ([], [HIGHER])]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    return Packages(*(Path(text.split()[-1]) for text in said))


@pytest.fixture
def room() -> Iterator[Room]:
    with Room("server", "dhcp", *NODES) as made:
        made.address("server", f"{ADDRESS}/24")
        made.address("dhcp", "10.9.0.3/24")
        for number, name in enumerate(NODES, 1):
            made.address(name, f"10.9.0.{10 + number}/24")
            made.limit(name, MEGABITS)
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bootd-") as name:
        yield Path(name)


def test_unit_leaves_little_exposed() -> None:
    """2.0 at most, judged by systemd itself from the file alone."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager"]
    done = subprocess.run([*command, "systemd/bootd.service"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout[-600:]
    assert "Overall exposure level for bootd.service" in done.stdout
    loose = subprocess.run([*command[:3], "--threshold=1", *command[4:], "systemd/bootd.service"], cwd=ROOT,
                           capture_output=True, timeout=30)  # fmt: skip
    assert loose.returncode != 0, "a threshold that is passed is seen"


def test_package_is_lint_free_and_tells_nothing_of_where_it_was_built(packages: Packages, folder: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error,warning", str(packages.first)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert subprocess.run(["dpkg-deb", "--extract", str(packages.first), str(folder)], timeout=60).returncode == 0
    # A path of its own, not the end of another one: a checkout may be in a folder with a short name.
    built = f"(^|[^A-Za-z0-9_./-]){re.escape(str(ROOT))}/(build|debian)/"
    found = subprocess.run(["grep", "-rlaE", built, str(folder)], capture_output=True, text=True, timeout=60)
    assert found.stdout == ""
    assert not list(folder.rglob("__pycache__"))


def test_life_of_the_service(packages: Packages, room: Room, folder: Path) -> None:
    with Container(room, "server", debian(), {OUT: "/packages"}) as machine:
        install(machine, packages.first)
        set_up(machine, room)
        serve(machine, room, folder)
        reload(machine, room)
        kill_in_the_middle_of_a_session(machine, room, folder)
        upgrade(machine, packages.higher)
        remove_and_purge(machine)
        assert machine.run("systemctl", "--failed", "--no-legend", "--plain").strip() == ""


def install(machine: Container, package: Path) -> None:
    """It is there and enabled, and waits for its settings."""
    machine.run("dpkg", "--install", f"/packages/{package.name}", seconds=120)
    assert machine.property("bootd", "UnitFileState") == "enabled"
    assert machine.property("bootd", "ActiveState") == "inactive"
    assert machine.property("bootd", "ConditionResult") == "no"
    assert machine.run("stat", "--format=%U %a", "/var/lib/bootd").split() == ["bootd", "700"]
    assert "not running" in machine.run("bootd", "state", expect=Exit.UNREACHABLE)


def set_up(machine: Container, room: Room) -> None:
    """A DHCP server is there: it is found, full mode is refused, proxy mode is written; then READY."""
    words = "--keep-in-foreground --log-facility=- --port=0 --interface=eth0 --conf-file=/dev/null --user=root"
    words += " --dhcp-authoritative --no-ping --leasefile-ro --dhcp-range=10.9.0.100,10.9.0.150"
    server = room.start("dhcp", ["dnsmasq", *words.split()])
    server.wait_for("DHCP, IP range")
    full = ["bootd", "setup", "--interface", "eth0", "--mode", "full", "--range", "10.9.0.200-10.9.0.220"]
    said = machine.run(*full, expect=Exit.BUSY)
    assert "another DHCP server gives addresses here: 10.9.0.3 on eth0" in said
    assert not machine.exists("/etc/bootd/bootd.toml")
    wrong = machine.run("bootd", "setup", "-i", "eth0", "--mode", "full", "--range", "10.9.0.220-10.9.0.200",
                        "--no-check", expect=Exit.CONFIG)  # fmt: skip
    assert "dhcp.pool" in wrong
    assert not machine.exists("/etc/bootd/bootd.toml")
    printed = machine.run(*full, "--no-check", "--print")
    assert 'subnet = "10.9.0.0/24"' in printed
    asked = ["script", "--quiet", "--return", "--command", "bootd setup --no-check --print", "/dev/null"]
    said = machine.run(*asked, data=b"full\n10.9.0.200-10.9.0.220\n10.9.0.1\n\n").replace("\r", "")
    assert said.endswith('subnet = "10.9.0.0/24"\nrange = "10.9.0.200-10.9.0.220"\ngateway = "10.9.0.1"\n'), said
    assert "wrote /etc/bootd/bootd.toml" in machine.run("bootd", "setup", "--interface", "eth0")
    machine.run("bootd", "setup", "--interface", "eth0", "--no-check", expect=Exit.REFUSED)
    machine.run("systemctl", "start", "bootd")  # Type=notify: returns at READY
    assert machine.property("bootd", "ActiveState") == "active"
    assert machine.property("bootd", "StatusText") == f"serves eth0 ({ADDRESS})"
    pid = machine.property("bootd", "MainPID")
    status = machine.run("cat", f"/proc/{pid}/status")
    assert re.search(r"^CapBnd:\t0*2400$", status, re.MULTILINE), "CAP_NET_BIND_SERVICE, CAP_NET_RAW"
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert machine.run("stat", "--format=%U", f"/proc/{pid}").strip() == "bootd"
    workers = machine.run("cat", f"/proc/{pid}/task/{pid}/children").split()
    stats = [machine.run("cat", f"/proc/{worker}/stat").rpartition(")")[2].split() for worker in workers]
    assert workers, "workers of HTTP"
    assert {int(fields[16]) for fields in stats} == {NICENESS}, "they give way to offers: proc(5), field 19"


def serve(machine: Container, room: Room, folder: Path) -> None:
    """A machine gets its offer, its file over TFTP and the same over HTTP; the commands work, and are audited."""
    loader = numbered(folder / "loader", 1)
    for name in ("lpxelinux.0", "ldlinux.c32"):
        machine.put(f"/var/lib/bootd/boot/{name}", loader)
    machine.run("bootd", "label", "set-default", "kamethod")
    call = {"mac": "52:54:00:00:00:77", "arch": 0, "xid": 77, "answers": 2, "seconds": 5}
    client = [sys.executable, "-m", "tests.netns.pxe_client", "discover", json.dumps(call)]
    offers = [json.loads(line) for line in room.run("n1", client).splitlines()]
    (ours,) = [offer for offer in offers if offer["server_id"] == ADDRESS]
    assert (ours["file"], ours["vendor"], ours["yiaddr"]) == ("lpxelinux.0", "PXEClient", "0.0.0.0")
    for url in (f"tftp://{ADDRESS}/lpxelinux.0", f"http://{ADDRESS}:{HTTP_PORT}/boot/lpxelinux.0"):
        got = folder / "got"
        room.run("n1", ["curl", "--silent", "--fail", "--max-time", "15", "--output", str(got), url])
        assert got.read_bytes() == loader, url
        got.unlink()
    assert "default label: kamethod" in machine.run("bootd", "state")
    (line,) = json.loads(machine.run("bootd", "audit", "--json", "--who", "root", "--since", "5m"))
    assert line["who"] == "root (uid 0)"
    assert "kamethod" in line["detail"]
    assert json.loads(machine.run("bootd", "audit", "--json", "--who", "nobody")) == []
    assert "neither a date" in machine.run("bootd", "audit", "--since", "then", expect=Exit.USAGE)


def reload(machine: Container, room: Room) -> None:
    """Wrong settings fail the reload and change nothing; right ones are taken over by the same process."""
    settings = machine.run("cat", "/etc/bootd/bootd.toml")
    pid = machine.property("bootd", "MainPID")
    machine.put("/etc/bootd/bootd.toml", b"[server]\nhtp_port = 1\n")
    machine.run("systemctl", "reload", "bootd", expect=1)
    assert "htp_port" in machine.run("journalctl", "--unit=bootd", "--lines=20", "--output=cat")
    assert machine.property("bootd", "ActiveState") == "active"
    machine.put("/etc/bootd/bootd.toml", settings.replace("[server]", "[server]\nhttp_port = 8123").encode())
    log = follow(machine)
    machine.run("systemctl", "reload", "bootd")
    log.wait_for('"event": "ready"', 20)
    until(lambda: machine.property("bootd", "ActiveState") == "active", 10, "systemd has heard of it")
    assert machine.property("bootd", "MainPID") == pid
    assert machine.property("bootd", "NRestarts") == "0"
    url = f"http://{ADDRESS}:8123/boot/lpxelinux.0"
    room.run("n1", ["curl", "--silent", "--fail", "--max-time", "15", "--output", "/dev/null", url])
    assert "default label: kamethod" in machine.run("bootd", "state")
    machine.put("/etc/bootd/bootd.toml", settings.encode())
    machine.run("systemctl", "reload", "bootd")
    log.wait_for('"event": "ready"', 20)
    log.stop()


def kill_in_the_middle_of_a_session(machine: Container, room: Room, folder: Path) -> None:
    """systemd starts it again, the session goes on, and the nodes have the image to the last byte."""
    data = numbered(folder / "image", MEBIBYTES)
    machine.put("/var/lib/bootd/images/golden.raw", data)
    image = "/var/lib/bootd/images/golden.raw"
    machine.run("bootd", "deploy", image, "any", "--disk", "only", "--expect", "2", "--name", "room", "--yes")
    nodes = {name: start_node(room, name, folder, len(data)) for name in NODES}
    until(lambda: least(machine, "durable") > len(data) // 8, 60, "both have something")
    before = session(machine)
    assert before["state"] == "running"
    log = follow(machine)
    machine.run("kill", "-KILL", machine.property("bootd", "MainPID"))
    log.wait_for('"event": "ready"', 30)
    log.stop()
    until(lambda: machine.property("bootd", "ActiveState") == "active", 10, "systemd has heard of it")
    assert machine.property("bootd", "NRestarts") == "1"
    assert session(machine)["id"] == before["id"]
    machine.run("bootd", "wait", "room", "--timeout", "60", expect=Exit.OK, seconds=70)
    for name, node in nodes.items():
        assert node.wait(20) == 0
        assert (folder / f"{name}.disk").read_bytes() == data, name


def upgrade(machine: Container, package: Path) -> None:
    """A newer package restarts the service; state, settings and an edited conffile stay."""
    machine.put("/etc/default/bootd", b'# mine\nBOOTD_OPTIONS=""\n')
    before = machine.property("bootd", "MainPID")
    machine.run("dpkg", "--install", f"/packages/{package.name}", seconds=120)
    assert machine.run("dpkg-query", "--show", "--showformat=${Version}", "bootd") == HIGHER
    assert machine.property("bootd", "ActiveState") == "active"
    assert machine.property("bootd", "MainPID") != before
    assert "# mine" in machine.run("cat", "/etc/default/bootd")
    assert session(machine)["state"] == "done"


def remove_and_purge(machine: Container) -> None:
    """Removed: no program, no process, and all that was kept is there. Purged: nothing is."""
    machine.run("dpkg", "--remove", "bootd", seconds=120)
    assert machine.run("pgrep", "--count", "--full", "bootd serve", expect=1).strip() == "0"
    assert not machine.exists("/usr/bin/bootd")
    assert not machine.exists("/usr/lib/bootd")
    for kept in ("/var/lib/bootd/bootd.db", "/etc/bootd/bootd.toml", "/etc/default/bootd"):
        assert machine.exists(kept), kept
    machine.run("dpkg", "--purge", "bootd", seconds=120)
    for gone in ("/var/lib/bootd", "/etc/bootd", "/etc/default/bootd", "/run/bootd"):
        assert not machine.exists(gone), gone


def follow(machine: Container) -> Process:
    """What the service writes from now on."""
    log = machine.start("journalctl", "--unit=bootd", "--follow", "--lines=1", "--output=cat")
    log.wait_for("\n", 10)
    return log


def start_node(room: Room, name: str, folder: Path, size: int) -> Process:
    target = folder / f"{name}.disk"
    target.write_bytes(b"\xaa" * size)
    words = [NODES[name], f"10.9.0.1{name[1:]}", f"{ADDRESS}:{HTTP_PORT}", str(target), str(size)]
    return room.start(name, [sys.executable, "-m", "tests.netns.ring_node", *words])


def session(machine: Container) -> dict[str, Any]:
    sessions: list[dict[str, Any]] = json.loads(machine.run("bootd", "state", "--json"))["sessions"]
    (found,) = sessions
    return found


def least(machine: Container, key: str) -> int:
    """The smallest of what the nodes report under ``key``; 0 before both are there."""
    members = session(machine)["members"]
    return min((item.get(key, 0) for item in members), default=0) if len(members) == len(NODES) else 0
