"""TFTP and HTTP against clients that others wrote, with datagrams lost on the way; every file compared."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.room import Process, Room, RoomError

SERVER, CLIENT = "10.9.4.1", "10.9.4.2"
SERVER6, CLIENT6 = "fd00:9::1", "fd00:9::2"
HTTP = f"http://{SERVER}:7468"
WRAPS = 65535 * 512 + 1  # one block more than have a number of their own
SIZES = {"s0": 0, "s511": 511, "s512": 512, "s513": 513, "middle": 150_007}
SETTINGS = """
[tftp]
workers = 1
[[tftp.cap]]
address = "10.9.4.3"
blksize = 600
windowsize = 2
"""


def content(name: str) -> bytes:
    """Every 32 bytes carry their number, so that a swapped or repeated block shows."""
    size = SIZES[name]
    return b"".join(b"%-8s%23d\n" % (name.encode(), number) for number in range(size // 32 + 1))[:size]


class Lab:
    def __init__(self, room: Room, folder: Path, server: Process) -> None:
        self.room, self.folder, self.server = room, folder, server
        self.target = folder / "got"

    def lose(self, percent: int) -> None:
        """Of the datagrams in each direction, where they arrive: a sender would be told of its own."""
        for who in ("client", "server"):
            self.room.run(who, ["nft", "flush ruleset"])
            for command in (
                "add table inet loss",
                "add chain inet loss in { type filter hook input priority 0; }",
                f"add rule inet loss in meta l4proto udp numgen random mod 100 < {percent} drop",
            ):
                if percent:
                    self.room.run(who, ["nft", command])

    def run(self, command: list[str], seconds: float = 60, check: bool = True) -> str:
        self.target.unlink(missing_ok=True)
        return self.room.run("client", command, seconds, check)

    def got(self) -> str:
        data = self.target.read_bytes() if self.target.exists() else b""
        return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("transfers")
    boot = folder / "boot"
    boot.mkdir()
    for name in SIZES:
        (boot / name).write_bytes(content(name))
    with (boot / "wraps").open("wb") as sparse:
        sparse.truncate(WRAPS)
        for number in range(0, WRAPS, 1 << 20):
            sparse.seek(number)
            sparse.write(b"%32d" % number)
        sparse.truncate(WRAPS)
    (boot / "link").symlink_to("middle")
    (folder / "secret").write_bytes(b"secret")
    (boot / "out").symlink_to("../secret")
    with Room("server", "client") as room:
        room.address("server", f"{SERVER}/24")
        room.address("client", f"{CLIENT}/24")
        room.address("client", "10.9.4.3/24")
        for who, address in (("server", SERVER6), ("client", CLIENT6)):
            room.run(who, ["ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad"])
        arguments = [str(boot), "69", "7468", SETTINGS, SERVER]
        server = room.start("server", [sys.executable, "-m", "tests.bench.serve_files", *arguments])
        server.wait_for(r"ready\n", 30)
        yield Lab(room, folder, server)
        assert server.running(), server.output[-2000:]
        assert server.stop() == 0
        assert "Traceback" not in server.output


def command(client: str, name: str, target: Path) -> list[str]:
    """To fetch ``name``."""
    url, file = f"tftp://{SERVER}/{name}", str(target)
    client_made = f"tftpy.TftpClient({SERVER!r}, 69, {{'blksize': 1024, 'tsize': 0}})"
    script = f"import tftpy; {client_made}.download({name!r}, {file!r}, timeout=1)"
    atftp = ["atftp", "--option", "blksize 1468", "--option", "timeout 1"]
    get = ["-g", "-r", name, "-l", file, SERVER]
    return {
        "curl": ["curl", "-sS", "-m", "50", "-o", file, url],
        "curl without options": ["curl", "-sS", "-m", "50", "--tftp-no-options", "-o", file, url],
        "curl over IPv6": ["curl", "-sS", "-m", "50", "-o", file, f"tftp://[{SERVER6}]/{name}"],
        "atftp": [*atftp, *get],
        "atftp window 64": [*atftp, "--option", "windowsize 64", *get],
        "tftp-hpa": ["tftp", "-m", "binary", SERVER, "-c", "get", name, file],
        "busybox": ["busybox", "tftp", "-g", "-b", "1400", "-r", name, "-l", file, SERVER],
        "tftpy": [sys.executable, "-W", "ignore", "-c", script],
    }[client]  # fmt: skip


CLIENTS = (
    "curl",
    "curl without options",
    "curl over IPv6",
    "atftp",
    "atftp window 64",
    "tftp-hpa",
    "busybox",
    "tftpy",
)
# tftp-hpa asks again after 5 s and BusyBox gives up early: their files are small where much is lost.
LOSSES = [(client, loss) for client in CLIENTS for loss in (0, 1, 5)]


@pytest.mark.parametrize(("client", "loss"), LOSSES)
def test_tftp_clients_get_every_byte(lab: Lab, client: str, loss: int) -> None:
    lab.lose(loss)
    for name in SIZES if loss == 0 else ("middle",) if client != "curl without options" else ("s513",):
        if name == "s0" and client.startswith("curl") and "without" not in client:
            continue  # curl calls the tsize of an empty file illegal
        fetch(lab, command(client, name, lab.target), 3 if loss else 1)
        assert lab.got() == hashlib.sha256(content(name)).hexdigest(), name


def fetch(lab: Lab, line: list[str], attempts: int) -> None:
    """Where much is lost some clients give up by themselves (tftpy at an OACK that comes again, since its ACK was
    lost): they may ask anew. A file that they call complete must be so at once."""
    for left in reversed(range(attempts)):
        try:
            lab.run(line)
        except RoomError:
            if not left:
                raise
        else:
            return


@pytest.mark.parametrize("client", ["atftp window 64", "curl without options"])
def test_block_numbers_wrap(lab: Lab, client: str) -> None:
    """curl without options: blocks of 512, so that number 65535 is passed; atftp: the same file in windows."""
    lab.lose(0)
    lab.run(command(client, "wraps", lab.target))
    assert lab.got() == hashlib.sha256((lab.folder / "boot" / "wraps").read_bytes()).hexdigest()


def test_netascii_and_refusals(lab: Lab) -> None:
    lab.lose(0)
    lab.run(["tftp", "-m", "netascii", SERVER, "-c", "get", "middle", str(lab.target)])
    assert lab.target.read_bytes() == content("middle")
    assert "Error code 2" in lab.run(["tftp", "-m", "binary", SERVER, "-c", "put", "/etc/hostname", "mine"])
    for path in ("out", "../secret", "/../../etc/passwd", "..\\secret", "s0/../../secret"):
        printed = lab.run(["tftp", "-m", "binary", SERVER, "-c", "get", path, str(lab.target)], check=False)
        assert "Error code 1" in printed, path
    assert not (lab.folder / "boot" / "mine").exists()


ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.bind((sys.argv[2], 0))
words = b"middle octet blksize 1468 windowsize 16 tsize 0".split()
s.sendto(b"\\0\\1" + b"".join(w + b"\\0" for w in words), (sys.argv[1], 69))
data, peer = s.recvfrom(2000)
s.sendto(b"\\0\\5\\0\\10probe\\0", peer)
print(data[2:].decode().split("\\0"))
"""


