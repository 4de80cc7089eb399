"""A daemon, an image, and nodes with faults in one room: what the failure matrix is played in."""

import http.client
import json
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import PATIENCE, Process, Room, RoomError
from tests.netns.test_serve import CHUNK, numbered

CHUNKS = 16
SIZE = CHUNKS * CHUNK
OLD = b"\xaa"
POLL = 0.1  # seconds


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("bootd", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


class Ring:
    """Nodes are called n1, n2, …; each has a namespace of that name with the address 10.9.0.(10 + number).

    ``generation`` tells nodes apart that use the same namespaces one after the other: other machines, as far
    as the daemon knows. ``megabits`` per port.
    """

    def __init__(self, room: Room, folder: Path, names: tuple[str, ...], megabits: float = 400) -> None:
        self.room, self.folder, self.generation = room, folder, 0
        self.daemon = Daemon(room, folder, "[session]\nsilence_seconds = 3\n")
        self.process = self.daemon.start()
        self.image, self.data = folder / "image", b""
        self.make_image(CHUNKS)
        self.nodes: dict[str, Process] = {}
        for name in names:
            room.limit(name, megabits)
        self.daemon.command("label", "set-default", "kamethod")

    def make_image(self, chunks: int) -> None:
        """What sessions deploy from here on."""
        self.data = numbered(self.image, chunks)

    def mac(self, name: str) -> str:
        return f"52:54:00:00:{self.generation:02x}:{int(name[1:]):02x}"

    def deploy(self, expect: int, *names: str, name: str = "room", **more: object) -> None:
        """A session for the nodes of these names (none: for any); ``more`` as `POST /sessions` has it."""
        nodes = ",".join(self.mac(node) for node in names) or "any"
        wanted = {"source": str(self.image), "nodes": nodes, "disk": "only", "expect": expect, "name": name}
        self.api("POST", "/sessions", {**wanted, **more})

    def start(self, name: str, fault: str = "none", target: Path | None = None, size: int = 0) -> None:
        """A node with ``fault`` (see `ring_matrix`). Its disk, ``size`` bytes or the image's, is not blank."""
        size = size or len(self.data)
        if target is None:
            target = self.disk(name)
            if not target.exists():
                target.write_bytes(OLD * size)  # what is not written shows
        words = [fault, self.mac(name), f"10.9.0.{10 + int(name[1:])}", f"{ADDRESS}:{HTTP_PORT}", str(target)]
        command = [sys.executable, "-m", "tests.netns.ring_matrix", *words, str(size)]
        self.nodes[name] = self.room.start(name, command)

    def disk(self, name: str) -> Path:
        return self.folder / f"{name}.{self.generation}.disk"

    def api(self, method: str, path: str, body: object = None) -> Any:
        """What the operators' interface answers; `RoomError` when it refuses."""
        connection = _UnixConnection(self.daemon.socket)
        try:
            connection.request(method, f"/api/v1{path}", None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RoomError(f"{method} {path}: {answer.status} {text[:500]}")
        return json.loads(text) if text else None

    def session(self, name: str = "room") -> dict[str, Any]:
        value: dict[str, Any] = self.api("GET", f"/sessions/{name}")
        return value

    def wait(self, expect: Exit, name: str = "room", seconds: float = 40.0) -> None:
        """Until the session has ended, with the exit code that `bootd wait` gives."""
        deadline = time.monotonic() + seconds * PATIENCE
        while not (view := self.session(name))["ended"]:
            if time.monotonic() > deadline:
                raise RoomError(f"session {name} has not ended: {json.dumps(view)[:2000]}\n{self.outputs()}")
            time.sleep(POLL)
        if view["outcome"]["code"] != expect:
            raise RoomError(f"session {name}: {view['outcome']}, not {expect!r}: {view['reason']}")

    def outputs(self) -> str:
        """The last words of every node."""
        return "\n".join(f"--- {name}\n{process.output[-400:]}" for name, process in self.nodes.items())

    def restart(self) -> None:
        """Kill the daemon, without a chance to say so, and start it again."""
        self.process.signal(signal.SIGKILL)
        self.process.wait(5)
        self.process = self.daemon.start()

    def timeline(self, kind: str) -> list[str]:
        """What the daemon has noted of that kind."""
        return [line["text"] for line in self.api("GET", "/timeline") if line["kind"] == kind]

    def verdicts(self, name: str = "room") -> dict[str, dict[str, Any]]:
        """By the names of the nodes."""
        return {f"n{int(item['node'][-2:], 16)}": item for item in self.session(name)["outcome"]["nodes"]}

    def member(self, node: str, name: str = "room") -> dict[str, Any]:
        """How the session shows it; one that is not in it yet has no state."""
        found = (item for item in self.session(name)["members"] if item["node"] == self.mac(node))
        return next(found, {"state": "", "written": 0, "predecessor": ""})

    def expect(self, states: dict[str, str], name: str = "room") -> dict[str, dict[str, Any]]:
        """The verdicts are ``states``; only "done" is ok; who is done has the image; everybody else a reason."""
        verdicts = self.verdicts(name)
        assert {node: item["state"] for node, item in verdicts.items()} == states, verdicts
        for node, item in verdicts.items():
            assert item["ok"] == (item["state"] == "done"), item
            if item["ok"]:
                assert self.nodes[node].wait(10) == 0
                assert self.disk(node).read_bytes() == self.data, node
            else:
                assert item["reason"], node
        return verdicts