def test_caps_of_single_clients_and_the_probe_that_is_aborted(lab: Lab) -> None:
    lab.lose(0)
    answers = [lab.run([sys.executable, "-c", ASK, SERVER, who]).strip() for who in (CLIENT, "10.9.4.3")]
    assert answers == [
        str(["blksize", block, "windowsize", window, "tsize", "150007", ""])
        for block, window in (("1468", "16"), ("600", "2"))
    ]
    lab.server.wait_for(r'"result": "size probe"')


AGAIN = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
def ask(name): s.sendto(b"\\0\\1" + name + b"\\0octet\\0", (sys.argv[1], 69))
ask(b"s512"); first = s.recvfrom(2000)
ask(b"s512"); ask(b"s513")
while (second := s.recvfrom(2000))[1] == first[1]: pass
print(first[0][4:20].decode().strip(), second[0][4:20].decode().strip())
for _, peer in (first, second): s.sendto(b"\\0\\5\\0\\0enough\\0", peer)
"""


def test_firmware_that_starts_anew_on_the_same_port_gets_what_it_asks_for(lab: Lab) -> None:
    """A repeated request makes no second transfer; another file from the same port does at once."""
    lab.lose(0)
    assert lab.run([sys.executable, "-c", AGAIN, SERVER]).split() == ["s512", "s513"]


def test_http_keeps_the_connection_and_serves_ranges(lab: Lab) -> None:
    """curl: HEAD then GET on one connection; one range, a suffix, several; resume; conditions."""
    lab.lose(0)
    whole = content("middle")
    url = f"{HTTP}/middle"
    said = lab.run(["curl", "-sS", "-I", "-w", "%{num_connects} ", url, "--next", "-sS", "-o", str(lab.target),
                    "-w", "%{num_connects}", url])  # fmt: skip
    assert said.endswith("1 0")
    assert lab.target.read_bytes() == whole
    assert "content-length: 150007" in said.lower()
    for asked, expected in (("0-0", whole[:1]), ("100-199", whole[100:200]), ("-7", whole[-7:])):
        lab.run(["curl", "-sSf", "-r", asked, "-o", str(lab.target), url])
        assert lab.target.read_bytes() == expected
    head = lab.run(["curl", "-sSf", "-D", "-", "-r", "0-9,50-59", "-o", str(lab.target), url])
    boundary = re.search(r"multipart/byteranges; boundary=(\w+)", head)
    assert boundary
    parts = lab.target.read_bytes().split(b"--" + boundary.group(1).encode())
    assert [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in parts[1:-1]] == [
        whole[:10],
        whole[50:60],
    ]
    assert f"Content-Length: {lab.target.stat().st_size}" in head
    status = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"]
    assert lab.run([*status, "-r", "150007-", url]) == "416"
    tag = re.search(r"(?i)etag: (\S+)", head)
    assert tag
    assert lab.run([*status, "-H", f"If-None-Match: {tag.group(1)}", url]) == "304"
    assert lab.run([*status, "-r", "1-2", "-H", 'If-Range: "other"', url]) == "200"
    for path in ("/../secret", "/%2e%2e/secret", "/out", "/..%5csecret", "/s0/", "/nothing"):
        code = "200" if path == "/s0/" else "404"
        assert lab.run([*status, "--path-as-is", HTTP + path]) == code, path
    assert lab.run([*status, "-X", "PUT", "-d", "x", url]) == "405"


def test_http_resume_and_wget(lab: Lab) -> None:
    lab.lose(0)
    half = lab.folder / "half"
    half.write_bytes(content("middle")[:123_456])
    lab.run(["curl", "-sSf", "-C", "-", "-o", str(half), f"{HTTP}/middle"])
    assert half.read_bytes() == content("middle")
    for name in SIZES:
        lab.run(["busybox", "wget", "-q", "-O", str(lab.target), f"{HTTP}/{name}"])
        assert lab.target.read_bytes() == content(name)
    half.write_bytes(content("middle")[:100_000])
    lab.run(["busybox", "wget", "-q", "-c", "-O", str(half), f"{HTTP}/middle"])
    assert half.read_bytes() == content("middle")


CROWD = """
import json, socket, sys
sockets, refused = [], 0
for _ in range(int(sys.argv[2])):
    s = socket.create_connection((sys.argv[1], 7468), 5)
    s.sendall(b"HEAD /s512 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    answer = s.recv(4096)
    refused += answer.startswith(b"HTTP/1.1 503")
    sockets.append(s)
print(json.dumps([len(sockets), refused]))
"""


def test_one_address_cannot_take_every_connection(lab: Lab) -> None:
    """64 for one address in all; two workers keep half each, so somewhat fewer may be let in."""
    lab.lose(0)
    opened, refused = json.loads(lab.run([sys.executable, "-c", CROWD, SERVER, "100"]))
    assert opened == 100
    assert 36 <= refused <= 68
    lab.run(["curl", "-sSf", "-o", str(lab.target), f"{HTTP}/s513"])
    assert lab.target.read_bytes() == content("s513")


def child(pid: int, words: bytes) -> int:
    """The process below ``pid`` whose command line has ``words``."""
    parents: dict[int, int] = {}
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number = int(status.parent.name)
            parents[number] = int(status.read_text().rpartition(")")[2].split()[1])
            if words in (status.parent / "cmdline").read_bytes():
                found.append(number)
        except OSError:
            continue
    for number in found:
        above = parents[number]
        while above > 1 and above != pid:
            above = parents.get(above, 0)
        if above == pid:
            return number
    raise AssertionError(f"process {pid} has nobody below with {words!r}: {[(n, parents[n]) for n in found]}")


def test_worker_that_dies_is_replaced_and_the_transfer_ends_in_the_log(lab: Lab) -> None:
    lab.lose(0)
    lab.run(command("curl", "s513", lab.target))  # so that a worker is there
    os.kill(child(lab.server.pid, b"bootd.drivers.tftp.worker"), 9)
    lab.server.wait_for("transfer worker is gone")
    lab.run(command("curl", "middle", lab.target))
    assert lab.got() == hashlib.sha256(content("middle")).hexdigest()
